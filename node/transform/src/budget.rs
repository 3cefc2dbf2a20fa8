//! What one transform may use: memory, and time until somebody says stop.

use crate::TransformError;

/// The default of [`Budget::memory_bytes`].
pub const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

/// What one transform may use.
///
/// Memory is counted by the transforms themselves, before they take it: the large arrays, not every byte. Cancelling is
/// cooperative: `cancelled` is asked every few milliseconds of work at the latest, except within one Fourier transform, which
/// takes about a second for [`ELEMENTS_MAX`](crate::ELEMENTS_MAX) points.
#[derive(Clone, Copy)]
pub struct Budget<'a> {
    /// The most memory for input, output and what lies between, in bytes.
    pub memory_bytes: u64,
    /// Whether to stop. A deadline is a closure that looks at the clock.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Default for Budget<'_> {
    fn default() -> Self {
        Self { memory_bytes: MEMORY_BYTES_DEFAULT, cancelled: &|| false }
    }
}

impl Budget<'_> {
    /// Goes on unless the caller has cancelled.
    ///
    /// # Errors
    /// [`TransformError::Cancelled`].
    pub fn check(&self) -> Result<(), TransformError> {
        if (self.cancelled)() { Err(TransformError::Cancelled) } else { Ok(()) }
    }

    /// Checks that a transform may have `count` elements of `element_bytes` at the same time.
    ///
    /// # Errors
    /// [`TransformError::MemoryLimit`].
    pub fn afford(&self, count: usize, element_bytes: usize) -> Result<(), TransformError> {
        let needed_bytes = (count as u64).saturating_mul(element_bytes as u64);
        if needed_bytes > self.memory_bytes {
            return Err(TransformError::MemoryLimit { needed_bytes, limit_bytes: self.memory_bytes });
        }
        Ok(())
    }
}

//! What one attempt may use, and how much of it anybody may ask for.

use crate::ExecutionError;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The default for [`Limits::memory_bytes`]: enough for a parser or an index of a few thousand documents, and a
/// machine with 2 GiB can still run several such attempts side by side.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 * MIB;

/// The most that [`Limits::memory_bytes`] may be. One guest alone should not push a small machine into swapping.
pub const MEMORY_BYTES_MAX: u64 = 1024 * MIB;

/// The default for [`Limits::time_ms`]: a minute, after which most people would start to wonder.
pub const TIME_MS_DEFAULT: u64 = 60_000;

/// The most that [`Limits::time_ms`] may be: a day. Longer work should be cut into several tasks, because an attempt
/// that is lost with its node starts from the beginning.
pub const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The default for [`Limits::output_bytes`]: results are replicated, so they should be small; larger ones belong in an
/// artifact.
pub const OUTPUT_BYTES_DEFAULT: u64 = MIB;

/// The most that [`Limits::output_bytes`] may be: the output is held in memory until the attempt ends, once per slot.
pub const OUTPUT_BYTES_MAX: u64 = 16 * MIB;

/// The default for [`Limits::log_bytes`]: about a thousand lines, which is as much as a person reads.
pub const LOG_BYTES_DEFAULT: u64 = 64 * KIB;

/// The most that [`Limits::log_bytes`] may be: logs too are held in memory until the attempt ends.
pub const LOG_BYTES_MAX: u64 = MIB;

/// The most that [`Limits::fuel`] may be. At about one unit for each instruction, this is more than a day at full speed,
/// so a larger number would say nothing; and it stays clear of overflow when budgets are added up.
pub const FUEL_MAX: u64 = 1 << 50;

/// The most bytes that the arguments and the environment of a command may have together, each with the one that ends it. A guest
/// copies them into its own memory at start; anything bulky belongs on its standard input.
pub const ARGUMENTS_BYTES_MAX: u64 = MIB;

/// What one attempt may use. The default is right for short, small work; [`Limits::check`] refuses what is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of the guest in bytes, up to [`MEMORY_BYTES_MAX`]. Asking for more ends the attempt with
    /// `MEMORY_LIMIT`.
    pub memory_bytes: u64,
    /// Wall-clock time in milliseconds from the start of the guest, from 1 to [`TIME_MS_MAX`]. Waiting for a slot and
    /// compiling do not count.
    pub time_ms: u64,
    /// Bytes of output, up to [`OUTPUT_BYTES_MAX`]. Writing more ends the attempt with `OUTPUT_LIMIT`.
    pub output_bytes: u64,
    /// Bytes of logs that are kept, up to [`LOG_BYTES_MAX`]. What is beyond is dropped and a marker says so.
    pub log_bytes: u64,
    /// Units of computation (about one for each WebAssembly instruction), up to [`FUEL_MAX`]; `None` does not limit them.
    /// Unlike time, fuel is deterministic: the same guest with the same input uses the same amount on every machine.
    pub fuel: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES_DEFAULT,
            time_ms: TIME_MS_DEFAULT,
            output_bytes: OUTPUT_BYTES_DEFAULT,
            log_bytes: LOG_BYTES_DEFAULT,
            fuel: None,
        }
    }
}

impl Limits {
    /// Checks each limit against its range.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] names the first limit that is out of range.
    pub fn check(&self) -> Result<(), ExecutionError> {
        check("memory_bytes", self.memory_bytes, 0, MEMORY_BYTES_MAX)?;
        check("time_ms", self.time_ms, 1, TIME_MS_MAX)?;
        check("output_bytes", self.output_bytes, 0, OUTPUT_BYTES_MAX)?;
        check("log_bytes", self.log_bytes, 0, LOG_BYTES_MAX)?;
        check("fuel", self.fuel.unwrap_or(1), 1, FUEL_MAX)
    }
}

fn check(limit: &'static str, value: u64, min: u64, max: u64) -> Result<(), ExecutionError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ExecutionError::LimitOutOfRange { limit, value, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_the_maxima_are_in_range() {
        Limits::default().check().unwrap();
        let most = Limits {
            memory_bytes: MEMORY_BYTES_MAX,
            time_ms: TIME_MS_MAX,
            output_bytes: OUTPUT_BYTES_MAX,
            log_bytes: LOG_BYTES_MAX,
            fuel: Some(FUEL_MAX),
        };
        most.check().unwrap();
    }

    #[test]
    fn each_limit_out_of_range_is_named() {
        let good = Limits::default();
        let bad = [
            ("memory_bytes", Limits { memory_bytes: MEMORY_BYTES_MAX + 1, ..good }),
            ("time_ms", Limits { time_ms: 0, ..good }),
            ("time_ms", Limits { time_ms: TIME_MS_MAX + 1, ..good }),
            ("output_bytes", Limits { output_bytes: OUTPUT_BYTES_MAX + 1, ..good }),
            ("log_bytes", Limits { log_bytes: u64::MAX, ..good }),
            ("fuel", Limits { fuel: Some(0), ..good }),
            ("fuel", Limits { fuel: Some(FUEL_MAX + 1), ..good }),
        ];
        for (name, limits) in bad {
            match limits.check() {
                Err(ExecutionError::LimitOutOfRange { limit, .. }) => assert_eq!(limit, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

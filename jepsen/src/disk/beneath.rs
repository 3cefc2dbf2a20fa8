//! The folder beneath a disk: its failures are the machine's, and no fault that somebody ordered.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use fuser::Errno;

/// What a healthy file system too answers to a request that is wrong.
const REFUSALS: [i32; 5] = [libc::EINVAL, libc::EFBIG, libc::ENXIO, libc::EOPNOTSUPP, libc::ENOSYS];

/// Remembers the first failure.
#[derive(Debug, Default)]
pub(super) struct Beneath {
    failure: OnceLock<String>,
}

impl Beneath {
    /// Passes on what the folder answered. Processes get its errors as from any disk; one that no healthy file system gives is remembered.
    pub(super) fn answered<T>(&self, what: fmt::Arguments<'_>, answer: io::Result<T>) -> Result<T, Errno> {
        answer.map_err(|error| {
            if !error.raw_os_error().is_some_and(|code| REFUSALS.contains(&code)) {
                self.failure.get_or_init(|| format!("{what}: {error}"));
            }
            Errno::from(error)
        })
    }

    /// The first failure, if there was one.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_remembered_and_refusals_are_none() {
        let beneath = Beneath::default();
        let error = |code| Err::<(), _>(io::Error::from_raw_os_error(code));
        let refused = beneath.answered(format_args!("reserving"), error(libc::EOPNOTSUPP));
        assert_eq!(refused.unwrap_err().code(), libc::EOPNOTSUPP);
        assert_eq!(beneath.failure(), None);
        let failed = beneath.answered(format_args!("writing a"), error(libc::ENOSPC));
        assert_eq!(failed.unwrap_err().code(), libc::ENOSPC);
        beneath.answered(format_args!("reading b"), error(libc::EIO)).unwrap_err();
        let failure = beneath.failure().unwrap();
        assert!(failure.starts_with("writing a: No space left"), "{failure}");
    }
}

//! RocksDB's errors in this crate's words.
//!
//! RocksDB's C interface hands over one text per error. Its first words name the kind, and they have been stable for
//! many versions; what follows is for people.

use rocksdb::ErrorKind;

use crate::StorageError;

pub(super) fn translate(doing: &str, error: &rocksdb::Error) -> StorageError {
    classify(doing, error.kind(), error.as_ref())
}

fn classify(doing: &str, kind: ErrorKind, message: &str) -> StorageError {
    let doing = doing.to_owned();
    let detail = message.to_owned();
    match kind {
        ErrorKind::Corruption => StorageError::Corruption { detail: format!("{message}, while {doing}") },
        ErrorKind::IOError if is_out_of_space(message) => StorageError::Full { doing, detail },
        ErrorKind::IOError => StorageError::Io { doing, detail, source: None },
        _ => StorageError::Engine { doing, detail },
    }
}

fn is_out_of_space(message: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_consequence() {
        let full = classify(
            "writing a batch",
            ErrorKind::IOError,
            "IO error: No space left on device: While appending to file: /d/000004.log: No space left on device",
        );
        assert!(matches!(full, StorageError::Full { .. }), "{full:?}");
        let io = classify("writing a batch", ErrorKind::IOError, "IO error: While fdatasync: Input/output error");
        assert!(matches!(io, StorageError::Io { .. }), "{io:?}");
        let corrupt = classify("reading a key", ErrorKind::Corruption, "Corruption: block checksum mismatch");
        assert!(matches!(corrupt, StorageError::Corruption { .. }), "{corrupt:?}");
        let other = classify("reading a key", ErrorKind::Busy, "Resource busy: ");
        assert!(matches!(other, StorageError::Engine { .. }), "{other:?}");
    }
}

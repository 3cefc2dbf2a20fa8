//! What can go wrong below, sorted by what it means for the caller.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of an engine or of a directory helper.
///
/// The variants are sorted by consequence, the gravest first. [`StorageError::must_stop_node`] draws the line: above
/// it, this node can no longer keep its promises and must stop without acknowledging anything else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Bytes on disk are not what was written. Stop the node and restore it from its peers: retrying would spread it.
    #[error("the storage engine found corrupted data: {detail}")]
    Corruption {
        /// Where, and what did not match.
        detail: String,
    },

    /// The file system has no room, or the quota is used up. Stop the node; it continues where it stopped once there
    /// is room.
    #[error("the storage engine ran out of disk space while {doing}: {detail}")]
    Full {
        /// What the engine was doing, as in "writing a batch".
        doing: String,
        /// The operating system's words.
        detail: String,
    },

    /// The operating system failed a read, a write or a flush. Stop the node: after a failed flush nobody can say
    /// what the disk holds.
    #[error("the storage engine failed while {doing}: {detail}")]
    Io {
        /// What the engine was doing, as in "writing a batch", with the path where it is known.
        doing: String,
        /// The operating system's words.
        detail: String,
        /// The operating system's error, where it came to us as such.
        #[source]
        source: Option<io::Error>,
    },

    /// The engine refused for a reason that none of the other variants names. Stop the node.
    #[error("the storage engine failed while {doing}: {detail}")]
    Engine {
        /// What was asked of the engine.
        doing: String,
        /// The engine's own words.
        detail: String,
    },

    /// A batch or a read named a keyspace that the engine was not opened with: a mistake in this program. Stop the node.
    #[error("the storage engine has no keyspace named {keyspace:?}")]
    UnknownKeyspace {
        /// The name that was asked for.
        keyspace: String,
    },

    /// The data directory was written by another version. Do not start; run the version that wrote it, or one that
    /// can read it.
    #[error(
        "the data directory {} has storage format {found}, and this build supports only format {supported}",
        path.display()
    )]
    UnknownFormat {
        /// The data directory.
        path: PathBuf,
        /// The version that the directory names.
        found: u32,
        /// The version that this build reads and writes.
        supported: u32,
    },

    /// The directory has files in it but was not made by this engine. Do not start: the path is probably wrong.
    #[error("the directory {} is not a data directory of this engine: {detail}", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
        /// What is missing or strange about it.
        detail: String,
    },

    /// Another engine, in this process or another, has the directory open. Do not start.
    #[error("the data directory {} is in use by another process", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },

    /// There is already something where a new directory was to be made. The engine is well: choose another place.
    #[error("the path {} already exists", path.display())]
    AlreadyExists {
        /// The path.
        path: PathBuf,
    },
}

impl StorageError {
    /// Whether a running node must stop at this error, without acknowledging anything that it has not yet.
    ///
    /// False only where the call was refused before it touched anything: the engine, if there is one, is unharmed.
    pub fn must_stop_node(&self) -> bool {
        match self {
            Self::Corruption { .. } | Self::Full { .. } | Self::Io { .. } | Self::Engine { .. } | Self::UnknownKeyspace { .. } => true,
            Self::UnknownFormat { .. } | Self::NotADataDirectory { .. } | Self::Locked { .. } | Self::AlreadyExists { .. } => false,
        }
    }

    /// An operating system's error, met while `doing` something to `path`.
    pub(crate) fn from_io(doing: &str, path: &Path, source: io::Error) -> Self {
        let doing = format!("{doing} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { doing, detail: source.to_string() },
            _ => Self::Io { doing, detail: source.to_string(), source: Some(source) },
        }
    }

    pub(crate) fn unknown_keyspace(name: &str) -> Self {
        Self::UnknownKeyspace { keyspace: name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_a_broken_one() {
        let full = StorageError::from_io("writing", Path::new("/d/x"), io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, StorageError::Full { .. }), "{full:?}");
        let broken = StorageError::from_io("writing", Path::new("/d/x"), io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(matches!(broken, StorageError::Io { .. }), "{broken:?}");
        assert!(full.must_stop_node() && broken.must_stop_node());
    }

    #[test]
    fn a_refused_format_names_both_versions() {
        let error = StorageError::UnknownFormat { path: "/d".into(), found: 7, supported: 1 };
        let message = error.to_string();
        assert!(message.contains("format 7") && message.contains("format 1"), "{message}");
        assert!(!error.must_stop_node());
    }
}

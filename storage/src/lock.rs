//! One engine per directory.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::StorageError;

/// Holds a directory for one engine until it is dropped, or its process dies however it dies.
///
/// The lock is on the directory itself, so there is no lock file to create, and none that a copy of the directory
/// would share. RocksDB has a lock of its own; this one answers first, and its answer is no error text to interpret.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _dir: File,
}

impl DirectoryLock {
    pub(crate) fn acquire(path: &Path) -> Result<Self, StorageError> {
        let failed = |error| StorageError::from_io("locking the directory", path, error);
        let dir = File::open(path).map_err(failed)?;
        match dir.try_lock() {
            Ok(()) => Ok(Self { _dir: dir }),
            Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

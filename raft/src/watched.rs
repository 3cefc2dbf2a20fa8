//! The state's engine, with an eye on what is read.
//!
//! Who applies the log stops the node where the engine fails. Everybody else reads too: answers to clients, timers, drivers. Each of them would
//! have to stop the node itself, or go on as if nothing were there.

use std::path::Path;
use std::sync::Arc;

use tarn_storage::{Batch, Durability, Engine, Keyspace, Range, Scan, StorageError};

use crate::types::FatalFlag;

/// What Linux says of a process that has as many files open as it may. The engine opens its own again as it needs them, so that another read may
/// succeed.
const TOO_MANY_FILES: &str = "Too many open files";

/// An engine that stops the node when what it holds cannot be read. Writes, flushes and copies fail to who asked for them, as ever.
pub(crate) struct Watched {
    engine: Arc<dyn Engine>,
    fatal: FatalFlag,
}

impl Watched {
    pub fn new(engine: Arc<dyn Engine>, fatal: FatalFlag) -> Self {
        Self { engine, fatal }
    }

    fn note(&self, error: &StorageError) {
        let passes = matches!(error, StorageError::Io { detail, .. } if detail.contains(TOO_MANY_FILES));
        if error.must_stop_node() && !passes {
            self.fatal.raise(format_args!("the state cannot be read: {error}"));
        }
    }
}

impl Engine for Watched {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.engine.get(keyspace, key).inspect_err(|error| self.note(error))
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        Scan::new(self.engine.scan(keyspace, range).inspect(|item| {
            if let Err(error) = item {
                self.note(error);
            }
        }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        self.engine.write(batch, durability)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.engine.sync()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.engine.checkpoint(dir)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use tarn_storage::Profile;

    use super::*;
    use crate::disk::{Disk, RealDisk};
    use crate::state_machine::RAFT;

    /// Flips a bit in the first block of each table's file in an engine's folder.
    pub(crate) fn flip_first_blocks(engine: &Path) {
        let files = fs::read_dir(engine).unwrap().map(|entry| entry.unwrap().path());
        let tables: Vec<_> = files.filter(|file| file.extension().is_some_and(|extension| extension == "sst")).collect();
        assert!(!tables.is_empty(), "nothing was written to a table");
        for table in tables {
            let mut bytes = fs::read(&table).unwrap();
            bytes[100] ^= 1;
            fs::write(table, bytes).unwrap();
        }
    }

    /// A state whose rows lie in a table's file with a flipped bit in its first block, and the flag of its node.
    fn damaged(path: &Path) -> (Watched, FatalFlag) {
        let open = || RealDisk.open(path, &[RAFT], Profile::State).unwrap();
        let mut batch = Batch::new();
        (0_u32..5_000).for_each(|n| batch.put(RAFT, n.to_be_bytes(), n.to_le_bytes()));
        open().write(batch, Durability::Synced).unwrap();
        flip_first_blocks(path);
        let fatal = FatalFlag::new();
        (Watched::new(open(), fatal.clone()), fatal)
    }

    #[test]
    fn a_row_that_cannot_be_read_stops_the_node() {
        let temp = tempfile::tempdir().unwrap();
        let (engine, fatal) = damaged(temp.path());
        // What lies in other blocks is as good as ever.
        assert_eq!(engine.get(RAFT, &4_999_u32.to_be_bytes()).unwrap(), Some(4_999_u32.to_le_bytes().to_vec()));
        assert_eq!(fatal.reason(), None);
        engine.get(RAFT, &0_u32.to_be_bytes()).unwrap_err();
        let reason = fatal.reason().unwrap();
        assert!(reason.contains("cannot be read") && reason.contains("corrupt"), "{reason}");
    }

    #[test]
    fn a_scan_that_meets_damage_stops_the_node() {
        let temp = tempfile::tempdir().unwrap();
        let (engine, fatal) = damaged(temp.path());
        let read = engine.scan(RAFT, Range::all()).filter(Result::is_ok).count();
        assert!(read < 5_000 && fatal.reason().is_some(), "{read} rows were read");
    }
}

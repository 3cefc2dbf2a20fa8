//! The engine that the code under test gets: the memory engine behind a disk that can fail, and that tells what is written.

use std::path::Path;
use std::sync::Arc;

use tarn_storage::{Batch, Durability, Engine, Keyspace, MemoryEngine, Range, Scan, StorageError};

use super::NodeDisk;

pub(super) struct SimEngine {
    disk: Arc<NodeDisk>,
    inner: MemoryEngine,
}

impl SimEngine {
    pub(super) fn new(disk: Arc<NodeDisk>, inner: MemoryEngine) -> Self {
        Self { disk, inner }
    }
}

impl Engine for SimEngine {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.get(keyspace, key)
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        self.inner.scan(keyspace, range)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let on_its_way = || {
            // This engine is the one that the power cut is taken from, and a memory engine does not fail by itself.
            let _ = self.inner.write(batch.clone(), Durability::Buffered);
        };
        if let Err(error) = self.disk.durable_step("a write", on_its_way) {
            // Nobody can know whether a failed write is on the disk.
            if self.disk.coin() {
                self.inner.write(batch, Durability::Buffered)?;
            }
            return Err(error);
        }
        if !self.disk.is_dead() {
            self.disk.tap.written(self.disk.node, &batch, durability);
        }
        self.inner.write(batch, durability)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.disk.durable_step("a sync", || {})?;
        self.inner.sync()
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        self.disk.durable_step("a checkpoint", || {})?;
        self.inner.checkpoint(dir)
    }
}

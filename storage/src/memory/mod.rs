//! The engine for tests and simulation: ordered maps in memory that forget what was not synced, when told to crash.
//!
//! ```text
//!   write ──► live ◄── get, scan, checkpoint
//!     │
//!     └─────► unsynced: batch, batch, batch ──sync──► durable
//!                              crash: live := durable (+ a prefix of unsynced)
//! ```

mod checkpoint;
mod tree;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Batch, Durability, Engine, Keyspace, Range, Scan, StorageError};
use tree::{Change, Tree};

/// An [`Engine`] in memory. A clone is another handle to the same data.
///
/// Dropping handles and making a new one from a kept handle is a clean restart, and also a process killed with SIGKILL:
/// neither loses anything. [`MemoryEngine::crash`] and its siblings are the power cut.
#[derive(Clone)]
pub struct MemoryEngine {
    shared: Arc<Shared>,
}

struct Shared {
    /// The keyspaces that exist, or `None` if every keyspace comes into being when it is first used.
    keyspaces: Option<BTreeSet<&'static str>>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    live: Tree,
    /// What a power cut leaves.
    durable: Tree,
    /// The batches between `durable` and `live`, the oldest first.
    unsynced: Vec<Vec<Change>>,
    fault: Option<Fault>,
}

/// A disk that misbehaves, see [`MemoryEngine::fail_with`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No room is left: writes, syncs and checkpoints fail with [`StorageError::Full`].
    Full,
    /// Writes, syncs and checkpoints fail with [`StorageError::Io`].
    Io,
}

impl MemoryEngine {
    /// An empty engine in which every keyspace exists.
    pub fn new() -> Self {
        Self::from_parts(None, State::default())
    }

    /// An empty engine with only these keyspaces, which refuses all others as the real engine does.
    pub fn with_keyspaces(keyspaces: &[Keyspace]) -> Self {
        let keyspaces = keyspaces.iter().map(|keyspace| keyspace.name()).collect();
        Self::from_parts(Some(keyspaces), State::default())
    }

    /// An engine with the content of a checkpoint, all of it durable, in which every keyspace exists.
    ///
    /// The engine is independent of the directory afterwards.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotADataDirectory`] or [`StorageError::UnknownFormat`] if another engine or another version
    /// made the directory, [`StorageError::Corruption`] if its content is damaged.
    pub fn open_checkpoint(dir: &Path) -> Result<Self, StorageError> {
        let durable = checkpoint::read(dir)?;
        let live = durable.clone();
        Ok(Self::from_parts(None, State { live, durable, ..State::default() }))
    }

    /// Cuts the power in place: everything that was not synced is gone, for all handles. A fault set by
    /// [`MemoryEngine::fail_with`] is gone too.
    ///
    /// Scans that are under way go on seeing what they saw.
    pub fn crash(&self) {
        self.cut(0);
    }

    /// Cuts the power in place at an unlucky moment: of the batches that were not synced a prefix survives, whose
    /// length is drawn from the seed. Any length from none to all is as likely as any other.
    pub fn crash_keeping(&self, seed: u64) {
        let kept = draw(seed, self.unsynced_batches());
        self.cut(kept);
    }

    /// What a power cut at this moment would leave, as an engine of its own. This engine and its handles go on unharmed
    /// and unrelated, like the process that has died and whose writes reach nothing any more.
    pub fn crashed(&self) -> Self {
        self.remains(0)
    }

    /// As [`MemoryEngine::crashed`], with a prefix of the unsynced batches as in [`MemoryEngine::crash_keeping`].
    pub fn crashed_keeping(&self, seed: u64) -> Self {
        self.remains(draw(seed, self.unsynced_batches()))
    }

    /// How many batches a power cut at this moment could take.
    pub fn unsynced_batches(&self) -> usize {
        self.read().unsynced.len()
    }

    /// From now on, every write, sync and checkpoint fails in this way and changes nothing; `None` mends the disk.
    /// Reads are not affected.
    pub fn fail_with(&self, fault: Option<Fault>) {
        self.write_lock().fault = fault;
    }

    fn from_parts(keyspaces: Option<BTreeSet<&'static str>>, state: State) -> Self {
        Self { shared: Arc::new(Shared { keyspaces, state: RwLock::new(state) }) }
    }

    fn cut(&self, kept: usize) {
        let mut state = self.write_lock();
        state.persist(kept);
        state.unsynced.clear();
        state.live = state.durable.clone();
        state.fault = None;
    }

    fn remains(&self, kept: usize) -> Self {
        let state = self.read();
        let mut durable = state.durable.clone();
        // Another thread may have synced since the number was drawn, so fewer may be left than it says.
        for changes in state.unsynced.iter().take(kept) {
            durable.apply(changes);
        }
        let live = durable.clone();
        let remains = State { live, durable, ..State::default() };
        Self::from_parts(self.shared.keyspaces.clone(), remains)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.shared.state.read().expect("no operation on the memory engine panics while it holds the lock")
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, State> {
        self.shared.state.write().expect("no operation on the memory engine panics while it holds the lock")
    }

    fn check(&self, keyspace: Keyspace) -> Result<(), StorageError> {
        match &self.shared.keyspaces {
            Some(known) if !known.contains(keyspace.name()) => Err(StorageError::unknown_keyspace(keyspace.name())),
            _ => Ok(()),
        }
    }
}

impl State {
    /// Makes the first `count` unsynced batches durable.
    fn persist(&mut self, count: usize) {
        let count = count.min(self.unsynced.len());
        for changes in self.unsynced.drain(..count) {
            self.durable.apply(&changes);
        }
    }

    fn persist_all(&mut self) {
        self.persist(self.unsynced.len());
    }

    fn refuse_if_faulty(&self, doing: &str) -> Result<(), StorageError> {
        match self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.error(doing)),
        }
    }
}

impl Fault {
    fn error(self, doing: &str) -> StorageError {
        let doing = doing.to_owned();
        let detail = "the test asked for this fault".to_owned();
        match self {
            Self::Full => StorageError::Full { doing, detail },
            Self::Io => StorageError::Io { doing, detail, source: None },
        }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.check(keyspace)?;
        Ok(self.read().live.get(keyspace, key).map(|value| value.to_vec()))
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        if let Err(error) = self.check(keyspace) {
            return Scan::failed(error);
        }
        let entries = self.read().live.walk(keyspace, &range);
        Scan::new(entries.map(Ok))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        for keyspace in batch.keyspaces() {
            self.check(*keyspace)?;
        }
        let changes: Vec<Change> = batch.iter().map(Change::from).collect();

        let mut state = self.write_lock();
        state.refuse_if_faulty("writing a batch")?;
        state.live.apply(&changes);
        state.unsynced.push(changes);
        if durability == Durability::Synced {
            state.persist_all();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let mut state = self.write_lock();
        state.refuse_if_faulty("flushing the log")?;
        state.persist_all();
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        let moment = {
            let state = self.read();
            state.refuse_if_faulty("writing a checkpoint")?;
            state.live.clone()
        };
        checkpoint::write(&moment, dir)
    }
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").field("unsynced_batches", &self.unsynced_batches()).finish_non_exhaustive()
    }
}

/// A number from 0 to `most`, drawn from a seed. One round of splitmix64 is even enough and needs no dependency.
fn draw(seed: u64, most: usize) -> usize {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let choices = most as u64 + 1;
    usize::try_from(mixed % choices).expect("the remainder is at most a length")
}

#[cfg(test)]
mod tests;

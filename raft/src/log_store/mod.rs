//! The log: entries, the vote, and how far it is committed and purged.
//!
//! ```text
//!   openraft ── append ──► cache (readable at once) ──► writer's queue ──► one synced batch ──► callbacks
//!            ◄── read ───  cache, else the engine
//! ```
//!
//! `append` returns as soon as the entries are readable; a writer of its own makes them durable, and whatever was queued
//! while one flush ran shares the next. Everything that must not be reordered goes through the same queue.
//!
//! Invariants: the log has no hole, and whoever reads from a certain entry on gets that one first or none; what the cache does not hold is in
//! the engine; the callback of an append runs after its entries would survive a power cut.

mod cache;
mod records;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, entry::RaftEntry};
use tarn_invariants::{debug_holds, raft};
use tarn_storage::{Batch, Durability, Engine, Range, StorageError};

use self::cache::Cache;
pub(crate) use self::records::KEYSPACES;
use self::records::{ENTRIES, META};
use self::writer::{Done, Job, Kind, Writer};
use crate::convert;
use crate::disk::Disk;
use crate::types::{Entry, FatalFlag, LogId, NodeId, TypeConfig, Vote};

/// How much the log keeps in memory and sends at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    /// Recent entries kept in memory, so that replication and apply do not read them back.
    pub cache_bytes: usize,
    /// Entries in one message to a follower, or handed to apply at once. One entry always goes.
    pub batch_bytes: usize,
}

/// A handle to the log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once the log is closed.
    engine: RwLock<Option<Arc<dyn Engine>>>,
    state: Mutex<State>,
    writer: Writer,
    limits: LogLimits,
    node_id: NodeId,
}

/// The log's edges, as openraft sees them: the engine may be a moment behind.
struct State {
    cache: Cache,
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Whether the engine has yet to be told of `committed`.
    committed_anew: bool,
}

impl State {
    /// Adds to a batch how far the log is committed, if that is news.
    fn tell_committed(&mut self, batch: &mut Batch) {
        if let Some(committed) = self.committed.as_ref().filter(|_| self.committed_anew) {
            batch.put(META, records::COMMITTED, records::encode_log_id(committed));
            self.committed_anew = false;
        }
    }
}

impl LogStore {
    /// Reads the log's edges and starts its writer. Refuses a log that belongs to another node.
    pub fn open(
        engine: Arc<dyn Engine>,
        node_id: NodeId,
        limits: LogLimits,
        disk: &Arc<dyn Disk>,
        fatal: FatalFlag,
    ) -> Result<Self, io::Error> {
        records::claim(engine.as_ref(), node_id)?;
        let purged = records::read_log_id(engine.as_ref(), records::PURGED)?;
        let end = |range| engine.scan(ENTRIES, range).next().transpose().map_err(storage);
        let end = |range| end(range)?.map(|(_, value)| records::decode_entry(value)).transpose();
        let (first, last) = (end(Range::all())?, end(Range::all().reversed())?);
        let wanted = purged.as_ref().map_or(1, |id| id.index + 1);
        if let Some(first) = first.filter(|first| first.index() > wanted) {
            return Err(io::Error::other(format!("the log is damaged: it begins at {}, and should at {wanted}", first.index())));
        }
        let last = last.map_or(purged, |entry| Some(entry.log_id()));
        let state = State {
            cache: Cache::new(limits.cache_bytes),
            purged,
            last,
            vote: records::read_vote(engine.as_ref())?,
            committed: records::read_log_id(engine.as_ref(), records::COMMITTED)?,
            committed_anew: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                writer: Writer::spawn(engine.clone(), node_id, disk, fatal),
                engine: RwLock::new(Some(engine)),
                state: Mutex::new(state),
                limits,
                node_id,
            }),
        })
    }

    /// Writes what is queued, stops the writer and closes the engine, so that its directory can be opened again. Blocks.
    pub fn close(&self) {
        self.shared.writer.close();
        let Some(engine) = self.shared.engine.write().expect("no reader of the log panics").take() else { return };
        let mut batch = Batch::new();
        self.state().tell_committed(&mut batch);
        if let Err(error) = engine.write(batch, Durability::Buffered) {
            // It is learnt again.
            tracing::debug!(%error, "the log was closed without how far it is committed");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no holder of this lock panics")
    }

    /// Entries from `start` to `end`, excluded, as far as the log has them and up to about `bytes_max`.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let (start, end, mut cached, cached_from) = {
            let state = self.state();
            let first = state.purged.as_ref().map_or(0, |id| id.index + 1);
            let next = state.last.as_ref().map_or(0, |id| id.index + 1);
            let (start, end) = (start.max(first), end.min(next));
            if start >= end {
                return Ok(Vec::new());
            }
            let from = state.cache.first_index().unwrap_or(next).clamp(start, end);
            let cached = match from == start {
                true => state.cache.read(from, end, bytes_max),
                // The engine's part comes first, and its size is not known yet.
                false => Vec::new(),
            };
            (start, end, cached, from)
        };
        if cached_from == start {
            return Ok(cached);
        }

        let (mut entries, bytes) = self.read_engine(start, cached_from, bytes_max)?;
        // Nothing from the engine: purged, and a gap at the beginning of what was asked for is no hole.
        let joins = entries.last().is_none_or(|last| last.index() + 1 == cached_from);
        if bytes < bytes_max && cached_from < end && joins {
            cached = self.state().cache.read(cached_from, end, bytes_max - bytes);
            // Truncated or evicted meanwhile: the caller asks again for the rest.
            if cached.first().is_some_and(|e| e.index() == cached_from) {
                entries.append(&mut cached);
            }
        }
        Ok(entries)
    }

    fn read_engine(&self, start: u64, end: u64, bytes_max: usize) -> Result<(Vec<Entry>, usize), io::Error> {
        let guard = self.shared.engine.read().expect("no reader of the log panics");
        let engine = guard.as_ref().ok_or_else(closed)?;
        let (from, to) = (records::entry_key(start), records::entry_key(end));
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for item in engine.scan(ENTRIES, Range::between(&from, &to)) {
            let (_, value) = item.map_err(storage)?;
            bytes += value.len();
            let entry = records::decode_entry(value)?;
            if let Some(last) = entries.last()
                && last.index() + 1 != entry.index()
            {
                return Err(io::Error::other(format!("the log has a hole between {} and {}", last.index(), entry.index())));
            }
            entries.push(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok((entries, bytes))
    }

    /// As [`LogStore::read`], for who needs the entry at `start`: an error if it has been purged.
    fn read_from(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, bytes_max)?;
        // Looked at afterwards, because a purge may come in between.
        match entries.first() {
            Some(first) if first.index() != start => {
                Err(io::Error::other(format!("the log begins at {}, and entry {start} is needed", first.index())))
            }
            _ => Ok(entries),
        }
    }

    /// Queues a write and waits for it.
    async fn write(&self, kind: Kind, batch: Batch) -> Result<(), io::Error> {
        let (done, written) = tokio::sync::oneshot::channel();
        self.shared.writer.send(Job { kind, batch, done: Done::Answer(done) }).await?;
        written.await.map_err(|_| closed())?
    }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

/// Whom a vote is for, as the invariants name it.
fn leadership(vote: &Vote) -> raft::Leadership {
    raft::Leadership { term: vote.leader_id.term, node: vote.leader_id.node_id }
}

fn storage(error: StorageError) -> io::Error {
    io::Error::other(error)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        let mut entries = self.read(start, end, usize::MAX)?;
        // The cache may have moved on between its two visits.
        while let Some(next) = entries.last().map(|e| e.index() + 1).filter(|next| *next < end) {
            let mut more = self.read(next, end, usize::MAX)?;
            if more.is_empty() {
                break;
            }
            entries.append(&mut more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.state().vote)
    }

    /// Nothing where `start` has been purged. openraft may ask for it when it purges while a stream to a follower that fell behind has not ended
    /// yet, and sends whatever it gets as what follows the entry before `start`.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, self.shared.limits.batch_bytes)?;
        let begins = entries.first().is_some_and(|first| first.index() == start);
        Ok(if begins { entries } else { Vec::new() })
    }

    /// In pieces, because a node that starts far behind would otherwise hold all it missed in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        stream::try_unfold(start, move |next| {
            let piece = match next < end {
                true => log.read_from(next, end, log.shared.limits.batch_bytes),
                false => Ok(Vec::new()),
            };
            async move {
                let piece: Vec<Entry> = piece?;
                let after = piece.last().map(|entry| entry.index() + 1);
                Ok::<_, io::Error>(after.map(|after| (stream::iter(piece).map(Ok), after)))
            }
        })
        .try_flatten()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        debug_holds!(raft::votes_only_grow(self.shared.node_id, self.state().vote.as_ref().map(leadership), leadership(vote)));
        let mut batch = Batch::new();
        batch.put(META, records::VOTE, records::encode_vote(vote));
        self.write(Kind::Vote, batch).await?;
        self.state().vote = Some(*vote);
        Ok(())
    }

    /// Goes to the engine with the next entries, or when the log is closed: it only shortens recovery, and is never ahead of what it speaks
    /// about.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        debug_holds!(raft::monotonic_commit(
            self.shared.node_id,
            self.state().committed.as_ref().map_or(0, |id| id.index),
            committed.index
        ));
        let mut state = self.state();
        state.committed_anew |= state.committed != Some(committed);
        state.committed = Some(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        let sequence = self.shared.writer.next_sequence();
        {
            let mut state = self.state();
            let flushed = self.shared.writer.flushed();
            for entry in entries {
                let next = state.last.as_ref().map_or(0, |id| id.index + 1);
                // The first entry of a log may have the index 0 or 1, as a bootstrap has it.
                if entry.index() != next && state.last.is_some() {
                    return Err(io::Error::other(format!("log entry {} cannot be appended where {next} should be", entry.index())));
                }
                debug_holds!(raft::log_continues(state.last.as_ref().map(convert::entry_id), convert::entry_id(&entry.log_id())));
                let value = records::encode_entry(&entry);
                batch.put(ENTRIES, records::entry_key(entry.index()), &value);
                state.last = Some(entry.log_id());
                state.cache.push(entry, value.len(), sequence);
            }
            state.cache.evict(flushed);
            state.tell_committed(&mut batch);
        }
        let (kind, done) = (Kind::Append { sequence }, Done::Callback(callback));
        self.shared.writer.send(Job { kind, batch, done }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let next = last_log_id.as_ref().map_or(0, |id| id.index + 1);
        {
            let mut state = self.state();
            debug_holds!(raft::committed_stays(
                state.committed.as_ref().map(convert::entry_id),
                last_log_id.as_ref().map(convert::entry_id)
            ));
            state.cache.truncate(next);
            // After the end there is nothing to remove, and what is purged is gone already.
            if last_log_id < state.last {
                state.last = last_log_id.max(state.purged);
            }
        }
        let mut batch = Batch::new();
        batch.delete_range(ENTRIES, records::entry_key(next), records::ENTRIES_END);
        self.write(Kind::Truncate, batch).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.state();
            state.cache.purge(log_id.index);
            state.purged = Some(log_id);
            if state.last < Some(log_id) {
                state.last = Some(log_id);
            }
        }
        let mut batch = Batch::new();
        batch.put(META, records::PURGED, records::encode_log_id(&log_id));
        batch.delete_range(ENTRIES, records::entry_key(0), records::entry_key(log_id.index + 1));
        self.write(Kind::Purge, batch).await
    }
}

#[cfg(test)]
mod tests;

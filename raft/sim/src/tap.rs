//! What the engines of all nodes are told to write, as observations: the log's entries, what was applied, and the digests.
//!
//! The records are read as they lie on disk (`raft`'s `wire` and `records`); only the fields that the invariants need are named here.

use std::sync::{Arc, Mutex};

use prost::Message;
use tarn_invariants::raft::{EntryId, Leadership, LogEntry};
use tarn_machine::keys::Key;
use tarn_storage::{Batch, Durability, Engine, Keyspace, MemoryEngine, Op, Range};

use crate::dice::hash;

const ENTRIES: Keyspace = Keyspace::new("log");
const LOG_META: Keyspace = Keyspace::new("log-meta");
const RAFT: Keyspace = Keyspace::new("raft");
const STATE: Keyspace = tarn_machine::STATE;

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct WireLogId {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct WireVote {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WireEntry {
    #[prost(message, optional, tag = "2")]
    log_id: Option<WireLogId>,
}

/// Something that a node's engine was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The log was opened and holds this, all of it durable.
    Opened {
        /// The entries, ascending.
        entries: Vec<LogEntry>,
        /// The last entry that was removed from the beginning; 0 if none was.
        purged: u64,
        /// The vote.
        vote: Option<Leadership>,
    },
    /// A vote was saved.
    Voted {
        /// For whom.
        vote: Leadership,
        /// Whether it grants a leadership; else it follows one that began before.
        grants: bool,
    },
    /// Entries were appended; durable if `synced`.
    Appended {
        /// The entries, ascending.
        entries: Vec<LogEntry>,
    },
    /// Everything from this index on was removed.
    Truncated(u64),
    /// Everything up to this index was removed.
    Purged(u64),
    /// Everything told to this node's log before is durable.
    Synced,
    /// The state moved on: the last entry applied, and the digest of the state after it.
    Applied {
        /// The entry.
        id: EntryId,
        /// The digest; empty if the batch has none.
        digest: Vec<u8>,
    },
}

/// Where the engines put their observations. Clones share it.
#[derive(Clone, Default)]
pub struct Tap {
    told: Arc<Mutex<Vec<(u64, Told)>>>,
}

impl Tap {
    /// Everything since the last call, with the node, in order.
    pub fn drain(&self) -> Vec<(u64, Told)> {
        std::mem::take(&mut *self.told.lock().expect("no holder of this lock panics"))
    }

    fn tell(&self, node: u64, told: Told) {
        self.told.lock().expect("no holder of this lock panics").push((node, told));
    }

    /// A node has opened its log.
    pub fn log_opened(&self, node: u64, engine: &MemoryEngine) {
        let entries = engine.scan(ENTRIES, Range::all()).filter_map(|item| {
            let (_, value) = item.ok()?;
            log_entry(&value)
        });
        let entries = entries.collect();
        let mark = engine.get(LOG_META, b"purged").ok().flatten();
        let purged = mark.and_then(|mark| log_id(&mark)).map_or(0, |id| id.index);
        let vote = engine.get(LOG_META, b"vote").ok().flatten();
        let vote = vote.and_then(|vote| read_vote(&vote)).map(|(vote, _)| vote);
        self.tell(node, Told::Opened { entries, purged, vote });
    }

    /// A node writes a batch.
    pub fn written(&self, node: u64, batch: &Batch, durability: Durability) {
        let mut appended = Vec::new();
        let (mut applied, mut digest, mut log_touched) = (None, Vec::new(), false);
        let digest_key = Key::Digest.encode();
        for op in batch.iter() {
            match op {
                Op::Put { keyspace, value, .. } if keyspace == ENTRIES => appended.extend(log_entry(value)),
                Op::DeleteRange { keyspace, start, end } if keyspace == ENTRIES => {
                    log_touched = true;
                    if !appended.is_empty() {
                        let entries = std::mem::take(&mut appended);
                        self.tell(node, Told::Appended { entries });
                    }
                    self.tell(node, removed(start, end));
                }
                Op::Put { keyspace, key, value } if keyspace == RAFT && key == b"applied" => applied = log_id(value),
                Op::Put { keyspace, key, value } if keyspace == STATE && key == digest_key => digest = value.to_vec(),
                Op::Put { keyspace, key, value } if keyspace == LOG_META => {
                    log_touched = true;
                    if let Some((vote, follows)) = read_vote(value).filter(|_| key == b"vote") {
                        let grants = !follows;
                        self.tell(node, Told::Voted { vote, grants });
                    }
                }
                Op::Put { .. } | Op::Delete { .. } | Op::DeleteRange { .. } => {}
            }
        }
        if !appended.is_empty() {
            log_touched = true;
            self.tell(node, Told::Appended { entries: appended });
        }
        if log_touched && durability == Durability::Synced {
            self.tell(node, Told::Synced);
        }
        if let Some(id) = applied {
            self.tell(node, Told::Applied { id, digest });
        }
    }
}

/// The nodes that a term's number leaves room for.
pub const NODES_MAX: u64 = 1 << 20;

/// The number by which the invariants know a leadership where the Raft paper speaks of a term: entries are told apart by term and node, which are ordered
/// as this number is. (That two nodes never have the same number is so by the way it is made; what election safety asks is in `Elections`.)
pub fn number(leadership: Leadership) -> u64 {
    leadership.term * NODES_MAX + leadership.node
}

/// A vote, and whether it follows a leadership that a majority has granted.
fn read_vote(value: &[u8]) -> Option<(Leadership, bool)> {
    let WireVote { term, node, committed } = WireVote::decode(value).ok()?;
    Some((Leadership { term, node }, committed))
}

fn entry_id(id: WireLogId) -> EntryId {
    EntryId { term: number(Leadership { term: id.term, node: id.node }), index: id.index }
}

/// The log removes from the beginning when it purges, and to the end when it truncates.
fn removed(start: &[u8], end: &[u8]) -> Told {
    let number = |key: &[u8]| key.try_into().map_or(u64::MAX, u64::from_be_bytes);
    match number(start) {
        0 if end.len() == 8 => Told::Purged(number(end).saturating_sub(1)),
        from => Told::Truncated(from),
    }
}

fn log_id(value: &[u8]) -> Option<EntryId> {
    WireLogId::decode(value).ok().map(entry_id)
}

fn log_entry(value: &[u8]) -> Option<LogEntry> {
    Some(LogEntry { id: entry_id(WireEntry::decode(value).ok()?.log_id?), content: hash(value) })
}

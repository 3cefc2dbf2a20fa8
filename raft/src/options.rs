//! What a node is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_machine::Versions;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::transport::Transport;
use crate::types::NodeId;

/// How to start [`Consensus`](crate::Consensus).
#[derive(Clone)]
pub struct Options {
    /// This node's id, from 1. The data directory remembers it and refuses another.
    pub node_id: NodeId,
    /// Where log, state and snapshots lie. Created if it is not there.
    pub data_dir: PathBuf,
    /// This build's version, for people.
    pub build_version: String,
    /// The machine versions that this build can run.
    pub versions: Versions,
    /// Heartbeats and elections. The same on all nodes.
    pub timings: Timings,
    /// What is kept in memory and on disk.
    pub limits: Limits,
    /// How commands are grouped.
    pub proposals: ProposalLimits,
    /// How a leader proves that it still is one before a linearizable read.
    pub reads: ReadMode,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// What the data lies on.
    pub disk: Arc<dyn Disk>,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
    /// Told of each applied entry: the commands in it, and how long applying it took. Holds up the next entry.
    pub on_applied: Arc<dyn Fn(usize, Duration) + Send + Sync>,
}

impl Options {
    /// The usual settings.
    pub fn new(node_id: NodeId, data_dir: PathBuf, versions: Versions, transport: Arc<dyn Transport>) -> Self {
        Self {
            node_id,
            data_dir,
            build_version: env!("CARGO_PKG_VERSION").to_owned(),
            versions,
            timings: Timings::default(),
            limits: Limits::default(),
            proposals: ProposalLimits::default(),
            reads: ReadMode::default(),
            clock: Arc::new(SystemClock::new()),
            disk: Arc::new(RealDisk),
            transport,
            on_applied: Arc::new(|_, _| {}),
        }
    }
}

/// How soon a silent leader is replaced.
///
/// A follower stands for election when it has heard nothing for `election_max`, the leader's lease, plus a random time
/// between `election_min` and `election_max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// From heartbeat to heartbeat, and how long one may take.
    pub heartbeat: Duration,
    /// See above.
    pub election_min: Duration,
    /// See above.
    pub election_max: Duration,
    /// How often the leader compares the states of the nodes.
    pub audit: Duration,
}

impl Default for Timings {
    /// For machines of two busy cores: nine heartbeats must be lost before anybody stands for election, which happens
    /// 1.35 to 1.8 seconds after the leader fell silent.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(450),
            election_max: Duration::from_millis(900),
            audit: Duration::from_secs(5),
        }
    }
}

/// Sizes of log, snapshots and messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A snapshot is made after this many log entries since the last one.
    pub snapshot_entries: u64,
    /// Entries that stay in the log although a snapshot contains them, so that a follower that was away for a moment
    /// catches up from the log. One that needs older ones gets the snapshot.
    pub keep_entries: u64,
    /// Recent log entries kept in memory, in bytes.
    pub log_cache_bytes: usize,
    /// Log entries in one message to a follower, in bytes. One entry always goes, however long.
    pub batch_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { snapshot_entries: 20_000, keep_entries: 5_000, log_cache_bytes: 32 << 20, batch_bytes: 4 << 20 }
    }
}

/// How commands become log entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProposalLimits {
    /// Commands in one entry, those of batches counted one by one. One batch always goes, and may go over it by what it holds.
    pub group_commands: usize,
    /// Bytes of the commands in one entry. One command always goes, however long.
    pub group_bytes: usize,
    /// Entries that the leader has under way. More than one, so that flushing, sending and applying overlap; few, so
    /// that commands gather into large groups while they wait.
    pub entries_in_flight: usize,
    /// Groups that a follower has under way to the leader.
    pub forwards_in_flight: usize,
    /// Commands that may wait. When full, more of them wait before the queue until their deadline.
    pub queued_commands: usize,
}

impl Default for ProposalLimits {
    fn default() -> Self {
        Self { group_commands: 512, group_bytes: 2 << 20, entries_in_flight: 2, forwards_in_flight: 8, queued_commands: 4_096 }
    }
}

/// How a leader proves that it still is one before a linearizable read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadMode {
    /// It asks a majority, once for all readers that wait. Right whatever the clocks do.
    #[default]
    ReadIndex,
    /// It relies on a majority's answers of less than `election_max` ago. Saves the round trip, and is right as long as
    /// the monotonic clocks of the nodes run at about the same speed.
    Lease,
}

//! Consensus: one log on several nodes, the kernel's state made from it, and nothing acknowledged that could be lost.
//!
//! The rest of a node holds a [`Consensus`]: it proposes commands and gets their outcomes, on whichever node; reads the
//! state, linearizably if it asks for that first; hears of events; and changes the cluster. What travels between nodes is
//! opaque bytes over a [`Transport`], which the node provides.
//!
//! ```text
//!     propose ──► Proposer ──────► openraft ──► LogStore (a journal, one flush per group)
//!                 groups, forwards    │  └────► Network ──► Transport ──► the other nodes' PeerService
//!     read_barrier ─► ReadGate ───────┤
//!     add, remove ──► Admin ──────────┤ committed
//!                                     ▼
//!     read ◄──────────────── StateMachine ──► tarn_machine::Machine (RocksDB, one batch per entry)
//!     events ◄───────────────────┘    └─────► snapshots: checkpoints that are sent and installed
//! ```
//!
//! # Invariants
//!
//! * Only this crate knows openraft, and of this crate only the types of `types`, never its users.
//! * An entry is acknowledged after a majority has flushed it and this node has applied it.
//! * A node speaks for itself only: votes and appends are refused from anybody but the node that they name.
//! * Time enters with entries, from the leader's clock ([`clock`]); nothing that is applied looks at another clock.
//! * Each durable step has a crash point on both sides ([`CRASH_POINTS`]), and a test dies at every one of them.
//! * A node that meets what it does not understand, or that cannot write, stops: [`Consensus::fatal`] says why.
//!
//! # On disk
//!
//! ```text
//!   <data dir>/log/          entries, vote, marks
//!   <data dir>/state/        CURRENT and the generation that it names
//!   <data dir>/snapshots/    the newest snapshot, and one that is arriving
//! ```
//!
//! # Versions
//!
//! Every entry and every snapshot names the machine version that can read it. The version of a cluster rises by
//! [`Consensus::raise_version`], when every voter has said that it supports it; until then every node can go back to the
//! build it came from. A build from before the state's engine had its directory `trash` never empties it: whoever goes back to one removes
//! `raft/state/*/trash` while the node is stopped.

mod admin;
mod audit;
pub mod clock;
mod consensus;
mod convert;
mod crash;
mod disk;
mod leadership;
mod log_store;
mod network;
mod options;
mod peer;
mod propose;
mod read;
mod snapshot;
mod state_dirs;
mod state_machine;
mod status;
#[cfg(test)]
mod suite;
mod ticker;
mod transport;
mod types;
mod watched;
mod wire;

pub use admin::{AdminError, LaggingNode};
pub use consensus::{BootstrapError, Consensus, StartError};
pub use crash::CRASH_POINTS;
pub use disk::{Disk, RealDisk};
pub use leadership::Leadership;
pub use options::{Limits, Options, ProposalLimits, ReadMode, Timings};
pub use propose::{COMMAND_BYTES_MAX, ProposeError};
pub use read::ReadError;
pub use state_machine::{Applied, EventBatch};
pub use status::{MemberInfo, MemberStatus, Role, Status};
pub use transport::{ByteStream, MESSAGE_BYTES_MAX, Method, Peer, PeerError, ReplyStream, Transport, TransportError};
pub use types::NodeId;

// Deadlines are moments of tokio's clock, and the state is read as the kernel shows it.
pub use tarn_machine::{Machine, ReadyGroup, Versions};
pub use tokio::time::Instant;

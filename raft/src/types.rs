//! The types that openraft is told to use, under short names.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::BasicNode;
use openraft::type_config::alias;
use tarn_proto::v1;
use tokio::sync::watch;

use crate::state_machine::StateMachine;

/// A node's number in its cluster, from 1. Never used again, even after the node is gone.
pub type NodeId = u64;

openraft::declare_raft_types!(
    /// What openraft is generic over.
    pub(crate) TypeConfig:
        D = Payload,
        R = Reply,
        Node = BasicNode,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = alias::EntryPayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, BasicNode>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// An encoded kernel entry (`tarn.v1.Entry`). Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answers: one outcome for each of its commands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub outcomes: Vec<v1::Outcome>,
}

/// The first reason for which this node can no longer keep its promises. Set once, watched by the daemon.
#[derive(Clone)]
pub(crate) struct FatalFlag {
    reason: Arc<watch::Sender<Option<Arc<str>>>>,
}

impl FatalFlag {
    pub fn new() -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)) }
    }

    /// Raises the flag, unless it is up already, and says so in the log.
    pub fn raise(&self, reason: impl fmt::Display) {
        let reason: Arc<str> = reason.to_string().into();
        self.reason.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(%reason, "this node stops");
            *current = Some(reason);
            true
        });
    }

    pub fn watch(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.reason.subscribe()
    }

    pub fn is_raised(&self) -> bool {
        self.reason.borrow().is_some()
    }

    pub fn reason(&self) -> Option<Arc<str>> {
        self.reason.borrow().clone()
    }

    /// Raises the flag and makes the error that stops openraft.
    pub fn stop(&self, reason: impl fmt::Display) -> io::Error {
        let text = reason.to_string();
        self.raise(&text);
        io::Error::other(text)
    }
}

//! What the network must be able to do. The node implements it with gRPC over mutually authenticated TLS, tests in
//! memory.
//!
//! A transport carries opaque bytes; their meaning is this crate's alone. On the other side, whoever serves the
//! connection hands the bytes to [`Consensus`](crate::Consensus)`::handle_call`, `handle_replicate` or
//! `handle_snapshot`, together with the *authenticated* id of the sender.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::NodeId;

/// The longest message that a transport must be able to carry, in bytes: one group of log entries whose last entry is
/// as long as an entry may be.
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;

/// A node to talk to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Peer {
    /// Its id. A connection to another node at the same address must be refused.
    pub id: NodeId,
    /// What to dial, as the cluster's membership has it.
    pub address: String,
}

impl Peer {
    pub(crate) fn new(id: &NodeId, node: &openraft::BasicNode) -> Self {
        let (id, address) = (*id, node.addr.clone());
        Self { id, address }
    }
}

/// Kinds of calls. The numbers are part of the protocol between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Method {
    /// One append of log entries, mostly none: a heartbeat.
    Append = 1,
    /// Asks for a vote.
    Vote = 2,
    /// Asks whether a vote would be given.
    PreVote = 3,
    /// The leader asks the receiver to take over.
    TransferLeader = 4,
    /// A group of commands for the leader.
    Propose = 5,
    /// Asks the leader up to which index a reader must wait.
    ReadIndex = 6,
    /// What the receiver is: versions, digests.
    NodeInfo = 7,
    /// A change of membership or a request to the leader to step aside or raise the version.
    Admin = 8,
    /// Announces a snapshot; the answer says what the receiver has of it already.
    SnapshotOffer = 9,
    /// Tells the receiver that its state differs from the majority's.
    Diverged = 10,
    /// What the receiver's wall clock shows.
    WallClock = 11,
}

impl Method {
    /// The number that travels.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The method with this number; `None` for a number that this build does not know.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Append,
            2 => Self::Vote,
            3 => Self::PreVote,
            4 => Self::TransferLeader,
            5 => Self::Propose,
            6 => Self::ReadIndex,
            7 => Self::NodeInfo,
            8 => Self::Admin,
            9 => Self::SnapshotOffer,
            10 => Self::Diverged,
            11 => Self::WallClock,
            _ => return None,
        })
    }
}

/// Messages to a peer, in order.
pub type ByteStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Messages from a peer, in order. Ends after an error.
pub type ReplyStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// The way to the other nodes. Any method may be called from many tasks at once.
///
/// A dropped future or stream gives the exchange up; the transport then frees what it held for it.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// One message and its answer.
    ///
    /// # Errors
    ///
    /// Within `timeout`: see [`TransportError`], whose variants differ in whether the message may have arrived.
    async fn call(&self, target: &Peer, method: Method, body: Bytes, timeout: Duration) -> Result<Bytes, TransportError>;

    /// A pipeline for log replication that stays open: each message is answered by one reply, in order. The messages
    /// must be taken from `requests` as they come, without waiting for replies in between.
    ///
    /// # Errors
    ///
    /// If the pipeline cannot be opened; later errors are the last item of the replies.
    async fn replicate(&self, target: &Peer, requests: ByteStream) -> Result<ReplyStream, TransportError>;

    /// Sends a snapshot in chunks and returns the answer that follows the last of them.
    ///
    /// # Errors
    ///
    /// As for [`Transport::call`]. A peer that takes no chunk for a long time must become [`TransportError::Timeout`].
    async fn send_snapshot(&self, target: &Peer, chunks: ByteStream) -> Result<Bytes, TransportError>;
}

/// Why an exchange with a peer failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// Nothing was delivered, for certain: no connection could be made, or the peer turned it away unread.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. The message may have been handled.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The connection broke after something was sent. The message may have been handled.
    #[error("the connection to the peer broke: {0}")]
    Broken(String),
    /// The peer answered with an error instead of a message.
    #[error("the peer refused the message: {0}")]
    Remote(String),
}

impl TransportError {
    /// Whether the message certainly had no effect, so that anything may be sent again elsewhere.
    pub fn certainly_undelivered(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Timeout | Self::Broken(_) | Self::Remote(_) => false,
        }
    }
}

/// Why a message from a peer was not answered. The server side of a transport turns it into
/// [`TransportError::Remote`] with this text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerError {
    /// The message cannot be understood, is too long, or has fields that this build does not know.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The sender speaks in the name of another node.
    #[error("node {sender} sent a message in the name of node {claimed}")]
    Impostor {
        /// The authenticated sender.
        sender: NodeId,
        /// Who the message says it comes from.
        claimed: NodeId,
    },
    /// The receiver does something that excludes this, such as receiving the same snapshot already.
    #[error("busy: {0}")]
    Busy(String),
    /// A snapshot's bytes are not what was announced.
    #[error("damaged snapshot: {0}")]
    Damaged(String),
    /// The receiver has stopped or is stopping.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

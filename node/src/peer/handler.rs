//! What answers consensus's messages from peers.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tarn_raft::{Consensus, NodeId, PeerError, TransportError};

use super::members::{ClusterMember, Members};

/// Messages of a peer, in order. The last may be the error that ended them.
pub type Requests = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// Answers to them, in order. Ends after an error.
pub type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, PeerError>> + Send>>;

/// Answers consensus's messages. `from` is always the node that the connection's certificate names.
///
/// Implemented by consensus; by small stand-ins in tests of the way between.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// One message and its answer.
    async fn call(&self, from: NodeId, method: u32, body: Bytes) -> Result<Bytes, PeerError>;

    /// A pipeline: one reply to each request, in order.
    fn replicate(&self, from: NodeId, requests: Requests) -> Replies;

    /// A snapshot in chunks.
    async fn snapshot(&self, from: NodeId, chunks: Requests) -> Result<Bytes, PeerError>;
}

#[async_trait]
impl PeerHandler for Consensus {
    async fn call(&self, from: NodeId, method: u32, body: Bytes) -> Result<Bytes, PeerError> {
        self.handle_call(from, method, body).await
    }

    fn replicate(&self, from: NodeId, requests: Requests) -> Replies {
        Box::pin(self.handle_replicate(from, requests))
    }

    async fn snapshot(&self, from: NodeId, chunks: Requests) -> Result<Bytes, PeerError> {
        self.handle_snapshot(from, chunks).await
    }
}

/// The membership as consensus has it, and who asks.
pub struct ConsensusMembers {
    /// This node, which may not be a member yet.
    pub own_id: NodeId,
    /// Where the membership comes from.
    pub consensus: Consensus,
}

impl Members for ConsensusMembers {
    fn own_id(&self) -> NodeId {
        self.own_id
    }

    fn members(&self) -> Vec<ClusterMember> {
        let members = self.consensus.members().into_iter();
        members.map(|(peer, voter)| ClusterMember { peer, voter }).collect()
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.consensus.is_member(node)
    }

    fn was_removed(&self, node: NodeId) -> bool {
        self.consensus.was_removed(node)
    }
}

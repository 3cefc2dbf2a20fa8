//! Who else is in the cluster, as the parts of this node that talk to peers see it.

use tarn_raft::{NodeId, Peer};

/// One node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterMember {
    /// Whom and where to dial.
    pub peer: Peer,
    /// Whether its disk counts for a majority.
    pub voter: bool,
}

/// What a node is to this one, which may know less of the cluster than others do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A member, or anybody where this node is none itself: the leader turns to a new node before that knows of any members.
    Member,
    /// Nobody that this node knows: not a member yet, or of a membership that has not arrived here.
    Stranger,
    /// It was a member once. That is over for good.
    Removed,
}

/// The membership in force, this node included once it is a member. Implemented by consensus; by a list in tests.
pub trait Members: Send + Sync + 'static {
    /// This node.
    fn own_id(&self) -> NodeId;

    /// All members, in the order of their ids.
    fn members(&self) -> Vec<ClusterMember>;

    /// Whether a node is one of them. Asked for every message between nodes.
    fn is_member(&self, node: NodeId) -> bool {
        self.members().iter().any(|member| member.peer.id == node)
    }

    /// Whether a node was a member and is none any more.
    fn was_removed(&self, node: NodeId) -> bool;

    /// What a node is to this one.
    fn standing(&self, node: NodeId) -> Standing {
        if self.is_member(node) {
            return Standing::Member;
        }
        match self.was_removed(node) {
            true => Standing::Removed,
            false if self.is_member(self.own_id()) => Standing::Stranger,
            false => Standing::Member,
        }
    }

    /// All members but this node.
    fn others(&self) -> Vec<ClusterMember> {
        let own_id = self.own_id();
        self.members().into_iter().filter(|member| member.peer.id != own_id).collect()
    }
}

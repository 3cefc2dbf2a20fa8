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

/// The membership in force, this node included once it is a member. Implemented by consensus; by a list in tests.
pub trait Members: Send + Sync + 'static {
    /// This node.
    fn own_id(&self) -> NodeId;

    /// All members, in the order of their ids.
    fn members(&self) -> Vec<ClusterMember>;

    /// All members but this node.
    fn others(&self) -> Vec<ClusterMember> {
        let own_id = self.own_id();
        self.members()
            .into_iter()
            .filter(|member| member.peer.id != own_id)
            .collect()
    }
}

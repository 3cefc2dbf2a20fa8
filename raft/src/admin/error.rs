//! Why a change to the cluster was refused, here and on the way between nodes.

use crate::types::NodeId;
use crate::wire;

/// Why a change to the cluster was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// No leader did it before the deadline, or its answer was lost. Ask for the same again.
    #[error("no leader made the change before the deadline; ask again")]
    NotDone,
    /// Another change of membership is not finished. Ask again in a moment.
    #[error("another change of membership is under way; ask again when it is done")]
    InProgress,
    /// The node does not answer.
    #[error("node {node} does not answer; start it and check its address")]
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// The node has not got the whole log before the deadline. Ask again later.
    #[error("node {node} is still {behind} log entries behind; ask again when it has caught up")]
    NotCaughtUp {
        /// The node.
        node: NodeId,
        /// Log entries that it lacks.
        behind: u64,
    },
    /// The leader is still the old one.
    #[error("node {node} did not take over; the leader is still the old one")]
    NotTransferred {
        /// The node that should have.
        node: NodeId,
    },
    /// There is no such member.
    #[error("node {node} is not a member of the cluster")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// A learner cannot lead.
    #[error("node {node} has no vote; promote it first")]
    NotVoter {
        /// The node.
        node: NodeId,
    },
    /// The id is taken.
    #[error("node {node} is a member already, at {address}; take a new id")]
    AlreadyMember {
        /// The node.
        node: NodeId,
        /// Where it is.
        address: String,
    },
    /// Who was removed stays out: its id is not used again.
    #[error("node {0} was removed from this cluster: remove its data and let it join anew with `tarn node token`")]
    Removed(NodeId),
    /// A cluster without voters cannot decide anything.
    #[error("node {node} is the last voter; add another one before you remove it")]
    LastVoter {
        /// The node.
        node: NodeId,
    },
    /// Some nodes cannot run the version.
    #[error("machine version {version} is not supported by every voter: {}", describe(nodes))]
    VersionNotSupported {
        /// The version that was asked for.
        version: u32,
        /// The nodes to upgrade or to start.
        nodes: Vec<LaggingNode>,
    },
    /// For a reason that only has words.
    #[error("{0}")]
    Refused(String),
}

/// A node that keeps the cluster from a higher machine version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaggingNode {
    /// The node.
    pub id: NodeId,
    /// The highest machine version that it supports; `None` if it does not answer.
    pub version_max: Option<u32>,
}

fn describe(nodes: &[LaggingNode]) -> String {
    let each = nodes.iter().map(|node| match node.version_max {
        Some(max) => format!("node {} supports at most {max}", node.id),
        None => format!("node {} does not answer", node.id),
    });
    each.collect::<Vec<_>>().join(", ")
}

impl AdminError {
    pub(super) fn to_wire(&self) -> wire::AdminRefusal {
        let mut refusal = wire::AdminRefusal::default();
        match self {
            Self::NotDone => refusal.kind = 1,
            Self::InProgress => refusal.kind = 2,
            Self::Unreachable { node } => (refusal.kind, refusal.node) = (3, *node),
            Self::NotCaughtUp { node, behind } => {
                (refusal.kind, refusal.node, refusal.number) = (4, *node, *behind);
            }
            Self::NotTransferred { node } => (refusal.kind, refusal.node) = (5, *node),
            Self::UnknownNode { node } => (refusal.kind, refusal.node) = (6, *node),
            Self::NotVoter { node } => (refusal.kind, refusal.node) = (7, *node),
            Self::AlreadyMember { node, address } => {
                (refusal.kind, refusal.node, refusal.text) = (8, *node, address.clone());
            }
            Self::LastVoter { node } => (refusal.kind, refusal.node) = (9, *node),
            Self::VersionNotSupported { version, nodes } => {
                (refusal.kind, refusal.number) = (10, u64::from(*version));
                refusal.nodes = nodes
                    .iter()
                    .map(|node| wire::LaggingNode {
                        id: node.id,
                        version_max: node.version_max.unwrap_or(0),
                        reachable: node.version_max.is_some(),
                    })
                    .collect();
            }
            Self::Refused(text) => (refusal.kind, refusal.text) = (11, text.clone()),
            Self::Removed(node) => (refusal.kind, refusal.node, refusal.text) = (12, *node, self.to_string()),
        }
        refusal
    }

    pub(super) fn from_wire(refusal: wire::AdminRefusal) -> Self {
        let node = refusal.node;
        match refusal.kind {
            1 => Self::NotDone,
            2 => Self::InProgress,
            3 => Self::Unreachable { node },
            4 => Self::NotCaughtUp { node, behind: refusal.number },
            5 => Self::NotTransferred { node },
            6 => Self::UnknownNode { node },
            7 => Self::NotVoter { node },
            8 => Self::AlreadyMember { node, address: refusal.text },
            9 => Self::LastVoter { node },
            10 => Self::VersionNotSupported {
                version: u32::try_from(refusal.number).unwrap_or(u32::MAX),
                nodes: refusal
                    .nodes
                    .into_iter()
                    .map(|node| LaggingNode { id: node.id, version_max: node.reachable.then_some(node.version_max) })
                    .collect(),
            },
            12 => Self::Removed(node),
            // A newer leader may know more kinds; its words are for people anyway.
            _ => Self::Refused(refusal.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_way_between_nodes() {
        let node = 3;
        let all = [
            AdminError::NotDone,
            AdminError::InProgress,
            AdminError::Unreachable { node },
            AdminError::NotCaughtUp { node, behind: 70 },
            AdminError::NotTransferred { node },
            AdminError::UnknownNode { node },
            AdminError::NotVoter { node },
            AdminError::AlreadyMember { node, address: "a:1".into() },
            AdminError::LastVoter { node },
            AdminError::VersionNotSupported {
                version: 2,
                nodes: vec![LaggingNode { id: 1, version_max: Some(1) }, LaggingNode { id: 2, version_max: None }],
            },
            AdminError::Refused("no".into()),
            AdminError::Removed(node),
        ];
        for error in all {
            assert_eq!(AdminError::from_wire(error.to_wire()), error);
        }
    }
}

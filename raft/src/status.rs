//! What a node knows of itself and of the cluster, for people and probes.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::{Instant, ServerState};
use tarn_machine::Versions;

use crate::state_machine::{Applied, StateMachine};
use crate::transport::Peer;
use crate::types::{LogId, NodeId, Raft, TypeConfig};

/// What a node is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It has the log but no vote.
    Learner,
    /// It follows a leader, or waits for one.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads.
    Leader,
    /// It has stopped.
    Stopped,
}

/// A moment of one node, as it sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// This node's build.
    pub build_version: String,
    /// The machine versions that this build can run.
    pub versions: Versions,
    /// What it is.
    pub role: Role,
    /// The highest term seen.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<Peer>,
    /// The last entry in the log; 0 if there is none.
    pub last_log_index: u64,
    /// The last entry known to be committed; 0 if there is none.
    pub committed_index: u64,
    /// The last entry in the newest snapshot; 0 if there is none.
    pub snapshot_index: u64,
    /// The last entry removed from the log; 0 if there is none.
    pub purged_index: u64,
    /// The state: index, time and machine version, of one moment.
    pub applied: Applied,
    /// The digest of the state at `applied.index`. Equal on all nodes at the same index.
    pub digest: [u8; 32],
    /// Voters and learners, in the order of their ids.
    pub members: Vec<MemberStatus>,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its id and address.
    pub peer: Peer,
    /// Whether it has a vote.
    pub voter: bool,
    /// The last log entry that it has for certain. Known to the leader only.
    pub matched_index: Option<u64>,
    /// How long ago it answered last. Known to the leader only.
    pub last_contact: Option<Duration>,
}

/// What another node said about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Its id and address.
    pub peer: Peer,
    /// Its build; `None` if it did not answer.
    pub build_version: Option<String>,
    /// The machine versions that it can run; `None` if it did not answer.
    pub versions: Option<Versions>,
    /// The last log index that it has applied; `None` if it did not answer.
    pub applied_index: Option<u64>,
}

fn index(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

/// Looks. `None`: the state is closed.
pub(crate) fn look(raft: &Raft, machine: &StateMachine, build_version: &str) -> Option<Status> {
    let (applied, digest) = machine.position()?;
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let members = members(&metrics);
    let leader = metrics.current_leader;
    Some(Status {
        node_id: metrics.id,
        build_version: build_version.to_owned(),
        versions: machine.versions(),
        role: match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        },
        term: metrics.current_term,
        leader: leader.and_then(|id| members.iter().find(|member| member.peer.id == id).map(|member| member.peer.clone())),
        last_log_index: metrics.last_log_index.unwrap_or(0),
        committed_index: index(metrics.local_committed.as_ref()),
        snapshot_index: index(metrics.snapshot.as_ref()),
        purged_index: index(metrics.purged.as_ref()),
        applied,
        digest,
        members,
    })
}

fn members(metrics: &RaftMetrics<TypeConfig>) -> Vec<MemberStatus> {
    let membership = metrics.membership_config.membership();
    let replication = metrics.replication.as_ref();
    let heartbeat = metrics.heartbeat.as_ref();
    membership
        .nodes()
        .map(|(id, node)| {
            let this = *id == metrics.id;
            let matched = replication.map(|matched| match this {
                true => metrics.last_log_index.unwrap_or(0),
                false => index(matched.get(id).and_then(Option::as_ref)),
            });
            let contact = heartbeat.and_then(|heartbeat| heartbeat.get(id)).and_then(Option::as_ref);
            MemberStatus {
                peer: Peer::new(id, node),
                voter: membership.voter_ids().any(|voter| voter == *id),
                matched_index: matched,
                last_contact: contact.map(|at| (**at).elapsed()).filter(|_| !this),
            }
        })
        .collect()
}

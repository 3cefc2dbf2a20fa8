//! Members and the leader among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{BasicNode, ChangeMembers};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Admin, AdminError, Failure};
use crate::transport::Peer;
use crate::types::{Membership, NodeId, TypeConfig};
use crate::wire;

/// A learner that lacks no more entries than this has caught up: it will have them before its first vote counts.
const CAUGHT_UP_ENTRIES: u64 = 128;

/// How often a hand-over is tried.
const TRANSFERS: u32 = 3;

type WriteResult = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl Admin {
    fn membership(&self) -> Membership {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().clone()
    }

    /// The member with this id.
    pub fn peer(&self, id: NodeId) -> Option<Peer> {
        Some(Peer::new(&id, self.membership().get_node(&id)?))
    }

    fn is_voter(&self, id: NodeId) -> bool {
        self.membership().voter_ids().any(|voter| voter == id)
    }

    pub(super) async fn add_learner(&self, node: &wire::Node) -> Result<(), Failure> {
        if let Some(Peer { address, .. }) = self.peer(node.id) {
            return if address == node.address {
                Ok(())
            } else if self.members().len() == 1 {
                // There is nobody else who would dial the old address.
                let moved = BTreeMap::from([(node.id, BasicNode::new(&node.address))]);
                self.change(ChangeMembers::SetNodes(moved)).await
            } else {
                Err(AdminError::AlreadyMember { node: node.id, address }.into())
            };
        }
        // Who was removed is known for certain once the latest change is applied, which a new leader may be about to do.
        let metrics = self.raft.server_metrics();
        let latest = *metrics.borrow_watched().membership_config.log_id();
        let unapplied = latest.filter(|id| self.applied.borrow().index < id.index);
        unapplied.map_or(Ok(()), |_| Err(AdminError::InProgress))?;
        if self.machine.was_removed(node.id) {
            return Err(AdminError::Removed(node.id).into());
        }
        written(self.raft.add_learner(node.id, BasicNode::new(&node.address), false).await)
    }

    pub(super) async fn promote(&self, id: NodeId, deadline: Instant) -> Result<(), Failure> {
        if self.is_voter(id) {
            return Ok(());
        }
        self.check_version(id).await?;
        self.caught_up(id, deadline).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    pub(super) async fn remove(&self, id: NodeId) -> Result<(), Failure> {
        self.peer(id).ok_or(AdminError::UnknownNode { node: id })?;
        self.change(self.removal(id)?).await
    }

    /// In one change, so that the cluster never counts both or neither.
    pub(super) async fn replace(&self, replace: &wire::Replace, deadline: Instant) -> Result<(), Failure> {
        let new = replace.new.as_ref().ok_or_else(|| AdminError::Refused("the new node is missing".into()))?;
        if self.peer(replace.dead).is_none() && self.is_voter(new.id) {
            return Ok(());
        }
        self.peer(replace.dead).ok_or(AdminError::UnknownNode { node: replace.dead })?;
        self.add_learner(new).await?;
        self.check_version(new.id).await?;
        self.caught_up(new.id, deadline).await?;
        let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([new.id]))];
        changes.push(match self.is_voter(replace.dead) {
            true => ChangeMembers::RemoveVoters(BTreeSet::from([replace.dead])),
            false => ChangeMembers::RemoveNodes(BTreeSet::from([replace.dead])),
        });
        self.change(ChangeMembers::Batch(changes)).await
    }

    fn removal(&self, id: NodeId) -> Result<ChangeMembers<NodeId, BasicNode>, AdminError> {
        let voters: BTreeSet<NodeId> = self.membership().voter_ids().collect();
        if !voters.contains(&id) {
            return Ok(ChangeMembers::RemoveNodes(BTreeSet::from([id])));
        }
        match voters.len() {
            1 => Err(AdminError::LastVoter { node: id }),
            _ => Ok(ChangeMembers::RemoveVoters(BTreeSet::from([id]))),
        }
    }

    async fn change(&self, change: ChangeMembers<NodeId, BasicNode>) -> Result<(), Failure> {
        written(self.raft.change_membership(change, false).await)
    }

    /// Finishes a change of membership whose leader went away in the middle.
    pub async fn finish_change(&self) {
        if self.membership().get_joint_config().len() > 1 {
            tracing::info!("finishing a change of membership that an earlier leader began");
            let _ = self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await;
        }
    }

    async fn check_version(&self, id: NodeId) -> Result<(), Failure> {
        let peer = self.peer(id).ok_or(AdminError::UnknownNode { node: id })?;
        let info = self.node_info(&peer).await.ok_or(AdminError::Unreachable { node: id })?;
        let version = self.applied.borrow().version;
        if (info.machine_version_min..=info.machine_version_max).contains(&version) {
            return Ok(());
        }
        let nodes = vec![super::LaggingNode { id, version_max: Some(info.machine_version_max) }];
        Err(AdminError::VersionNotSupported { version, nodes }.into())
    }

    async fn caught_up(&self, id: NodeId, deadline: Instant) -> Result<(), Failure> {
        let mut metrics = self.raft.data_metrics();
        loop {
            let behind = {
                let metrics = metrics.borrow_and_update();
                let replication = metrics.replication.as_ref().ok_or(Failure::NotLeader)?;
                let matched = replication.get(&id).cloned().flatten().map_or(0, |matched| matched.index);
                metrics.last_log.as_ref().map_or(0, |last| last.index).saturating_sub(matched)
            };
            if behind <= CAUGHT_UP_ENTRIES {
                return Ok(());
            }
            match timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Failure::NotLeader),
                Err(_) => return Err(AdminError::NotCaughtUp { node: id, behind }.into()),
            }
        }
    }

    /// The voter, other than this node, that has most of the log.
    fn most_advanced_voter(&self) -> Option<NodeId> {
        let voters: BTreeSet<NodeId> = self.membership().voter_ids().collect();
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let matched: BTreeMap<_, _> = metrics.replication.clone()?;
        matched
            .into_iter()
            .filter(|(id, _)| *id != self.node_id && voters.contains(id))
            .max_by_key(|(_, matched)| *matched)
            .map(|(id, _)| id)
    }

    /// Hands leadership over, to a certain voter or, if `to` is 0, to the most advanced one. Returns the new leader.
    pub async fn transfer_leader(&self, to: NodeId, deadline: Instant) -> Result<NodeId, Failure> {
        if to == self.node_id {
            return Ok(to);
        }
        for _ in 0..TRANSFERS {
            let target = match to {
                0 => self.most_advanced_voter().ok_or_else(|| AdminError::Refused("there is no other voter to hand over to".into()))?,
                id => id,
            };
            let peer = self.peer(target).ok_or(AdminError::UnknownNode { node: target })?;
            if !self.is_voter(target) {
                return Err(AdminError::NotVoter { node: target }.into());
            }
            if self.node_info(&peer).await.is_none() {
                return Err(AdminError::Unreachable { node: target }.into());
            }
            self.raft.trigger().transfer_leader(target).await.map_err(|_| Failure::NotLeader)?;
            if let Some(leader) = self.new_leader(deadline).await {
                return match to == 0 || to == leader {
                    true => Ok(leader),
                    false => Err(AdminError::NotTransferred { node: to }.into()),
                };
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        // A leader that is handing over takes no proposals, and would not ever again: an election ends that state.
        let _ = self.raft.trigger().elect(false).await;
        Err(AdminError::NotTransferred { node: to }.into())
    }

    /// Waits for another node to lead, for as long as an election takes.
    async fn new_leader(&self, deadline: Instant) -> Option<NodeId> {
        let until = deadline.min(Instant::now() + self.timings.election_max * 2 + Duration::from_millis(100));
        let mut leadership = self.leadership.clone();
        let other = leadership.wait_for(|now| now.leader.is_some() && !now.is_this_node);
        let leadership = timeout(until.saturating_duration_since(Instant::now()), other).await.ok()?.ok()?;
        leadership.leader.as_ref().map(|leader| leader.id)
    }
}

fn written(result: WriteResult) -> Result<(), Failure> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(_)) => Err(Failure::NotLeader),
        Err(RaftError::APIError(error)) => Err(match error {
            // Perhaps it was done: asking again finds out.
            ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_) => Failure::NotLeader,
            ClientWriteError::PreconditionFailed(error) => refused_inside(&error).into(),
            ClientWriteError::ChangeMembershipError(error) => match error {
                ChangeMembershipError::InProgress(_) => AdminError::InProgress.into(),
                ChangeMembershipError::LearnerNotFound(error) => AdminError::UnknownNode { node: error.node_id }.into(),
                other => refused_inside(&other).into(),
            },
        }),
    }
}

/// A refusal by the consensus library, whose words are for the log.
fn refused_inside(error: &dyn std::fmt::Display) -> AdminError {
    tracing::warn!(%error, "a change of the cluster was refused");
    AdminError::Refused("the change is not possible as the cluster stands; the leader's log says why".into())
}

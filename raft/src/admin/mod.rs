//! Changes to the cluster itself: its members, its leader, its machine version.
//!
//! The leader makes them; any node takes the request and passes it on. All of them may be repeated: what is so already is
//! a success.

mod error;
mod membership;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use self::error::{AdminError, LaggingNode};
use crate::clock::Clock;
use crate::leadership::{self, Leadership};
use crate::options::Timings;
use crate::propose::Proposer;
use crate::state_machine::{Applied, StateMachine};
use crate::transport::{Method, Peer, Transport};
use crate::types::{NodeId, Raft};
use crate::wire::{self, AdminAction};

/// The longest that a request waits for the leader's answer before it is sent again.
const FORWARD_TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Makes changes where this node leads, and passes them on where it does not. Clones share it.
#[derive(Clone)]
pub(crate) struct Admin {
    pub node_id: NodeId,
    pub raft: Raft,
    pub machine: StateMachine,
    pub transport: Arc<dyn Transport>,
    pub leadership: watch::Receiver<Leadership>,
    pub applied: watch::Receiver<Applied>,
    pub proposer: Proposer,
    pub timings: Timings,
    /// The highest machine version that this build supports.
    pub version_max: u32,
}

/// Why one try at a change did not succeed.
pub(crate) enum Failure {
    /// For good.
    Refused(AdminError),
    /// This node does not lead, or does not any more: another try may find the leader.
    NotLeader,
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::Refused(error)
    }
}

impl Admin {
    /// Does what is asked, on whichever node leads. Returns the leader or version that is in force afterwards, where one
    /// was asked for.
    pub async fn request(&self, action: AdminAction, deadline: Instant) -> Result<u64, AdminError> {
        let mut leadership = self.leadership.clone();
        // A node that is joining gets to know of its membership a little after the leader does.
        let patience = Instant::now() + self.timings.election_max;
        loop {
            let seen = leadership.borrow_and_update().clone();
            let attempt = match (&seen.leader, seen.is_this_node) {
                (_, true) => self.execute(&action, deadline).await,
                (Some(leader), false) => self.forward(leader, &action, deadline).await,
                (None, false) if self.peer(self.node_id).is_none() && Instant::now() >= patience => {
                    let text = format!("node {} is not a member of the cluster: ask another node", self.node_id);
                    Err(AdminError::Refused(text).into())
                }
                (None, false) => Err(Failure::NotLeader),
            };
            match attempt {
                Ok(value) => return Ok(value),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::NotLeader) => {}
            }
            if !leadership::pause(&mut leadership, &seen, deadline).await {
                return Err(AdminError::NotDone);
            }
        }
    }

    /// Serves a request that another node passed on: here or not at all. `None`: this node does not lead.
    pub async fn serve(&self, request: wire::AdminRequest) -> Option<wire::AdminReply> {
        let timeout = Duration::from_millis(request.timeout_ms).min(FORWARD_TIMEOUT_MAX);
        let action = request.action?;
        if !self.leadership.borrow().is_this_node {
            return None;
        }
        match self.execute(&action, Instant::now() + timeout).await {
            Ok(value) => Some(wire::AdminReply { value, refusal: None }),
            Err(Failure::Refused(error)) => Some(wire::AdminReply { value: 0, refusal: Some(error.to_wire()) }),
            Err(Failure::NotLeader) => None,
        }
    }

    async fn forward(&self, leader: &Peer, action: &AdminAction, deadline: Instant) -> Result<u64, Failure> {
        let timeout = deadline.saturating_duration_since(Instant::now()).min(FORWARD_TIMEOUT_MAX);
        let request =
            wire::AdminRequest { action: Some(action.clone()), timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) };
        let reply = self.transport.call(leader, Method::Admin, wire::encode(&request), timeout).await;
        // Whatever happened, the same request can be sent again.
        let reply = reply.map_err(|_| Failure::NotLeader)?;
        let reply: wire::AdminReply = wire::decode(reply).map_err(|_| Failure::NotLeader)?;
        match reply.refusal {
            None => Ok(reply.value),
            Some(refusal) => Err(AdminError::from_wire(refusal).into()),
        }
    }

    async fn execute(&self, action: &AdminAction, deadline: Instant) -> Result<u64, Failure> {
        match action {
            AdminAction::AddLearner(node) => self.add_learner(node).await.map(|()| 0),
            AdminAction::Promote(node) => self.promote(node.id, deadline).await.map(|()| 0),
            AdminAction::Remove(node) => self.remove(node.id).await.map(|()| 0),
            AdminAction::Replace(replace) => self.replace(replace, deadline).await.map(|()| 0),
            AdminAction::TransferLeader(node) => self.transfer_leader(node.id, deadline).await,
            AdminAction::RaiseVersion(version) => self.raise_version(*version, deadline).await,
        }
    }

    /// The members of the cluster, as this node knows them, and whether each has a vote.
    pub fn members(&self) -> Vec<(Peer, bool)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let has_vote = |id: &NodeId| membership.voter_ids().any(|voter| voter == *id);
        let members = membership.nodes();
        members.map(|(id, node)| (Peer::new(id, node), has_vote(id))).collect()
    }

    /// Whether a node is a member, as this node knows them.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.raft.server_metrics().borrow_watched().membership_config.membership().get_node(&id).is_some()
    }

    /// The voters, this node among them if it is one.
    pub fn voters(&self) -> Vec<Peer> {
        let voters = self.members().into_iter().filter(|(_, voter)| *voter);
        voters.map(|(peer, _)| peer).collect()
    }

    /// Asks a node what it is.
    pub async fn node_info(&self, peer: &Peer) -> Option<wire::NodeInfo> {
        self.ask(peer, Method::NodeInfo).await
    }

    /// The voters' wall clocks, in milliseconds since the Unix epoch; `None` for one that does not answer. Once a majority has, the others
    /// get a heartbeat's time: one that cannot be reached must not keep a new leader from knowing the time.
    pub async fn wall_clocks(&self, own: &dyn Clock) -> Vec<Option<u64>> {
        let voters = self.voters();
        let mut answers: FuturesUnordered<_> = voters
            .iter()
            .map(|voter| async move {
                if voter.id == self.node_id {
                    return Some(own.wall_ms());
                }
                let answer: wire::WallClock = self.ask(voter, Method::WallClock).await?;
                Some(answer.wall_ms)
            })
            .collect();
        let mut clocks = Vec::with_capacity(voters.len());
        let mut until = Instant::now() + self.timings.election_max;
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            clocks.push(answer);
            if clocks.iter().flatten().count() == voters.len() / 2 + 1 {
                until = until.min(Instant::now() + self.timings.heartbeat);
            }
        }
        clocks.resize(voters.len(), None);
        clocks
    }

    /// A question without words, and its answer if there is one in time.
    async fn ask<M: prost::Message + Default>(&self, peer: &Peer, method: Method) -> Option<M> {
        let timeout = self.timings.election_max;
        let reply = self.transport.call(peer, method, bytes::Bytes::new(), timeout).await;
        wire::decode(reply.ok()?).ok()
    }
}

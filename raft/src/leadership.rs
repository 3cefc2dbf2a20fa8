//! Who leads, as this node sees it.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use tarn_invariants::{debug_holds, raft as rules};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, LeaderClock};
use crate::consensus::Tasks;
use crate::state_machine::Applied;
use crate::transport::Peer;
use crate::types::{FatalFlag, Raft, TypeConfig};

/// How long to wait before trying again, if nothing is heard of a new leader meanwhile.
const PAUSE: Duration = Duration::from_millis(25);

/// Who leads the cluster, as this node believes. A belief: whoever acts on it is told if it is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The highest term seen.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<Peer>,
    /// Whether this node is it.
    pub is_this_node: bool,
}

impl Leadership {
    fn of(metrics: &RaftServerMetrics<TypeConfig>) -> Self {
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader;
        let leader = leader.and_then(|id| Some(Peer::new(&id, membership.get_node(&id)?)));
        Self {
            term: metrics.vote.leader_id.term,
            is_this_node: metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id),
            leader,
        }
    }
}

/// Keeps a watch on who leads, until openraft stops. If it stops by itself, the node must too.
pub(crate) fn watch(raft: &Raft, fatal: FatalFlag, tasks: &mut Tasks) -> watch::Receiver<Leadership> {
    let mut metrics = raft.server_metrics();
    let (sender, receiver) = watch::channel(Leadership::of(&metrics.borrow_watched()));
    let raft = raft.clone();
    tasks.spawn(async move {
        let mut followed = None;
        while metrics.changed().await.is_ok() {
            let leadership = {
                let metrics = metrics.borrow_and_update();
                if let Some(leader) = metrics.current_leader {
                    let now = (metrics.vote.leader_id.term, leader);
                    debug_holds!(rules::leaders_only_advance(metrics.id, followed, now));
                    followed = Some(now);
                }
                Leadership::of(&metrics)
            };
            sender.send_if_modified(|current| {
                let changed = *current != leadership;
                if changed {
                    tracing::info!(term = leadership.term, leader = ?leadership.leader, "leadership");
                    *current = leadership;
                }
                changed
            });
        }
        if let Err(error) = &raft.metrics().borrow_watched().running_state {
            fatal.raise(format!("consensus has stopped: {error}"));
        }
    });
    receiver
}

/// Waits a little, or until somebody else leads than did in `seen`. False: the deadline has come.
pub(crate) async fn pause(leadership: &mut watch::Receiver<Leadership>, seen: &Leadership, deadline: Instant) -> bool {
    let until = deadline.min(Instant::now() + PAUSE);
    let changed = leadership.wait_for(|now| now != seen && now.leader.is_some());
    // A closed watch means that the node is stopping; the next attempt says so.
    let _ = tokio::time::timeout_at(until, async {
        if changed.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
    .await;
    Instant::now() < deadline
}

/// The clock of the present leadership.
pub(crate) struct LeaderTime {
    clock: Arc<dyn Clock>,
    applied: watch::Receiver<Applied>,
    current: Option<(u64, LeaderClock)>,
    /// The last term in which a majority's clocks were heard of.
    agreed: watch::Sender<u64>,
}

impl LeaderTime {
    pub fn new(clock: Arc<dyn Clock>, applied: watch::Receiver<Applied>) -> Self {
        Self { clock, applied, current: None, agreed: watch::Sender::new(0) }
    }

    /// Tells in which term a majority's clocks were last heard of.
    pub fn agreed(&self) -> watch::Receiver<u64> {
        self.agreed.subscribe()
    }

    /// The time that an entry of this term carries.
    pub fn now_ms(&mut self, term: u64) -> u64 {
        let clock = self.clock.clone();
        self.of(term).now_ms(clock.as_ref())
    }

    /// Takes what a majority's clocks have reached.
    pub fn agree(&mut self, term: u64, majority_ms: u64) {
        let clock = self.clock.clone();
        let machine_ms = self.applied.borrow().now_ms;
        self.of(term).agree(clock.as_ref(), machine_ms, majority_ms);
        self.agreed.send_replace(term);
    }

    fn of(&mut self, term: u64) -> &mut LeaderClock {
        let machine_ms = self.applied.borrow().now_ms;
        if self.current.as_ref().is_none_or(|(of, _)| *of != term) {
            self.current = Some((term, LeaderClock::start(self.clock.as_ref(), machine_ms)));
        }
        let (_, leader) = self.current.as_mut().expect("it was set just now");
        leader.raise_to(machine_ms);
        leader
    }
}

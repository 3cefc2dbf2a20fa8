//! The router: which worker, on which runtime, gets a task of the runtime `auto`.
//!
//! ```text
//!   applied events ─► lessons: how long artifacts ran, where they failed ─► history
//!                 └─► wake, on the leader ─► view: open tasks, workers, what these hold ─► tarn-scheduler ─► PlaceTasks ─► state
//!                                                         ▲                                (decides)
//!                                    where artifacts lie ─┘
//! ```
//!
//! The kernel gives no worker a task of the runtime `auto`. The leader's node looks at those that wait, decides where each is to run, and
//! proposes it; the kernel checks the choice, records it with its scores, and the chosen worker leases the task like any other. A task is
//! placed only where a slot is free, so that what is decided late is decided well: whoever waits, waits for all workers and not for one.
//! A task that may run in any cluster is placed at a worker that stands for another one, when it has waited for a while and nobody here has
//! room. What was placed and cannot begin, because its worker is gone or drains or was filled by others, is taken back.
//!
//! Every node learns from the events how attempts went, so that a new leader knows what the old one knew, as far as it was up itself. It is
//! not kept over a restart.
//!
//! Invariants: nothing here is needed for safety: a wrong or late decision costs time. No state is locked while the scheduler thinks.

mod away;
mod lacks;
mod lessons;
mod location;
mod need;
mod record;
mod round;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tarn_raft::{Consensus, EventBatch};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::federation::Stays;
use crate::ops::Metrics;
use round::Rounds;

pub use away::away_patience_ms;
pub use lacks::lacks;
pub use round::tuning;

/// Without any event, the leader looks this often: a worker that was heard of through a snapshot, a fall-back whose time has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Between two rounds at least: what happens meanwhile is looked at in one go.
const ROUND_PAUSE: Duration = Duration::from_millis(2);

/// Events are heard in one go that come within this time: under load there are thousands of batches a second, few of which are about
/// anything that is placed. So long may a task that is to be placed wait for it.
const HEARD_TOGETHER: Duration = Duration::from_millis(5);

/// What the router needs.
pub struct Router {
    /// The state.
    pub consensus: Consensus,
    /// This node.
    pub node_id: u64,
    /// Who knows where artifacts lie.
    pub artifacts: Artifacts,
    /// Where it counts what it does.
    pub metrics: Arc<Metrics>,
    /// Tasks that no other cluster would have.
    pub stays: Stays,
}

impl Router {
    /// Learns on every node and places on the leader's, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.route()).await;
    }

    async fn route(self) {
        let mut events = self.consensus.events();
        let leadership = self.consensus.leadership();
        let mut rounds = Rounds::new(self);
        let mut next = Instant::now() + LOOK_EVERY;
        loop {
            tokio::select! {
                heard = events.recv() => match heard {
                    Ok(batch) => {
                        let mut matters = rounds.hear(&batch);
                        while let Ok(batch) = events.try_recv() {
                            matters |= rounds.hear(&batch);
                        }
                        if matters {
                            next = next.min(rounds.earliest());
                        }
                        tokio::time::sleep(HEARD_TOGETHER).await;
                    }
                    Err(RecvError::Lagged(_)) => next = next.min(rounds.earliest()),
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep_until(next) => {
                    let leads = leadership.borrow().is_this_node;
                    let pause = if leads { rounds.place().await } else { LOOK_EVERY };
                    next = Instant::now() + pause.min(LOOK_EVERY);
                }
            }
        }
    }
}

/// Whether a batch of events can change what is to be placed, or where.
fn matters(batch: &EventBatch) -> bool {
    use tarn_proto::v1::EventKind as Kind;
    let open = batch.ready.iter().any(|group| group.class.runtime == tarn_machine::AUTO);
    let moves = |kind: Kind| {
        matches!(
            kind,
            Kind::TaskSucceeded
                | Kind::TaskRetried
                | Kind::TaskDead
                | Kind::TaskCancelled
                | Kind::TaskReturned
                | Kind::WorkerRegistered
                | Kind::WorkerDraining
                | Kind::WorkerGone
                | Kind::NamespaceUpdated
                | Kind::SchedulerChanged
        )
    };
    open || batch.events.iter().any(|event| moves(event.kind()))
}

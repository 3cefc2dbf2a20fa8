//! Who waits for work, and who gets it: the long poll of `LeaseTasks`, the `Work` streams, and this node's own executors.
//!
//! ```text
//!   applied events ─► ear ─┬─ tasks became ready ─► pump ─► lease commands for as many waiters as there is work
//!                          ├─ cancel asked, lease lost, drain ─► notice to the session that holds the task
//!                          └─ worker gone ─► its sessions end
//!   a task is proposed ─► coming ─► lease commands behind it, for who waits here for such tasks
//!   waiter ─► pump ─► Granted … ─► delivered
//!                        └─ dropped on the way (the client vanished) ─► returner ─► FailTask RETURNED
//! ```
//!
//! Waiting happens on the node that the worker is connected to, on that node's own state, which may be a moment old. So before a lease
//! is proposed, the local state must show a ready task that the worker can take, and this node has no more tasks under way than the
//! state shows ready: a task that becomes ready wakes one waiter and not all. What this guess misses, a periodic look finds.
//!
//! Invariants: a task that was leased here is delivered or returned, never forgotten, as long as this process lives; nothing here decides
//! which task a worker gets.

mod foresee;
mod granted;
mod pump;
mod session;
mod stream;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tarn_proto::v1;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use foresee::{Coming, Foresight};
pub use granted::Granted;
pub use session::{Notice, Session};
pub use stream::{Responses, work};

use crate::gate::{Caller, Refusal};
use crate::way::Way;
use granted::Returner;
use pump::{Waiter, Waiting};
use session::Sessions;

/// Without any event, waiters are looked at this often: a task that became ready while this node looked away (a lost event, a state that
/// came by snapshot, a worker that registered through another node) waits no longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Limit on one lease command, from proposing it to its outcome. A worker that waits longer than this asks again.
const LEASE_DEADLINE: Duration = Duration::from_secs(10);

/// Hands out work. Clones share it.
#[derive(Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

struct Shared {
    way: Way,
    waiting: Mutex<Waiting>,
    sessions: Mutex<Sessions>,
    returner: Returner,
    /// A waiter arrived or was put back.
    arrivals: tokio::sync::Notify,
}

impl Dispatcher {
    /// Starts dispatching. With `stop` all sessions end and nothing more is handed out; with `closed` nothing more is returned either.
    #[must_use]
    pub fn start(way: Way, node: Caller, stop: CancellationToken, closed: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            returner: Returner::start(way.clone(), node, closed),
            way,
            waiting: Mutex::default(),
            sessions: Mutex::default(),
            arrivals: tokio::sync::Notify::new(),
        });
        shared.way.foresight().begin(&shared);
        let dispatcher = Self { shared };
        tokio::spawn(dispatcher.clone().run(stop));
        dispatcher
    }

    /// Leases tasks for a worker; waits up to `wait` for the first. An empty answer means that there was none in that time. A worker that
    /// is not registered, or draining, does not wait: the cluster's refusal is its answer, also if it became so while it waited.
    ///
    /// # Errors
    /// The gate or the kernel refused the lease, or the cluster did not take it.
    pub async fn lease(
        &self,
        caller: &Caller,
        request: v1::LeaseTasksRequest,
        wait: Duration,
        deadline: Instant,
    ) -> Result<Vec<Granted>, Refusal> {
        // Whoever does not wait gets the cluster's answer, not this node's guess. The same goes for a repeat: its first answer may be
        // recorded. And for whoever asks for somebody else's worker: in line it would hold up those who may.
        let at_once = wait.is_zero() || !request.request_id.is_empty();
        if at_once || !self.may_work_as(caller, &request.worker_id) {
            let granted = self.grant(caller, request.clone(), deadline).await?;
            if wait.is_zero() || !granted.is_empty() {
                return Ok(granted);
            }
        }
        let worker = request.worker_id.clone();
        let answered = self.wait(caller, request);
        // Looked at from the line, where the event of a change finds the waiter: between the two, none is missed.
        if !self.may_lease(&worker) {
            self.refuse(&worker);
        }
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(answer)) => answer,
            // Time is up; or the pump ended with the node.
            Ok(Err(_)) | Err(_) => Ok(Vec::new()),
        }
    }

    fn may_work_as(&self, caller: &Caller, worker: &str) -> bool {
        let consensus = self.shared.way.consensus();
        let read = consensus.read(|machine| machine.may_work_as(worker, &caller.principal));
        read.unwrap_or(true)
    }

    fn may_lease(&self, worker: &str) -> bool {
        let consensus = self.shared.way.consensus();
        consensus.read(|machine| machine.may_lease(worker)).unwrap_or(true)
    }

    /// Whoever waits for this worker gets the cluster's answer.
    fn refuse(&self, worker: &str) {
        let refused = self.waiting().take(worker);
        for waiter in refused {
            tokio::spawn(self.clone().serve(waiter));
        }
    }

    /// Proposes one lease. What it grants is returned if it is dropped.
    async fn grant(&self, caller: &Caller, request: v1::LeaseTasksRequest, deadline: Instant) -> Result<Vec<Granted>, Refusal> {
        let dispatcher = self.clone();
        let caller = caller.clone();
        // In a task of its own: a caller that goes away must not take the outcome with it.
        let proposal = tokio::spawn(async move { dispatcher.propose(&caller, request, deadline).await });
        proposal.await.unwrap_or_else(|error| Err(Refusal::internal(error)))
    }

    /// The same, for a task that nobody ends.
    async fn propose(&self, caller: &Caller, request: v1::LeaseTasksRequest, deadline: Instant) -> Result<Vec<Granted>, Refusal> {
        let response = self.shared.way.command(caller, request, deadline).await?;
        let metrics = self.shared.way.metrics();
        if response.tasks.is_empty() {
            metrics.leases_empty.inc();
        }
        metrics.leases_granted.inc_by(response.tasks.len() as u64);
        Ok(response.tasks.into_iter().map(|task| Granted::new(task, self.shared.returner.clone())).collect())
    }

    /// Puts a waiter in line.
    fn wait(&self, caller: &Caller, request: v1::LeaseTasksRequest) -> oneshot::Receiver<Result<Vec<Granted>, Refusal>> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter::new(caller.clone(), request, answer);
        self.waiting().push(waiter);
        self.shared.arrivals.notify_one();
        answered
    }

    /// The ear: hears what was applied, wakes waiters, and tells sessions.
    async fn run(self, stop: CancellationToken) {
        let mut events = self.shared.way.consensus().events();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                heard = events.recv() => match heard {
                    Ok(batch) => {
                        // What else was applied meanwhile is looked at in one go.
                        // A quota that is not used up any more makes tasks available, and no task ready.
                        let mut ready = self.hear(&batch.events) | !batch.ready.is_empty();
                        while let Ok(batch) = events.try_recv() {
                            ready |= self.hear(&batch.events) | !batch.ready.is_empty();
                        }
                        if ready {
                            self.waiting().news();
                            self.pump();
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.waiting().news();
                        self.pump();
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = self.shared.arrivals.notified() => self.pump(),
                _ = look.tick() => {
                    self.waiting().news();
                    self.pump();
                }
            }
        }
        self.waiting().close();
        self.sessions().end_all();
    }

    /// Tells sessions what concerns them. True if a task became ready.
    fn hear(&self, events: &[v1::Event]) -> bool {
        let mut sessions = self.sessions();
        let mut ready = false;
        for event in events {
            use v1::EventKind;
            let kind = event.kind();
            ready |= match kind {
                EventKind::TaskReady | EventKind::TaskReturned | EventKind::TaskRequeued | EventKind::TaskEnqueued => true,
                // This node may not have known the worker when it began to wait.
                EventKind::WorkerRegistered => true,
                EventKind::WorkerDraining | EventKind::WorkerGone => {
                    self.refuse(&event.subject);
                    false
                }
                _ => false,
            };
            sessions.hear(kind, event);
        }
        ready
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.shared.waiting.lock().expect("no holder of this lock panics")
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.shared.sessions.lock().expect("no holder of this lock panics")
    }
}

//! This node's executors, as workers of the cluster: each registers as `node-<id>/<runtime>` and leases, runs and answers like any other.
//!
//! ```text
//!   register ─► lease (slots, and as many again in wait) ─► wait for a slot ─► input ─► executor ─► complete or fail
//!       ▲             │                                                           │
//!       └─ gone ◄── heartbeat of the worker and of every lease ─► cancelled or lost: stop the attempt
//! ```
//!
//! What it leased and did not begin goes back at once when the node drains; what it began gets a grace.
//!
//! Invariants: an attempt whose lease was lost reports nothing; a worker never runs more attempts at once than the executor has slots.

mod attempt;
mod grants;
mod held;
mod input;
mod pulse;
mod redact;
mod report;
mod resources;
mod services;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tarn_executor::{ArtifactSource, Executor};
use tarn_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatch::{Dispatcher, Granted, Notice, Session};
use crate::gate::{Caller, Refusal};
use crate::way::Way;
use held::Held;

/// Limit on one command of a host. The next heartbeat or the end of a lease comes about as soon.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Between attempts to register or lease when the cluster does not take it.
const PAUSE: Duration = Duration::from_millis(250);

/// How long the registration lasts without a heartbeat: several heartbeats, and a change of leader.
const WORKER_TTL_MS: u64 = 30_000;

/// Tasks asked for in one lease: the kernel's limit.
const LEASE_TASKS_MAX: u32 = tarn_machine::limits::LEASE_TASKS_MAX;

/// What a host needs.
pub struct HostOptions {
    /// This node's id.
    pub node_id: u64,
    /// What runs the attempts.
    pub executor: Arc<dyn Executor>,
    /// Where the artifacts come from.
    pub artifacts: Arc<dyn ArtifactSource>,
    /// Leases last this long unless renewed, in milliseconds.
    pub lease_ms: u64,
    /// The largest linear memory that an attempt may ask for here, in bytes.
    pub memory_bytes_max: u64,
    /// What a second of one slot costs, as the operator reckons.
    pub cost_per_second: u64,
    /// Running attempts get this long when the node drains.
    pub grace: Duration,
}

/// One executor at work. Clones share it.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    way: Way,
    dispatcher: Dispatcher,
    caller: Caller,
    options: HostOptions,
    /// Permits to run.
    slots: Arc<Semaphore>,
    /// Permits to hold: running and waiting for a slot.
    places: Arc<Semaphore>,
    held: Arc<Held>,
    attempts: TaskTracker,
    /// Begins the drain.
    drain: CancellationToken,
    /// Ends the grace.
    kill: CancellationToken,
}

impl Host {
    /// A host that does nothing yet.
    #[must_use]
    pub fn new(way: Way, dispatcher: Dispatcher, options: HostOptions) -> Self {
        let slots = options.executor.capabilities().slots.max(1);
        Self {
            shared: Arc::new(Shared {
                way,
                dispatcher,
                caller: Caller::node(options.node_id),
                options,
                slots: Arc::new(Semaphore::new(slots)),
                // While a slot's result is on its way through the log, the next task is here already.
                places: Arc::new(Semaphore::new(2 * slots)),
                held: Arc::default(),
                attempts: TaskTracker::new(),
                drain: CancellationToken::new(),
                kill: CancellationToken::new(),
            }),
        }
    }

    /// Works until it is drained.
    pub async fn run(self) {
        let shared = &self.shared;
        // Also while it drains, and while nobody answers.
        let _expiring = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(pulse::expire(shared.clone())));
        while let Some(worker) = shared.drain.run_until_cancelled(self.register()).await {
            tracing::info!(worker, runtime = shared.options.executor.runtime(), "this node's executor is registered");
            let stay = self.work_as(&worker).await;
            if !stay {
                break;
            }
        }
    }

    /// Stops gracefully: takes no more, gives back what has not begun, waits for the rest up to the grace, gives that back too.
    pub async fn drain(&self) {
        let shared = &self.shared;
        shared.drain.cancel();
        shared.attempts.close();
        if tokio::time::timeout(shared.options.grace, shared.attempts.wait()).await.is_err() {
            tracing::warn!("attempts still run at the end of the grace: they are stopped and given back");
            shared.kill.cancel();
            // Stopping a guest and giving its task back takes a moment, not a grace.
            let _ = tokio::time::timeout(COMMAND_DEADLINE, shared.attempts.wait()).await;
        }
    }

    /// Registers, however long it takes.
    async fn register(&self) -> String {
        let shared = &self.shared;
        let capabilities = shared.options.executor.capabilities();
        let mut request = v1::RegisterWorkerRequest {
            name: format!("node-{}/{}", shared.options.node_id, capabilities.runtime),
            capabilities: Some(v1::WorkerCapabilities {
                runtimes: vec![capabilities.runtime.to_owned()],
                labels: capabilities.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
                ..v1::WorkerCapabilities::default()
            }),
            ttl_ms: WORKER_TTL_MS,
            ..v1::RegisterWorkerRequest::default()
        };
        loop {
            request.capabilities.get_or_insert_default().resources = shared.resources();
            match shared.command(request.clone()).await {
                Ok(response) => return response.worker_id,
                Err(refusal) if refusal.passes() => {}
                Err(refusal) => {
                    tracing::warn!(reason = refusal.reason(), message = refusal.rejection.message, "the executor cannot register")
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Leases and runs under one registration. False when the host is to end.
    async fn work_as(&self, worker: &str) -> bool {
        let shared = &self.shared;
        let (session, notices) = shared.dispatcher.open(shared.caller.clone(), worker.to_owned(), shared.options.lease_ms);
        let session = Arc::new(session);
        // Either ends when the registration is gone.
        let pulse = pulse::beat(shared.clone(), worker.to_owned());
        let ear = shared.listen(notices);
        tokio::pin!(pulse, ear);
        tokio::select! {
            () = shared.drain.cancelled() => {}
            () = &mut pulse => return true,
            () = &mut ear => return true,
            () = self.keep_leasing(&session) => return true,
        }
        let drain = v1::DrainWorkerRequest { worker_id: worker.to_owned(), ..v1::DrainWorkerRequest::default() };
        if let Err(refusal) = shared.command(drain).await {
            tracing::debug!(reason = refusal.reason(), "the drain was not announced");
        }
        // What still runs keeps its leases, and hears if somebody cancels it.
        tokio::select! {
            () = shared.attempts.wait() => {}
            () = pulse => {}
            () = ear => {}
        }
        false
    }

    /// Leases and starts tasks until the registration is gone.
    async fn keep_leasing(&self, session: &Arc<Session>) {
        loop {
            match self.lease(session).await {
                Ok(()) => {}
                Err(refusal) if refusal.reason() == "WORKER_NOT_FOUND" => return,
                // Somebody drained this worker: it finishes what it has, and takes no more until the node starts again.
                Err(refusal) if refusal.reason() == "WORKER_DRAINING" => std::future::pending().await,
                Err(refusal) => {
                    tracing::debug!(reason = refusal.reason(), "the executor could not lease");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Leases for the free places and starts what it gets.
    async fn lease(&self, session: &Arc<Session>) -> Result<(), Refusal> {
        let shared = &self.shared;
        // One place at least, then whatever is free.
        drop(shared.places.acquire().await.expect("the semaphore is never closed"));
        let free = u32::try_from(shared.places.available_permits()).unwrap_or(u32::MAX).clamp(1, LEASE_TASKS_MAX);
        for granted in session.lease(free).await? {
            self.start(granted, session);
        }
        Ok(())
    }

    fn start(&self, granted: Granted, session: &Arc<Session>) {
        let shared = self.shared.clone();
        let Ok(place) = shared.places.clone().try_acquire_owned() else {
            // Only this loop takes places, and it leased no more than there were.
            return;
        };
        let cancel = CancellationToken::new();
        let task = granted.task();
        let lease = v1::TaskLease { namespace: task.namespace.clone(), task_id: task.task_id.clone(), token: task.token, progress: None };
        let token = lease.token;
        let lease_ms = if shared.options.lease_ms == 0 { tarn_machine::limits::LEASE_MS_DEFAULT } else { shared.options.lease_ms };
        shared.held.add(lease, cancel.clone(), Instant::now() + Duration::from_millis(lease_ms));
        let session = session.clone();
        self.shared.attempts.spawn(async move {
            attempt::run(&shared, &session, granted, cancel).await;
            shared.held.remove(token);
            drop(place);
        });
    }
}

impl Shared {
    /// What the router is to know of this executor now.
    fn resources(&self) -> Option<v1::WorkerResources> {
        let version = self.way.consensus().applied().borrow().version;
        resources::now(&self.options, version)
    }

    async fn command<R: tarn_proto::CommandBody>(&self, request: R) -> Result<R::Response, Refusal> {
        self.way.command(&self.caller, request, Instant::now() + COMMAND_DEADLINE).await
    }

    /// Hears what becomes of the tasks, until the registration is gone.
    async fn listen(&self, mut notices: mpsc::Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Lease(report) => self.held.obey(&report),
                Notice::Draining => {
                    tracing::info!("this node's executor was drained: it takes no more until the node starts again")
                }
                Notice::Gone => return,
            }
        }
    }
}

//! Workers that stand for other clusters: through them the kernel leases tasks that those clusters are to do.
//!
//! ```text
//!   shared document: what each cluster could take on ─► a worker here for each of its runtimes
//!                                                            │ the router places tasks at it, if they may go and nobody here has room
//!                                                            ▼
//!                                                    leased ─► errand ─► what came of it
//! ```
//!
//! The workers are registered by the leader's node, and taken over by the next one: what they hold is in the state, and every errand is found
//! there again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tarn_crdt::{ClusterId, Scope};
use tarn_machine::{Machine, WorkerLoad, limits};
use tarn_proto::v1::hand_over::Message;
use tarn_proto::v1::{
    CloseTask, ClusterCapacity, DrainWorkerRequest, EventKind, GetTaskRequest, HeartbeatTasksRequest, HeartbeatWorkerRequest,
    LeaseTasksRequest, RegisterWorkerRequest, Rejection, TaskEnded, TaskSpec, TaskState, WorkerCapabilities, WorkerResources,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::{Federation, members};
use super::artifact::Offered;
use super::capacity;
use super::errand::{Begin, Errand};
use super::exchange::Exchange;
use super::guest::transfer_id;
use super::lease::{Lease, Leases};
use super::stays::Stays;

/// How often the workers are looked at, without any event.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A worker says that it is there at least this often.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Offers to one cluster at a time.
const OFFERS_MAX: usize = 4;

/// Limit on one command.
const COMMAND: Duration = Duration::from_secs(5);

/// A cluster that has refused a task because it has no room is offered no more for so long.
const BUSY: Duration = Duration::from_secs(2);

/// Transfers about which another cluster asks, at a time. More are asked about again.
const CLOSING_MAX: usize = 64;

/// What is leased at once.
const LEASE_TASKS_MAX: u32 = 64;

/// As the kernel takes them.
const WORKER_SLOTS_MAX: u32 = limits::WORKER_SLOTS_MAX as u32;

/// A runtime of a member.
type Place = (ClusterId, String);

/// See the module's page.
pub(super) struct Away {
    pub federation: Federation,
    pub exchange: Exchange,
    pub offered: Offered,
    pub stays: Stays,
    leases: Leases,
    posts: BTreeMap<Place, Post>,
    /// By transfer: told when the other cluster says that it has ended there.
    ended: BTreeMap<String, Arc<Notify>>,
    errands: JoinSet<Done>,
    /// Transfers about which another cluster asks.
    closing: JoinSet<()>,
    renewed: Option<Instant>,
    /// For how long tasks wait in this cluster, by runtime.
    delays_ms: BTreeMap<String, u64>,
    /// Turns to make offers, by cluster.
    offers: BTreeMap<ClusterId, Arc<Semaphore>>,
    /// The workers' ids, as they were last looked at.
    known: BTreeSet<String>,
}

/// What came of an errand, for this room: which, where, the cluster's name, the task, and the refusal if the other cluster would not have the task.
type Done = (String, Place, String, String, Option<Rejection>);

/// What a worker is told to have.
struct Post {
    /// As its cluster said last.
    said: ClusterCapacity,
    /// Slots in all: those that were free when the cluster said so, and those that were taken by this cluster's tasks then.
    slots: u32,
    busy_until: Option<Instant>,
}

/// A worker that stands for another cluster, as the state has it.
struct Standing {
    load: WorkerLoad,
    place: Place,
}

impl Away {
    pub fn new(federation: Federation, exchange: Exchange, offered: Offered, stays: Stays, leases: Leases) -> Self {
        Self {
            federation,
            exchange,
            offered,
            stays,
            leases,
            posts: BTreeMap::new(),
            ended: BTreeMap::new(),
            errands: JoinSet::new(),
            closing: JoinSet::new(),
            renewed: None,
            delays_ms: BTreeMap::new(),
            offers: BTreeMap::new(),
            known: BTreeSet::new(),
        }
    }

    /// Works until it is dropped, which ends the errands.
    pub async fn run(mut self, mut notices: mpsc::Receiver<(ClusterId, TaskEnded)>) {
        let mut events = self.federation.way().consensus().events();
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = events.recv() => match heard {
                    Ok(batch) => {
                        let ours = batch.events.iter().filter(|event| self.known.contains(&event.worker));
                        let kinds: Vec<EventKind> = ours.map(tarn_proto::v1::Event::kind).collect();
                        if kinds.iter().any(|kind| ends_work(*kind)) {
                            // The answer to a renewal tells which.
                            self.renewed = None;
                            self.keep().await;
                        }
                        if kinds.contains(&EventKind::TaskPlaced) {
                            self.look().await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                Some((cluster, notice)) = notices.recv() => self.hear(cluster, notice),
                Some(done) = self.errands.join_next() => self.done(done),
                Some(_) = self.closing.join_next() => {}
                _ = tick.tick() => {
                    self.keep().await;
                    self.look().await;
                }
            }
        }
    }

    /// The workers that stand for other clusters, whichever node registered them; `None` if the state cannot be read, because the node stops.
    fn standing(&self) -> Option<Vec<Standing>> {
        let read = self.federation.way().consensus().read(|machine| (machine.worker_loads(), members::clusters(machine)));
        let (loads, clusters) = read.ok()?;
        let trusted = clusters.iter().filter(|known| !known.removed);
        let ids: BTreeMap<String, ClusterId> = trusted.map(|known| (members::card(known).name, known.id)).collect();
        let standing = |load: WorkerLoad| {
            let cluster = load.capabilities.resources.as_ref().map(|resources| resources.cluster.clone())?;
            let place = (*ids.get(&cluster)?, load.capabilities.runtimes.first().cloned()?);
            Some(Standing { load, place })
        };
        Some(loads.into_iter().filter_map(standing).collect())
    }

    /// What other members could take on, as far as there is a link to them.
    fn offers(&self) -> BTreeMap<Place, (String, ClusterCapacity, WorkerCapabilities)> {
        let read = self.federation.way().consensus().read(|machine| {
            let may = members::own_scope(machine).is_some_and(|scope| scope.holds(Scope::TASKS));
            (machine.version() >= tarn_machine::FEDERATION && may).then(|| members::capacities(machine))
        });
        let mut offers = BTreeMap::new();
        for (id, name, encoded) in read.ok().flatten().unwrap_or_default() {
            let Ok(capacity) = ClusterCapacity::decode(encoded.as_slice()) else { continue };
            for group in capacity.workers.iter().filter(|group| !group.namespaces.is_empty()) {
                if let [runtime] = group.runtimes.as_slice() {
                    offers.insert((id, runtime.clone()), (name.clone(), capacity.clone(), group.clone()));
                }
            }
        }
        offers
    }

    /// Registers, drains and renews workers, and renews their leases.
    async fn keep(&mut self) {
        let (offers, Some(standing)) = (self.offers(), self.standing()) else { return };
        self.delays_ms = self.federation.way().consensus().read(capacity::queue_delays_ms).unwrap_or_default();
        let due = self.renewed.is_none_or(|at| at.elapsed() >= self.leases.renew_every().min(BEAT_EVERY));
        if due {
            self.renewed = Some(Instant::now());
        }
        let mut filled = BTreeSet::new();
        for one in &standing {
            let fits = offers.get(&one.place).is_some_and(|(name, _, group)| is_such(&one.load, &worker(name, group, 0)));
            let held = u32::try_from(one.load.running.len() + one.load.placed.len()).unwrap_or(u32::MAX);
            if fits && !one.load.draining && filled.insert(one.place.clone()) {
                let (_, capacity, group) = &offers[&one.place];
                let slots = self.slots(&one.place, capacity, group, held);
                self.renew(one, Some((group, slots)), due).await;
            } else {
                self.dismiss(one).await;
                if held > 0 {
                    self.renew(one, None, due).await;
                }
            }
        }
        for (place, (name, _, group)) in &offers {
            if !filled.contains(place) && self.exchange.is_up(place.0) {
                self.register(name, group).await;
            }
        }
        self.posts.retain(|place, _| offers.contains_key(place));
    }

    /// How many tasks a worker may hold now.
    fn slots(&mut self, place: &Place, said: &ClusterCapacity, group: &WorkerCapabilities, held: u32) -> u32 {
        let free = group.resources.as_ref().map_or(0, |resources| resources.slots);
        let fresh = Post { said: said.clone(), slots: free.saturating_add(held), busy_until: None };
        let post = self.posts.entry(place.clone()).or_insert(fresh);
        if post.said != *said {
            (post.said, post.slots) = (said.clone(), free.saturating_add(held));
        }
        // Where tasks wait longer than here, there is nothing to be gained, whatever is free.
        let theirs = said.delays.iter().find(|delay| delay.runtime == place.1).map_or(0, |delay| delay.queue_delay_ms);
        let longer = theirs > self.delays_ms.get(&place.1).copied().unwrap_or(0);
        let busy = longer || post.busy_until.is_some_and(|until| Instant::now() < until);
        if busy || !self.exchange.is_up(place.0) { held } else { post.slots.min(WORKER_SLOTS_MAX) }
    }

    async fn register(&self, name: &str, group: &WorkerCapabilities) {
        let runtime = group.runtimes.concat();
        let request = RegisterWorkerRequest {
            name: format!("cluster/{name}/{runtime}"),
            capabilities: Some(worker(name, group, 0)),
            ttl_ms: self.leases.registered_ms().min(limits::WORKER_TTL_MS.1),
            ..RegisterWorkerRequest::default()
        };
        match self.command(request).await {
            Some(_) => tracing::info!(cluster = name, runtime, "another cluster could do tasks for this one"),
            None => tracing::debug!(cluster = name, runtime, "no worker stands for another cluster's runtime yet"),
        }
    }

    /// It gets no more tasks, and goes when those that it has have come to an end.
    async fn dismiss(&self, one: &Standing) {
        if !one.load.draining {
            self.command(DrainWorkerRequest { worker_id: one.load.id.clone(), ..DrainWorkerRequest::default() }).await;
        }
    }

    /// Heartbeats of a worker and of its leases: when they are due, or when it is to have other slots than it has.
    async fn renew(&self, one: &Standing, wanted: Option<(&WorkerCapabilities, u32)>, due: bool) {
        let has = one.load.capabilities.resources.clone().unwrap_or_default();
        let resources = wanted.map(|(group, slots)| resources(&has.cluster, group, slots));
        let changed = resources.as_ref().is_some_and(|resources| *resources != has);
        let beat = |resources| self.command(HeartbeatWorkerRequest { worker_id: one.load.id.clone(), resources });
        let taken = changed && beat(resources).await.is_some();
        // What the other cluster says that it has may be nothing that the kernel takes: the worker is there all the same.
        if due && !taken {
            beat(None).await;
        }
        if due {
            let leases = self.leases.of(&one.load.id);
            for leases in leases.chunks(limits::LEASE_TASKS_MAX as usize) {
                let lease_ms = self.leases.asked_ms();
                let request = HeartbeatTasksRequest { worker_id: one.load.id.clone(), leases: leases.to_vec(), lease_ms };
                let asked = Instant::now();
                if let Some(answer) = self.command(request).await {
                    self.leases.renewed(&answer.leases, asked);
                }
            }
        }
    }

    /// Leases what was placed, and takes up what an earlier leader's node had begun.
    async fn look(&mut self) {
        // Without a state it is not known that a worker is gone.
        let Some(standing) = self.standing() else { return };
        self.known = standing.iter().map(|one| one.load.id.clone()).collect();
        self.leases.keep_only(&self.known);
        for one in standing {
            for (namespace, task_id) in &one.load.running {
                self.take_up(&one, namespace, task_id).await;
            }
            if !one.load.placed.is_empty() && !one.load.draining {
                self.lease(&one).await;
            }
        }
    }

    async fn lease(&mut self, one: &Standing) {
        let asked = Instant::now();
        let request = LeaseTasksRequest {
            worker_id: one.load.id.clone(),
            max_tasks: u32::try_from(one.load.placed.len()).unwrap_or(u32::MAX).clamp(1, LEASE_TASKS_MAX),
            lease_ms: self.leases.asked_ms(),
            ..LeaseTasksRequest::default()
        };
        let Some(answer) = self.command(request).await else { return };
        for task in answer.tasks {
            let ends = asked + Duration::from_millis(attempt_ms(task.spec.as_ref()));
            let lease = self.leases.add(&one.load.id, (&task.namespace, &task.task_id), task.token, asked, ends);
            self.start(one, lease, Begin::New(Box::new(task)));
        }
    }

    /// Goes on with a task that the state says is leased to one of these workers, and that nobody here minds.
    async fn take_up(&mut self, one: &Standing, namespace: &str, task_id: &str) {
        let look = |federation: &Federation| federation.way().consensus().read(|machine| running(machine, namespace, task_id));
        if look(&self.federation).ok().flatten().is_none_or(|found| self.leases.has(found.token)) {
            return;
        }
        // What is reckoned from the state's time must not be reckoned from an old one.
        if self.federation.way().barrier(Instant::now() + COMMAND).await.is_err() {
            return;
        }
        if let Some(found) = look(&self.federation).ok().flatten() {
            let ends = Instant::now() + found.attempt_left;
            let lease = self.leases.take_up(&one.load.id, (namespace, task_id), found.token, found.lease_left, ends);
            self.start(one, lease, Begin::Again);
        }
    }

    fn start(&mut self, one: &Standing, lease: Lease, begin: Begin) {
        let Some(own) = self.federation.own_id() else { return };
        let (task_id, token) = (lease.task_id.clone(), lease.token);
        let transfer_id = transfer_id(own, &task_id, token);
        let ended = Arc::new(Notify::new());
        self.ended.insert(transfer_id.clone(), ended.clone());
        let name = one.load.capabilities.resources.as_ref().map(|resources| resources.cluster.clone()).unwrap_or_default();
        tracing::debug!(transfer = transfer_id, cluster = name, "a task is handed over");
        let errand = Errand {
            federation: self.federation.clone(),
            exchange: self.exchange.clone(),
            offered: self.offered.clone(),
            cluster: one.place.0,
            name: name.clone(),
            transfer_id: transfer_id.clone(),
            offers: self.offers.entry(one.place.0).or_insert_with(|| Arc::new(Semaphore::new(OFFERS_MAX))).clone(),
            lease,
            ended,
        };
        let place = one.place.clone();
        self.errands.spawn(async move { (transfer_id, place, name, task_id, errand.run(begin).await) });
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let (transfer_id, place, cluster, task_id, refused) = match done {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "an errand has failed: its lease ends by itself"),
        };
        self.ended.remove(&transfer_id);
        match refused.as_ref().map(|rejection| (rejection.reason.as_str(), super::passes(rejection))) {
            None => {}
            // It may have room again in a moment.
            Some((_, true)) => {
                if let Some(post) = self.posts.get_mut(&place) {
                    post.busy_until = Some(Instant::now() + BUSY);
                }
            }
            Some((reason, false)) => {
                tracing::info!(task = task_id, cluster, reason, "another cluster will not do a task");
                self.stays.note(&task_id, &cluster);
            }
        }
        // Whoever waits for this worker hears of its slots at once.
        self.renewed = None;
    }

    /// Another cluster says that a task of this one has ended there.
    fn hear(&mut self, cluster: ClusterId, TaskEnded { transfer_id }: TaskEnded) {
        if let Some(ended) = self.ended.get(&transfer_id) {
            return ended.notify_one();
        }
        if self.closing.len() >= CLOSING_MAX {
            return;
        }
        let (federation, exchange) = (self.federation.clone(), self.exchange.clone());
        self.closing.spawn(async move {
            // A node that leads no more, and does not know it, must not decide this.
            if federation.way().barrier(Instant::now() + COMMAND).await.is_err() {
                return;
            }
            // One that is wanted is taken up at the next look.
            let wanted = federation.way().consensus().read(|machine| is_wanted(machine, &transfer_id)).unwrap_or(true);
            if !wanted {
                let _ = exchange.ask(cluster, Message::Close(CloseTask { transfer_id }), COMMAND).await;
            }
        });
    }

    async fn command<R: tarn_proto::CommandBody>(&self, request: R) -> Option<R::Response> {
        let done = self.federation.way().command(&self.federation.caller(), request, Instant::now() + COMMAND).await;
        done.inspect_err(|refusal| tracing::debug!(reason = refusal.reason(), "a worker for another cluster is refused something")).ok()
    }
}

/// The worker that stands for a runtime of another cluster.
fn worker(cluster: &str, group: &WorkerCapabilities, slots: u32) -> WorkerCapabilities {
    let resources = resources(cluster, group, slots);
    let mut labels = group.labels.clone();
    labels.push(format!("node={}", resources.node));
    WorkerCapabilities {
        runtimes: group.runtimes.clone(),
        labels,
        namespaces: group.namespaces.clone(),
        resources: Some(resources),
        ..WorkerCapabilities::default()
    }
}

fn resources(cluster: &str, group: &WorkerCapabilities, slots: u32) -> WorkerResources {
    let mut given = group.resources.clone().unwrap_or_default();
    given.devices.truncate(limits::WORKER_DEVICES_MAX);
    given.cost_per_second = given.cost_per_second.min(limits::COST_MAX);
    given.quality_permille = given.quality_permille.min(1_000);
    WorkerResources { node: cluster_node(cluster), cluster: cluster.to_owned(), slots, ..given }
}

/// Whether an event of one of these workers may end what another cluster does.
fn ends_work(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::TaskCancelRequested | EventKind::TaskDead | EventKind::TaskCancelled | EventKind::TaskRetried | EventKind::WorkerGone
    )
}

/// What the workers that stand for a cluster say where they run.
pub fn cluster_node(cluster: &str) -> String {
    format!("cluster/{cluster}")
}

/// Whether a worker is this one, but for what it has at the moment.
fn is_such(load: &WorkerLoad, wanted: &WorkerCapabilities) -> bool {
    let bare = |given: &WorkerCapabilities| WorkerCapabilities { resources: None, ..given.clone() };
    let node = |given: &WorkerCapabilities| given.resources.as_ref().map(|resources| (resources.node.clone(), resources.isolation));
    bare(&load.capabilities) == bare(wanted) && node(&load.capabilities) == node(wanted)
}

/// A running task, as the state has it.
struct Running {
    token: u64,
    /// How much of its lease is left, and how much longer its attempt may take.
    lease_left: Duration,
    attempt_left: Duration,
}

fn running(machine: &Machine, namespace: &str, task_id: &str) -> Option<Running> {
    let question =
        GetTaskRequest { namespace: namespace.to_owned(), task_id: task_id.to_owned(), omit_bytes: true, ..GetTaskRequest::default() };
    let task = machine.get_task(&question).ok()?.task.filter(|task| task.state() == TaskState::Running)?;
    let begun = task.attempts.last()?.started_at_ms;
    let ends = begun + attempt_ms(task.spec.as_ref());
    let left = |until: u64| Duration::from_millis(until.saturating_sub(machine.now_ms()));
    Some(Running { token: task.token, lease_left: left(task.lease_expires_at_ms), attempt_left: left(ends) })
}

/// Whether somebody here still waits for what came of a transfer.
fn is_wanted(machine: &Machine, transfer_id: &str) -> bool {
    let mut parts = transfer_id.splitn(3, '/');
    let (Some(_), Some(task_id), Some(token)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let held = machine
        .worker_loads()
        .into_iter()
        .filter(|load| load.capabilities.resources.as_ref().is_some_and(|resources| !resources.cluster.is_empty()));
    let mut tasks = held.flat_map(|load| load.running);
    let namespace = tasks.find(|(_, id)| id == task_id).map(|(namespace, _)| namespace);
    namespace.is_some_and(|namespace| running(machine, &namespace, task_id).is_some_and(|now| now.token.to_string() == token))
}

/// How long an attempt may take at most, in milliseconds.
fn attempt_ms(spec: Option<&TaskSpec>) -> u64 {
    match spec.map_or(0, |spec| spec.attempt_timeout_ms) {
        0 => limits::ATTEMPT_TIMEOUT_MS_DEFAULT,
        said => said,
    }
}

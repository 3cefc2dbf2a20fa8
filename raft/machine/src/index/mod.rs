//! Indices: what makes leasing fast. They live in memory and hold nothing that the rows do not say.
//!
//! Every index is a function of rows: a row's facts are taken out before it changes and put in after, by the same functions that fill the
//! indices when a node starts ([`rebuild`]). So the indices of a node that ran for a month equal those of one that just started, to the
//! entry, and a test compares them.

pub mod access;
mod bits;
pub mod driver;
mod edges;
mod federation;
mod lanes;
mod pick;
pub mod policy;
mod ready;
mod rebuild;
pub mod transfer;
mod wakes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tarn_proto::v1::{AuditSettings, DriverSettings, Isolation, NamespaceState, SchedulerSettings, TaskState, WorkerCapabilities};

pub use access::{Access, RoleIn};
pub use edges::Edges;
pub use pick::{Pick, matches_class, serves};
pub use policy::{ActiveBundle, Policies};
pub use ready::{Group, Rank, effective_level};
pub use rebuild::rebuild;
pub use wakes::Wake;

use crate::error::Fatal;
use crate::rows::{ChainRow, Class, HandlerRow, JoinTokenRow, NamespaceRow, TaskRow, WorkerRow};

/// One share of a lease: what a namespace's pass grows by when it is served, times its weight. With weight 1 and 100,000 leases a second,
/// 64 bits last for five years; with any weight above, longer.
pub const STRIDE: u64 = 1 << 20;

/// All indices. Comparable, so that a test can hold the live ones against rebuilt ones.
#[derive(Debug, Default, PartialEq)]
pub struct Indices {
    pub(crate) namespaces: BTreeMap<u64, NamespaceIndex>,
    pub(crate) namespace_ids: BTreeMap<Arc<str>, u64>,
    /// What the gate needs to know of each namespace. Shared with it, and therefore copied where it changes while somebody holds it.
    pub(crate) tenants: Arc<Tenants>,
    /// Namespaces that take nothing new and go when they can.
    pub(crate) draining: BTreeSet<u64>,
    pub(crate) workers: BTreeMap<u64, WorkerRow>,
    /// Running tasks by worker, as (namespace, task). Workers without any are absent.
    pub(crate) held: BTreeMap<u64, BTreeSet<(u64, u64)>>,
    /// Ready tasks that the router has placed, likewise. The worker may be gone.
    pub(crate) placed: BTreeMap<u64, BTreeSet<(u64, u64)>>,
    /// Everything that time alone will change, in the order in which it is due.
    pub(crate) wakes: BTreeSet<(u64, Wake)>,
    pub(crate) edges: Edges,
    /// Ended tasks, as (namespace, task), whose dependents are not all settled yet, and whether they succeeded.
    pub(crate) settling: BTreeMap<(u64, u64), bool>,
    pub(crate) join_tokens: BTreeMap<[u8; 32], JoinTokenRow>,
    /// Shared with whoever judges requests, and therefore copied where it changes while somebody holds it.
    pub(crate) access: Arc<Access>,
    /// Shared in the same way.
    pub(crate) policies: Arc<Policies>,
    /// Where violations are sent, by name.
    pub(crate) handlers: BTreeMap<Arc<str>, HandlerRow>,
    /// When each violation is forgotten.
    pub(crate) violations: BTreeMap<u64, u64>,
    pub(crate) sweeps: Sweeps,
    /// Contexts, as (namespace, name), whose keys are walked through.
    pub(crate) walks: BTreeSet<(u64, String)>,
    /// Deleted contexts of which something is left.
    pub(crate) gone: BTreeSet<u64>,
    /// Where the chain of decisions begins and ends, and how much of it is kept.
    pub(crate) chain: ChainRow,
    pub(crate) audit_settings: AuditSettings,
    pub(crate) scheduler_settings: SchedulerSettings,
    pub(crate) drivers: BTreeMap<(u64, Arc<str>), driver::DriverIndex>,
    pub(crate) driver_settings: DriverSettings,
    pub(crate) federation: federation::FederationIndex,
    pub(crate) transfers: transfer::Transfers,
    /// Ready tasks in all namespaces.
    pub(crate) ready: u64,
    /// Where namespaces that have some stand in line.
    lanes: lanes::Lanes,
}

/// What the gate needs to know of every namespace, by name.
pub type Tenants = BTreeMap<Arc<str>, Tenant>;

/// What the gate needs to know of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Which policies judge what is asked of it.
    pub environment: Arc<str>,
    /// Requests that name it, in the whole cluster. 0: no limit.
    pub requests_per_minute: u64,
}

/// The earliest time at which a row of each kind that only the disk lists can be removed.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
pub struct Sweeps {
    pub ended_tasks: Option<u64>,
    pub fired_timers: Option<u64>,
    pub requests: Option<u64>,
}

/// A namespace and what it holds.
#[derive(Debug, PartialEq)]
pub struct NamespaceIndex {
    pub name: Arc<str>,
    pub row: NamespaceRow,
    /// Grows with every lease, the more slowly the greater the weight; the namespace with the lowest is served next.
    pub pass: u64,
    pub queues: BTreeMap<u64, QueueIndex>,
    pub queue_ids: BTreeMap<Arc<str>, u64>,
    /// Ready tasks in all queues.
    pub ready: u64,
    /// Of which classes, and in how many queues each.
    ready_in: BTreeMap<Arc<Class>, u64>,
    pub running: u64,
    pub dead: u64,
    /// Tasks that have not ended, and dead letters.
    pub tasks: u64,
    /// As [`UsageRow`](crate::rows::UsageRow) has them: the disk alone knows what has ended.
    pub stored_bytes: u64,
    pub ended: u64,
    pub named_leases: u64,
    pub pending_timers: u64,
    pub edges: u64,
    pub contexts: u64,
}

/// A queue and what it holds.
#[derive(Debug, PartialEq)]
pub struct QueueIndex {
    pub name: Arc<str>,
    pub used_at_ms: u64,
    pub blocked: BTreeSet<u64>,
    pub delayed: BTreeSet<u64>,
    pub ready: u64,
    pub running: u64,
    pub dead: BTreeSet<u64>,
    /// The queue's unended and dead tasks by class; ready ones in the order in which they are leased.
    pub groups: BTreeMap<Arc<Class>, Group>,
}

/// What the indices need to know of a task. None of an ended task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    queue: u64,
    state: TaskState,
    priority: u32,
    eligible_at_ms: u64,
    /// When the task dies whatever its state; 0 if never.
    deadline_at_ms: u64,
    /// When the running attempt ends unless it is renewed; 0 if none runs.
    attempt_due_ms: u64,
    worker: u64,
    /// Of a ready task: the worker that the router chose; 0 if none.
    placed: u64,
}

impl Facts {
    /// The facts in a row; `None` if the task has ended and is in no index.
    pub fn of(row: &TaskRow) -> Option<Self> {
        let state = row.state();
        let dead = match state {
            TaskState::Succeeded | TaskState::Cancelled | TaskState::Unspecified => return None,
            TaskState::Dead => true,
            TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running => false,
        };
        Some(Facts {
            queue: row.queue,
            state,
            priority: row.priority,
            eligible_at_ms: row.eligible_at_ms,
            deadline_at_ms: if dead { 0 } else { row.deadline_at_ms },
            attempt_due_ms: row.lease_expires_at_ms.min(row.attempt_ends_at_ms),
            worker: row.worker,
            placed: if state == TaskState::Ready { row.placed_worker } else { 0 },
        })
    }
}

impl NamespaceIndex {
    /// A namespace that holds nothing.
    pub fn new(name: Arc<str>, row: NamespaceRow, pass: u64) -> Self {
        NamespaceIndex {
            name,
            row,
            pass,
            queues: BTreeMap::new(),
            queue_ids: BTreeMap::new(),
            ready: 0,
            ready_in: BTreeMap::new(),
            running: 0,
            dead: 0,
            tasks: 0,
            stored_bytes: 0,
            ended: 0,
            named_leases: 0,
            pending_timers: 0,
            edges: 0,
            contexts: 0,
        }
    }

    /// What the pass grows by at each lease.
    pub fn stride(&self) -> u64 {
        STRIDE / u64::from(self.row.weight.max(1))
    }

    /// Tasks that have not ended: what counts for the quota on them.
    pub fn unended(&self) -> u64 {
        self.tasks - self.dead
    }

    /// Whether as many attempts run as may.
    pub fn is_full(&self) -> bool {
        self.row.max_running != 0 && self.running >= self.row.max_running
    }

    /// Whether a worker with these capabilities may be given its tasks: it serves the namespace, and serves nothing else where that is
    /// asked for.
    pub fn is_served_by(&self, capabilities: &WorkerCapabilities) -> bool {
        may_serve(&self.name, self.is_strict(), capabilities)
    }

    /// Whether only workers of its own may serve it.
    pub fn is_strict(&self) -> bool {
        self.row.isolation() == Isolation::Strict
    }

    /// Whether it shares a lane with all others that have no isolation.
    pub fn is_common(&self) -> bool {
        self.row.isolation() == Isolation::None
    }

    /// Where it has ready tasks, as (queue, class).
    pub fn ready_groups(&self) -> impl Iterator<Item = (u64, Arc<Class>)> {
        let queues = self.queues.iter().filter(|(_, queue)| queue.ready > 0);
        queues.flat_map(|(id, queue)| {
            let ready = queue.groups.iter().filter(|(_, group)| group.oldest_ms().is_some());
            ready.map(|(class, _)| (*id, class.clone()))
        })
    }

    /// Whether something in it has yet to end before it can go.
    pub fn holds_work(&self) -> bool {
        self.unended() + self.pending_timers + self.named_leases > 0
    }
}

impl QueueIndex {
    /// A queue without tasks.
    pub fn new(name: Arc<str>, used_at_ms: u64) -> Self {
        QueueIndex {
            name,
            used_at_ms,
            blocked: BTreeSet::new(),
            delayed: BTreeSet::new(),
            ready: 0,
            running: 0,
            dead: BTreeSet::new(),
            groups: BTreeMap::new(),
        }
    }

    /// Tasks that have not ended, and dead letters.
    pub fn tasks(&self) -> u64 {
        (self.blocked.len() + self.delayed.len() + self.dead.len()) as u64 + self.ready + self.running
    }
}

impl Indices {
    /// The namespace with this number, which a row names: that it exists is an invariant.
    pub fn namespace(&self, ns: u64) -> Result<&NamespaceIndex, Fatal> {
        self.namespaces.get(&ns).ok_or_else(|| Fatal::assertion(format!("a row names the unknown namespace {ns}")))
    }

    /// As [`Indices::namespace`], to change it. What decides where it stands in line is changed with [`Indices::move_namespace`].
    pub fn namespace_mut(&mut self, ns: u64) -> Result<&mut NamespaceIndex, Fatal> {
        self.namespaces.get_mut(&ns).ok_or_else(|| Fatal::assertion(format!("a row names the unknown namespace {ns}")))
    }

    /// The queue with this number, which a row names: that it exists is an invariant.
    pub fn queue(&self, ns: u64, queue: u64) -> Result<&QueueIndex, Fatal> {
        let found = self.namespace(ns)?.queues.get(&queue);
        found.ok_or_else(|| Fatal::assertion(format!("a row names the unknown queue {queue}")))
    }

    /// Puts a namespace in.
    pub fn insert_namespace(&mut self, ns: u64, index: NamespaceIndex) {
        self.namespace_ids.insert(index.name.clone(), ns);
        if index.row.is_draining() {
            self.draining.insert(ns);
        }
        self.namespaces.insert(ns, index);
        self.lanes.note(ns, true);
        self.tell_tenant(ns);
    }

    /// Notes what the gate is to know of a namespace.
    pub fn tell_tenant(&mut self, ns: u64) {
        if let Some(index) = self.namespaces.get(&ns) {
            let tenant = Tenant { environment: index.row.environment_name().into(), requests_per_minute: index.row.requests_per_minute };
            if self.tenants.get(&index.name) != Some(&tenant) {
                Arc::make_mut(&mut self.tenants).insert(index.name.clone(), tenant);
            }
        }
    }

    /// Takes a namespace out, with its queues.
    pub fn remove_namespace(&mut self, ns: u64) {
        if let Some(index) = self.namespaces.remove(&ns) {
            self.namespace_ids.remove(&index.name);
            self.draining.remove(&ns);
            self.lanes.note(ns, false);
            Arc::make_mut(&mut self.tenants).remove(&index.name);
            for (id, queue) in &index.queues {
                self.wakes.remove(&queue_wake(ns, *id, queue.used_at_ms));
            }
        }
    }

    /// Puts a queue in.
    pub fn insert_queue(&mut self, ns: u64, id: u64, queue: QueueIndex) -> Result<(), Fatal> {
        self.wakes.insert(queue_wake(ns, id, queue.used_at_ms));
        let namespace = self.namespace_mut(ns)?;
        namespace.queue_ids.insert(queue.name.clone(), id);
        namespace.queues.insert(id, queue);
        Ok(())
    }

    /// Takes a queue out; it holds no tasks.
    pub fn remove_queue(&mut self, ns: u64, id: u64) -> Result<(), Fatal> {
        let namespace = self.namespace_mut(ns)?;
        if let Some(queue) = namespace.queues.remove(&id) {
            namespace.queue_ids.remove(&queue.name);
            self.wakes.remove(&queue_wake(ns, id, queue.used_at_ms));
        }
        Ok(())
    }

    /// Notes that a queue was used.
    pub fn touch_queue(&mut self, ns: u64, id: u64, now: u64) -> Result<(), Fatal> {
        let found = self.namespace_mut(ns)?.queues.get_mut(&id);
        let queue = found.ok_or_else(|| Fatal::assertion(format!("a row names the unknown queue {id}")))?;
        let before = std::mem::replace(&mut queue.used_at_ms, now);
        self.wakes.remove(&queue_wake(ns, id, before));
        self.wakes.insert(queue_wake(ns, id, now));
        Ok(())
    }

    /// Puts a task's facts in.
    pub fn insert_task(&mut self, ns: u64, id: u64, facts: &Facts, class: &Class) -> Result<(), Fatal> {
        if facts.state == TaskState::Running {
            self.move_namespace(ns, |namespace| namespace.running += 1)?;
        }
        self.ready += u64::from(facts.state == TaskState::Ready);
        let namespace = self.namespace_mut(ns)?;
        namespace.tasks += 1;
        namespace.ready += u64::from(facts.state == TaskState::Ready);
        namespace.dead += u64::from(facts.state == TaskState::Dead);
        let queue = queue_of(namespace, facts)?;
        let group = match queue.groups.get_mut(class) {
            Some(group) => group,
            None => queue.groups.entry(Arc::new(class.clone())).or_default(),
        };
        group.tasks += 1;
        match facts.state {
            TaskState::Blocked => drop(queue.blocked.insert(id)),
            TaskState::Delayed => drop(queue.delayed.insert(id)),
            TaskState::Dead => drop(queue.dead.insert(id)),
            TaskState::Running => queue.running += 1,
            TaskState::Ready => {
                group.insert(facts.priority, facts.eligible_at_ms, id);
                queue.ready += 1;
            }
            TaskState::Unspecified | TaskState::Succeeded | TaskState::Cancelled => {}
        }
        let first = facts.state == TaskState::Ready && group.len() == 1;
        if let Some((class, _)) = first.then(|| queue.groups.get_key_value(class)).flatten() {
            let (class, name) = (class.clone(), queue.name.clone());
            self.begin_ready(ns, &class, &name)?;
        }
        if facts.state == TaskState::Running {
            self.held.entry(facts.worker).or_default().insert((ns, id));
        }
        if facts.placed != 0 {
            self.placed.entry(facts.placed).or_default().insert((ns, id));
        }
        self.wakes.extend(task_wakes(ns, id, facts));
        Ok(())
    }

    /// Takes a task's facts out: the same that were put in.
    pub fn remove_task(&mut self, ns: u64, id: u64, facts: &Facts, class: &Class) -> Result<(), Fatal> {
        if facts.state == TaskState::Running {
            self.move_namespace(ns, |namespace| namespace.running -= 1)?;
        }
        self.ready -= u64::from(facts.state == TaskState::Ready);
        let namespace = self.namespace_mut(ns)?;
        namespace.tasks -= 1;
        namespace.ready -= u64::from(facts.state == TaskState::Ready);
        namespace.dead -= u64::from(facts.state == TaskState::Dead);
        let queue = queue_of(namespace, facts)?;
        let Some(group) = queue.groups.get_mut(class) else {
            return Err(Fatal::assertion(format!("task {id} is of a class that its queue does not know")));
        };
        group.tasks -= 1;
        let present = match facts.state {
            TaskState::Blocked => queue.blocked.remove(&id),
            TaskState::Delayed => queue.delayed.remove(&id),
            TaskState::Dead => queue.dead.remove(&id),
            TaskState::Running => {
                queue.running -= 1;
                true
            }
            TaskState::Ready => {
                queue.ready -= 1;
                group.remove(facts.priority, facts.eligible_at_ms, id)
            }
            TaskState::Unspecified | TaskState::Succeeded | TaskState::Cancelled => false,
        };
        let last = (facts.state == TaskState::Ready && present && group.len() == 0).then(|| queue.name.clone());
        if group.tasks == 0 {
            queue.groups.remove(class);
        }
        if let Some(name) = last {
            self.end_ready(ns, class, &name)?;
        }
        if facts.state == TaskState::Running {
            take(&mut self.held, facts.worker, (ns, id));
        }
        if facts.placed != 0 {
            take(&mut self.placed, facts.placed, (ns, id));
        }
        for wake in task_wakes(ns, id, facts) {
            self.wakes.remove(&wake);
        }
        present.then_some(()).ok_or_else(|| Fatal::assertion(format!("task {id} is in no index of its state")))
    }

    /// How many tasks a worker holds.
    pub fn held_by(&self, worker: u64) -> usize {
        self.held.get(&worker).map_or(0, BTreeSet::len)
    }

    /// The first namespace that goes, or is emptied, as time passes. One that drains waits for what is in it.
    pub fn leaving(&self) -> Option<u64> {
        self.draining.iter().copied().find(|ns| {
            let found = self.namespaces.get(ns);
            found.is_some_and(|index| index.row.state() == NamespaceState::Cancelling || !index.holds_work())
        })
    }

    /// The earliest time at which time alone changes something.
    pub fn next_wake_ms(&self) -> Option<u64> {
        let walking = !self.walks.is_empty() || !self.gone.is_empty();
        if !self.settling.is_empty() || walking || self.leaving().is_some() || self.federation.has_steps() {
            return Some(0);
        }
        let wake = self.wakes.first().map(|(at, _)| *at);
        let sweeps = [self.sweeps.ended_tasks, self.sweeps.fired_timers, self.sweeps.requests];
        let sweep = sweeps.into_iter().flatten().min().map(|at| at + crate::limits::SWEEP_DELAY_MS);
        wake.into_iter().chain(sweep).min()
    }
}

/// Whether a worker with these capabilities may be given tasks of this namespace.
pub fn may_serve(namespace: &str, strict: bool, capabilities: &WorkerCapabilities) -> bool {
    let own = || !capabilities.namespaces.is_empty() && capabilities.namespaces.iter().all(|name| name == namespace);
    serves(&capabilities.namespaces, namespace) && (!strict || own())
}

fn queue_of<'a>(namespace: &'a mut NamespaceIndex, facts: &Facts) -> Result<&'a mut QueueIndex, Fatal> {
    let found = namespace.queues.get_mut(&facts.queue);
    found.ok_or_else(|| Fatal::assertion(format!("a row names the unknown queue {}", facts.queue)))
}

fn queue_wake(ns: u64, id: u64, used_at_ms: u64) -> (u64, Wake) {
    (used_at_ms + crate::limits::QUEUE_IDLE_MS, Wake::IdleQueue { ns, id })
}

/// Takes a task from a worker's; a worker that has no more goes as well.
fn take(tasks: &mut BTreeMap<u64, BTreeSet<(u64, u64)>>, worker: u64, task: (u64, u64)) {
    if let Some(of_worker) = tasks.get_mut(&worker) {
        of_worker.remove(&task);
        if of_worker.is_empty() {
            tasks.remove(&worker);
        }
    }
}

/// What time alone will do to a task.
fn task_wakes(ns: u64, id: u64, facts: &Facts) -> impl Iterator<Item = (u64, Wake)> {
    let deadline = (facts.deadline_at_ms != 0).then_some((facts.deadline_at_ms, Wake::Deadline { ns, id }));
    let state = match facts.state {
        TaskState::Delayed => Some((facts.eligible_at_ms, Wake::Eligible { ns, id })),
        TaskState::Running => Some((facts.attempt_due_ms, Wake::Attempt { ns, id })),
        _ => None,
    };
    deadline.into_iter().chain(state)
}

//! Tasks from their submission to their end, by commands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{
    CancelTaskRequest, CancelTaskResponse, DependencyFailure, EnqueueRequest, EnqueueResponse, EventKind, Priority, Progress,
    PurgeQueueRequest, PurgeQueueResponse, RequeueDeadRequest, RequeueDeadResponse, TaskError, TaskSpec, TaskState,
};

use super::{Class, Flaw, Model, Queue, number};

/// A task.
#[derive(Clone)]
pub struct Task {
    pub ns: u64,
    pub queue: u64,
    pub spec: TaskSpec,
    /// All of them, in order, with repeats.
    pub dependencies: Vec<u64>,
    /// Dependencies that it waits for.
    pub waits_for: BTreeSet<u64>,
    /// Dependencies that it waits for no more, and whose results it may read.
    pub knows: BTreeSet<u64>,
    pub state: TaskState,
    pub created_at_ms: u64,
    pub eligible_at_ms: u64,
    pub ended_at_ms: u64,
    pub deadline_at_ms: Option<u64>,
    pub attempts_begun: u32,
    pub attempts: Vec<Attempt>,
    pub logs: BTreeMap<u32, Bytes>,
    pub worker: u64,
    pub token: u64,
    pub lease_expires_at_ms: u64,
    pub attempt_ends_at_ms: u64,
    pub cancel_requested: bool,
    pub progress: Option<Progress>,
    /// The token under which it was given back last.
    pub returned_token: u64,
    pub result: Bytes,
    pub error: Option<TaskError>,
    /// When it can be forgotten.
    pub sweep_at_ms: Option<u64>,
}

/// One try at a task.
#[derive(Clone)]
pub struct Attempt {
    pub number: u32,
    pub worker: u64,
    pub token: u64,
    pub started_at_ms: u64,
    pub ended_at_ms: u64,
    pub error: Option<TaskError>,
    /// What the worker said that ended it, and what the task became by that.
    pub report: Option<(Report, TaskState)>,
}

/// What a worker says of an attempt.
#[derive(Clone, PartialEq)]
pub enum Report {
    Completed(Bytes),
    Failed(i32, TaskError),
}

impl Task {
    /// Whether it counts among its queue's tasks.
    pub fn in_queue(&self) -> bool {
        !matches!(self.state, TaskState::Succeeded | TaskState::Cancelled)
    }

    pub fn priority(&self) -> u64 {
        match self.spec.priority() {
            Priority::Critical => 1,
            Priority::High => 2,
            Priority::Unspecified | Priority::Normal => 3,
            Priority::Low => 4,
            Priority::Background => 5,
        }
    }

    pub fn class(&self) -> Class {
        class(&self.spec)
    }

    pub fn runs_anyway(&self) -> bool {
        self.spec.on_dependency_failure() == DependencyFailure::Run
    }
}

fn class(spec: &TaskSpec) -> Class {
    (spec.runtime.clone(), spec.handler.clone(), spec.requires.iter().cloned().collect())
}

pub(super) fn failure(reason: &str) -> TaskError {
    // The sentences are the kernel's: only reasons are compared.
    TaskError { reason: reason.to_owned(), message: String::new() }
}

impl Model {
    // --- Submission ----------------------------------------------------------------------------------------------------------------------

    pub(super) fn enqueue(&mut self, request: EnqueueRequest) -> Result<EnqueueResponse, &'static str> {
        let ns = self.namespace(&request.namespace)?;
        let late = |task: &TaskSpec| task.deadline_at_ms != 0 && task.deadline_at_ms <= self.now;
        if request.tasks.iter().any(late) {
            return Err("DEADLINE_PASSED");
        }
        let ids = self.admit(ns, request.tasks, false)?;
        Ok(EnqueueResponse { task_ids: ids.into_iter().map(|id| Id(id).to_string()).collect() })
    }

    /// Accepts all of the tasks or none. A timer's task is accepted although a dependency is gone, and dies of it.
    pub(super) fn admit(&mut self, ns: u64, specs: Vec<TaskSpec>, by_timer: bool) -> Result<Vec<u64>, &'static str> {
        self.check_dependencies(ns, &specs, by_timer)?;
        self.check_classes(ns, &specs)?;
        self.check_room(ns, specs.len())?;
        let ids: Vec<u64> = specs.iter().map(|_| self.next_id()).collect();
        let mut doomed = Vec::new();
        for (spec, id) in specs.into_iter().zip(&ids) {
            let outside = spec.after.iter().map(|id| number(id));
            let inside = spec.after_in_batch.iter().map(|place| ids[*place as usize]);
            let dependencies: Vec<u64> = outside.chain(inside).collect();
            // A task of the same batch is there, though it is made later.
            let failed = self.create(ns, *id, spec, dependencies, &ids);
            if self.tasks[id].deadline_at_ms.is_some_and(|at| at <= self.now) && !self.has(Flaw::DeadlinesIgnored) {
                doomed.push((*id, "DEADLINE_EXCEEDED"));
            } else if failed {
                doomed.push((*id, "DEPENDENCY_FAILED"));
            }
        }
        for (id, reason) in doomed {
            self.die(id, reason);
        }
        Ok(ids)
    }

    fn check_dependencies(&self, ns: u64, specs: &[TaskSpec], by_timer: bool) -> Result<(), &'static str> {
        let mut added: BTreeMap<u64, u32> = BTreeMap::new();
        for id in specs.iter().flat_map(|spec| &spec.after).map(|id| number(id)) {
            if !by_timer && self.tasks.get(&id).is_none_or(|task| task.ns != ns) {
                return Err("DEPENDENCY_NOT_FOUND");
            }
            *added.entry(id).or_default() += 1;
            if self.dependents(id) + added[&id] > limits::DEPENDENTS_MAX {
                return Err("TOO_MANY_DEPENDENTS");
            }
        }
        Ok(())
    }

    fn check_classes(&self, ns: u64, specs: &[TaskSpec]) -> Result<(), &'static str> {
        let names: BTreeSet<&String> = specs.iter().map(|spec| &spec.queue).collect();
        for name in names {
            let queue = self.queue(ns, name);
            let present = self.tasks.values().filter(|task| Some(task.queue) == queue && task.in_queue());
            let coming = specs.iter().filter(|spec| spec.queue == *name).map(class);
            let classes: BTreeSet<Class> = present.map(Task::class).chain(coming).collect();
            if classes.len() > limits::CLASSES_MAX {
                return Err("TOO_MANY_CLASSES");
            }
        }
        Ok(())
    }

    /// Makes a task; true if it must die because a dependency has failed.
    fn create(&mut self, ns: u64, id: u64, spec: TaskSpec, dependencies: Vec<u64>, batch: &[u64]) -> bool {
        let queue = self.use_queue(ns, &spec.queue);
        let task = Task {
            ns,
            queue,
            dependencies,
            waits_for: BTreeSet::new(),
            knows: BTreeSet::new(),
            state: TaskState::Blocked,
            created_at_ms: self.now,
            eligible_at_ms: 0,
            ended_at_ms: 0,
            deadline_at_ms: (spec.deadline_at_ms != 0).then_some(spec.deadline_at_ms),
            spec,
            attempts_begun: 0,
            attempts: Vec::new(),
            logs: BTreeMap::new(),
            worker: 0,
            token: 0,
            lease_expires_at_ms: 0,
            attempt_ends_at_ms: 0,
            cancel_requested: false,
            progress: None,
            returned_token: 0,
            result: Bytes::new(),
            error: None,
            sweep_at_ms: None,
        };
        self.tasks.insert(id, task);
        self.tell_task(id, EventKind::TaskEnqueued, "");
        let failed = self.begin_waiting(id, batch);
        if !failed && self.tasks[&id].waits_for.is_empty() {
            // A new task is no news beyond its submission.
            self.release(id, false);
        }
        failed
    }

    /// Finds out what a task has to wait for; true if it must die because one of its dependencies has failed.
    fn begin_waiting(&mut self, id: u64, batch: &[u64]) -> bool {
        let task = &self.tasks[&id];
        let (mut waits_for, mut knows, mut failed) = (BTreeSet::new(), task.knows.clone(), false);
        for dependency in &task.dependencies {
            let found = self.tasks.get(dependency).filter(|found| found.ns == task.ns);
            let state = if batch.contains(dependency) { Some(TaskState::Blocked) } else { found.map(|found| found.state) };
            match state {
                Some(TaskState::Succeeded) => drop(knows.insert(*dependency)),
                None | Some(TaskState::Dead | TaskState::Cancelled | TaskState::Unspecified) => {
                    failed = !task.runs_anyway() && !self.has(Flaw::DependencyFailureIgnored);
                }
                Some(TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running) => {
                    waits_for.insert(*dependency);
                    knows.remove(dependency);
                }
            }
        }
        let task = self.tasks.get_mut(&id).expect("the task was there a moment ago");
        task.waits_for = waits_for;
        task.knows = knows;
        failed
    }

    fn use_queue(&mut self, ns: u64, name: &str) -> u64 {
        let now = self.now;
        if let Some(id) = self.queue(ns, name) {
            let queue = self.queues.get_mut(&id).expect("the queue was there a moment ago");
            if now >= queue.used_at_ms + limits::QUEUE_TOUCH_MS {
                queue.used_at_ms = now;
            }
            return id;
        }
        let id = self.next_id();
        self.queues.insert(id, Queue { ns, name: name.to_owned(), used_at_ms: now });
        id
    }

    // --- Commands on tasks that wait, run or have died ---------------------------------------------------------------------------------

    pub(super) fn cancel_task(&mut self, request: CancelTaskRequest) -> Result<CancelTaskResponse, &'static str> {
        let id = self.named_task(&request.namespace, &request.task_id)?;
        let task = self.tasks.get_mut(&id).expect("the task was just found");
        let state = match task.state {
            TaskState::Running if !request.force => {
                let news = !std::mem::replace(&mut task.cancel_requested, true);
                if news {
                    self.tell_task(id, EventKind::TaskCancelRequested, "");
                }
                TaskState::Running
            }
            TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running => {
                self.end(id, TaskState::Cancelled, Some(failure("CANCELLED")), None);
                TaskState::Cancelled
            }
            TaskState::Cancelled => TaskState::Cancelled,
            TaskState::Succeeded | TaskState::Dead | TaskState::Unspecified => return Err("TASK_ENDED"),
        };
        Ok(CancelTaskResponse { state: state.into() })
    }

    pub(super) fn requeue_dead(&mut self, request: RequeueDeadRequest) -> Result<RequeueDeadResponse, &'static str> {
        let ns = self.namespace(&request.namespace)?;
        let queue = self.queue(ns, &request.queue).ok_or("QUEUE_NOT_FOUND")?;
        let dead = |model: &Model| -> Vec<u64> {
            let tasks = model.tasks.iter().filter(|(_, task)| task.queue == queue && task.state == TaskState::Dead);
            tasks.map(|(id, _)| *id).collect()
        };
        let settling = |id: &u64| self.settling.contains_key(&(ns, *id));
        let mut chosen: BTreeSet<u64> = BTreeSet::new();
        for id in request.task_ids.iter().map(|id| number(id)) {
            if !dead(self).contains(&id) {
                let elsewhere = self.tasks.get(&id).is_some_and(|task| task.ns == ns);
                return Err(if elsewhere { "TASK_NOT_DEAD" } else { "TASK_NOT_FOUND" });
            }
            if settling(&id) {
                return Err("TASK_SETTLING");
            }
            chosen.insert(id);
        }
        if request.task_ids.is_empty() {
            chosen = dead(self)
                .into_iter()
                .filter(|id| !settling(id))
                .take(limits::BATCH_TASKS_MAX.min(usize::try_from(self.room(ns)).unwrap_or(usize::MAX).max(1)))
                .collect();
        }
        self.check_room(ns, chosen.len())?;
        for id in &chosen {
            self.requeue(*id);
        }
        Ok(RequeueDeadResponse { requeued: chosen.len() as u64, remaining: dead(self).len() as u64 })
    }

    fn requeue(&mut self, id: u64) {
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("the task was just found");
        task.attempts_begun = 0;
        task.attempts.clear();
        task.logs.clear();
        task.error = None;
        task.ended_at_ms = 0;
        task.eligible_at_ms = 0;
        task.cancel_requested = false;
        // A deadline that has passed no longer counts.
        task.deadline_at_ms = task.deadline_at_ms.filter(|at| *at > now);
        task.state = TaskState::Blocked;
        let failed = self.begin_waiting(id, &[]);
        if !failed && self.tasks[&id].waits_for.is_empty() {
            self.release(id, false);
        }
        self.tell_task(id, EventKind::TaskRequeued, "");
        if failed {
            self.die(id, "DEPENDENCY_FAILED");
        }
    }

    pub(super) fn purge_queue(&mut self, request: PurgeQueueRequest) -> Result<PurgeQueueResponse, &'static str> {
        let ns = self.namespace(&request.namespace)?;
        let queue = self.queue(ns, &request.queue).ok_or("QUEUE_NOT_FOUND")?;
        let states: Vec<TaskState> = request.states().collect();
        let in_states = |model: &Model| -> Vec<u64> {
            let tasks = model.tasks.iter().filter(|(_, task)| task.queue == queue && states.contains(&task.state));
            let mut tasks: Vec<(&u64, &Task)> = tasks.collect();
            // State by state; ready ones class by class as they would be leased, others by age.
            tasks.sort_by_key(|(id, task)| {
                let ready = (task.state == TaskState::Ready).then(|| (task.class(), task.priority(), task.eligible_at_ms));
                (task.state, ready, **id)
            });
            tasks.into_iter().map(|(id, _)| *id).collect()
        };
        let mut doomed = in_states(self);
        doomed.truncate(limits::BATCH_TASKS_MAX);
        for id in &doomed {
            self.tell_task(*id, EventKind::TaskPurged, "");
            self.tasks.remove(id);
            self.tell_dependents(ns, *id, false);
        }
        Ok(PurgeQueueResponse { purged: doomed.len() as u64, remaining: in_states(self).len() as u64 })
    }
}

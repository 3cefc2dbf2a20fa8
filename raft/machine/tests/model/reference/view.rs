//! The model's state as clients would read it.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_proto::v1::{self, AttemptLog, QueueStats, TaskState, TimerState};

use super::{Model, Task};

impl Model {
    /// A task, with payload and result if `whole`.
    pub fn view_task(&self, id: u64, whole: bool) -> v1::Task {
        let task = &self.tasks[&id];
        let text = |id: &u64| Id(*id).to_string();
        let worker = |id: u64| if id == 0 { String::new() } else { text(&id) };
        let attempts = task.attempts.iter().map(|attempt| v1::Attempt {
            number: attempt.number,
            worker: worker(attempt.worker),
            token: attempt.token,
            started_at_ms: attempt.started_at_ms,
            ended_at_ms: attempt.ended_at_ms,
            error: attempt.error.clone(),
        });
        let mut spec = task.spec.clone();
        if !whole {
            spec.payload = Bytes::new();
        }
        v1::Task {
            namespace: self.namespaces[&task.ns].name.clone(),
            task_id: text(&id),
            spec: Some(spec),
            state: task.state.into(),
            created_at_ms: task.created_at_ms,
            eligible_at_ms: task.eligible_at_ms,
            ended_at_ms: task.ended_at_ms,
            attempts_begun: task.attempts_begun,
            attempts: attempts.collect(),
            worker: worker(task.worker),
            token: task.token,
            lease_expires_at_ms: task.lease_expires_at_ms,
            cancel_requested: task.cancel_requested,
            progress: task.progress.clone(),
            result: if whole { task.result.clone() } else { Bytes::new() },
            error: task.error.clone(),
            waits_for: task.dependencies.iter().filter(|id| task.waits_for.contains(id)).map(text).collect(),
            dependencies: task.dependencies.iter().map(text).collect(),
            // Placements have tests of their own.
            placed_runtime: String::new(),
            placed_worker: String::new(),
        }
    }

    pub fn view_logs(&self, id: u64) -> Vec<AttemptLog> {
        let logs = self.tasks[&id].logs.iter();
        logs.map(|(attempt, text)| AttemptLog { attempt: *attempt, text: text.clone() }).collect()
    }

    /// The ids of a namespace's tasks.
    pub fn tasks_of(&self, ns: u64) -> Vec<u64> {
        self.tasks.iter().filter(|(_, task)| task.ns == ns).map(|(id, _)| *id).collect()
    }

    /// Queues of all namespaces, by name.
    pub fn view_queues(&self) -> Vec<QueueStats> {
        let mut queues: Vec<QueueStats> = self
            .queues
            .iter()
            .map(|(id, queue)| {
                let tasks: Vec<&Task> = self.tasks.values().filter(|task| task.queue == *id).collect();
                let count = |state| tasks.iter().filter(|task| task.state == state).count() as u64;
                let ready = tasks.iter().filter(|task| task.state == TaskState::Ready);
                let ages = ready.map(|task| self.now.saturating_sub(task.eligible_at_ms));
                QueueStats {
                    namespace: self.namespaces[&queue.ns].name.clone(),
                    queue: queue.name.clone(),
                    blocked: count(TaskState::Blocked),
                    delayed: count(TaskState::Delayed),
                    ready: count(TaskState::Ready),
                    running: count(TaskState::Running),
                    dead: count(TaskState::Dead),
                    oldest_ready_ms: ages.max().unwrap_or(0),
                }
            })
            .collect();
        queues.sort_by_key(|queue| (queue.namespace.clone(), queue.queue.clone()));
        queues
    }

    pub fn view_workers(&self) -> Vec<v1::Worker> {
        let view = |(id, worker): (&u64, &super::Worker)| v1::Worker {
            worker_id: Id(*id).to_string(),
            name: worker.name.clone(),
            capabilities: worker.capabilities.clone(),
            state: worker.state().into(),
            registered_at_ms: worker.registered_at_ms,
            heartbeat_at_ms: worker.heartbeat_at_ms,
            expires_at_ms: worker.expires_at_ms,
            running: self.held_by(*id).len() as u32,
            registered_by: worker.maker.clone().unwrap_or_default(),
        };
        self.workers.iter().map(view).collect()
    }

    /// A namespace's leases, by name.
    pub fn view_leases(&self, ns: u64) -> Vec<v1::NamedLease> {
        self.named_leases.keys().filter(|(found, _)| *found == ns).map(|key| self.named_lease(key)).collect()
    }

    /// A namespace's timers, pending and fired, oldest first.
    pub fn view_timers(&self, ns: u64) -> Vec<v1::Timer> {
        let view = |(id, timer): (&u64, &super::Timer)| v1::Timer {
            namespace: self.namespaces[&ns].name.clone(),
            timer_id: Id(*id).to_string(),
            due_at_ms: timer.due_at_ms,
            state: if timer.fired_at_ms == 0 { TimerState::Pending } else { TimerState::Fired }.into(),
            fired_at_ms: timer.fired_at_ms,
            task_id: timer.task.map_or_else(String::new, |id| Id(id).to_string()),
            action: Some(timer.action.clone()),
        };
        self.timers.iter().filter(|(_, timer)| timer.ns == ns).map(view).collect()
    }

    /// All namespaces, by name.
    pub fn view_namespaces(&self) -> Vec<v1::Namespace> {
        let view = |namespace: &super::Namespace| self.view_namespace(namespace);
        let mut namespaces: Vec<v1::Namespace> = self.namespaces.values().map(view).collect();
        namespaces.sort_by(|a, b| a.name.cmp(&b.name));
        namespaces
    }
}

//! Commands on tasks.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::*;

use super::{CLASSES, Generator, HANDLERS, HOUR, LABELS, MINUTE, QUEUES, SECOND, nameable};
use crate::reference::Model;

impl Generator {
    pub(super) fn enqueue(&mut self, model: &Model) -> EnqueueRequest {
        let namespace = self.namespace(model);
        let count = match self.dice.below(100) {
            0 => self.dice.between(20, 120),
            1..5 => CLASSES,
            _ => self.dice.between(1, 4),
        };
        let mut tasks: Vec<TaskSpec> = (0..count).map(|_| self.spec(model, &namespace, count > 4)).collect();
        if count == CLASSES {
            let (queue, first) = (self.queue(), self.dice.below(50));
            for (task, number) in tasks.iter_mut().zip(first..) {
                (task.queue, task.handler) = (queue.clone(), format!("h{number}"));
            }
        }
        let backward = self.dice.chance(80);
        for place in 0..count {
            if self.dice.chance(self.theme.depends / 2) {
                // All arrows point the same way, so that there is no circle.
                let (low, high) = if backward { (0, place) } else { (place + 1, count) };
                for _ in 0..self.dice.between(1, 2) {
                    if low < high {
                        tasks[place as usize].after_in_batch.push(self.dice.between(low, high - 1) as u32);
                    }
                }
            }
        }
        EnqueueRequest { request_id: self.request_id(), namespace, tasks }
    }

    pub(super) fn spec(&mut self, model: &Model, namespace: &str, simple: bool) -> TaskSpec {
        let queue = self.dice.pick(&QUEUES).to_owned();
        let mut spec = TaskSpec { queue, priority: self.dice.below(6) as i32, ..TaskSpec::default() };
        if simple {
            return spec;
        }
        let now = model.now;
        if self.dice.chance(10) {
            self.for_executors(&mut spec, model);
        }
        if self.dice.chance(30) {
            spec.handler = self.dice.pick(&HANDLERS).to_owned();
        }
        let size = match self.dice.below(1_000) {
            0 => limits::PAYLOAD_BYTES_MAX,
            1..60 => limits::INLINE_BYTES_MAX + self.dice.below(2) as usize,
            _ => self.dice.below(6) as usize,
        };
        spec.payload = Bytes::from(vec![b'p'; size]);
        if self.dice.chance(15) {
            spec.not_before_at_ms = nameable(now + self.dice.below(2 * MINUTE)).saturating_sub(20 * SECOND);
        }
        if self.dice.chance(12) {
            // One that has passed refuses the whole batch, so it is rare.
            spec.deadline_at_ms = match self.dice.below(80) {
                0 => now.saturating_sub(SECOND).max(1),
                1..11 if spec.not_before_at_ms != 0 => spec.not_before_at_ms,
                _ => nameable(now + self.dice.between(1, 5 * MINUTE)),
            };
        }
        if self.dice.chance(15) {
            spec.attempt_timeout_ms = self.dice.between(1, 40 * SECOND);
        }
        if self.theme.stubborn && self.dice.chance(85) {
            spec.retry = Some(RetryPolicy { max_attempts: 40, initial_backoff_ms: 1, max_backoff_ms: 1, ..RetryPolicy::default() });
        } else if self.dice.chance(50) {
            spec.retry = Some(RetryPolicy {
                max_attempts: self.dice.pick(&[0, 1, 2, 3, 40]),
                initial_backoff_ms: self.dice.pick(&[0, 1, 500, 10_000]),
                multiplier_percent: self.dice.pick(&[0, 100, 150, 1_000]),
                max_backoff_ms: self.dice.pick(&[0, 1, 20_000]),
                jitter_percent: self.dice.pick(&[0, 1, 100]),
                no_jitter: self.dice.chance(30),
            });
        }
        if self.dice.chance(self.theme.depends) {
            let ns = model.namespace(namespace).unwrap_or(0);
            let mine = model.tasks_of(ns);
            for _ in 0..self.dice.between(1, 3) {
                // The latest tasks are the ones that are likely to be alive.
                let recent = &mine[mine.len().saturating_sub(12)..];
                match self.dice.one(recent) {
                    Some(id) if self.dice.chance(97) => spec.after.push(Id(*id).to_string()),
                    None if self.dice.chance(97) => {}
                    _ => spec.after.push(self.some_task(model)),
                }
            }
        }
        spec.on_dependency_failure = self.dice.below(3) as i32;
        if self.dice.chance(15) {
            spec.requires = (0..self.dice.between(1, 3)).map(|_| self.dice.pick(&LABELS).to_owned()).collect();
        }
        if self.dice.chance(30) {
            spec.retention_ms = self.dice.pick(&[1, 15 * MINUTE, 2 * HOUR]);
        }
        if self.dice.chance(5) {
            spec.annotations = (0..3).map(|n| (format!("key{n}"), "value".to_owned())).collect();
        }
        spec
    }

    pub(super) fn cancel_task(&mut self, model: &Model) -> CancelTaskRequest {
        let (namespace, task_id) = self.task_in(model, &[TaskState::Running, TaskState::Blocked, TaskState::Ready]);
        CancelTaskRequest { request_id: self.request_id(), namespace, task_id, force: self.dice.chance(30) }
    }

    pub(super) fn requeue_dead(&mut self, model: &Model) -> RequeueDeadRequest {
        let (namespace, task_id) = self.task_in(model, &[TaskState::Dead]);
        let dead = model.tasks.values().filter(|task| task.state == TaskState::Dead);
        let queues: Vec<String> = dead.map(|task| task.spec.queue.clone()).collect();
        let queue = self.dice.one(&queues).cloned().filter(|_| self.dice.chance(90)).unwrap_or_else(|| self.queue());
        let task_ids = match self.dice.below(4) {
            0 => vec![task_id],
            1 => vec![task_id.clone(), self.task_in(model, &[TaskState::Dead]).1, task_id],
            _ => Vec::new(),
        };
        RequeueDeadRequest { request_id: self.request_id(), namespace, queue, task_ids }
    }

    pub(super) fn purge_queue(&mut self, model: &Model) -> PurgeQueueRequest {
        let all = [TaskState::Dead, TaskState::Blocked, TaskState::Ready, TaskState::Delayed];
        let states = (0..self.dice.between(1, 3)).map(|_| self.dice.pick(&all).into()).collect();
        PurgeQueueRequest { request_id: self.request_id(), namespace: self.namespace(model), queue: self.queue(), states }
    }

    pub(super) fn lease_tasks(&mut self, model: &Model) -> LeaseTasksRequest {
        LeaseTasksRequest {
            request_id: self.request_id(),
            worker_id: self.worker(model),
            max_tasks: self.dice.pick(&[1, 1, 2, 3, 7, 256]),
            lease_ms: self.dice.pick(&[0, SECOND, 5 * SECOND, HOUR]),
            wait_ms: self.dice.below(3) * 20_000,
        }
    }

    /// What an executor runs. Where the cluster has not the version for all of it, mostly what it can take.
    fn for_executors(&mut self, spec: &mut TaskSpec, model: &Model) {
        let artifact = "a".repeat(64);
        let all = model.version >= 3 || self.dice.chance(5);
        let runtime = if all { self.dice.pick(&["wasm", "microvm", "native", "cuda"]) } else { "wasm" };
        spec.runtime = runtime.to_owned();
        match runtime {
            "native" if self.dice.chance(70) => {
                spec.native = Some(NativeSpec { artifact, ..NativeSpec::default() });
            }
            "cuda" if self.dice.chance(50) => {
                spec.cuda = Some(CudaSpec { artifact, ..CudaSpec::default() });
            }
            "native" | "cuda" => {
                spec.transform = Some(TransformSpec { name: "fft".to_owned(), ..TransformSpec::default() });
            }
            _ => {
                spec.wasm = Some(WasmSpec { artifact, ..WasmSpec::default() });
            }
        }
        spec.grants = (all && self.dice.chance(50)).then(Grants::default);
    }

    pub(super) fn heartbeat_tasks(&mut self, model: &Model) -> HeartbeatTasksRequest {
        let leases = (0..self.dice.below(5)).map(|_| {
            let (namespace, task_id, token) = self.task_lease(model);
            TaskLease {
                namespace,
                task_id,
                token,
                progress: self
                    .dice
                    .chance(20)
                    .then(|| Progress { permille: self.dice.below(1_001) as u32, message: self.dice.pick(&["", "half way"]).to_owned() }),
            }
        });
        let leases: Vec<TaskLease> = leases.collect();
        // Mostly by the worker that holds the first of them.
        let holder = leases.first().and_then(|lease| Some(model.tasks.get(&lease.task_id.parse::<Id>().ok()?.0)?.worker));
        let worker_id = match holder.filter(|worker| *worker != 0 && self.dice.chance(85)) {
            Some(worker) => Id(worker).to_string(),
            None => self.worker(model),
        };
        HeartbeatTasksRequest { worker_id, leases, lease_ms: self.dice.pick(&[0, SECOND, MINUTE, HOUR]) }
    }

    pub(super) fn complete_task(&mut self, model: &Model) -> CompleteTaskRequest {
        let (namespace, task_id, token) = self.task_lease(model);
        let size = if self.dice.chance(8) { limits::INLINE_BYTES_MAX + 1 } else { self.dice.below(3) as usize };
        let result = Bytes::from(vec![b'r'; size]);
        CompleteTaskRequest { request_id: self.request_id(), namespace, task_id, token, result, logs: self.logs() }
    }

    pub(super) fn fail_task(&mut self, model: &Model) -> FailTaskRequest {
        let (namespace, task_id, token) = self.task_lease(model);
        let cancelled = task_id.parse::<Id>().ok().and_then(|id| model.tasks.get(&id.0));
        let kind = match cancelled.is_some_and(|task| task.cancel_requested) {
            true => FailureKind::Cancelled as usize,
            false => self.dice.weighted(&[10, 50, 8, 5, 20]),
        };
        let error = match self.dice.below(3) {
            0 => None,
            1 => Some(TaskError::default()),
            _ => Some(TaskError { reason: "NO_SUCH_FILE".to_owned(), message: "It is not there.".to_owned() }),
        };
        let request_id = self.request_id();
        FailTaskRequest { request_id, namespace, task_id, token, kind: kind as i32, error, logs: self.logs() }
    }

    pub(super) fn logs(&mut self) -> Bytes {
        if self.dice.chance(30) { Bytes::from_static(b"a line\n") } else { Bytes::new() }
    }
}

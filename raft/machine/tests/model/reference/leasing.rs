//! Workers take tasks, keep them, and report.

use std::collections::BTreeSet;

use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{
    CompleteTaskRequest, CompleteTaskResponse, EventKind, FailTaskRequest, FailTaskResponse, FailureKind, HeartbeatTasksRequest,
    HeartbeatTasksResponse, LeaseReport, LeaseStatus, LeaseTasksRequest, LeaseTasksResponse, LeasedTask, TaskState, WorkerCapabilities,
};

use super::tasks::{Attempt, Report, Task, failure};
use super::{Flaw, Model, number, or_default};

/// Whether a worker that can do this can be given a task of this namespace.
pub fn matches(able: &WorkerCapabilities, namespace: &str, task: &Task) -> bool {
    let any_or = |list: &[String], name: &str| list.is_empty() || list.iter().any(|entry| entry == name);
    let spec = &task.spec;
    let runtime = match able.runtimes.is_empty() {
        true => spec.runtime.is_empty(),
        false => able.runtimes.contains(&spec.runtime),
    };
    runtime
        && any_or(&able.handlers, &spec.handler)
        && any_or(&able.namespaces, namespace)
        && any_or(&able.queues, &spec.queue)
        && spec.requires.iter().all(|label| able.labels.contains(label))
}

impl Model {
    pub(super) fn lease_tasks(&mut self, who: &str, request: LeaseTasksRequest) -> Result<LeaseTasksResponse, &'static str> {
        let id = number(&request.worker_id);
        let worker = self.as_worker(who, id)?;
        if worker.draining && !self.has(Flaw::DrainIgnored) {
            return Err("WORKER_DRAINING");
        }
        let able = worker.capabilities.clone().unwrap_or_default();
        let room = limits::WORKER_TASKS_MAX - self.held_by(id).len();
        if room == 0 {
            return Err("WORKER_FULL");
        }
        let meeting = self.bring_near(&able);
        let lease_ms = or_default(request.lease_ms, limits::LEASE_MS_DEFAULT);
        let (mut tasks, mut bytes, mut late) = (Vec::new(), 0, 0);
        while tasks.len() < room.min(request.max_tasks as usize) && late < limits::LEASE_TASKS_MAX {
            let Some((task, pass)) = self.next_for(&able, &meeting) else {
                break;
            };
            if self.tasks[&task].deadline_at_ms.is_some_and(|at| at <= self.now) && !self.has(Flaw::DeadlinesIgnored) {
                self.die(task, "DEADLINE_EXCEEDED");
                late += 1;
                continue;
            }
            bytes += self.spec_bytes(task);
            if bytes > limits::LEASE_BYTES_MAX && !tasks.is_empty() {
                break;
            }
            self.begin_attempt(task, id, lease_ms, pass);
            tasks.push(self.leased(task));
        }
        Ok(LeaseTasksResponse { tasks })
    }

    fn ready_for(&self, able: &WorkerCapabilities) -> impl Iterator<Item = (&u64, &Task)> {
        let full: BTreeSet<u64> = self.namespaces.keys().copied().filter(|ns| self.is_full(*ns)).collect();
        self.tasks.iter().filter(move |(_, task)| task.state == TaskState::Ready && self.serves(able, task) && !full.contains(&task.ns))
    }

    /// Namespaces that meet at a lease are brought within one stride of the one that was served least: the past gives neither credit nor
    /// debt beyond one task.
    fn bring_near(&mut self, able: &WorkerCapabilities) -> BTreeSet<u64> {
        let meeting: BTreeSet<u64> = self.ready_for(able).map(|(_, task)| task.ns).collect();
        if let Some(lowest) = meeting.iter().map(|ns| self.lane(*ns, &meeting).0).min() {
            for ns in &meeting {
                let namespace = self.namespaces.get_mut(ns).expect("a task's namespace is there");
                namespace.pass = namespace.pass.min(lowest + namespace.stride());
            }
        }
        meeting
    }

    /// The ready task that a worker gets next: of the namespace that was served least for its weight, the one with the highest priority,
    /// raised by waiting; among equals the one that has been ready longest, then the one that was submitted first.
    fn next_for(&self, able: &WorkerCapabilities, meeting: &BTreeSet<u64>) -> Option<(u64, u64)> {
        let best = self.ready_for(able).min_by_key(|(id, task)| {
            let (pass, lane) = self.lane(task.ns, meeting);
            let pass = if self.has(Flaw::NamespacesUnfair) { 0 } else { pass };
            (pass, lane, self.level(task), task.eligible_at_ms, **id)
        });
        best.map(|(id, task)| (*id, self.lane(task.ns, meeting).0))
    }

    /// The priority as which a waiting task counts: one step up for every minute, down to 1.
    pub fn level(&self, task: &Task) -> u64 {
        let steps = self.now.saturating_sub(task.eligible_at_ms) / limits::AGE_STEP_MS;
        let steps = if self.has(Flaw::NothingAges) { 0 } else { steps };
        task.priority().saturating_sub(steps).max(1)
    }

    fn begin_attempt(&mut self, id: u64, worker: u64, lease_ms: u64, pass: u64) {
        let (now, token) = (self.now, self.next_id());
        let task = self.tasks.get_mut(&id).expect("the task was just found");
        task.state = TaskState::Running;
        task.worker = worker;
        task.token = token;
        task.attempts_begun += 1;
        task.progress = None;
        let timeout = or_default(task.spec.attempt_timeout_ms, limits::ATTEMPT_TIMEOUT_MS_DEFAULT);
        task.attempt_ends_at_ms = now + timeout;
        task.lease_expires_at_ms = (now + lease_ms).min(task.attempt_ends_at_ms);
        if task.attempts.len() == limits::ATTEMPTS_KEPT {
            task.attempts.remove(0);
        }
        let number = task.attempts_begun;
        let attempt = Attempt { number, worker, token, started_at_ms: now, ended_at_ms: 0, error: None, report: None };
        task.attempts.push(attempt);
        let ns = task.ns;
        self.tell_task(id, EventKind::TaskLeased, "");
        // The namespace was served: it steps back from where its lane stands, the further the less its weight.
        let namespace = self.namespaces.get_mut(&ns).expect("a task's namespace is there");
        namespace.pass = pass + namespace.stride();
    }

    /// A running task as its worker gets it.
    pub(super) fn leased(&self, id: u64) -> LeasedTask {
        let task = &self.tasks[&id];
        LeasedTask {
            namespace: self.namespaces[&task.ns].name.clone(),
            task_id: Id(id).to_string(),
            token: task.token,
            attempt: task.attempts_begun,
            lease_expires_at_ms: task.lease_expires_at_ms,
            attempt_ends_at_ms: task.attempt_ends_at_ms,
            spec: Some(task.spec.clone()),
            dependencies: task.dependencies.iter().map(|id| Id(*id).to_string()).collect(),
        }
    }

    pub(super) fn holds(&self, task: &Task, token: u64) -> bool {
        task.state == TaskState::Running && (task.token == token || self.has(Flaw::TokensIgnored))
    }

    /// Tasks that a worker holds.
    pub fn held_by(&self, worker: u64) -> Vec<u64> {
        let held = self.tasks.iter().filter(|(_, task)| task.state == TaskState::Running && task.worker == worker);
        let mut held: Vec<(u64, u64)> = held.map(|(id, task)| (task.ns, *id)).collect();
        held.sort();
        held.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn heartbeat_tasks(&mut self, who: &str, request: HeartbeatTasksRequest) -> Result<HeartbeatTasksResponse, &'static str> {
        let worker = number(&request.worker_id);
        self.as_worker(who, worker)?;
        let expires = self.now + or_default(request.lease_ms, limits::LEASE_MS_DEFAULT);
        let mut leases = Vec::new();
        for lease in request.leases {
            let task = self.named_task(&lease.namespace, &lease.task_id).ok();
            let task = task.filter(|id| self.holds(&self.tasks[id], lease.token) && self.tasks[id].worker == worker);
            let mut report = LeaseReport { task_id: lease.task_id, token: lease.token, ..LeaseReport::default() };
            report.set_status(LeaseStatus::Lost);
            if let Some(task) = task.and_then(|id| self.tasks.get_mut(&id)) {
                task.lease_expires_at_ms = expires.min(task.attempt_ends_at_ms);
                task.progress = lease.progress.or(task.progress.take());
                report.lease_expires_at_ms = task.lease_expires_at_ms;
                report.set_status(match task.cancel_requested {
                    true => LeaseStatus::CancelRequested,
                    false => LeaseStatus::Held,
                });
            }
            leases.push(report);
        }
        Ok(HeartbeatTasksResponse { leases, now_ms: if self.version < 5 { 0 } else { self.now } })
    }

    pub(super) fn complete_task(&mut self, who: &str, request: CompleteTaskRequest) -> Result<CompleteTaskResponse, &'static str> {
        let id = self.named_task(&request.namespace, &request.task_id)?;
        let report = Report::Completed(request.result.clone());
        if !self.holds(&self.tasks[&id], request.token) {
            return self.said_before(id, request.token, &report).map(|_| CompleteTaskResponse {});
        }
        self.as_worker(who, self.tasks[&id].worker)?;
        self.keep_log(id, request.logs);
        self.tasks.get_mut(&id).expect("the task was just found").result = request.result;
        self.end(id, TaskState::Succeeded, None, Some(report));
        Ok(CompleteTaskResponse {})
    }

    pub(super) fn fail_task(&mut self, who: &str, request: FailTaskRequest) -> Result<FailTaskResponse, &'static str> {
        let id = self.named_task(&request.namespace, &request.task_id)?;
        let kind = request.kind();
        let mut error = request.error.unwrap_or_default();
        if error.reason.is_empty() {
            error.reason = if kind == FailureKind::Cancelled { "CANCELLED" } else { "FAILED" }.to_owned();
        }
        let report = Report::Failed(kind.into(), error.clone());
        let task = &self.tasks[&id];
        let state = if !self.holds(task, request.token) {
            match kind == FailureKind::Returned && task.returned_token == request.token {
                true => TaskState::Ready,
                false => self.said_before(id, request.token, &report)?,
            }
        } else if let Err(reason) = self.as_worker(who, task.worker) {
            return Err(reason);
        } else if kind == FailureKind::Cancelled && !task.cancel_requested {
            return Err("CANCEL_NOT_REQUESTED");
        } else if kind == FailureKind::Returned && !task.cancel_requested {
            self.give_back(id)
        } else {
            self.keep_log(id, request.logs);
            self.fail_attempt(id, error, Some(report), kind == FailureKind::Final)
        };
        Ok(FailTaskResponse { state: state.into() })
    }

    /// The attempt never began: the task is where it was before, and its turn is as early.
    fn give_back(&mut self, id: u64) -> TaskState {
        self.tell_task(id, EventKind::TaskReturned, "");
        let task = self.tasks.get_mut(&id).expect("the task was just found");
        task.returned_token = task.token;
        task.attempts.pop();
        task.attempts_begun -= 1;
        self.stop_running(id);
        self.become_ready(id);
        self.attempt_ended(self.tasks[&id].ns);
        TaskState::Ready
    }

    /// What the task became when the same was said under the same token for the first time.
    fn said_before(&self, id: u64, token: u64, report: &Report) -> Result<TaskState, &'static str> {
        let attempts = self.tasks[&id].attempts.iter().filter(|attempt| attempt.token == token);
        let mut said = attempts.filter_map(|attempt| attempt.report.as_ref());
        said.find(|(said, _)| said == report).map(|(_, became)| *became).ok_or("STALE_TOKEN")
    }

    /// The logs of the last attempts are kept, as many as attempts are.
    fn keep_log(&mut self, id: u64, text: bytes::Bytes) {
        let task = self.tasks.get_mut(&id).expect("the task was just found");
        let number = task.attempts_begun;
        if !text.is_empty() {
            task.logs.insert(number, text);
            task.logs.retain(|kept, _| kept + limits::ATTEMPTS_KEPT as u32 > number);
        }
    }

    pub(super) fn attempt_over(&mut self, id: u64) {
        let reason = match self.tasks[&id].attempt_ends_at_ms <= self.now {
            true => "ATTEMPT_TIMEOUT",
            false => "LEASE_EXPIRED",
        };
        self.fail_attempt(id, failure(reason), None, false);
    }
}

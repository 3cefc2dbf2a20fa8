//! How tasks move: between states, and through their dependencies.

use prost::Message;
use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{Event, EventKind, TaskError, TaskState};

use super::tasks::{Report, Task, failure};
use super::{Flaw, Model, number, or_default};

impl Model {
    /// A task that waits for nothing any more: ready, or delayed until it may start.
    pub(super) fn release(&mut self, id: u64, is_news: bool) {
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("the task is there");
        let delayed = task.spec.not_before_at_ms > now;
        task.eligible_at_ms = task.spec.not_before_at_ms.max(now);
        match (delayed, is_news) {
            (true, _) => task.state = TaskState::Delayed,
            (false, true) => self.set_state(id, TaskState::Ready),
            (false, false) => self.become_ready(id),
        }
    }

    /// A waiting task changes its state; that it is ready is news.
    pub(super) fn set_state(&mut self, id: u64, state: TaskState) {
        if state == TaskState::Ready {
            self.become_ready(id);
            self.tell_task(id, EventKind::TaskReady, "");
        } else {
            self.tasks.get_mut(&id).expect("the task is there").state = state;
        }
    }

    /// The task waits for a worker.
    pub(super) fn become_ready(&mut self, id: u64) {
        let task = self.tasks.get_mut(&id).expect("the task is there");
        task.state = TaskState::Ready;
        self.ready.insert((task.ns, task.queue, task.class()));
    }

    /// The running attempt failed: another follows after a pause, unless somebody asked to cancel, it is hopeless, or all are used up.
    pub(super) fn fail_attempt(&mut self, id: u64, error: TaskError, report: Option<Report>, last: bool) -> TaskState {
        let task = &self.tasks[&id];
        let policy = task.spec.retry.unwrap_or_default();
        let max = or_default(policy.max_attempts.into(), limits::ATTEMPTS_DEFAULT.into());
        let state = if task.cancel_requested {
            TaskState::Cancelled
        } else if last || u64::from(task.attempts_begun) >= max {
            TaskState::Dead
        } else if self.backoff_ms(id) == 0 {
            TaskState::Ready
        } else {
            TaskState::Delayed
        };
        let eligible_at_ms = self.now + self.backoff_ms(id);
        match state {
            TaskState::Cancelled | TaskState::Dead => self.end(id, state, Some(error), report),
            _ => {
                self.tell_task(id, EventKind::TaskRetried, &error.reason);
                self.close_attempt(id, state, Some(error), report);
                let task = self.tasks.get_mut(&id).expect("the task is there");
                task.eligible_at_ms = eligible_at_ms;
                match state {
                    TaskState::Ready => self.become_ready(id),
                    _ => task.state = state,
                }
                self.attempt_ended(self.tasks[&id].ns);
            }
        }
        state
    }

    /// Exponential, capped, and scattered by the task's id and the attempt's number.
    fn backoff_ms(&self, id: u64) -> u64 {
        if self.has(Flaw::NoBackoff) {
            return 0;
        }
        let task = &self.tasks[&id];
        let policy = task.spec.retry.unwrap_or_default();
        let cap = or_default(policy.max_backoff_ms, limits::BACKOFF_CAP_MS_DEFAULT);
        let percent = or_default(policy.multiplier_percent.into(), limits::BACKOFF_PERCENT_DEFAULT.into());
        let mut delay = or_default(policy.initial_backoff_ms, limits::INITIAL_BACKOFF_MS_DEFAULT).min(cap);
        for _ in 1..task.attempts_begun {
            delay = (delay * percent / 100).min(cap);
        }
        let jitter = match policy.no_jitter {
            true => 0,
            false => or_default(policy.jitter_percent.into(), limits::JITTER_PERCENT_DEFAULT.into()),
        };
        let spread = delay * jitter / 100;
        let mut x = id ^ u64::from(task.attempts_begun) << 52;
        for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
            x = (x ^ x >> 33).wrapping_mul(factor);
        }
        x ^= x >> 33;
        (delay - spread + x % (2 * spread + 1)).min(cap)
    }

    /// The task goes to the dead letters, whatever it was doing.
    pub(super) fn die(&mut self, id: u64, reason: &str) {
        self.end(id, TaskState::Dead, Some(failure(reason)), None);
    }

    /// The attempt that runs, if one does, is over: its token is worth nothing from here on.
    fn close_attempt(&mut self, id: u64, became: TaskState, error: Option<TaskError>, report: Option<Report>) {
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("the task is there");
        if task.state == TaskState::Running {
            let attempt = task.attempts.last_mut().expect("a running task has an attempt");
            attempt.ended_at_ms = now;
            attempt.error = error;
            attempt.report = report.map(|report| (report, became));
        }
        self.stop_running(id);
    }

    pub(super) fn stop_running(&mut self, id: u64) {
        let task = self.tasks.get_mut(&id).expect("the task is there");
        (task.worker, task.token, task.lease_expires_at_ms, task.attempt_ends_at_ms) = (0, 0, 0, 0);
    }

    pub(super) fn end(&mut self, id: u64, state: TaskState, error: Option<TaskError>, report: Option<Report>) {
        let kind = match state {
            TaskState::Succeeded => EventKind::TaskSucceeded,
            TaskState::Dead => EventKind::TaskDead,
            _ => EventKind::TaskCancelled,
        };
        self.tell_task(id, kind, error.as_ref().map_or("", |error| &error.reason));
        let ran = self.tasks[&id].state == TaskState::Running;
        self.close_attempt(id, state, error.clone(), report);
        let now = self.now;
        let task = self.tasks.get_mut(&id).expect("the task is there");
        task.state = state;
        task.error = error;
        task.ended_at_ms = now;
        let waited_for = std::mem::take(&mut task.waits_for);
        if state == TaskState::Dead {
            // It may be put back: what it depends on stays.
            task.knows.extend(waited_for);
        } else {
            task.knows.clear();
            let retention = or_default(task.spec.retention_ms, limits::RETENTION_MS_DEFAULT);
            task.sweep_at_ms = Some(now + retention.max(limits::REQUEST_RETENTION_MS));
        }
        let ns = task.ns;
        if ran {
            self.attempt_ended(ns);
        }
        self.tell_dependents(ns, id, state == TaskState::Succeeded);
    }

    // --- Dependencies -------------------------------------------------------------------------------------------------------------------

    /// How many tasks depend on this one.
    pub(super) fn dependents(&self, id: u64) -> u32 {
        let depends = |task: &&Task| task.waits_for.contains(&id) || task.knows.contains(&id);
        self.tasks.values().filter(depends).count() as u32
    }

    fn first_waiting(&self, id: u64) -> Option<u64> {
        self.tasks.iter().find(|(_, task)| task.waits_for.contains(&id)).map(|(id, _)| *id)
    }

    pub(super) fn tell_dependents(&mut self, ns: u64, id: u64, succeeded: bool) {
        if self.first_waiting(id).is_some() {
            self.settling.insert((ns, id), succeeded);
        }
    }

    /// Tells dependents of ended tasks, one by one, as many as one entry may.
    pub(super) fn settle(&mut self) {
        while let Some((&(ns, id), &succeeded)) = self.settling.first_key_value() {
            let Some(dependent) = self.first_waiting(id) else {
                self.settling.remove(&(ns, id));
                continue;
            };
            if self.settles_left == 0 {
                break;
            }
            self.settles_left -= 1;
            let task = self.tasks.get_mut(&dependent).expect("a dependent is there");
            task.waits_for.remove(&id);
            task.knows.insert(id);
            let (minds, free) = (!task.runs_anyway(), task.waits_for.is_empty());
            if !succeeded && minds && !self.has(Flaw::DependencyFailureIgnored) {
                self.die(dependent, "DEPENDENCY_FAILED");
            } else if free {
                self.release(dependent, true);
            }
        }
    }

    // --- Words --------------------------------------------------------------------------------------------------------------------------

    pub(super) fn named_task(&self, namespace: &str, id: &str) -> Result<u64, &'static str> {
        let ns = self.namespace(namespace)?;
        let id = number(id);
        self.tasks.get(&id).filter(|task| task.ns == ns).map(|_| id).ok_or("TASK_NOT_FOUND")
    }

    /// Tells an event about a task, and about its attempt if one runs.
    pub(super) fn tell_task(&mut self, id: u64, kind: EventKind, detail: &str) {
        let task = &self.tasks[&id];
        let last = task.attempts.last().filter(|_| task.state == TaskState::Running);
        let event = Event {
            namespace: self.namespaces[&task.ns].name.clone(),
            queue: task.spec.queue.clone(),
            subject: Id(id).to_string(),
            worker: last.map_or_else(String::new, |attempt| Id(attempt.worker).to_string()),
            attempt: last.map_or(0, |attempt| attempt.number),
            detail: detail.to_owned(),
            ..Event::default()
        };
        self.tell(kind, event);
    }

    /// Bytes that a leased task adds to the answer.
    pub(super) fn spec_bytes(&self, id: u64) -> u64 {
        self.tasks[&id].spec.encoded_len() as u64
    }
}

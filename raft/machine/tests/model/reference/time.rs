//! What time alone does.

use std::collections::BTreeSet;

use tarn_machine::limits;
use tarn_proto::v1::TaskState;

use super::{Flaw, Model};

/// Something that is due. Of what is due in the same millisecond the kinds happen in this order: ends before beginnings.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    /// Namespace and task, here and below.
    Deadline(u64, u64),
    Worker(u64),
    Attempt(u64, u64),
    NamedLease(u64, String),
    Eligible(u64, u64),
    Timer(u64, u64),
    IdleQueue(u64, u64),
    JoinToken(Vec<u8>),
    Token(u64),
    Revocation(String),
}

impl Model {
    /// Everything that is due comes before the commands, the earliest first.
    pub(super) fn pass_time(&mut self) {
        self.sweep();
        self.settle();
        for _ in 0..limits::WAKES_PER_ENTRY_MAX {
            let Some((_, due)) = self.dues().min().filter(|(at, _)| *at <= self.now) else {
                break;
            };
            self.happen(due);
        }
        self.settle();
    }

    /// When an entry without commands would do something.
    pub fn next_wake_ms(&self) -> Option<u64> {
        if !self.settling.is_empty() {
            return Some(0);
        }
        let dues = self.dues().map(|(at, _)| at);
        let sweeps = [self.swept_tasks().min().map(|(at, _, _)| at), self.swept_timers().min(), self.forgotten().min()];
        dues.chain(sweeps.into_iter().flatten().map(|at| at + limits::SWEEP_DELAY_MS)).min()
    }

    fn dues(&self) -> impl Iterator<Item = (u64, Due)> {
        let tasks = self.tasks.iter().flat_map(|(id, task)| {
            let unended = !matches!(task.state, TaskState::Dead | TaskState::Succeeded | TaskState::Cancelled);
            let counts = !self.has(Flaw::DeadlinesIgnored) || task.state == TaskState::Running;
            let deadline = task.deadline_at_ms.filter(|_| unended && counts).map(|at| (at, Due::Deadline(task.ns, *id)));
            let other = match task.state {
                TaskState::Delayed => Some((task.eligible_at_ms, Due::Eligible(task.ns, *id))),
                TaskState::Running if self.has(Flaw::LeasesNeverExpire) => Some((task.attempt_ends_at_ms, Due::Attempt(task.ns, *id))),
                TaskState::Running => {
                    let at = task.lease_expires_at_ms.min(task.attempt_ends_at_ms);
                    Some((at, Due::Attempt(task.ns, *id)))
                }
                _ => None,
            };
            deadline.into_iter().chain(other)
        });
        let workers = self.workers.iter().map(|(id, worker)| (worker.expires_at_ms, Due::Worker(*id)));
        let leases = self.named_leases.iter();
        let leases = leases.map(|((ns, name), lease)| (lease.expires_at_ms, Due::NamedLease(*ns, name.clone())));
        let timers = self.timers.iter().filter(|(_, timer)| timer.fired_at_ms == 0).map(|(id, timer)| {
            let late = u64::from(self.has(Flaw::TimersLate));
            (timer.try_at_ms + late, Due::Timer(timer.ns, *id))
        });
        let queues = self.queues.iter();
        let queues = queues.map(|(id, queue)| (queue.used_at_ms + limits::QUEUE_IDLE_MS, Due::IdleQueue(queue.ns, *id)));
        let join_tokens = self.join_tokens.iter().map(|(hash, token)| (token.expires_at_ms, Due::JoinToken(hash.clone())));
        let tokens = self.tokens.iter().filter(|_| !self.has(Flaw::TokensNeverExpire));
        let tokens = tokens.map(|(id, token)| (token.shown.expires_at_ms, Due::Token(*id)));
        let revocations = self
            .revocations
            .iter()
            .filter(|_| !self.has(Flaw::RevocationsKeptForever))
            .map(|(serial, revocation)| (revocation.expires_at_ms, Due::Revocation(serial.clone())));
        tasks.chain(workers).chain(leases).chain(timers).chain(queues).chain(join_tokens).chain(tokens).chain(revocations)
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Deadline(_, id) => self.die(id, "DEADLINE_EXCEEDED"),
            Due::Worker(id) => self.worker_gone(id),
            Due::Attempt(_, id) => self.attempt_over(id),
            Due::NamedLease(ns, name) => self.named_lease_over(ns, &name),
            Due::Eligible(_, id) => self.set_state(id, TaskState::Ready),
            Due::Timer(_, id) => self.fire_timer(id),
            Due::IdleQueue(_, id) => self.queue_idle(id),
            Due::JoinToken(hash) => drop(self.join_tokens.remove(&hash)),
            Due::Token(id) => self.token_over(id),
            Due::Revocation(serial) => drop(self.revocations.remove(&serial)),
        }
    }

    fn queue_idle(&mut self, id: u64) {
        let used = self.tasks.values().any(|task| task.queue == id && task.in_queue());
        let now = self.now;
        match self.queues.get_mut(&id) {
            Some(queue) if used => queue.used_at_ms = now,
            _ => drop(self.queues.remove(&id)),
        }
    }

    // --- What is kept for some time after its end: removed in groups, a second late or more ---------------------------------------------

    fn sweep(&mut self) {
        let due = |earliest: Option<u64>| earliest.is_some_and(|at| at + limits::SWEEP_DELAY_MS <= self.now);
        let tasks = due(self.swept_tasks().min().map(|(at, _, _)| at));
        let timers = due(self.swept_timers().min());
        let requests = due(self.forgotten().min());
        let now = self.now;
        if tasks {
            // In the order of their times; the rest waits for the next entry.
            let past: BTreeSet<_> = self.swept_tasks().filter(|(at, _, _)| *at <= now).collect();
            for (_, _, id) in past.into_iter().take(limits::SWEEPS_PER_ENTRY_MAX) {
                self.sweep_task(id);
            }
        }
        if timers {
            // A run has fewer than one entry may remove.
            self.timers.retain(|_, timer| timer.fired_at_ms == 0 || timer.fired_at_ms + limits::FIRED_TIMER_KEPT_MS > now);
        }
        if requests && !self.has(Flaw::RequestIdsKeptForever) {
            self.requests.retain(|_, request| request.forget_at_ms > now);
        }
    }

    /// Removes an ended task, unless another depends on it still.
    fn sweep_task(&mut self, id: u64) {
        let needed = self.dependents(id) > 0;
        let at = self.now + limits::SWEEP_POSTPONE_MS;
        match self.tasks.get_mut(&id) {
            Some(task) if needed => task.sweep_at_ms = Some(at),
            _ => drop(self.tasks.remove(&id)),
        }
    }

    fn swept_tasks(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.tasks.iter().filter_map(|(id, task)| Some((task.sweep_at_ms?, task.ns, *id)))
    }

    fn swept_timers(&self) -> impl Iterator<Item = u64> {
        let fired = self.timers.values().filter(|timer| timer.fired_at_ms != 0);
        fired.map(|timer| timer.fired_at_ms + limits::FIRED_TIMER_KEPT_MS)
    }

    fn forgotten(&self) -> impl Iterator<Item = u64> {
        self.requests.values().map(|request| request.forget_at_ms)
    }
}

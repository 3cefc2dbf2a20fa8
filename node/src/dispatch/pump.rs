//! Waiters in line, and how many of them one look wakes.

use std::collections::VecDeque;

use tarn_machine::{Machine, ReadyGroup};
use tarn_proto::v1;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Dispatcher, Granted, LEASE_DEADLINE};
use crate::gate::{Caller, Refusal};

/// Waiters looked at in one go, so that a long line of workers that can do nothing with what is ready costs little. The others' turn comes
/// with the next look, because those looked at in vain move to the end.
const LOOKS_MAX: usize = 256;

/// Somebody who waits for a task.
pub(super) struct Waiter {
    caller: Caller,
    request: v1::LeaseTasksRequest,
    answer: oneshot::Sender<Result<Vec<Granted>, Refusal>>,
    /// The news that the waiter's last empty lease was about: looking at the same again is in vain.
    saw: u64,
}

impl Waiter {
    pub fn new(caller: Caller, request: v1::LeaseTasksRequest, answer: oneshot::Sender<Result<Vec<Granted>, Refusal>>) -> Self {
        Self { caller, request, answer, saw: 0 }
    }
}

/// The line.
pub(super) struct Waiting {
    line: VecDeque<Waiter>,
    /// Tasks asked for by lease commands under way.
    asked: u64,
    /// Counts events that may have made tasks ready.
    news: u64,
    /// Nobody is served any more.
    closed: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { line: VecDeque::new(), asked: 0, closed: false, news: 1 }
    }
}

impl Waiting {
    /// Puts a waiter at the end of the line. Once it is closed, the waiter is told at once, by the end of its channel.
    pub fn push(&mut self, waiter: Waiter) {
        if !self.closed {
            self.line.push_back(waiter);
        }
    }

    /// Takes out of the line whoever waits for this worker.
    pub fn take(&mut self, worker: &str) -> VecDeque<Waiter> {
        let line = std::mem::take(&mut self.line).into_iter();
        let (taken, kept) = line.partition(|waiter| waiter.request.worker_id == worker);
        self.line = kept;
        for waiter in &taken {
            self.asked += u64::from(waiter.request.max_tasks);
        }
        taken
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Something may have become ready.
    pub fn news(&mut self) {
        self.news += 1;
    }

    /// Nobody will be served any more.
    pub fn close(&mut self) {
        self.closed = true;
        self.line.clear();
    }

    /// Takes out of the line whoever a lease should be proposed for. `ready` tasks there are; `can_take` says whether one of them suits a
    /// worker.
    fn choose(&mut self, ready: u64, can_take: impl Fn(&str) -> bool) -> Vec<Waiter> {
        self.line.retain(|waiter| !waiter.answer.is_closed());
        let mut chosen = Vec::new();
        for _ in 0..self.line.len().min(LOOKS_MAX) {
            if self.asked >= ready {
                break;
            }
            let waiter = self.line.pop_front().expect("the loop ends with the line");
            if waiter.saw < self.news && can_take(&waiter.request.worker_id) {
                self.asked += u64::from(waiter.request.max_tasks);
                chosen.push(waiter);
            } else {
                self.line.push_back(waiter);
            }
        }
        chosen
    }
}

impl Dispatcher {
    /// Proposes leases for as many waiters as there are tasks for.
    pub(super) fn pump(&self) {
        let metrics = self.shared.way.metrics();
        // The machine first, then the line: never the other way round.
        let chosen = self.shared.way.consensus().read(|machine| {
            let mut waiting = self.waiting();
            let chosen = waiting.choose(machine.ready_tasks(), |worker| machine.has_ready_task_for(worker));
            metrics.dispatch_waiters.set(waiting.line.len() as i64);
            chosen
        });
        for waiter in chosen.unwrap_or_default() {
            tokio::spawn(self.clone().serve(waiter));
        }
    }

    /// Takes out of the line whoever is to ask for tasks that are about to be proposed.
    pub(super) fn choose_for(&self, machine: &Machine, group: &ReadyGroup, tasks: u64) -> Vec<Waiter> {
        let mut waiting = self.waiting();
        waiting.news();
        waiting.choose(tasks, |worker| machine.could_lease(worker, group))
    }

    /// Puts back who was taken out of the line and did not ask.
    pub(super) fn put_back(&self, waiters: Vec<Waiter>) {
        let mut waiting = self.waiting();
        for waiter in waiters {
            waiting.asked -= u64::from(waiter.request.max_tasks);
            waiting.push(waiter);
        }
        drop(waiting);
        // They may have missed something.
        self.shared.arrivals.notify_one();
    }

    /// Proposes one waiter's lease. Proposals of several waiters meet in one log entry.
    pub(super) async fn serve(self, mut waiter: Waiter) {
        let asked = u64::from(waiter.request.max_tasks);
        let news = self.waiting().news;
        let granted = self.propose(&waiter.caller, waiter.request.clone(), Instant::now() + LEASE_DEADLINE).await;
        let empty = granted.as_ref().is_ok_and(Vec::is_empty);
        {
            let mut waiting = self.waiting();
            waiting.asked -= asked;
            if empty {
                waiter.saw = news;
                waiting.push(waiter);
            } else {
                // Nobody there any more: the tasks go back as they are dropped.
                let _ = waiter.answer.send(granted);
            }
        }
        // What this lease left over may suit others.
        self.shared.arrivals.notify_one();
    }
}

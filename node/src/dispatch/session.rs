//! A worker that stays connected: it leases again and again, and hears what becomes of the tasks it holds.

use std::collections::HashMap;
use std::time::Duration;

use tarn_proto::v1::{self, EventKind, LeaseStatus};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Dispatcher, Granted};
use crate::gate::{Caller, Refusal};

/// Notices that a session may have before it. When full, further ones are dropped: the heartbeat tells the worker the same.
const NOTICES_MAX: usize = 256;

/// A session waits for tasks in turns of this length; then it asks again, so that nothing waits on what is forgotten.
const TURN: Duration = Duration::from_secs(60);

/// What a session hears about its worker and the tasks it holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Somebody asked to cancel a task, or its lease was lost.
    Lease(v1::LeaseReport),
    /// The worker gets no more tasks.
    Draining,
    /// The worker's registration is gone: it must register again.
    Gone,
}

struct Held {
    session: u64,
    token: u64,
    attempt: u32,
}

struct Listener {
    worker: String,
    notices: mpsc::Sender<Notice>,
    ended: CancellationToken,
}

impl Held {
    /// Whether the event is about this lease, and not about an earlier one of the same task: a lease that is given back does not count as an
    /// attempt, so that the next has the same number, and its grant may be known here before the events that led to it.
    fn is_meant_by(&self, event: &v1::Event) -> bool {
        event.revision > tarn_machine::ids::Id(self.token).index() && (event.attempt == 0 || event.attempt == self.attempt)
    }
}

/// All sessions of this node, and which of them holds which task.
#[derive(Default)]
pub(super) struct Sessions {
    next: u64,
    listeners: HashMap<u64, Listener>,
    held: HashMap<String, Held>,
}

impl Sessions {
    /// Passes an event on to the sessions that it concerns.
    pub fn hear(&mut self, kind: EventKind, event: &v1::Event) {
        match kind {
            EventKind::TaskCancelRequested => self.tell(event, LeaseStatus::CancelRequested),
            EventKind::TaskRetried
            | EventKind::TaskDead
            | EventKind::TaskCancelled
            | EventKind::TaskReturned
            | EventKind::TaskSucceeded
            | EventKind::TaskPurged => {
                self.tell(event, LeaseStatus::Lost);
                if self.held.get(&event.subject).is_some_and(|held| held.is_meant_by(event)) {
                    self.held.remove(&event.subject);
                }
            }
            EventKind::WorkerDraining => self.tell_worker(&event.subject, &Notice::Draining),
            EventKind::WorkerGone => self.tell_worker(&event.subject, &Notice::Gone),
            _ => {}
        }
    }

    fn tell(&self, event: &v1::Event, status: LeaseStatus) {
        let Some(held) = self.held.get(&event.subject) else {
            return;
        };
        if !held.is_meant_by(event) {
            return;
        }
        let report = v1::LeaseReport { task_id: event.subject.clone(), token: held.token, status: status.into(), lease_expires_at_ms: 0 };
        if let Some(listener) = self.listeners.get(&held.session) {
            let _ = listener.notices.try_send(Notice::Lease(report));
        }
    }

    fn tell_worker(&self, worker: &str, notice: &Notice) {
        for listener in self.listeners.values().filter(|listener| listener.worker == worker) {
            let _ = listener.notices.try_send(notice.clone());
        }
    }

    /// The node stops.
    pub fn end_all(&self) {
        self.listeners.values().for_each(|listener| listener.ended.cancel());
    }
}

/// A worker that stays connected. Ends when it is dropped; tasks that it was given stay leased to the worker.
pub struct Session {
    dispatcher: Dispatcher,
    caller: Caller,
    id: u64,
    worker: String,
    lease_ms: u64,
    ended: CancellationToken,
}

impl Dispatcher {
    /// Opens a session for a registered worker. Its leases last `lease_ms` (0: the cluster's default).
    #[must_use]
    pub fn open(&self, caller: Caller, worker: String, lease_ms: u64) -> (Session, mpsc::Receiver<Notice>) {
        let (notices, heard) = mpsc::channel(NOTICES_MAX);
        let ended = CancellationToken::new();
        let mut sessions = self.sessions();
        sessions.next += 1;
        let id = sessions.next;
        sessions.listeners.insert(id, Listener { worker: worker.clone(), notices, ended: ended.clone() });
        (Session { dispatcher: self.clone(), caller, id, worker, lease_ms, ended }, heard)
    }
}

impl Session {
    /// Up to `max` tasks, at least one: waits as long as it takes.
    ///
    /// # Errors
    /// The kernel refused the lease (the worker is not registered, is draining, or holds too many tasks), or the cluster did not take it.
    pub async fn lease(&self, max: u32) -> Result<Vec<Granted>, Refusal> {
        loop {
            let request = v1::LeaseTasksRequest {
                worker_id: self.worker.clone(),
                max_tasks: max,
                lease_ms: self.lease_ms,
                ..v1::LeaseTasksRequest::default()
            };
            let deadline = tokio::time::Instant::now() + TURN;
            let granted = self.dispatcher.lease(&self.caller, request, TURN, deadline).await?;
            if !granted.is_empty() {
                self.hold(&granted);
                return Ok(granted);
            }
            if self.ended.is_cancelled() {
                return Err(crate::gate::Reason::NodeStopping.refusal("this node is stopping: connect to another one"));
            }
        }
    }

    /// The worker's id.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Cancelled when the node stops dispatching.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The worker has answered for this task: what becomes of it is no news any more.
    pub fn settled(&self, task_id: &str) {
        let mut sessions = self.dispatcher.sessions();
        if sessions.held.get(task_id).is_some_and(|held| held.session == self.id) {
            sessions.held.remove(task_id);
        }
    }

    fn hold(&self, granted: &[Granted]) {
        let mut sessions = self.dispatcher.sessions();
        for task in granted.iter().map(Granted::task) {
            let held = Held { session: self.id, token: task.token, attempt: task.attempt };
            sessions.held.insert(task.task_id.clone(), held);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = self.dispatcher.sessions();
        sessions.listeners.remove(&self.id);
        sessions.held.retain(|_, held| held.session != self.id);
    }
}

#[cfg(test)]
mod tests {
    use tarn_machine::ids::Id;
    use tarn_machine::limits::ORDINAL_BITS;

    use super::*;

    #[test]
    fn a_notice_is_for_the_lease_that_it_means() {
        let (notices, mut heard) = mpsc::channel(NOTICES_MAX);
        let mut sessions = Sessions::default();
        let listener = Listener { worker: "w".into(), notices, ended: CancellationToken::new() };
        sessions.listeners.insert(1, listener);
        // Leased by log entry 20, as the first attempt.
        let token = 20 << ORDINAL_BITS | 3;
        assert_eq!(Id(token).index(), 20);
        let held = Held { session: 1, token, attempt: 1 };
        sessions.held.insert("t".into(), held);
        let event = |revision, attempt| v1::Event { revision, subject: "t".into(), attempt, ..v1::Event::default() };

        // The events of an earlier lease, which was given back, come late: same task, same number of the attempt.
        sessions.hear(EventKind::TaskCancelRequested, &event(19, 0));
        sessions.hear(EventKind::TaskReturned, &event(19, 1));
        sessions.hear(EventKind::TaskReturned, &event(20, 1));
        // So does an event of another attempt, whenever it comes.
        sessions.hear(EventKind::TaskRetried, &event(22, 2));
        assert!(heard.try_recv().is_err());
        assert!(sessions.held.contains_key("t"));

        let mut hears = |kind, event: &v1::Event| {
            sessions.hear(kind, event);
            match heard.try_recv() {
                Ok(Notice::Lease(report)) => {
                    assert_eq!((report.task_id.as_str(), report.token), ("t", token));
                    Some(report.status())
                }
                _ => None,
            }
        };
        assert_eq!(hears(EventKind::TaskCancelRequested, &event(21, 0)), Some(LeaseStatus::CancelRequested));
        assert_eq!(hears(EventKind::TaskRetried, &event(22, 1)), Some(LeaseStatus::Lost));
        assert_eq!(hears(EventKind::TaskRetried, &event(23, 1)), None, "once");
    }
}

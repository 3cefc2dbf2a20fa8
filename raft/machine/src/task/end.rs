//! How tasks end, and how attempts end without success.

use bytes::Bytes;
use tarn_proto::v1::{DecisionKind, EventKind, TaskError, TaskState};

use super::{Task, backoff, error};
use crate::domain::queue::dependency;
use crate::domain::transfer;
use crate::error::Fatal;
use crate::keys::Key;
use crate::limits;
use crate::txn::Txn;

/// What ends an attempt: a report, whose hash recognises its repeat, or time, which reports nothing.
pub struct Ending {
    /// None of a success.
    pub error: Option<TaskError>,
    pub report: Bytes,
}

impl Ending {
    /// An end that no worker reported.
    pub fn without_report(error: TaskError) -> Self {
        Ending { error: Some(error), report: Bytes::new() }
    }

    fn reason(&self) -> &str {
        self.error.as_ref().map_or("", |error| &error.reason)
    }
}

/// The task succeeded.
pub fn succeed(txn: &mut Txn<'_>, task: &mut Task, report: Bytes) -> Result<(), Fatal> {
    end(txn, task, TaskState::Succeeded, Ending { error: None, report })
}

/// The task goes to the dead letters, whatever it was doing.
pub fn die(txn: &mut Txn<'_>, task: &mut Task, error: TaskError) -> Result<(), Fatal> {
    end(txn, task, TaskState::Dead, Ending::without_report(error))
}

/// The task is cancelled, whatever it was doing.
pub fn cancel(txn: &mut Txn<'_>, task: &mut Task) -> Result<(), Fatal> {
    let error = error("CANCELLED", "somebody cancelled the task");
    end(txn, task, TaskState::Cancelled, Ending::without_report(error))
}

/// The running attempt failed: another follows after a pause, unless nobody wants it any more (`cancel_requested`), it is hopeless
/// (`last`), or all attempts are used up.
pub fn fail_attempt(txn: &mut Txn<'_>, task: &mut Task, ending: Ending, last: bool) -> Result<TaskState, Fatal> {
    let policy = task.row.retry.unwrap_or_default();
    if task.row.cancel_requested {
        end(txn, task, TaskState::Cancelled, ending)?;
    } else if last || task.row.attempts_begun >= policy.max_attempts {
        end(txn, task, TaskState::Dead, ending)?;
    } else {
        let delay = backoff::delay_ms(&policy, task.row.attempts_begun, task.id);
        let state = if delay == 0 { TaskState::Ready } else { TaskState::Delayed };
        task.event(txn, EventKind::TaskRetried, ending.reason())?;
        task.decide(txn, DecisionKind::Retried, ending.reason(), delay)?;
        close_attempt(task, txn.now, ending, state);
        task.row.eligible_at_ms = txn.now + delay;
        task.row.set_state(state);
        task.open(txn)?;
        task.save(txn)?;
    }
    Ok(task.row.state())
}

/// Ends the running attempt, if one runs: its token is stale from here on.
fn close_attempt(task: &mut Task, now: u64, ending: Ending, became: TaskState) {
    let token = task.stop_running();
    if let Some(attempt) = task.row.attempts.last_mut().filter(|_| token != 0) {
        attempt.ended_at_ms = now;
        attempt.error = ending.error;
        attempt.report = ending.report;
        attempt.set_became(became);
    }
}

fn end(txn: &mut Txn<'_>, task: &mut Task, state: TaskState, ending: Ending) -> Result<(), Fatal> {
    let (ns, id, now) = (task.ns, task.id, txn.now);
    let (kind, decision) = match state {
        TaskState::Succeeded => (EventKind::TaskSucceeded, None),
        TaskState::Dead => (EventKind::TaskDead, Some(DecisionKind::Dead)),
        _ => (EventKind::TaskCancelled, Some(DecisionKind::Cancelled)),
    };
    task.event(txn, kind, ending.reason())?;
    transfer::task_ended(txn, ns, id, crate::reject::state_name(state))?;
    if let Some(decision) = decision {
        task.decide(txn, decision, ending.reason(), 0)?;
    }
    task.row.error = ending.error.clone();
    task.row.ended_at_ms = now;
    close_attempt(task, now, ending, state);
    if state == TaskState::Dead {
        // It may be requeued: it keeps its edges, and with them its dependencies' results, but waits no more.
        if task.row.state() == TaskState::Blocked {
            dependency::hold_all(txn, task)?;
        }
    } else {
        dependency::remove_all(txn, task)?;
        // Kept at least as long as a repeat of the report that ended it may come.
        let at = now + task.row.retention_ms.max(limits::REQUEST_RETENTION_MS);
        expire(txn, at, ns, id);
    }
    task.row.set_state(state);
    task.save(txn)?;
    dependency::ended(txn, ns, id, state == TaskState::Succeeded);
    Ok(())
}

/// Has an ended task removed at this time.
pub fn expire(txn: &mut Txn<'_>, at: u64, ns: u64, id: u64) {
    txn.rows.put_bytes(Key::EndedExpiry { at, ns, id }, []);
    let sweep = &mut txn.ix.sweeps.ended_tasks;
    *sweep = Some(sweep.map_or(at, |known| known.min(at)));
}

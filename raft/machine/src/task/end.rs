//! How tasks end, and how attempts end without success.

use bytes::Bytes;
use tarn_proto::v1::{EventKind, TaskError, TaskState};

use super::{Task, backoff, error};
use crate::domain::queue::dependency;
use crate::error::Fatal;
use crate::keys::Key;
use crate::limits;
use crate::txn::Txn;

/// What ends an attempt: a report, whose hash recognises its repeat, or time, which reports nothing.
pub struct Ending {
    pub error: TaskError,
    pub report: Bytes,
}

impl Ending {
    /// An attempt that time, not its worker, brings to its end.
    pub fn by_time(reason: &str, message: &str) -> Self {
        Ending {
            error: error(reason, message),
            report: Bytes::new(),
        }
    }
}

/// The task succeeded.
pub fn succeed(txn: &mut Txn<'_>, task: &mut Task, report: Bytes) -> Result<(), Fatal> {
    close_attempt(task, txn.now, None, report, TaskState::Succeeded);
    end(txn, task, TaskState::Succeeded, None)
}

/// The running attempt failed: another follows after a pause, unless nobody wants it any more (`cancel_requested`), it is hopeless
/// (`last`), or all attempts are used up.
pub fn fail_attempt(txn: &mut Txn<'_>, task: &mut Task, ending: Ending, last: bool) -> Result<TaskState, Fatal> {
    let Ending { error, report } = ending;
    let policy = task.row.retry.unwrap_or_default();
    if task.row.cancel_requested || last || task.row.attempts_begun >= policy.max_attempts {
        let state = if task.row.cancel_requested {
            TaskState::Cancelled
        } else {
            TaskState::Dead
        };
        close_attempt(task, txn.now, Some(error.clone()), report, state);
        end(txn, task, state, Some(error))?;
        return Ok(state);
    }
    let delay = backoff::delay_ms(&policy, task.row.attempts_begun, task.id);
    let state = if delay == 0 {
        TaskState::Ready
    } else {
        TaskState::Delayed
    };
    let reason = error.reason.clone();
    close_attempt(task, txn.now, Some(error), report, state);
    task.event(txn, EventKind::TaskRetried, &reason)?;
    task.row.eligible_at_ms = txn.now + delay;
    task.row.set_state(state);
    task.save(txn)?;
    Ok(state)
}

/// The task goes to the dead letters, whatever it was doing.
pub fn die(txn: &mut Txn<'_>, task: &mut Task, error: TaskError) -> Result<(), Fatal> {
    close_attempt(task, txn.now, Some(error.clone()), Bytes::new(), TaskState::Dead);
    end(txn, task, TaskState::Dead, Some(error))
}

/// The task is cancelled, whatever it was doing.
pub fn cancel(txn: &mut Txn<'_>, task: &mut Task, ending: Ending) -> Result<(), Fatal> {
    close_attempt(
        task,
        txn.now,
        Some(ending.error.clone()),
        ending.report,
        TaskState::Cancelled,
    );
    end(txn, task, TaskState::Cancelled, Some(ending.error))
}

/// Ends the running attempt, if one runs: its token is stale from here on.
fn close_attempt(task: &mut Task, now: u64, error: Option<TaskError>, report: Bytes, became: TaskState) {
    let row = &mut task.row;
    let token = std::mem::take(&mut row.token);
    if let Some(attempt) = row
        .attempts
        .last_mut()
        .filter(|attempt| token != 0 && attempt.token == token)
    {
        attempt.ended_at_ms = now;
        attempt.error = error;
        attempt.report = report;
        attempt.set_became(became);
    }
    row.worker = 0;
    row.lease_expires_at_ms = 0;
    row.attempt_ends_at_ms = 0;
}

fn end(txn: &mut Txn<'_>, task: &mut Task, state: TaskState, error: Option<TaskError>) -> Result<(), Fatal> {
    let (ns, id, now) = (task.ns, task.id, txn.now);
    let was_blocked = task.row.state() == TaskState::Blocked;
    let kind = match state {
        TaskState::Succeeded => EventKind::TaskSucceeded,
        TaskState::Dead => EventKind::TaskDead,
        _ => EventKind::TaskCancelled,
    };
    task.event(txn, kind, error.as_ref().map_or("", |error| &error.reason))?;
    task.row.error = error;
    task.row.ended_at_ms = now;
    task.row.eligible_at_ms = if was_blocked { 0 } else { task.row.eligible_at_ms };
    task.row.set_state(state);
    if state == TaskState::Dead {
        // It may be requeued: it keeps its edges, and with them its dependencies' results, but waits no more.
        if was_blocked {
            dependency::hold_all(txn, task)?;
        }
    } else {
        dependency::remove_all(txn, task)?;
        // Kept at least as long as a repeat of the report that ended it may come.
        let at = now + task.row.retention_ms.max(limits::REQUEST_RETENTION_MS);
        expire(txn, at, ns, id);
    }
    task.save(txn)?;
    dependency::ended(txn, ns, id, state == TaskState::Succeeded);
    Ok(())
}

/// Has an ended task removed at this time.
pub fn expire(txn: &mut Txn<'_>, at: u64, ns: u64, id: u64) {
    txn.rows.put_bytes(Key::EndedExpiry { at, ns, id }, Bytes::new());
    let sweep = &mut txn.ix.sweeps.ended_tasks;
    *sweep = Some(sweep.map_or(at, |known| known.min(at)));
}

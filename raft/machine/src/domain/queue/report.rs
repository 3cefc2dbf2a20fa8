//! What a worker reports: complete and fail.
//!
//! Both need the lease's token. Both can be repeated without a request id: the attempt remembers the report that ended it.

use bytes::Bytes;
use prost::Message;
use tarn_invariants::{debug_holds, tasks};
use tarn_proto::v1::{
    CompleteTaskRequest, CompleteTaskResponse, DecisionKind, EventKind, FailTaskRequest, FailTaskResponse, FailureKind, TaskState,
};

use super::lease::holds;
use crate::domain::parse_id;
use crate::domain::worker::require_maker;
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::AttemptRow;
use crate::task::{Task, end};
use crate::txn::Txn;

/// The command: the task succeeded.
pub fn complete_task(txn: &mut Txn<'_>, principal: &str, request: CompleteTaskRequest) -> Result<CompleteTaskResponse, Refusal> {
    let mut task = named(txn, &request.namespace, &request.task_id)?;
    let report = digest(b"complete", &[&request.result]);
    let any_token = tarn_storage::canary::planted("ignore-token") && task.row.state() == TaskState::Running;
    if !holds(&task, request.token) && !any_token {
        return match repeats(&task, request.token, &report) {
            Some(_) => Ok(CompleteTaskResponse {}),
            None => Err(reject::stale_token("this task").into()),
        };
    }
    require_holder(txn, &task, principal)?;
    // The planted bug is for the simulation to find, from outside.
    if !any_token {
        assert_current(&task, request.token);
        assert_first_completion(&task, request.token, &report);
    }
    keep_log(txn, &mut task, request.logs)?;
    task.store(request.result.len(), 0);
    if request.result.len() > limits::INLINE_BYTES_MAX {
        txn.rows.put_bytes(Key::Result { ns: task.ns, id: task.id }, &request.result);
        task.row.result_apart = true;
    } else {
        task.row.result = request.result;
    }
    end::succeed(txn, &mut task, report)?;
    Ok(CompleteTaskResponse {})
}

/// The command: the attempt failed, or was given back.
pub fn fail_task(txn: &mut Txn<'_>, principal: &str, request: FailTaskRequest) -> Result<FailTaskResponse, Refusal> {
    let mut task = named(txn, &request.namespace, &request.task_id)?;
    let kind = request.kind();
    let mut error = request.error.unwrap_or_default();
    if error.reason.is_empty() {
        error.reason = if kind == FailureKind::Cancelled { "CANCELLED" } else { "FAILED" }.to_owned();
    }
    let report = digest(b"fail", &[&[kind as u8], &error.encode_to_vec()]);
    if !holds(&task, request.token) {
        let became = match kind == FailureKind::Returned && task.row.returned_token == request.token {
            true => Some(TaskState::Ready),
            false => repeats(&task, request.token, &report),
        };
        let state = became.ok_or_else(|| reject::stale_token("this task"))?;
        return Ok(FailTaskResponse { state: state.into() });
    }
    require_holder(txn, &task, principal)?;
    assert_current(&task, request.token);
    if kind == FailureKind::Cancelled && !task.row.cancel_requested {
        let message = "nobody asked to cancel this task: report a failure that is retryable or final";
        return Err(reject::precondition("CANCEL_NOT_REQUESTED", "kind", message).into());
    }
    let state = match kind {
        FailureKind::Returned if !task.row.cancel_requested => give_back(txn, &mut task)?,
        FailureKind::Unspecified | FailureKind::Retryable | FailureKind::Final | FailureKind::Cancelled | FailureKind::Returned => {
            keep_log(txn, &mut task, request.logs)?;
            let last = kind == FailureKind::Final;
            end::fail_attempt(txn, &mut task, end::Ending { error: Some(error), report }, last)?
        }
    };
    Ok(FailTaskResponse { state: state.into() })
}

/// The attempt never began: the task is where it was before, and its turn is as early.
fn give_back(txn: &mut Txn<'_>, task: &mut Task) -> Result<TaskState, Fatal> {
    task.event(txn, EventKind::TaskReturned, "")?;
    task.decide(txn, DecisionKind::Returned, "", 0)?;
    task.row.returned_token = task.stop_running();
    task.row.attempts.pop();
    task.row.attempts_begun -= 1;
    task.row.set_state(TaskState::Ready);
    task.open(txn)?;
    task.save(txn)?;
    Ok(TaskState::Ready)
}

fn named(txn: &Txn<'_>, namespace: &str, task_id: &str) -> Result<Task, Refusal> {
    let ns = txn.namespace(namespace)?;
    let id = parse_id(task_id, "task_id")?;
    Ok(Task::load(txn, ns, id)?.ok_or_else(|| reject::task_not_found(task_id))?)
}

/// Refuses whoever may not report for the worker that runs the task, though it knows the token.
fn require_holder(txn: &Txn<'_>, task: &Task, principal: &str) -> Result<(), Refusal> {
    let id = task.row.worker;
    let worker = txn.ix.workers.get(&id);
    let worker = worker.ok_or_else(|| Fatal::assertion(format!("a task runs at worker {}, which is gone", Id(id))))?;
    Ok(require_maker(worker, id, principal)?)
}

/// What the task became when the same report came for the first time.
fn repeats(task: &Task, token: u64, report: &[u8]) -> Option<TaskState> {
    let same = task.row.attempts.iter().find(|attempt| attempt.token == token && attempt.report == report);
    same.map(|attempt| attempt.became())
}

/// In a debug build: the report is by the attempt that the task's history has as the last one and as open. It was let in by the task's token, which is
/// another record of the same.
fn assert_current(task: &Task, token: u64) {
    if !cfg!(debug_assertions) {
        return;
    }
    let open = task.row.attempts.last().filter(|attempt| attempt.ended_at_ms == 0);
    debug_holds!(tasks::fenced(&Id(task.id).to_string(), open.map(|attempt| attempt.token), token));
}

/// In a debug build: no attempt in the task's history has succeeded before.
fn assert_first_completion(task: &Task, token: u64, report: &[u8]) {
    if !cfg!(debug_assertions) {
        return;
    }
    let name = Id(task.id).to_string();
    let completion = |token, report: &[u8]| tasks::Completion {
        task: &name,
        token,
        result: report.iter().fold(0, |hash: u64, byte| hash.rotate_left(8) ^ u64::from(*byte)),
    };
    let succeeded = |attempt: &&AttemptRow| attempt.became() == TaskState::Succeeded;
    let before = task.row.attempts.iter().find(succeeded);
    debug_holds!(tasks::completed_once(before.map(|attempt| completion(attempt.token, &attempt.report)), completion(token, report)));
}

/// Recognises a report; half of a hash is enough among the reports of one attempt.
fn digest(kind: &[u8], parts: &[&[u8]]) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind);
    for part in parts {
        hasher.update(part);
    }
    Bytes::copy_from_slice(&hasher.finalize().as_bytes()[..16])
}

/// Keeps what the running attempt wrote to its log, and drops the log of the attempt that is no longer kept.
fn keep_log(txn: &mut Txn<'_>, task: &mut Task, text: Bytes) -> Result<(), Fatal> {
    if text.is_empty() {
        return Ok(());
    }
    let (ns, id, number) = (task.ns, task.id, task.row.attempts_begun);
    let kept = limits::ATTEMPTS_KEPT as u32;
    let oldest = task.row.last_log.saturating_sub(kept) + 1;
    for attempt in oldest..=number.saturating_sub(kept) {
        let key = Key::Log { ns, id, attempt: attempt.into() };
        if task.row.stored_bytes != 0 {
            task.store(0, txn.rows.read(&key, <[u8]>::len)?.unwrap_or(0));
        }
        txn.rows.delete(key);
    }
    task.store(text.len(), 0);
    txn.rows.put_bytes(Key::Log { ns, id, attempt: number.into() }, &text);
    task.row.last_log = number;
    Ok(())
}

//! Cancellation: asked for, or forced.

use tarn_proto::v1::{CancelTaskRequest, CancelTaskResponse, EventKind, TaskState};

use crate::domain::parse_id;
use crate::error::Refusal;
use crate::reject;
use crate::task::{Task, end};
use crate::txn::Txn;

/// The command: a waiting task ends at once; a running one is told, or ends too if forced.
pub fn cancel_task(txn: &mut Txn<'_>, request: CancelTaskRequest) -> Result<CancelTaskResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let id = parse_id(&request.task_id, "task_id")?;
    let Some(mut task) = Task::load(txn, ns, id)? else {
        return Err(reject::task_not_found(&request.task_id).into());
    };
    let state = match task.row.state() {
        TaskState::Running if !request.force => {
            if !task.row.cancel_requested {
                task.row.cancel_requested = true;
                task.decided(txn);
                task.save(txn)?;
                task.event(txn, EventKind::TaskCancelRequested, "")?;
            }
            TaskState::Running
        }
        TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running => {
            end::cancel(txn, &mut task)?;
            TaskState::Cancelled
        }
        TaskState::Cancelled => TaskState::Cancelled,
        ended @ (TaskState::Succeeded | TaskState::Dead | TaskState::Unspecified) => {
            return Err(reject::task_ended(&request.task_id, ended).into());
        }
    };
    Ok(CancelTaskResponse { state: state.into() })
}

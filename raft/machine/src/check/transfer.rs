//! What of a command about tasks of other clusters can be refused without the state.

use tarn_proto::v1::AcceptTransfer;

use super::federation::sized;
use super::{Check, invalid, is_plain, name, range, task, token, too_large};
use crate::limits;

pub(super) fn accept(r: &AcceptTransfer) -> Check {
    let Some(transfer) = &r.transfer else {
        return Err(invalid("NO_TRANSFER", "transfer", "say what is handed over"));
    };
    id(&transfer.transfer_id)?;
    sized("transfer.origin_cluster", transfer.origin_cluster.len(), limits::CLUSTER_ID_BYTES)?;
    name("transfer.origin_name", &transfer.origin_name)?;
    name("transfer.namespace", &transfer.namespace)?;
    super::id("transfer.origin_task_id", &transfer.origin_task_id)?;
    token(transfer.origin_token)?;
    range("hold_until_ms", r.hold_until_ms, (1, limits::TIME_MS_MAX))?;
    let Some(spec) = &transfer.spec else {
        return Err(invalid("NO_TASKS", "transfer.spec", "say what the task is"));
    };
    if !(spec.after.is_empty() && spec.after_in_batch.is_empty()) {
        let message = "a task is handed over when its dependencies have ended: leave them out";
        return Err(invalid("TRANSFER_DEPENDS", "transfer.spec.after", message));
    }
    task(spec)
}

pub(super) fn until(transfer_id: &str, run_until_ms: u64) -> Check {
    id(transfer_id)?;
    range("run_until_ms", run_until_ms, (1, limits::TIME_MS_MAX))
}

pub(super) fn id(transfer_id: &str) -> Check {
    let max = limits::TRANSFER_ID_BYTES_MAX;
    if (1..=max).contains(&transfer_id.len()) && is_plain(transfer_id) {
        return Ok(());
    }
    let message = format!("transfer_id must be 1 to {max} bytes of printable ASCII without blanks");
    Err(too_large("INVALID_TRANSFER_ID", "transfer_id", max as u64, message))
}

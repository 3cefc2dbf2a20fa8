//! Tasks that another cluster hands over: held, confirmed, then a task like any other, but for its end.
//!
//! ```text
//!   accept ──► held ── confirm ──► a task, with one attempt and until `run_until_ms` ── close ──► gone
//!               │                    │ extend: later, never earlier
//!               └ not confirmed      └ ends like any task; its result is kept until the other cluster has closed the transfer
//!                 in time: dropped
//! ```
//!
//! The other cluster holds a lease on its own task meanwhile. It gives the task to somebody else only after `run_until_ms`, and by then the
//! attempt here has lost its lease: none that was granted or renewed reaches beyond. A closed transfer is remembered until nobody could accept
//! it any more, so that an offer that comes late or twice begins nothing.

use prost::Message;
use tarn_proto::v1::{
    AcceptTransfer, CloseTransfer, ConfirmTransfer, EventKind, ExtendTransfer, Rejection, RetryPolicy, TaskState, Transfer,
    TransferAccepted, TransferClosed, TransferConfirmed, TransferExtended,
};

use super::queue::admit::{self, Dangling};
use super::queue::dead;
use super::{federation, nodes_only};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::transfer::{insert, remove};
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::TransferRow;
use crate::task::{Task, end, specification};
use crate::txn::Txn;

/// The command: keeps a transfer ready. What could not become a task now is refused, though there is no promise that it can later.
pub fn accept(txn: &mut Txn<'_>, principal: &str, request: AcceptTransfer) -> Result<TransferAccepted, Refusal> {
    nodes_only(principal, "take over what other clusters hand over")?;
    federation::member(txn)?;
    let transfer = request.transfer.unwrap_or_default();
    let digest = *blake3::hash(&transfer.encode_to_vec()).as_bytes();
    let id = transfer.transfer_id.clone();
    if let Some(known) = txn.rows.row::<TransferRow>(Key::Transfer { id: &id })?.filter(|row| !row.is_over(txn.now)) {
        return match (known.digest == digest[..], known.closed) {
            (false, _) => Err(conflict().into()),
            (true, true) => Err(closed().into()),
            (true, false) => Ok(TransferAccepted { repeated: true }),
        };
    }
    let latest = txn.now + limits::TRANSFER_HOLD_MS_MAX;
    if !(txn.now + 1..=latest).contains(&request.hold_until_ms) {
        let message = "a transfer is held until later than now, and for at most an hour";
        return Err(reject::too_large("OUT_OF_RANGE", "hold_until_ms", latest, message).into());
    }
    let ns = txn.open_namespace(&transfer.namespace)?;
    let spec = transfer.spec.clone().unwrap_or_default();
    in_time(txn, spec.deadline_at_ms, "transfer.spec.deadline_at_ms")?;
    require_room(txn, spec.encoded_len() as u64)?;
    admit::require_room(txn, ns, spec)?;

    drop_row(txn, &id)?;
    let (origin, namespace) = (transfer.origin_name.clone(), transfer.namespace.clone());
    let row = TransferRow {
        transfer: Some(*transfer),
        digest: digest.to_vec().into(),
        accepted_at_ms: txn.now,
        hold_until_ms: request.hold_until_ms,
        ..TransferRow::default()
    };
    save(txn, &id, &row);
    tell(txn, EventKind::TransferAccepted, &namespace, &id, &origin);
    Ok(TransferAccepted { repeated: false })
}

/// The command: the other cluster has leased its task for this one. From here on there is a task.
pub fn confirm(txn: &mut Txn<'_>, principal: &str, request: ConfirmTransfer) -> Result<TransferConfirmed, Refusal> {
    nodes_only(principal, "take over what other clusters hand over")?;
    let id = request.transfer_id.as_str();
    let mut row = find(txn, id)?;
    if row.task != 0 {
        return Ok(TransferConfirmed { task_id: Id(row.task).to_string() });
    }
    let mut transfer = row.transfer.clone().unwrap_or_default();
    let mut spec = transfer.spec.take().unwrap_or_default();
    let ns = txn.open_namespace(&transfer.namespace)?;
    in_time(txn, request.run_until_ms, "run_until_ms")?;
    in_time(txn, spec.deadline_at_ms, "transfer.spec.deadline_at_ms")?;
    // The other cluster counts attempts, has waited until it may start, and alone decides where it runs.
    spec.retry = Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    spec.not_before_at_ms = 0;
    if let Some(placement) = &mut spec.placement {
        placement.any_cluster = false;
    }
    let deadline = earlier(spec.deadline_at_ms, request.run_until_ms);
    let ids = admit::admit(txn, ns, vec![spec], Dangling::Refuse, 0)?;
    let task_id = ids.first().copied().unwrap_or_default();

    remove(txn.ix, id, &row);
    let namespace = transfer.namespace.clone();
    (row.ns, row.task, row.transfer) = (ns, task_id, Some(transfer));
    save(txn, id, &row);
    let mut task = load(txn, &row)?.ok_or_else(|| Fatal::assertion("a task that was just made is not there"))?;
    task.row.deadline_at_ms = deadline;
    task.save(txn)?;
    let task_id = Id(task_id).to_string();
    tell(txn, EventKind::TransferConfirmed, &namespace, id, &task_id);
    Ok(TransferConfirmed { task_id })
}

/// The command: the other cluster holds its lease for longer.
pub fn extend(txn: &mut Txn<'_>, principal: &str, request: ExtendTransfer) -> Result<TransferExtended, Refusal> {
    nodes_only(principal, "take over what other clusters hand over")?;
    let row = find(txn, &request.transfer_id)?;
    if row.task == 0 {
        let message = "the transfer is not confirmed, and there is no task yet: confirm it";
        return Err(reject::precondition("TRANSFER_NOT_CONFIRMED", "transfer_id", message).into());
    }
    // One whose time is up has ended, though the wake that would say so may not have had its turn.
    let task = load(txn, &row)?.filter(|task| is_live(task.row.state()) && task.row.deadline_at_ms > txn.now);
    let Some(mut task) = task else {
        let message = "the task of this transfer has ended: fetch what became of it, then close the transfer";
        return Err(reject::precondition("TRANSFER_ENDED", "transfer_id", message).into());
    };
    let own = specification(&txn.rows, task.ns, task.id, false)?.spec.unwrap_or_default().deadline_at_ms;
    let until = earlier(own, request.run_until_ms);
    if until > task.row.deadline_at_ms {
        task.row.deadline_at_ms = until;
        if task.row.state() == TaskState::Running {
            // As long as its worker asked for: the next heartbeat may come later than the old deadline.
            task.row.lease_expires_at_ms = task.row.lease_asked_ms.min(until).min(task.row.attempt_ends_at_ms);
        }
        task.save(txn)?;
    }
    Ok(TransferExtended { run_until_ms: task.row.deadline_at_ms })
}

/// The command: the other cluster has the result, or has given up. A dead letter goes as well: to try again is the other cluster's decision.
pub fn close(txn: &mut Txn<'_>, request: CloseTransfer) -> Result<TransferClosed, Refusal> {
    let id = request.transfer_id.as_str();
    let found = txn.rows.row::<TransferRow>(Key::Transfer { id })?.filter(|row| !row.closed);
    let Some(mut row) = found else { return Ok(TransferClosed::default()) };
    // The link goes first: what ends by this is no news to the other cluster.
    remove(txn.ix, id, &row);
    let mut task_id = String::new();
    if let Some(mut task) = load(txn, &row)? {
        task_id = Id(task.id).to_string();
        match task.row.state() {
            TaskState::Dead => dead::purge(txn, task.ns, task.id, TaskState::Dead)?,
            state if is_live(state) => end::cancel(txn, &mut task)?,
            _ => {}
        }
    }
    let namespace = row.transfer.take().unwrap_or_default().namespace;
    if row.hold_until_ms > txn.now {
        row = TransferRow { closed: true, ns: 0, task: 0, ..row };
        save(txn, id, &row);
    } else {
        txn.rows.delete(Key::Transfer { id });
    }
    tell(txn, EventKind::TransferClosed, &namespace, id, &task_id);
    Ok(TransferClosed { task_id })
}

/// Nobody confirmed it in time, or it was closed and need not be remembered any more.
pub fn expire(txn: &mut Txn<'_>, id: &str) -> Result<(), Fatal> {
    match txn.rows.read(&Key::Transfer { id }, |_| ())?.is_some() {
        true => drop_row(txn, id),
        false => Err(Fatal::assertion(format!("an index has transfer {id:?}, which does not exist"))),
    }
}

/// The task of a transfer has ended, or was purged: whoever waits for it is told.
pub fn task_ended(txn: &mut Txn<'_>, ns: u64, id: u64, detail: &str) -> Result<(), Fatal> {
    if let Some(transfer) = txn.ix.transfers.of_task(ns, id).cloned() {
        let namespace = txn.namespace_name(ns)?;
        tell(txn, EventKind::TransferEnded, &namespace, &transfer, detail);
    }
    Ok(())
}

/// When a lease on this task ends that was asked to last until then.
pub fn lease_end(txn: &Txn<'_>, task: &mut Task, expires: u64) -> u64 {
    if txn.ix.transfers.of_task(task.ns, task.id).is_none() {
        return expires;
    }
    task.row.lease_asked_ms = expires;
    expires.min(task.row.deadline_at_ms)
}

/// Whether a task in this state has still to end.
pub fn is_live(state: TaskState) -> bool {
    matches!(state, TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running)
}

/// The task of a transfer; none if there is none yet, or any more.
fn load(txn: &Txn<'_>, row: &TransferRow) -> Result<Option<Task>, Fatal> {
    if row.task == 0 { Ok(None) } else { Task::load(txn, row.ns, row.task) }
}

/// A transfer that is neither closed nor was held for too long.
fn find(txn: &Txn<'_>, id: &str) -> Result<TransferRow, Refusal> {
    let row: Option<TransferRow> = txn.rows.row(Key::Transfer { id })?;
    let row = row.filter(|row| !row.closed && !row.is_over(txn.now));
    Ok(row.ok_or_else(|| {
        let message = "there is no such transfer: it was never accepted, was not confirmed in time, or is closed";
        reject::not_found("TRANSFER_NOT_FOUND", "transfer_id", message)
    })?)
}

fn in_time(txn: &Txn<'_>, deadline: u64, field: &str) -> Result<(), Rejection> {
    match (1..=txn.now).contains(&deadline) {
        true => Err(reject::invalid("DEADLINE_PASSED", field, "it would be too late already: the task is the other cluster's")),
        false => Ok(()),
    }
}

fn require_room(txn: &Txn<'_>, bytes: u64) -> Result<(), Rejection> {
    let transfers = &txn.ix.transfers;
    let fits = transfers.held_bytes + bytes <= limits::TRANSFERS_HELD_BYTES_MAX;
    if fits && transfers.open() + transfers.closed < limits::TRANSFERS_MAX {
        return Ok(());
    }
    let message = "this cluster has taken over too many tasks: wait until some are closed";
    Err(reject::full("TOO_MANY_TRANSFERS", "", limits::TRANSFERS_MAX, message))
}

/// The earlier of a deadline, if there is one, and a time.
fn earlier(deadline: u64, until: u64) -> u64 {
    if deadline == 0 { until } else { deadline.min(until) }
}

fn save(txn: &mut Txn<'_>, id: &str, row: &TransferRow) {
    txn.rows.put(Key::Transfer { id }, row);
    insert(txn.ix, id, row);
}

/// Forgets a transfer without a task, if there is such a one; tells if it was still held.
fn drop_row(txn: &mut Txn<'_>, id: &str) -> Result<(), Fatal> {
    let Some(row) = txn.rows.row::<TransferRow>(Key::Transfer { id })? else { return Ok(()) };
    remove(txn.ix, id, &row);
    txn.rows.delete(Key::Transfer { id });
    if let Some(Transfer { namespace, origin_name, .. }) = row.transfer.filter(|_| !row.closed) {
        tell(txn, EventKind::TransferDropped, &namespace, id, &origin_name);
    }
    Ok(())
}

fn conflict() -> Rejection {
    let message = "another transfer has this id: give each attempt that is handed over an id of its own";
    reject::exists("TRANSFER_CONFLICT", "transfer.transfer_id", message)
}

fn closed() -> Rejection {
    let message = "this transfer is closed: it cannot begin again";
    reject::precondition("TRANSFER_CLOSED", "transfer.transfer_id", message)
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, namespace: &str, id: &str, detail: &str) {
    let event = txn.event(kind, id);
    event.namespace = namespace.to_owned();
    event.detail = detail.to_owned();
}

impl TransferRow {
    /// Whether its time is up, though the wake that would say so may not have had its turn. A confirmed one has none.
    pub fn is_over(&self, now: u64) -> bool {
        self.task == 0 && self.hold_until_ms <= now
    }
}

//! Quotas: what a namespace may have, counted exactly and in the same step as what is counted.
//!
//! | quota | counts | grows with | shrinks with | where it is reached |
//! | --- | --- | --- | --- | --- |
//! | `max_running` | running attempts | a lease | the attempt's end | leasing passes the namespace over |
//! | `max_queued` | tasks that have not ended | enqueue, a timer that enqueues, requeue | a task's end, purge | refused; the timer tries again |
//! | `max_stored_bytes` | specifications, results and logs of tasks; what pending timers carry; contexts | enqueue, a timer, results, logs, a key | deletion of a task, of a log, of a timer, of a version | what is new is refused, what is done is taken |
//!
//! The first two follow from the live rows. Of ended tasks, of which there may be many, the indices know nothing: each row says what it is
//! counted with, the namespace's [`UsageRow`](crate::rows::UsageRow) is the sum of these, and the two change in one batch. A task of
//! machine version 1 counts from its first change under version 2 on.

use tarn_proto::v1::{Rejection, TimerAction, timer_action};

use crate::error::Fatal;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::TaskRow;
use crate::task;
use crate::txn::Txn;

/// The machine version that quotas and everything else about tenancy came with.
pub const SINCE: u32 = 2;

/// Refuses if the namespace may not have so many more tasks that have not ended.
pub fn room_for_tasks(txn: &Txn<'_>, ns: u64, more: u64) -> Result<(), Rejection> {
    let namespace = txn.ix.namespaces.get(&ns);
    let Some((namespace, limit)) = namespace.map(|namespace| (namespace, namespace.row.max_queued)) else {
        return Ok(());
    };
    let used = namespace.unended();
    if limit == 0 || more == 0 || used.saturating_add(more) <= limit {
        return Ok(());
    }
    let message = format!(
        "namespace {:?} has {used} tasks that have not ended, and its quota max_queued is {limit}: {}",
        namespace.name,
        advice(more, limit, "send fewer at once", "try again when some have ended, or ask for a higher quota")
    );
    Err(refused("QUOTA_QUEUED", "max_queued", limit, more, limits::QUOTA_RETRY_MS, message))
}

/// Refuses if the namespace may not store so many bytes more.
pub fn room_for_bytes(txn: &Txn<'_>, ns: u64, more: u64) -> Result<(), Rejection> {
    let namespace = txn.ix.namespaces.get(&ns);
    let Some((namespace, limit)) = namespace.map(|namespace| (namespace, namespace.row.max_stored_bytes)) else {
        return Ok(());
    };
    let used = namespace.stored_bytes;
    if limit == 0 || more == 0 || used.saturating_add(more) <= limit {
        return Ok(());
    }
    let message = format!(
        "namespace {:?} stores {used} bytes, this would add {more}, and its quota max_stored_bytes is {limit}: {}",
        namespace.name,
        advice(
            more,
            limit,
            "send less at once, or large inputs as artifacts",
            "purge dead letters, delete what contexts need no more, try again when results have been kept for as long as they are to be, or ask for a higher quota"
        )
    );
    let retry = limits::QUOTA_STORED_RETRY_MS;
    Err(refused("QUOTA_STORED_BYTES", "max_stored_bytes", limit, more, retry, message))
}

fn advice<'a>(more: u64, limit: u64, never: &'a str, later: &'a str) -> &'a str {
    if more > limit { never } else { later }
}

/// What can never fit is not worth another try.
fn refused(reason: &str, field: &str, limit: u64, more: u64, retry_after_ms: u64, message: String) -> Rejection {
    let mut rejection = reject::full(reason, field, limit, message);
    rejection.retry_after_ms = if more > limit { 0 } else { retry_after_ms };
    rejection
}

/// Counts bytes that are stored now instead of those before.
pub fn replace(txn: &mut Txn<'_>, ns: u64, before: u64, after: u64) {
    if before == after {
        return;
    }
    // A namespace that was deleted while ended tasks were still kept has nobody to count for.
    if let Some(namespace) = txn.ix.namespaces.get_mut(&ns) {
        namespace.stored_bytes = (namespace.stored_bytes + after).saturating_sub(before);
        txn.used.insert(ns);
    }
}

/// Counts a task that has ended and is kept, or that is kept no more.
pub fn ended(txn: &mut Txn<'_>, ns: u64, kept: bool) {
    if let Some(namespace) = txn.ix.namespaces.get_mut(&ns) {
        namespace.ended = match kept {
            true => namespace.ended + 1,
            false => namespace.ended.saturating_sub(1),
        };
        txn.used.insert(ns);
    }
}

/// An ended task is deleted.
pub fn forget_ended(txn: &mut Txn<'_>, ns: u64, row: &TaskRow) {
    if row.stored_bytes != 0 {
        replace(txn, ns, row.stored_bytes, 0);
        ended(txn, ns, false);
    }
}

/// What a task counts with, from its rows: for one that was not counted before.
pub fn measure(txn: &Txn<'_>, ns: u64, id: u64, row: &TaskRow) -> Result<u64, Fatal> {
    let mut bytes = row.spec_bytes + task::result(&txn.rows, ns, id, row)?.len() as u64;
    for attempt in task::logs_kept(row.last_log) {
        bytes += txn.rows.read(&Key::Log { ns, id, attempt }, <[u8]>::len)?.unwrap_or(0) as u64;
    }
    Ok(bytes)
}

/// What a timer counts with while it is pending.
pub fn of_action(action: Option<&TimerAction>) -> u64 {
    match action.and_then(|action| action.action.as_ref()) {
        Some(timer_action::Action::Enqueue(spec)) => prost::Message::encoded_len(spec) as u64,
        Some(timer_action::Action::Mark(text)) => text.len() as u64,
        None => 0,
    }
}

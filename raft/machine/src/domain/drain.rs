//! How a namespace goes that is to be deleted although something is in it.
//!
//! ```text
//!   DRAINING    takes nothing new; tasks run, timers fire, leases are released or expire
//!   CANCELLING  the same, and some of what is left is ended with every entry
//!        └──► nothing has yet to end ──► dead letters, ended tasks, fired timers, contexts and bindings are deleted, some with every entry
//!                                             └──► the namespace goes, with its queues
//! ```
//!
//! What an entry does is bounded ([`limits::SWEEPS_PER_ENTRY_MAX`]); the rest waits for the next, and `next_wake_ms` says that it does.

use tarn_proto::v1::TaskState;
use tarn_storage::Range;

use super::queue::{dead, dependency};
use super::{access, context, lease, namespace, quota, timer};
use crate::advance::damaged;
use crate::error::Fatal;
use crate::keys::{Key, first, prefix};
use crate::limits;
use crate::overlay::{Rows, STATE};
use crate::rows::{TaskRow, TimerRow};
use crate::task::{Task, delete_rows, end};
use crate::txn::Txn;

/// Takes the next step with one namespace that goes. Called before anything else has changed in an entry but the sweeps, because it looks
/// at the rows as they were before.
pub fn advance(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let Some(ns) = txn.ix.leaving() else { return Ok(()) };
    if txn.ix.namespace(ns)?.holds_work() {
        end_tasks(txn, ns)?;
        cancel_timers(txn, ns)?;
        return end_leases(txn, ns);
    }
    // Whoever waited for its last tasks is told first.
    if txn.ix.settling.range((ns, 0)..=(ns, u64::MAX)).next().is_none() {
        purge(txn, ns)?;
    }
    Ok(())
}

fn end_tasks(txn: &mut Txn<'_>, ns: u64) -> Result<(), Fatal> {
    let namespace = txn.ix.namespace(ns)?;
    let mut ids = Vec::new();
    if namespace.running > 0 {
        let held = txn.ix.held.values().flatten();
        let of_this = held.filter(|(of, _)| *of == ns).map(|(_, id)| *id);
        ids.extend(of_this.take(limits::SWEEPS_PER_ENTRY_MAX));
    }
    for queue in namespace.queues.values() {
        for state in [TaskState::Ready, TaskState::Delayed, TaskState::Blocked] {
            let room = limits::SWEEPS_PER_ENTRY_MAX - ids.len();
            ids.extend(dead::ids_in(queue, state).take(room));
        }
    }
    for id in ids {
        if let Some(mut task) = Task::load(txn, ns, id)? {
            end::cancel(txn, &mut task)?;
        }
    }
    Ok(())
}

fn cancel_timers(txn: &mut Txn<'_>, ns: u64) -> Result<(), Fatal> {
    for bytes in keys(txn, first::PENDING_TIMER, ns, 0, limits::SWEEPS_PER_ENTRY_MAX)? {
        let Some(key @ Key::PendingTimer { id, .. }) = Key::decode(&bytes) else {
            return Err(damaged(&bytes));
        };
        let row: TimerRow = txn.rows.row(key)?.ok_or_else(|| damaged(&bytes))?;
        timer::discard(txn, ns, id, &row)?;
    }
    Ok(())
}

fn end_leases(txn: &mut Txn<'_>, ns: u64) -> Result<(), Fatal> {
    let (start, end) = (prefix(first::NAMED_LEASE, &[ns]), prefix(first::NAMED_LEASE, &[ns + 1]));
    for bytes in between(txn, &start, &end, limits::SWEEPS_PER_ENTRY_MAX)? {
        let Some(Key::NamedLease { name, .. }) = Key::decode(&bytes) else {
            return Err(damaged(&bytes));
        };
        lease::expire(txn, ns, name)?;
    }
    Ok(())
}

/// Deletes what is kept, and with the last of it the namespace.
fn purge(txn: &mut Txn<'_>, ns: u64) -> Result<(), Fatal> {
    let mut room = limits::SWEEPS_PER_ENTRY_MAX;
    let queues = txn.ix.namespace(ns)?.queues.values();
    let dead: Vec<u64> = queues.flat_map(|queue| queue.dead.iter().copied()).take(room).collect();
    room -= dead.len();
    for id in dead {
        let task = Task::indexed(txn, ns, id, TaskState::Dead)?;
        dependency::remove_all(txn, &task)?;
        task.delete(txn)?;
    }
    room -= purge_ended(txn, ns, room)?;
    for bytes in keys(txn, first::FIRED_TIMER, ns, 0, room)? {
        txn.rows.delete(Key::decode(&bytes).ok_or_else(|| damaged(&bytes))?);
        room -= 1;
    }
    room -= context::forget_namespace(txn, ns, room)?;
    let name = txn.namespace_name(ns)?;
    room -= access::forget_namespace(txn, &name, room);
    if room > 0 {
        namespace::delete(txn, ns, &name)?;
    }
    Ok(())
}

/// Deletes ended tasks, from where the last entry stopped: an engine would have to step over every trace of what lay before. What would
/// have them swept stays until its time and then finds nothing.
fn purge_ended(txn: &mut Txn<'_>, ns: u64, room: usize) -> Result<usize, Fatal> {
    let from = txn.ix.namespace(ns)?.row.purged_to;
    let keys = keys(txn, first::ENDED_TASK, ns, from, room)?;
    for bytes in &keys {
        let Some(key @ Key::EndedTask { id, .. }) = Key::decode(bytes) else {
            return Err(damaged(bytes));
        };
        // The sweep of this very entry may have been faster.
        if let Some(row) = txn.rows.row::<TaskRow>(key)? {
            txn.rows.delete(key);
            delete_rows(txn, ns, id, &row)?;
            quota::forget_ended(txn, ns, &row);
        }
        txn.ix.namespace_mut(ns)?.row.purged_to = id;
    }
    if !keys.is_empty() {
        namespace::save(txn, ns)?;
    }
    Ok(keys.len())
}

/// The first keys of a kind that lie in a namespace, after a number.
fn keys(txn: &Txn<'_>, kind: u8, ns: u64, after: u64, max: usize) -> Result<Vec<Vec<u8>>, Fatal> {
    between(txn, &prefix(kind, &[ns, after + 1]), &prefix(kind, &[ns + 1]), max)
}

fn between(txn: &Txn<'_>, start: &[u8], end: &[u8], max: usize) -> Result<Vec<Vec<u8>>, Fatal> {
    let entries = txn.rows.engine().scan(STATE, Range::between(start, end));
    entries.take(max).map(|entry| Ok(entry?.0)).collect()
}

//! What time alone does: before an entry's commands, whatever is due happens, in the order in which it is due.
//!
//! An entry does at most so much of it ([`limits`]); the rest waits for the next, and `next_wake_ms` says that it does.

use tarn_storage::Range;

use crate::domain::queue::{admit, dead, dependency, lease as task_lease};
use crate::domain::{access, context, drain, federation, join_token, lease, policy, quota, timer, transfer, worker};
use crate::error::Fatal;
use crate::index::Wake;
use crate::keys::{Key, first, prefix};
use crate::limits;
use crate::overlay::{Rows, STATE};
use crate::requests;
use crate::rows::TaskRow;
use crate::task::{delete_rows, end};
use crate::txn::Txn;

/// Lets time pass up to the entry's time.
pub fn advance(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    // First, because it looks at the rows as they were before the entry: it would not see what a wake has just left to be swept later.
    sweep_ended_tasks(txn)?;
    sweep_fired_timers(txn)?;
    requests::sweep(txn)?;
    context::advance(txn)?;
    federation::advance(txn)?;
    drain::advance(txn)?;
    dependency::settle(txn)?;
    for _ in 0..limits::WAKES_PER_ENTRY_MAX {
        let Some(due) = txn.ix.wakes.first().filter(|(at, _)| *at <= txn.now).cloned() else {
            break;
        };
        if !txn.has_ids() {
            break;
        }
        wake(txn, &due.1)?;
        if txn.ix.wakes.contains(&due) {
            return Err(Fatal::assertion(format!("{due:?} was handled and is still due")));
        }
    }
    dependency::settle(txn)
}

fn wake(txn: &mut Txn<'_>, wake: &Wake) -> Result<(), Fatal> {
    match wake {
        Wake::Deadline { ns, id } => dead::deadline(txn, *ns, *id),
        Wake::Worker { id } => worker::expire(txn, *id),
        Wake::Attempt { ns, id } => task_lease::attempt_over(txn, *ns, *id),
        Wake::NamedLease { ns, name } => lease::expire(txn, *ns, name),
        Wake::Eligible { ns, id } => task_lease::eligible(txn, *ns, *id),
        Wake::Timer { ns, id } => timer::fire(txn, *ns, *id),
        Wake::IdleQueue { ns, id } => admit::idle(txn, *ns, *id),
        Wake::JoinToken { hash } => join_token::expire(txn, hash),
        Wake::Token { id } => access::expire_token(txn, *id),
        Wake::Revocation { serial } => access::expire_revocation(txn, serial),
        Wake::Violation { id } => policy::expire_violation(txn, *id),
        Wake::Invitation { hash } => federation::expire(txn, hash),
        Wake::Transfer { id } => transfer::expire(txn, id),
    }
}

/// Removes ended tasks whose retention is over. One that another task still depends on, or whose result another cluster has still to fetch, is
/// looked at again later.
fn sweep_ended_tasks(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let (due, next) = expired(txn, first::ENDED_EXPIRY, txn.ix.sweeps.ended_tasks)?;
    txn.ix.sweeps.ended_tasks = next;
    for key in due {
        let Some(key @ Key::EndedExpiry { ns, id, .. }) = Key::decode(&key) else {
            return Err(damaged(&key));
        };
        txn.rows.delete(key);
        if txn.ix.edges.dependents(id) > 0 || txn.ix.transfers.of_task(ns, id).is_some() {
            end::expire(txn, txn.now + limits::SWEEP_POSTPONE_MS, ns, id);
            continue;
        }
        let row: Option<TaskRow> = txn.rows.row(Key::EndedTask { ns, id })?;
        if row.is_none() && txn.ix.namespaces.get(&ns).is_none_or(|namespace| namespace.row.is_draining()) {
            // It went before its time, with its namespace.
            continue;
        }
        let row = row.ok_or_else(|| Fatal::assertion(format!("{key:?} names a task that does not exist")))?;
        txn.rows.delete(Key::EndedTask { ns, id });
        delete_rows(txn, ns, id, &row)?;
        quota::forget_ended(txn, ns, &row);
    }
    Ok(())
}

fn sweep_fired_timers(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let (due, next) = expired(txn, first::FIRED_TIMER_EXPIRY, txn.ix.sweeps.fired_timers)?;
    txn.ix.sweeps.fired_timers = next;
    for key in due {
        let Some(key @ Key::FiredTimerExpiry { ns, id, .. }) = Key::decode(&key) else {
            return Err(damaged(&key));
        };
        txn.rows.delete(key);
        txn.rows.delete(Key::FiredTimer { ns, id });
    }
    Ok(())
}

/// The keys of a kind whose time is up, as many as one entry may remove, and the time of the first one left.
///
/// Looks only when the earliest has lain for [`limits::SWEEP_DELAY_MS`], and begins there: what lies before has been removed, and an engine
/// would have to step over every trace of it.
pub fn expired(txn: &Txn<'_>, kind: u8, earliest: Option<u64>) -> Result<(Vec<Vec<u8>>, Option<u64>), Fatal> {
    let Some(earliest) = earliest.filter(|at| at + limits::SWEEP_DELAY_MS <= txn.now) else {
        return Ok((Vec::new(), earliest));
    };
    let (start, end) = (prefix(kind, &[earliest]), [kind + 1]);
    let mut due = Vec::new();
    for entry in txn.rows.engine().scan(STATE, Range::between(&start, &end)) {
        let (key, _) = entry?;
        let Some(at) = key.get(1..9).and_then(|at| at.try_into().ok()).map(u64::from_be_bytes) else {
            return Err(damaged(&key));
        };
        if at > txn.now || due.len() == limits::SWEEPS_PER_ENTRY_MAX {
            return Ok((due, Some(at)));
        }
        due.push(key);
    }
    Ok((due, None))
}

/// The state holds a key that cannot be.
pub fn damaged(key: &[u8]) -> Fatal {
    Fatal::assertion(format!("the key {key:02x?} cannot be decoded"))
}

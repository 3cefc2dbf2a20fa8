//! Dependencies: who waits, and what becomes of whoever waited.
//!
//! When a task ends, its dependents are settled one by one. Ending one of them can end others in turn, so this is a list of work, not a
//! recursion; what an entry has no budget for is done by the next.

use std::collections::BTreeSet;

use tarn_proto::v1::TaskState;

use crate::error::Fatal;
use crate::keys::Key;
use crate::task::{Task, end, error, find, specification};
use crate::txn::Txn;

const SETTLED: [u8; 1] = [1];

/// How a dependency stands for a task that names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It has not ended.
    Open,
    /// It succeeded: its result will be read.
    Done,
    /// It died or was cancelled.
    Failed,
    /// There is no such task, or no more.
    Missing,
}

/// How the task with this id stands as a dependency.
pub fn standing(txn: &Txn<'_>, ns: u64, id: u64) -> Result<Standing, Fatal> {
    Ok(match find(&txn.rows, ns, id)?.map(|row| row.state()) {
        None | Some(TaskState::Unspecified) => Standing::Missing,
        Some(TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Running) => Standing::Open,
        Some(TaskState::Succeeded) => Standing::Done,
        Some(TaskState::Dead | TaskState::Cancelled) => Standing::Failed,
    })
}

/// Draws the edges to a task that begins to wait. True if one of its dependencies has failed already, and the task minds.
pub fn begin(txn: &mut Txn<'_>, task: &Task, dependencies: &[(u64, Standing)]) -> Result<bool, Fatal> {
    let mut failed = false;
    for (dependency, standing) in dependencies {
        match standing {
            Standing::Open => wait(txn, task.ns, *dependency, task.id)?,
            Standing::Done => hold(txn, task.ns, *dependency, task.id)?,
            Standing::Failed | Standing::Missing => failed = !task.row.run_anyway,
        }
    }
    Ok(failed)
}

/// A task ended: whoever waits for it is to be settled.
pub fn ended(txn: &mut Txn<'_>, ns: u64, id: u64, succeeded: bool) {
    if txn.ix.edges.first_waiting(id).is_some() {
        txn.ix.settling.insert((ns, id), succeeded);
        txn.rows.put_bytes(Key::Settling { ns, id }, [u8::from(succeeded)]);
    }
}

/// Settles dependents while the entry's budget lasts.
pub fn settle(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    while let Some((&(ns, id), &succeeded)) = txn.ix.settling.first_key_value() {
        let Some(dependent) = txn.ix.edges.first_waiting(id) else {
            txn.ix.settling.remove(&(ns, id));
            txn.rows.delete(Key::Settling { ns, id });
            continue;
        };
        if txn.settles_left == 0 {
            break;
        }
        txn.settles_left -= 1;
        settle_one(txn, ns, id, dependent, succeeded)?;
    }
    Ok(())
}

fn settle_one(txn: &mut Txn<'_>, ns: u64, dependency: u64, dependent: u64, succeeded: bool) -> Result<(), Fatal> {
    hold(txn, ns, dependency, dependent)?;
    let mut task = Task::indexed(txn, ns, dependent, TaskState::Blocked)?;
    if !succeeded && !task.row.run_anyway {
        return end::die(txn, &mut task, failure());
    }
    if txn.ix.edges.waits(dependent) {
        return Ok(());
    }
    task.release(txn.now);
    task.save(txn)
}

/// What a task dies of when a dependency fails.
pub fn failure() -> tarn_proto::v1::TaskError {
    error("DEPENDENCY_FAILED", "a task that this one depends on died, was cancelled or was deleted")
}

/// The task waits no more, and keeps its dependencies' results.
pub fn hold_all(txn: &mut Txn<'_>, task: &Task) -> Result<(), Fatal> {
    for dependency in of(txn, task)? {
        if txn.ix.edges.is_waiting(dependency, task.id) {
            hold(txn, task.ns, dependency, task.id)?;
        }
    }
    Ok(())
}

/// The task needs its dependencies no more.
pub fn remove_all(txn: &mut Txn<'_>, task: &Task) -> Result<(), Fatal> {
    for dependency in of(txn, task)? {
        if txn.ix.edges.remove(dependency, task.id) {
            txn.ix.namespace_mut(task.ns)?.edges -= 1;
            txn.rows.delete(Key::Edge { ns: task.ns, dependency, dependent: task.id });
        }
    }
    Ok(())
}

/// The dependencies of a task, each once.
pub fn of(txn: &Txn<'_>, task: &Task) -> Result<BTreeSet<u64>, Fatal> {
    if !task.row.depends {
        return Ok(BTreeSet::new());
    }
    Ok(specification(&txn.rows, task.ns, task.id, false)?.dependencies.into_iter().collect())
}

fn wait(txn: &mut Txn<'_>, ns: u64, dependency: u64, dependent: u64) -> Result<(), Fatal> {
    if txn.ix.edges.wait(dependency, dependent) {
        txn.ix.namespace_mut(ns)?.edges += 1;
    }
    txn.rows.put_bytes(Key::Edge { ns, dependency, dependent }, []);
    Ok(())
}

fn hold(txn: &mut Txn<'_>, ns: u64, dependency: u64, dependent: u64) -> Result<(), Fatal> {
    if txn.ix.edges.settle(dependency, dependent) {
        txn.ix.namespace_mut(ns)?.edges += 1;
    }
    txn.rows.put_bytes(Key::Edge { ns, dependency, dependent }, SETTLED);
    Ok(())
}

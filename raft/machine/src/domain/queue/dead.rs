//! Dead letters and purging: tasks put back by hand, or deleted for good.

use std::collections::BTreeSet;

use tarn_proto::v1::{DecisionKind, EventKind, PurgeQueueRequest, PurgeQueueResponse, RequeueDeadRequest, RequeueDeadResponse, TaskState};

use super::admit::past_deadline;
use super::dependency;
use crate::domain::{parse_id, quota, transfer};
use crate::error::{Fatal, Refusal};
use crate::index::QueueIndex;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::task::{Task, delete_logs, end, find, logs_kept};
use crate::txn::Txn;

/// The command: puts dead tasks back, with their attempts counted from zero. A deadline that has passed no longer counts.
pub fn requeue_dead(txn: &mut Txn<'_>, request: RequeueDeadRequest) -> Result<RequeueDeadResponse, Refusal> {
    let (ns, queue) = txn.queue(&request.namespace, &request.queue)?;
    txn.open_namespace(&request.namespace)?;
    let ids = match request.task_ids.is_empty() {
        true => as_many_as_fit(txn, ns, queue)?,
        false => named(txn, ns, queue, &request.task_ids)?,
    };
    quota::room_for_tasks(txn, ns, ids.len() as u64)?;
    for id in &ids {
        requeue(txn, ns, *id)?;
    }
    let remaining = txn.ix.queue(ns, queue)?.dead.len() as u64;
    Ok(RequeueDeadResponse { requeued: ids.len() as u64, remaining })
}

/// The oldest dead tasks of a queue, as many as one request may put back and the namespace has room for; at least one, if there is any, so
/// that a request for which there is no room is refused.
fn as_many_as_fit(txn: &Txn<'_>, ns: u64, queue: u64) -> Result<BTreeSet<u64>, Fatal> {
    let namespace = txn.ix.namespace(ns)?;
    let room = match namespace.row.max_queued {
        0 => usize::MAX,
        limit => usize::try_from(limit.saturating_sub(namespace.unended()).max(1)).unwrap_or(usize::MAX),
    };
    let own = |id: &&u64| txn.ix.transfers.of_task(ns, **id).is_none();
    let settled = |id: &&u64| !txn.ix.settling.contains_key(&(ns, **id));
    let dead = txn.ix.queue(ns, queue)?.dead.iter().filter(settled).filter(own);
    Ok(dead.take(room.min(limits::BATCH_TASKS_MAX)).copied().collect())
}

/// The tasks that the request names, each once; refuses unless every one can be requeued.
fn named(txn: &Txn<'_>, ns: u64, queue: u64, texts: &[String]) -> Result<BTreeSet<u64>, Refusal> {
    let mut ids = BTreeSet::new();
    for text in texts {
        let id = parse_id(text, "task_ids")?;
        if !txn.ix.queue(ns, queue)?.dead.contains(&id) {
            let elsewhere = find(&txn.rows, ns, id)?;
            let message = format!("task {text} is not among the dead letters of this queue: list them first");
            return Err(match elsewhere {
                Some(_) => reject::precondition("TASK_NOT_DEAD", "task_ids", message),
                None => reject::task_not_found(text),
            }
            .into());
        }
        if txn.ix.transfers.of_task(ns, id).is_some() {
            let message = format!("task {text} is another cluster's, which decides whether it is tried again: requeue it there");
            return Err(reject::precondition("TASK_OF_ANOTHER_CLUSTER", "task_ids", message).into());
        }
        if txn.ix.settling.contains_key(&(ns, id)) {
            let message = format!("the tasks that depended on task {text} are still being told that it died: try again");
            return Err(reject::precondition("TASK_SETTLING", "task_ids", message).into());
        }
        ids.insert(id);
    }
    Ok(ids)
}

fn requeue(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let mut task = Task::indexed(txn, ns, id, TaskState::Dead)?;
    forget_logs(txn, &mut task)?;
    let row = &mut task.row;
    row.attempts_begun = 0;
    row.attempts.clear();
    row.last_log = 0;
    row.error = None;
    row.ended_at_ms = 0;
    row.eligible_at_ms = 0;
    row.cancel_requested = false;
    if row.deadline_at_ms <= txn.now {
        row.deadline_at_ms = 0;
    }
    let mut dependencies = Vec::new();
    for dependency in dependency::of(txn, &task)? {
        dependencies.push((dependency, dependency::standing(txn, ns, dependency)?));
    }
    let failed = dependency::begin(txn, &task, &dependencies)?;
    match failed || txn.ix.edges.waits(id) {
        true => task.row.set_state(TaskState::Blocked),
        false => task.release(txn.now),
    }
    task.open(txn)?;
    task.decide(txn, DecisionKind::Requeued, "", 0)?;
    task.save(txn)?;
    task.event(txn, EventKind::TaskRequeued, "")?;
    if failed {
        end::die(txn, &mut task, dependency::failure())?;
    }
    Ok(())
}

fn forget_logs(txn: &mut Txn<'_>, task: &mut Task) -> Result<(), Fatal> {
    let (ns, id, last) = (task.ns, task.id, task.row.last_log);
    if task.row.stored_bytes != 0 {
        for attempt in logs_kept(last) {
            task.store(0, txn.rows.read(&Key::Log { ns, id, attempt }, <[u8]>::len)?.unwrap_or(0));
        }
    }
    delete_logs(txn, ns, id, last);
    Ok(())
}

/// The command: deletes tasks of a queue that are in the named states. Whoever depends on them is told that they failed.
pub fn purge_queue(txn: &mut Txn<'_>, request: PurgeQueueRequest) -> Result<PurgeQueueResponse, Refusal> {
    let (ns, queue) = txn.queue(&request.namespace, &request.queue)?;
    let states: BTreeSet<TaskState> = request.states().collect();
    let index = txn.ix.queue(ns, queue)?;
    let mut doomed = Vec::new();
    for state in &states {
        let room = limits::BATCH_TASKS_MAX - doomed.len();
        doomed.extend(ids_in(index, *state).take(room).map(|id| (id, *state)));
    }
    for (id, state) in &doomed {
        purge(txn, ns, *id, *state)?;
    }
    let index = txn.ix.queue(ns, queue)?;
    let remaining = states.iter().map(|state| count_in(index, *state)).sum();
    Ok(PurgeQueueResponse { purged: doomed.len() as u64, remaining })
}

/// The tasks of a queue in one state, which is none of an ended task.
pub fn ids_in(queue: &QueueIndex, state: TaskState) -> Box<dyn Iterator<Item = u64> + '_> {
    match state {
        TaskState::Blocked => Box::new(queue.blocked.iter().copied()),
        TaskState::Delayed => Box::new(queue.delayed.iter().copied()),
        TaskState::Dead => Box::new(queue.dead.iter().copied()),
        TaskState::Ready => Box::new(queue.groups.values().flat_map(|group| group.ready())),
        TaskState::Unspecified | TaskState::Running | TaskState::Succeeded | TaskState::Cancelled => Box::new(std::iter::empty()),
    }
}

fn count_in(queue: &QueueIndex, state: TaskState) -> u64 {
    match state {
        TaskState::Ready => queue.ready,
        TaskState::Blocked => queue.blocked.len() as u64,
        TaskState::Delayed => queue.delayed.len() as u64,
        TaskState::Dead => queue.dead.len() as u64,
        TaskState::Unspecified | TaskState::Running | TaskState::Succeeded | TaskState::Cancelled => 0,
    }
}

/// Deletes a task in this state, which is none of an ended task.
pub fn purge(txn: &mut Txn<'_>, ns: u64, id: u64, state: TaskState) -> Result<(), Fatal> {
    let task = Task::indexed(txn, ns, id, state)?;
    task.event(txn, EventKind::TaskPurged, "")?;
    transfer::task_ended(txn, ns, id, "PURGED")?;
    dependency::remove_all(txn, &task)?;
    task.delete(txn)?;
    dependency::ended(txn, ns, id, false);
    Ok(())
}

/// A task was not finished in time.
pub fn deadline(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let Some(mut task) = Task::load(txn, ns, id)? else {
        return Err(Fatal::assertion("an index has a deadline for a task that does not exist"));
    };
    end::die(txn, &mut task, past_deadline())
}

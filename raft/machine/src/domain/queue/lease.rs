//! Leases on tasks: a worker takes tasks and keeps them.

use tarn_invariants::{debug_holds, tasks};
use tarn_proto::v1::{
    DecisionKind, EventKind, HeartbeatTasksRequest, HeartbeatTasksResponse, LeaseReport, LeaseStatus, LeaseTasksRequest,
    LeaseTasksResponse, LeasedTask, Scores, TaskState, WorkerCapabilities,
};

use super::admit::past_deadline;
use crate::domain::worker::{is_elsewhere, require_maker};
use crate::domain::{audit, parse_id, placement, transfer, version};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::{Pick, Rank, effective_level};
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{AttemptRow, DecisionRow, LeaseRef, PassRow, SpecRow};
use crate::task::spec::or_default;
use crate::task::{Task, end, error, specification, take_specification};
use crate::txn::Txn;

/// The command: leases up to `max_tasks` tasks to a worker. None is an answer too.
pub fn lease_tasks(txn: &mut Txn<'_>, principal: &str, request: LeaseTasksRequest) -> Result<LeaseTasksResponse, Refusal> {
    let worker = parse_id(&request.worker_id, "worker_id")?;
    let Some(row) = txn.ix.workers.get(&worker) else {
        return Err(reject::worker_not_found(&request.worker_id).into());
    };
    require_maker(row, worker, principal)?;
    if row.draining {
        let message = "this worker is draining and gets no more tasks: finish what it holds, then stop";
        return Err(reject::precondition("WORKER_DRAINING", "worker_id", message).into());
    }
    let room = limits::WORKER_TASKS_MAX - txn.ix.held_by(worker).min(limits::WORKER_TASKS_MAX);
    if room == 0 {
        let message = "this worker holds as many tasks as one worker may: finish some first";
        return Err(reject::full("WORKER_FULL", "worker_id", limits::WORKER_TASKS_MAX as u64, message).into());
    }
    let capabilities = row.capabilities.clone().unwrap_or_default();
    let (mut pick, lowered) = match is_elsewhere(&capabilities) {
        true => Pick::among(txn.ix, placed_at(txn, worker, &capabilities)?, txn.now),
        false => Pick::new(txn.ix, &capabilities, txn.now),
    };
    for (ns, pass) in lowered {
        set_pass(txn, ns, pass)?;
    }
    let expires = txn.now + or_default(request.lease_ms, limits::LEASE_MS_DEFAULT);
    let max = (request.max_tasks as usize).min(room);
    let ready = usize::try_from(txn.ix.ready).unwrap_or(max);
    let (mut tasks, mut bytes, mut expired) = (Vec::with_capacity(max.min(ready)), 0, 0);
    while tasks.len() < max && expired < limits::LEASE_TASKS_MAX {
        let Some((ns, id)) = pick.peek() else { break };
        let mut task = Task::indexed(txn, ns, id, TaskState::Ready)?;
        if task.row.deadline_at_ms != 0 && task.row.deadline_at_ms <= txn.now {
            // Its time is up, though the wake that would say so has not had its turn.
            end::die(txn, &mut task, past_deadline())?;
            expired += 1;
        } else {
            bytes += task.row.spec_bytes;
            if bytes > limits::LEASE_BYTES_MAX && !tasks.is_empty() {
                break;
            }
            let waited_ms = txn.now.saturating_sub(task.row.eligible_at_ms);
            begin_attempt(txn, &mut task, worker, expires)?;
            record(txn, &task, waited_ms, pick.namespaces())?;
            charge(txn, ns, pick.pass())?;
            let spec = take_specification(txn, ns, id)?;
            tasks.push(leased(txn, &task, spec)?);
        }
        pick.advance(txn.ix);
    }
    Ok(LeaseTasksResponse { tasks })
}

/// The tasks that were placed at this worker and that it may run, by rank.
fn placed_at(txn: &Txn<'_>, worker: u64, capabilities: &WorkerCapabilities) -> Result<Vec<(Rank, u64)>, Fatal> {
    let mut ranks = Vec::new();
    for (ns, id) in txn.ix.placed.get(&worker).into_iter().flatten().take(limits::WORKER_TASKS_MAX) {
        let row = Task::indexed(txn, *ns, *id, TaskState::Ready)?.row;
        if txn.ix.namespace(*ns)?.is_served_by(capabilities) {
            let level = effective_level(row.priority, row.eligible_at_ms, txn.now);
            ranks.push((Rank { level, eligible_at_ms: row.eligible_at_ms, id: *id }, *ns));
        }
    }
    Ok(ranks)
}

fn begin_attempt(txn: &mut Txn<'_>, task: &mut Task, worker: u64, expires: u64) -> Result<(), Fatal> {
    let (now, token) = (txn.now, txn.next_id());
    let expires = transfer::lease_end(txn, task, expires);
    let row = &mut task.row;
    let last_token = row.attempts.last().map_or(0, |last| last.token).max(row.returned_token);
    debug_holds!(tasks::leased_once(
        last_token,
        tasks::Grant { task: &Id(task.id).text(), token, attempt: row.attempts_begun + 1, worker: &Id(worker).to_string() }
    ));
    row.set_state(TaskState::Running);
    row.worker = worker;
    row.token = token;
    row.attempts_begun += 1;
    row.attempt_ends_at_ms = now + row.attempt_timeout_ms;
    row.lease_expires_at_ms = expires.min(row.attempt_ends_at_ms);
    row.progress = None;
    if row.attempts.len() >= limits::ATTEMPTS_KEPT {
        row.attempts.remove(0);
    }
    row.attempts.push(AttemptRow { number: row.attempts_begun, worker, token, started_at_ms: now, ..AttemptRow::default() });
    task.save(txn)?;
    task.event(txn, EventKind::TaskLeased, "")
}

/// Records why this task was the next for its worker. The attempt's token says where.
fn record(txn: &mut Txn<'_>, task: &Task, waited_ms: u64, namespaces: usize) -> Result<(), Fatal> {
    if txn.meta.version < audit::SINCE {
        return Ok(());
    }
    let namespace = txn.ix.namespace(task.ns)?;
    let scores = Scores {
        priority: task.row.priority,
        level: effective_level(task.row.priority, txn.now - waited_ms, txn.now),
        waited_ms,
        pass: namespace.pass,
        weight: namespace.row.weight,
        namespaces: namespaces as u32,
    };
    let record = DecisionRow {
        kind: DecisionKind::Leased.into(),
        namespace: namespace.name.to_string(),
        task: task.id,
        worker: task.row.worker,
        attempt: task.row.attempts_begun,
        scores: Some(scores),
        ..DecisionRow::default()
    };
    txn.decide(record);
    Ok(())
}

/// A namespace was served from where its lane stands: it moves back by its stride.
fn charge(txn: &mut Txn<'_>, ns: u64, pass: u64) -> Result<(), Fatal> {
    let stride = txn.ix.namespace(ns)?.stride();
    set_pass(txn, ns, pass.saturating_add(stride))
}

fn set_pass(txn: &mut Txn<'_>, ns: u64, pass: u64) -> Result<(), Fatal> {
    txn.ix.move_namespace(ns, |namespace| namespace.pass = pass)?;
    txn.rows.put(Key::Pass { ns }, &PassRow { pass });
    Ok(())
}

/// A running task as its worker gets it.
fn leased(txn: &Txn<'_>, task: &Task, mut spec: SpecRow) -> Result<LeasedTask, Fatal> {
    if let Some(spec) = spec.spec.as_mut().filter(|_| task.row.placed_worker != 0) {
        placement::narrow(spec, &task.row.class().runtime);
    }
    Ok(LeasedTask {
        namespace: txn.namespace_name(task.ns)?,
        task_id: Id(task.id).text(),
        token: task.row.token,
        attempt: task.row.attempts_begun,
        lease_expires_at_ms: task.row.lease_expires_at_ms,
        attempt_ends_at_ms: task.row.attempt_ends_at_ms,
        spec: spec.spec.map(|spec| *spec),
        dependencies: spec.dependencies.into_iter().map(|id| Id(id).text()).collect(),
    })
}

/// What to remember of an answer in order to give it again.
pub fn references(txn: &Txn<'_>, answer: &LeaseTasksResponse) -> Vec<LeaseRef> {
    let reference = |task: &LeasedTask| {
        let namespace = *txn.ix.namespace_ids.get(task.namespace.as_str())?;
        Some(LeaseRef { namespace, task: parse_id(&task.task_id, "task_id").ok()?, token: task.token })
    };
    answer.tasks.iter().filter_map(reference).collect()
}

/// The answer again. Leases that are no longer current are left out: nobody may act on them.
pub fn repeat(txn: &Txn<'_>, leases: &[LeaseRef]) -> Result<LeaseTasksResponse, Fatal> {
    let mut tasks = Vec::with_capacity(leases.len());
    for lease in leases.iter().filter(|lease| txn.ix.namespaces.contains_key(&lease.namespace)) {
        if let Some(task) = Task::load(txn, lease.namespace, lease.task)?.filter(|task| holds(task, lease.token)) {
            let spec = specification(&txn.rows, task.ns, task.id, true)?;
            tasks.push(leased(txn, &task, spec)?);
        }
    }
    Ok(LeaseTasksResponse { tasks })
}

/// Whether this token is the task's current one.
pub fn holds(task: &Task, token: u64) -> bool {
    task.row.state() == TaskState::Running && task.row.token == token
}

/// The command: extends a worker's leases, and says which are lost or to be cancelled.
pub fn heartbeat_tasks(txn: &mut Txn<'_>, principal: &str, request: HeartbeatTasksRequest) -> Result<HeartbeatTasksResponse, Refusal> {
    let worker = parse_id(&request.worker_id, "worker_id")?;
    let Some(row) = txn.ix.workers.get(&worker) else {
        return Err(reject::worker_not_found(&request.worker_id).into());
    };
    require_maker(row, worker, principal)?;
    // What another cluster was promised is not taken back: it would not hear of it in time.
    let promised = row.capabilities.as_ref().is_some_and(is_elsewhere);
    let expires = txn.now + or_default(request.lease_ms, limits::LEASE_MS_DEFAULT);
    let mut reports = Vec::with_capacity(request.leases.len());
    for lease in request.leases {
        let id = parse_id(&lease.task_id, "leases.task_id")?;
        let task = match txn.ix.namespace_ids.get(lease.namespace.as_str()).copied() {
            Some(ns) => Task::load(txn, ns, id)?,
            None => None,
        };
        let held = task.filter(|task| holds(task, lease.token) && task.row.worker == worker);
        let mut report = LeaseReport { task_id: lease.task_id, token: lease.token, ..LeaseReport::default() };
        report.set_status(LeaseStatus::Lost);
        if let Some(mut task) = held {
            let before = if promised { task.row.lease_expires_at_ms } else { 0 };
            let until = transfer::lease_end(txn, &mut task, expires).min(task.row.attempt_ends_at_ms);
            task.row.lease_expires_at_ms = until.max(before);
            if lease.progress.is_some() {
                task.row.progress = lease.progress;
            }
            task.save(txn)?;
            report.lease_expires_at_ms = task.row.lease_expires_at_ms;
            report.set_status(match task.row.cancel_requested {
                true => LeaseStatus::CancelRequested,
                false => LeaseStatus::Held,
            });
        }
        reports.push(report);
    }
    let now_ms = if txn.meta.version < version::FEDERATION { 0 } else { txn.now };
    Ok(HeartbeatTasksResponse { leases: reports, now_ms })
}

/// The running attempt was not renewed, or took too long.
pub fn attempt_over(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let mut task = Task::indexed(txn, ns, id, TaskState::Running)?;
    let ending = match task.row.attempt_ends_at_ms <= txn.now {
        true => end::Ending::without_report(error("ATTEMPT_TIMEOUT", "the attempt took longer than the task allows")),
        false => end::Ending::without_report(error("LEASE_EXPIRED", "the worker did not renew its lease in time")),
    };
    end::fail_attempt(txn, &mut task, ending, false).map(drop)
}

/// The delayed task's time has come. It is ready since then, however late this is noticed.
pub fn eligible(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let mut task = Task::indexed(txn, ns, id, TaskState::Delayed)?;
    task.row.set_state(TaskState::Ready);
    task.save(txn)
}

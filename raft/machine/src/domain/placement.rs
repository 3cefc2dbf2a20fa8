//! Placement: which worker, on which runtime, gets a task that leaves it open.
//!
//! A task of the runtime [`AUTO`] is of a class that no worker runs. The leader's node chooses a worker and proposes it; here the choice is
//! checked against the state as it is now, recorded with its reasons, and made true by moving the task to a class that workers of one
//! runtime on one node run. Where an attempt ends without success the task is open again: what was the best choice may not be any more.
//!
//! What a proposal says that has become untrue is skipped, not refused: the proposer looks again at what is open.

use tarn_proto::v1::{
    DecisionKind, EventKind, IsolationLevel, PlaceTasks, PutSchedulerSettingsRequest, PutSchedulerSettingsResponse, SchedulerSettings,
    TaskPlacement, TaskSpec, TaskState, TasksPlaced,
};

use super::worker::is_elsewhere;
use super::{nodes_only, parse_id};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::{matches_class, serves};
use crate::keys::Key;
use crate::rows::{Class, DecisionRow, WorkerRow};
use crate::task::{Task, specification};
use crate::txn::Txn;

/// The runtime of tasks that leave it to the router.
pub const AUTO: &str = "auto";

/// The label by which a worker says on which node it runs.
pub fn node_label(node: &str) -> String {
    format!("node={node}")
}

/// A part of a specification: its name, what it names to be run if the specification has it, and the runtimes that it is for.
type Part<'a> = (&'static str, Option<&'a String>, &'static [&'static str]);

/// Every part that a specification can have.
pub fn parts(spec: &TaskSpec) -> [Part<'_>; 4] {
    [
        ("wasm", spec.wasm.as_ref().map(|part| &part.artifact), &["wasm", "microvm"]),
        ("native", spec.native.as_ref().map(|part| &part.artifact), &["native"]),
        ("cuda", spec.cuda.as_ref().map(|part| &part.artifact), &["cuda"]),
        ("transform", spec.transform.as_ref().map(|part| &part.name), &["native", "cuda"]),
    ]
}

/// The runtimes that may run a task of the runtime [`AUTO`]: those that it names, else all that it has a part for.
pub fn runtimes(spec: &TaskSpec) -> Vec<&str> {
    match spec.placement.as_ref().filter(|placement| !placement.runtimes.is_empty()) {
        Some(placement) => placement.runtimes.iter().map(String::as_str).collect(),
        None => {
            let given = parts(spec).into_iter().filter(|(_, what, _)| what.is_some());
            given.flat_map(|(_, _, all)| all).copied().collect()
        }
    }
}

/// The specification as the worker of this runtime gets it: with the part for this runtime alone.
pub fn narrow(spec: &mut TaskSpec, runtime: &str) {
    let others = parts(spec).map(|(part, _, runtimes)| (part, !runtimes.contains(&runtime)));
    for (part, _) in others.into_iter().filter(|(_, other)| *other) {
        match part {
            "wasm" => spec.wasm = None,
            "native" => spec.native = None,
            "cuda" => spec.cuda = None,
            _ => spec.transform = None,
        }
    }
    runtime.clone_into(&mut spec.runtime);
    spec.placement = None;
}

/// The command: places tasks, or opens them again.
pub fn place_tasks(txn: &mut Txn<'_>, principal: &str, request: PlaceTasks) -> Result<TasksPlaced, Refusal> {
    nodes_only(principal, "place tasks")?;
    let mut placed = 0;
    for placement in request.placements {
        placed += u32::from(place(txn, placement)?);
    }
    Ok(TasksPlaced { placed })
}

/// Places one task; false if that is not possible any more.
fn place(txn: &mut Txn<'_>, placement: TaskPlacement) -> Result<bool, Refusal> {
    let Some(ns) = txn.ix.namespace_ids.get(placement.namespace.as_str()).copied() else {
        return Ok(false);
    };
    let task = Task::load(txn, ns, parse_id(&placement.task_id, "placements.task_id")?)?;
    let Some(mut task) = task.filter(|task| task.row.state() == TaskState::Ready && is_routed(task)) else {
        return Ok(false);
    };
    if placement.worker_id.is_empty() {
        let was_placed = task.row.placed_worker != 0;
        task.open(txn)?;
        task.save(txn)?;
        return Ok(was_placed);
    }
    let worker = parse_id(&placement.worker_id, "placements.worker_id")?;
    let spec = specification(&txn.rows, ns, task.id, false)?.spec.unwrap_or_default();
    let class = crate::task::spec::class(&spec);
    let Some(class) = class_for(txn, &task, &spec, class, worker, &placement.runtime)? else {
        return Ok(false);
    };
    task.reclass(class);
    task.row.placed_worker = worker;
    txn.decide(DecisionRow {
        kind: DecisionKind::Placed.into(),
        namespace: placement.namespace,
        task: task.id,
        worker,
        placement: placement.scores,
        ..DecisionRow::default()
    });
    task.decided(txn);
    task.save(txn)?;
    let runtime = task.row.class().runtime;
    task.event(txn, EventKind::TaskPlaced, &runtime)?;
    if let Some(event) = txn.events.last_mut() {
        event.worker = Id(worker).to_string();
    }
    Ok(true)
}

/// Whether a task may run in another cluster: its submitter says so, or the operator does of all.
pub fn may_go(spec: &TaskSpec, settings: &SchedulerSettings) -> bool {
    let says = spec.placement.as_ref().is_some_and(|placement| placement.any_cluster);
    says || settings.any_cluster() && spec.runtime == AUTO
}

/// Whether the router decides where it runs.
pub fn is_routed(task: &Task) -> bool {
    task.row.placed_worker != 0 || task.row.class.as_ref().is_some_and(|class| class.runtime == AUTO)
}

/// The class of the task at this worker; none if the worker may not run it.
fn class_for(txn: &Txn<'_>, task: &Task, spec: &TaskSpec, mut class: Class, worker: u64, runtime: &str) -> Result<Option<Class>, Fatal> {
    let Some(WorkerRow { capabilities: Some(capabilities), draining: false, .. }) = txn.ix.workers.get(&worker) else {
        return Ok(None);
    };
    let Some(resources) = &capabilities.resources else { return Ok(None) };
    let wanted = spec.placement.as_ref().map_or(IsolationLevel::Unspecified, |placement| placement.isolation());
    // One that does not say how it isolates is taken for the weakest, and so is a task that asks for nothing.
    let strong_enough = resources.isolation.max(1) >= i32::from(wanted).max(1);
    runtime.clone_into(&mut class.runtime);
    class.requires.push(node_label(&resources.node));
    class.requires.sort();
    class.requires.dedup();
    let queue = txn.ix.queue(task.ns, task.row.queue)?;
    let any_cluster = may_go(spec, &txn.ix.scheduler_settings);
    let suits = strong_enough
        && (any_cluster || !is_elsewhere(capabilities))
        && runtimes(spec).contains(&runtime)
        && matches_class(capabilities, &class)
        && serves(&capabilities.queues, &queue.name)
        && txn.ix.namespace(task.ns)?.is_served_by(capabilities);
    Ok(suits.then_some(class))
}

impl Task {
    /// Leaves it to the router again where the task runs, if that was its doing. The caller saves it.
    pub fn open(&mut self, txn: &Txn<'_>) -> Result<(), Fatal> {
        if self.row.placed_worker != 0 {
            let spec = specification(&txn.rows, self.ns, self.id, false)?.spec.unwrap_or_default();
            self.row.placed_worker = 0;
            self.reclass(crate::task::spec::class(&spec));
        }
        Ok(())
    }
}

/// The command: how the router weighs, from the next placement on.
pub fn put_settings(txn: &mut Txn<'_>, request: PutSchedulerSettingsRequest) -> Result<PutSchedulerSettingsResponse, Refusal> {
    let settings = request.settings.unwrap_or_default();
    if settings != txn.ix.scheduler_settings {
        txn.event(EventKind::SchedulerChanged, "settings");
        txn.rows.put(Key::SchedulerSettings, &settings);
        txn.ix.scheduler_settings = settings;
    }
    Ok(PutSchedulerSettingsResponse {})
}

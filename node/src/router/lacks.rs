//! Why a task that waits for the router is not placed: what each worker lacks.

use std::collections::{BTreeMap, HashMap};

use tarn_machine::Machine;
use tarn_proto::v1::{Task, TaskState, WorkerLack};
use tarn_scheduler::{Cluster, Miss, Reason, compare};

use super::need::{Held, Needs};
use super::view;

/// Workers that are told of.
const LACKS_MAX: usize = 16;

/// The reason for a task that must run where its data lies, beside those of [`Reason`].
const DATA_UNCERTAIN: &str = "DATA_UNCERTAIN";

/// What workers lack in order to be given this task, those that lack least first. None of a task that does not wait for the router.
#[must_use]
pub fn lacks(machine: &Machine, task: &Task) -> Vec<WorkerLack> {
    let none = Default::default();
    let spec = task.spec.as_ref().unwrap_or(&none);
    let waits = task.state() == TaskState::Ready && task.placed_worker.is_empty();
    if !waits || spec.runtime != tarn_machine::AUTO {
        return Vec::new();
    }
    let loads = machine.worker_loads();
    let held = Needs::default().held(machine, &loads);
    let idle = Held::default();
    let workers = loads.iter().filter_map(|load| {
        let resources = load.capabilities.resources.as_ref().filter(|has| has.cluster.is_empty())?;
        Some(view::worker(load, resources, held.get(&load.id).unwrap_or(&idle)))
    });
    let Ok(cluster) = Cluster::new(workers.collect(), &BTreeMap::new()) else {
        return Vec::new();
    };
    let strict = machine.is_strict(&task.namespace);
    let mut requires = view::requirements(&task.namespace, strict, spec, view::smallest_device(&loads));
    let wants_data = !std::mem::take(&mut requires.data).is_empty();
    let names: HashMap<&str, &str> = loads.iter().map(|load| (load.id.as_str(), load.name.as_str())).collect();
    let mut found: Vec<WorkerLack> = compare(&requires, &cluster)
        .map(|(id, misses)| WorkerLack {
            worker_id: id.to_owned(),
            name: names.get(id).copied().unwrap_or_default().to_owned(),
            reasons: misses.iter().map(|miss| miss.reason.code().to_owned()).collect(),
            texts: misses.iter().map(text).collect(),
            passes: misses.iter().all(passes),
        })
        .collect();
    if wants_data {
        found.iter_mut().for_each(may_lack_data);
    }
    found.sort_by_key(|lack| (!lack.passes, lack.reasons.len()));
    found.truncate(LACKS_MAX);
    found
}

/// Only the leader's node asks around where data lies: of each worker it is said that its node may lack it.
fn may_lack_data(lack: &mut WorkerLack) {
    lack.reasons.push(DATA_UNCERTAIN.to_owned());
    lack.texts.push("its node may lack data that the task must lie beside, which the leader's node finds out".to_owned());
    lack.passes = false;
}

/// A worker of a namespace's own carries a mark that nobody else sees.
fn text(miss: &Miss) -> String {
    match miss.reason {
        Reason::LabelMissing if miss.detail.starts_with('\0') => "it does not serve this namespace alone".to_owned(),
        _ => miss.to_string(),
    }
}

fn passes(miss: &Miss) -> bool {
    matches!(miss.reason, Reason::NoSlot | Reason::MemoryBusy | Reason::DeviceBusy | Reason::DeviceUnhealthy)
}

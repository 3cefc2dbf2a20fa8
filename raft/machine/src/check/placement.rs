//! What can be refused of tasks that leave it to the router where they run, of workers' resources, and of the router's settings.

use prost::Message;
use tarn_proto::v1::{IsolationLevel, PlaceTasks, Placement, SchedulerSettings, TaskSpec, WorkerResources};

use super::{Check, artifact, count, id, known, label, length, name, part_error, range, unnamed};
use crate::domain::placement::{AUTO, parts, runtimes};
use crate::limits;
use crate::reject::invalid;

/// A task of the runtime [`AUTO`] has a part for each runtime that may run it, and no two for the same one. No other has a placement.
pub(super) fn task(spec: &TaskSpec) -> Check {
    if spec.runtime != AUTO {
        return match spec.placement {
            None => Ok(()),
            Some(_) => {
                let message = format!("only tasks of the runtime {AUTO} have a placement: leave it out, or set the runtime");
                Err(invalid("PLACEMENT_UNEXPECTED", "tasks.placement", message))
            }
        };
    }
    let given = parts(spec).into_iter().filter_map(|(part, what, all)| Some((part, what?, all)));
    let mut covered: Vec<&str> = Vec::new();
    for (part, what, all) in given {
        if what.is_empty() {
            return Err(unnamed(part, AUTO));
        }
        if let Some(twice) = all.iter().find(|runtime| covered.contains(runtime)) {
            let message = format!("the task says twice what to run on {twice}: leave out its {part} part, or the other");
            return Err(part_error(part, "UNEXPECTED", "", message));
        }
        covered.extend(all);
    }
    if covered.is_empty() {
        let message = format!("a task of the runtime {AUTO} says what to run: give it a wasm, native, cuda or transform part");
        return Err(invalid("NOTHING_TO_RUN", "tasks.runtime", message));
    }
    if let Some(runtime) = runtimes(spec).iter().find(|runtime| !covered.contains(runtime)) {
        let message = format!("the task has no part for the runtime {runtime:?}: give it one, or leave the runtime out");
        return Err(invalid("RUNTIME_WITHOUT_PART", "tasks.placement.runtimes", message));
    }
    spec.placement.as_ref().map_or(Ok(()), placement)
}

fn placement(given: &Placement) -> Check {
    let max = limits::PLACEMENT_ENTRIES_MAX;
    let lists = [
        ("tasks.placement.runtimes", &given.runtimes),
        ("tasks.placement.data", &given.data),
        ("tasks.placement.near", &given.near),
        ("tasks.placement.prefers", &given.prefers),
    ];
    for (field, list) in lists {
        count("TOO_MANY_ENTRIES", field, list.len(), max)?;
        list.iter().try_for_each(|text| label(field, text))?;
    }
    given.data.iter().try_for_each(|name| artifact("tasks.placement.data", name))?;
    given.near.iter().try_for_each(|name| artifact("tasks.placement.near", name))?;
    for (place, runtime) in given.runtimes.iter().enumerate() {
        if given.runtimes[..place].contains(runtime) {
            let message = format!("the runtime {runtime:?} is named twice: name each once, the best first");
            return Err(invalid("NAMED_TWICE", "tasks.placement.runtimes", message));
        }
    }
    known("tasks.placement.isolation", IsolationLevel::try_from(given.isolation).is_ok())?;
    range("tasks.placement.patience_ms", given.patience_ms.unwrap_or(0), (0, limits::SCHEDULER_TIME_MS_MAX))
}

/// What a worker says that it has.
pub(super) fn resources(given: &WorkerResources) -> Check {
    label("resources.node", &given.node)?;
    length("CLUSTER_TOO_LONG", "resources.cluster", given.cluster.len(), limits::LABEL_BYTES_MAX)?;
    known("resources.isolation", IsolationLevel::try_from(given.isolation).is_ok())?;
    // A cluster that this worker stands for may have none free for others.
    let least = u64::from(given.cluster.is_empty());
    range("resources.slots", given.slots.into(), (least, limits::WORKER_SLOTS_MAX))?;
    range("resources.cost_per_second", given.cost_per_second, (0, limits::COST_MAX))?;
    range("resources.quality_permille", given.quality_permille.into(), (0, 1_000))?;
    count("TOO_MANY_DEVICES", "resources.devices", given.devices.len(), limits::WORKER_DEVICES_MAX)?;
    given.devices.iter().try_for_each(|device| name("resources.devices.kind", &device.kind))
}

/// What the router decided.
pub(super) fn placements(given: &PlaceTasks) -> Check {
    if given.placements.is_empty() {
        return Err(invalid("NO_PLACEMENTS", "placements", "there is nothing to place"));
    }
    count("TOO_MANY_PLACEMENTS", "placements", given.placements.len(), limits::PLACEMENTS_MAX)?;
    given.placements.iter().try_for_each(|placement| {
        name("placements.namespace", &placement.namespace)?;
        id("placements.task_id", &placement.task_id)?;
        let scores = placement.scores.as_ref().map_or(0, Message::encoded_len);
        length("SCORES_TOO_LARGE", "placements.scores", scores, limits::PLACEMENT_SCORES_BYTES_MAX)?;
        match placement.worker_id.is_empty() {
            true => Ok(()),
            false => {
                id("placements.worker_id", &placement.worker_id)?;
                name("placements.runtime", &placement.runtime)
            }
        }
    })
}

/// How the router weighs.
pub(super) fn settings(given: Option<&SchedulerSettings>) -> Check {
    let Some(settings) = given else {
        return Err(invalid("NO_SETTINGS", "settings", "name the settings: what is not set has its default"));
    };
    let weights = settings.weights.unwrap_or_default();
    let all = [
        ("settings.weights.performance", weights.performance),
        ("settings.weights.cost", weights.cost),
        ("settings.weights.quality", weights.quality),
        ("settings.weights.priority", weights.priority),
        ("settings.weights.locality", weights.locality),
        ("settings.weights.dependencies", weights.dependencies),
        ("settings.weights.balance", weights.balance),
        ("settings.weights.thrift", weights.thrift),
    ];
    for (field, weight) in all {
        range(field, weight.unwrap_or(0).into(), (0, limits::SCHEDULER_WEIGHT_MAX))?;
    }
    let worth = settings.time_value_per_second.unwrap_or(0);
    range("settings.time_value_per_second", worth, (0, limits::COST_MAX))?;
    let times = [
        ("settings.chain_patience_ms", settings.chain_patience_ms),
        ("settings.auto_patience_ms", settings.auto_patience_ms),
        ("settings.settle_ms", settings.settle_ms),
        ("settings.away_patience_ms", settings.away_patience_ms),
    ];
    times.into_iter().try_for_each(|(field, ms)| range(field, ms.unwrap_or(0), (0, limits::SCHEDULER_TIME_MS_MAX)))
}

//! The state as the scheduler wants to see it.

use std::collections::{BTreeMap, BTreeSet};

use tarn_machine::{OpenTask, WorkerLoad};
use tarn_proto::v1::{IsolationLevel, Placement, TaskSpec, WorkerResources};
use tarn_scheduler::{Device, DeviceNeed, Isolation, Priority, Requirements, Runtimes, Task, Weighed, Worker};

use super::need::{self, Held};

/// Whatever is alike under this name is taken to run about as long: the transform, or the first artifact.
pub(super) fn history_key(spec: &TaskSpec) -> String {
    let artifacts = [
        spec.wasm.as_ref().map(|part| &part.artifact),
        spec.native.as_ref().map(|part| &part.artifact),
        spec.cuda.as_ref().map(|part| &part.artifact),
    ];
    match (&spec.transform, artifacts.into_iter().flatten().next()) {
        (Some(transform), _) => format!("transform/{}", transform.name),
        (None, Some(artifact)) => artifact.clone(),
        (None, None) => spec.handler.clone(),
    }
}

/// What a worker must satisfy. `device_bytes` is the memory of the smallest device, of which a share in thousandths is a share of.
pub(super) fn requirements(namespace: &str, strict: bool, spec: &TaskSpec, device_bytes: u64) -> Requirements {
    let none = Placement::default();
    let placement = spec.placement.as_ref().unwrap_or(&none);
    let need = need::of(spec);
    let names = tarn_machine::runtimes(spec).into_iter().map(str::to_owned).collect();
    let mut labels = spec.requires.clone();
    if strict {
        labels.push(alone(namespace));
    }
    Requirements {
        namespace: namespace.to_owned(),
        queue: spec.queue.clone(),
        handler: spec.handler.clone(),
        runtimes: match placement.runtimes.is_empty() {
            true => Runtimes::Auto(names),
            false => Runtimes::Chain(names),
        },
        labels,
        isolation: isolation(placement.isolation()),
        memory_bytes: need.memory_bytes,
        devices: need
            .device
            .map(|share| DeviceNeed {
                kind: "cuda".to_owned(),
                memory_bytes: share.bytes(device_bytes),
                capability: placement.device_capability,
                runtimes: vec!["cuda".to_owned()],
            })
            .into_iter()
            .collect(),
        data: placement.data.clone(),
    }
}

/// A label that only workers of a namespace's own have. No worker can announce it: a zero byte is in no name.
fn alone(namespace: &str) -> String {
    format!("\0alone={namespace}")
}

fn isolation(level: IsolationLevel) -> Isolation {
    match level {
        IsolationLevel::Unspecified | IsolationLevel::Process => Isolation::Process,
        IsolationLevel::Sandbox => Isolation::Sandbox,
        IsolationLevel::Machine => Isolation::Machine,
    }
}

/// A task that waits. `nodes` has the node of each worker that is known.
pub(super) fn task(open: &OpenTask, nodes: &BTreeMap<&str, &str>, device_bytes: u64, now_ms: u64) -> Task {
    let none = Placement::default();
    let placement = open.spec.placement.as_ref().unwrap_or(&none);
    let weighed = |name: &String| Weighed { name: name.clone(), bytes: 0 };
    let node = |worker: &String| nodes.get(worker.as_str()).map(|node| (*node).to_owned());
    Task {
        id: open.id.clone(),
        requires: requirements(&open.namespace, open.strict, &open.spec, device_bytes),
        artifact: history_key(&open.spec),
        prefers: placement.prefers.clone(),
        near: placement.near.iter().map(weighed).collect(),
        results: open.results_at.iter().filter_map(|(worker, bytes)| Some(Weighed { name: node(worker)?, bytes: *bytes })).collect(),
        failed_on: open.failed_at.iter().filter_map(node).collect(),
        priority: match open.level {
            0 | 1 => Priority::Critical,
            2 => Priority::High,
            3 => Priority::Normal,
            4 => Priority::Low,
            _ => Priority::Background,
        },
        waited_ms: now_ms.saturating_sub(open.eligible_at_ms),
        patience_ms: placement.patience_ms,
    }
}

/// A worker that has said what it has.
pub(super) fn worker(load: &WorkerLoad, resources: &WorkerResources, held: &Held) -> Worker {
    let capabilities = &load.capabilities;
    let mut labels = capabilities.labels.clone();
    if let [only] = capabilities.namespaces.as_slice() {
        labels.push(alone(only));
    }
    let left = held.left(&resources.devices);
    Worker {
        id: load.id.clone(),
        node: resources.node.clone(),
        runtime: capabilities.runtimes.first().cloned().unwrap_or_default(),
        handlers: capabilities.handlers.clone(),
        namespaces: capabilities.namespaces.clone(),
        queues: capabilities.queues.clone(),
        labels,
        isolation: isolation(resources.isolation()),
        slots: resources.slots,
        slots_free: resources.slots.saturating_sub(u32::try_from(held.tasks).unwrap_or(u32::MAX)),
        memory_bytes: resources.memory_bytes,
        attempt_memory_bytes: resources.attempt_memory_bytes,
        memory_free_bytes: resources.memory_bytes.saturating_sub(held.memory_bytes),
        devices: resources
            .devices
            .iter()
            .zip(left)
            .map(|(device, left)| Device {
                kind: device.kind.clone(),
                memory_bytes: device.memory_bytes,
                memory_free_bytes: left,
                capability: device.capability,
                lost: device.lost,
            })
            .collect(),
        cost_per_second: resources.cost_per_second,
        quality: match resources.quality_permille {
            0 => 1_000,
            permille => u16::try_from(permille).unwrap_or(1_000),
        },
        draining: load.draining,
    }
}

/// The memory of the smallest device of all workers; 0 if there is none.
pub(super) fn smallest_device(loads: &[WorkerLoad]) -> u64 {
    let resources = loads.iter().filter_map(|load| load.capabilities.resources.as_ref());
    resources.flat_map(|resources| &resources.devices).map(|device| device.memory_bytes).min().unwrap_or(0)
}

/// The artifacts that tasks want near.
pub(super) fn wanted(tasks: &[Task]) -> BTreeSet<String> {
    let near = tasks.iter().flat_map(|task| task.near.iter().map(|near| near.name.clone()));
    near.chain(tasks.iter().flat_map(|task| task.requires.data.iter().cloned())).collect()
}

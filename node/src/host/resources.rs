//! What this node's executor tells the router that it has.

use tarn_proto::v1::{IsolationLevel, WorkerDevice, WorkerResources};

use super::HostOptions;

/// The executor's resources as they are now; none while the cluster runs a version without a router.
pub(super) fn now(options: &HostOptions, version: u32) -> Option<WorkerResources> {
    if version < tarn_machine::ROUTER {
        return None;
    }
    let slots = options.executor.capabilities().slots.max(1);
    let memory_bytes = options.memory_bytes_max.saturating_mul(slots as u64);
    let devices = options.executor.device_states().into_iter().map(|device| WorkerDevice {
        kind: device.kind.to_owned(),
        memory_bytes: device.memory_bytes,
        capability: device.capability,
        lost: device.lost,
    });
    Some(WorkerResources {
        node: options.node_id.to_string(),
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        memory_bytes: machine_memory().map_or(memory_bytes, |all| memory_bytes.min(all)),
        attempt_memory_bytes: options.memory_bytes_max,
        devices: devices.collect(),
        isolation: isolation(options.executor.runtime()).into(),
        cost_per_second: options.cost_per_second,
        quality_permille: 0,
        cluster: String::new(),
    })
}

fn isolation(runtime: &str) -> IsolationLevel {
    match runtime {
        "microvm" => IsolationLevel::Machine,
        "wasm" => IsolationLevel::Sandbox,
        _ => IsolationLevel::Process,
    }
}

/// The machine's main memory, in bytes, where it says so.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

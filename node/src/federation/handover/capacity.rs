//! What this cluster could take on for others, and how the others hear of it: its own entry in the shared document.
//!
//! The entry is written when it has changed enough to matter, and at most once a second: it costs a signature and a commit in every cluster.
//! It is a hint. Whoever is offered a task looks again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use tarn_crdt::Write;
use tarn_machine::{Machine, WorkerLoad};
use tarn_proto::v1::{ClusterCapacity, QueueDelay, SharedEntry, WorkerCapabilities, WorkerDevice, WorkerResources, WriteShared};
use tokio::time::Instant;

use super::super::{Federation, now_ms};

/// How often this cluster looks what it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Between two entries at least; and after this long the entry is written anew if anything in it has changed.
const WRITE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Limit on one write. The next look tries again.
const WRITE: Duration = Duration::from_secs(5);

/// Namespaces that are told of, and labels and devices of a runtime.
const NAMESPACES_MAX: usize = 64;
const LABELS_MAX: usize = 60;

/// Tasks that are looked at for how long they have waited: those that are next.
const WAITING_MAX: usize = 64;

/// Runtimes of executors: what a task names that may run in any cluster.
const RUNTIMES: [&str; 4] = ["wasm", "native", "cuda", "microvm"];

/// Keeps this cluster's entry true, until it is dropped.
pub(super) async fn publish(federation: Federation) {
    let (mut written, mut at): (Option<ClusterCapacity>, Option<Instant>) = (None, None);
    loop {
        let now = federation.way().consensus().read(|machine| capacity(machine, now_ms())).ok();
        let since = at.map_or(Duration::MAX, |at| at.elapsed());
        if let Some(now) = now.filter(|now| is_due(written.as_ref(), now, since))
            && write(&federation, &now).await
        {
            (written, at) = (Some(now), Some(Instant::now()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn write(federation: &Federation, capacity: &ClusterCapacity) -> bool {
    let Some(own) = federation.own_id() else { return false };
    let (key, value) = Write::Capacity(capacity.encode_to_vec()).put(own);
    let write = WriteShared { writes: vec![SharedEntry { key, value: value.map(Into::into) }], ..WriteShared::default() };
    let written = federation.way().command(&federation.caller(), write, Instant::now() + WRITE).await;
    if let Err(refusal) = &written {
        tracing::debug!(reason = refusal.rejection.reason, "what this cluster could take on is not written yet");
    }
    written.is_ok()
}

/// Whether an entry that was written so long ago is to be written anew.
fn is_due(written: Option<&ClusterCapacity>, now: &ClusterCapacity, since: Duration) -> bool {
    let (least, most) = WRITE_EVERY;
    let Some(written) = written else { return true };
    let same = ClusterCapacity { measured_at_ms: now.measured_at_ms, ..written.clone() } == *now;
    !same && (since >= most || since >= least && differs(written, now))
}

/// Whether it matters to others: a runtime that has become free or full, or freer or fuller by a quarter; other labels or namespaces.
fn differs(before: &ClusterCapacity, now: &ClusterCapacity) -> bool {
    let by_runtime = |capacity: &ClusterCapacity| -> BTreeMap<String, WorkerCapabilities> {
        capacity.workers.iter().map(|group| (group.runtimes.concat(), group.clone())).collect()
    };
    let free = |group: &WorkerCapabilities| u64::from(group.resources.as_ref().map_or(0, |resources| resources.slots));
    let bare = |group: &WorkerCapabilities| {
        let mut bare = group.clone();
        bare.resources = None;
        bare
    };
    let waits = |capacity: &ClusterCapacity| -> BTreeSet<String> { capacity.delays.iter().map(|delay| delay.runtime.clone()).collect() };
    let waits_differ = waits(before) != waits(now);
    let (before, now) = (by_runtime(before), by_runtime(now));
    waits_differ
        || before.len() != now.len()
        || now.iter().any(|(runtime, group)| {
            before.get(runtime).is_none_or(|known| {
                let (known_free, free) = (free(known), free(group));
                bare(known) != bare(group) || (known_free == 0) != (free == 0) || 4 * known_free.abs_diff(free) > known_free.max(free)
            })
        })
}

/// What this cluster could take on now.
pub(super) fn capacity(machine: &Machine, now_ms: u64) -> ClusterCapacity {
    let namespaces = machine.open_namespaces(NAMESPACES_MAX);
    let loads = machine.worker_loads();
    let group = |runtime: &str| {
        let workers: Vec<&WorkerLoad> = loads.iter().filter(|load| serves_others(load, runtime)).collect();
        group(machine, runtime, &workers, &namespaces)
    };
    ClusterCapacity {
        workers: RUNTIMES.into_iter().filter_map(group).collect(),
        delays: queue_delays_ms(machine).into_iter().map(|(runtime, queue_delay_ms)| QueueDelay { runtime, queue_delay_ms }).collect(),
        measured_at_ms: now_ms,
    }
}

/// For how long the task has waited that has waited the longest for the router, of those that are next, by runtime. One that asks for more than
/// any worker of this cluster's has does not wait for a slot.
pub(super) fn queue_delays_ms(machine: &Machine) -> BTreeMap<String, u64> {
    let loads = machine.worker_loads();
    let mut delays = BTreeMap::new();
    for task in machine.open_tasks(WAITING_MAX).unwrap_or_default() {
        let waited = machine.now_ms().saturating_sub(task.eligible_at_ms);
        for runtime in tarn_machine::runtimes(&task.spec) {
            let has_all = |load: &WorkerLoad| task.spec.requires.iter().all(|label| load.capabilities.labels.contains(label));
            if loads.iter().any(|load| serves_others(load, runtime) && has_all(load)) {
                let longest: &mut u64 = delays.entry(runtime.to_owned()).or_default();
                *longest = waited.max(*longest);
            }
        }
    }
    delays
}

/// How many more attempts of a runtime could begin now, beside those that are on their way here.
pub(super) fn free_slots(machine: &Machine, runtime: &str) -> u64 {
    let loads = machine.worker_loads();
    let free: u64 = loads.iter().filter(|load| serves_others(load, runtime)).map(free_of).sum();
    free.saturating_sub(machine.waiting_of(runtime))
}

/// Whether it is a worker of this cluster's own that takes whatever comes.
fn serves_others(load: &WorkerLoad, runtime: &str) -> bool {
    let given = &load.capabilities;
    let here = given.resources.as_ref().is_some_and(|resources| resources.cluster.is_empty());
    let open = given.namespaces.is_empty() && given.queues.is_empty() && given.handlers.is_empty();
    here && open && !load.draining && given.runtimes.iter().any(|one| one == runtime)
}

fn free_of(load: &WorkerLoad) -> u64 {
    let slots = load.capabilities.resources.as_ref().map_or(0, |resources| u64::from(resources.slots));
    slots.saturating_sub((load.running.len() + load.placed.len()) as u64)
}

/// What the workers of a runtime have in common; none if there are none.
fn group(machine: &Machine, runtime: &str, workers: &[&WorkerLoad], namespaces: &[String]) -> Option<WorkerCapabilities> {
    let labels = |load: &WorkerLoad| -> BTreeSet<String> {
        load.capabilities.labels.iter().filter(|label| !label.starts_with("node=")).cloned().collect()
    };
    let common = workers.iter().map(|load| labels(load)).reduce(|a, b| a.intersection(&b).cloned().collect())?;
    let resources = || workers.iter().filter_map(|load| load.capabilities.resources.as_ref());
    let free: u64 = workers.iter().map(|load| free_of(load)).sum();
    let free = u32::try_from(free.saturating_sub(machine.waiting_of(runtime))).unwrap_or(u32::MAX);
    let devices: Vec<WorkerDevice> = resources().flat_map(|resources| resources.devices.clone()).take(LABELS_MAX).collect();
    Some(WorkerCapabilities {
        runtimes: vec![runtime.to_owned()],
        labels: common.into_iter().take(LABELS_MAX).collect(),
        namespaces: namespaces.to_vec(),
        resources: Some(WorkerResources {
            slots: free,
            memory_bytes: resources().map(|resources| resources.memory_bytes).fold(0, u64::saturating_add),
            attempt_memory_bytes: resources().map(|resources| resources.attempt_memory_bytes).min().unwrap_or(0),
            isolation: resources().map(|resources| resources.isolation).min().unwrap_or(0),
            cost_per_second: resources().map(|resources| resources.cost_per_second).max().unwrap_or(0),
            quality_permille: resources().map(|resources| resources.quality_permille).min().unwrap_or(0),
            devices,
            ..WorkerResources::default()
        }),
        ..WorkerCapabilities::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(free: u32, namespace: &str) -> ClusterCapacity {
        let group = WorkerCapabilities {
            runtimes: vec!["wasm".into()],
            namespaces: vec![namespace.into()],
            resources: Some(WorkerResources { slots: free, ..WorkerResources::default() }),
            ..WorkerCapabilities::default()
        };
        ClusterCapacity { workers: vec![group], ..ClusterCapacity::default() }
    }

    #[test]
    fn an_entry_is_written_when_it_matters_and_not_too_often() {
        let (soon, second, late) = (Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(30));
        let written = with(8, "default");
        assert!(is_due(None, &written, Duration::ZERO));
        let again = ClusterCapacity { measured_at_ms: 99, ..written.clone() };
        assert!(!is_due(Some(&written), &again, late), "nothing has changed but the time");
        for (now, after_a_second, after_long) in [
            (with(7, "default"), false, true),
            (with(6, "default"), false, true),
            (with(5, "default"), true, true),
            (with(0, "default"), true, true),
            (with(11, "default"), true, true),
            (with(8, "other"), true, true),
            (ClusterCapacity::default(), true, true),
            (ClusterCapacity { delays: vec![QueueDelay { runtime: "wasm".into(), queue_delay_ms: 10 }], ..written.clone() }, true, true),
        ] {
            assert!(!is_due(Some(&written), &now, soon), "{now:?}");
            assert_eq!(is_due(Some(&written), &now, second), after_a_second, "{now:?}");
            assert_eq!(is_due(Some(&written), &now, late), after_long, "{now:?}");
        }
    }
}

//! Workers whose room shrinks and grows as tasks are placed and end; refuses what a scheduler must never do.

use std::collections::{BTreeMap, BTreeSet};

use tarn_scheduler::{Cluster, Placement, Requirements, Worker};

/// The workers, and where data lies.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub workers: BTreeMap<String, Worker>,
    pub data: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    pub fn new(workers: &[Worker], data: &BTreeMap<String, BTreeSet<String>>) -> Self {
        Self { workers: workers.iter().map(|worker| (worker.id.clone(), worker.clone())).collect(), data: data.clone() }
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.workers.values().cloned().collect(), &self.data).expect("the ledger's workers are sound")
    }

    /// Takes what a placed task needs, or says which requirement the placement violates. Written without the scheduler's own checks.
    pub fn take(&mut self, requires: &Requirements, placement: &Placement) -> Result<(), String> {
        let worker = self.workers.get_mut(&placement.worker).ok_or("no such worker")?;
        let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} violated")) };
        let serves = |list: &[String], name: &String| list.is_empty() || list.contains(name);
        must(placement.runtime == worker.runtime, "runtime")?;
        must(requires.runtimes.names().contains(&worker.runtime), "runtime")?;
        must(requires.labels.iter().all(|label| worker.labels.contains(label)), "label")?;
        must(worker.isolation >= requires.isolation, "isolation")?;
        must(serves(&worker.handlers, &requires.handler), "handler")?;
        must(serves(&worker.namespaces, &requires.namespace), "namespace")?;
        must(serves(&worker.queues, &requires.queue), "queue")?;
        must(!worker.draining, "draining")?;
        let lies = |data: &String| self.data.get(data).is_some_and(|nodes| nodes.contains(&worker.node));
        must(requires.data.iter().all(lies), "data")?;
        worker.slots_free = worker.slots_free.checked_sub(1).ok_or("slots overcommitted")?;
        let memory = worker.memory_free_bytes.checked_sub(requires.memory_bytes);
        worker.memory_free_bytes = memory.ok_or("memory overcommitted")?;
        let needs: Vec<_> = requires.devices.iter().filter(|need| need.binds(&worker.runtime)).collect();
        must(needs.len() == placement.devices.len(), "number of devices")?;
        let distinct: BTreeSet<_> = placement.devices.iter().collect();
        must(distinct.len() == needs.len(), "devices of its own")?;
        for (need, at) in needs.iter().zip(&placement.devices) {
            let device = worker.devices.get_mut(*at).ok_or("no such device")?;
            must(device.kind == need.kind, "device kind")?;
            must(device.capability >= need.capability, "device capability")?;
            must(!device.lost, "device health")?;
            let memory = device.memory_free_bytes.checked_sub(need.memory_bytes);
            device.memory_free_bytes = memory.ok_or("device memory overcommitted")?;
        }
        Ok(())
    }

    /// Gives back what an ended task had.
    pub fn give_back(&mut self, requires: &Requirements, placement: &Placement) {
        let Some(worker) = self.workers.get_mut(&placement.worker) else {
            return;
        };
        worker.slots_free += 1;
        worker.memory_free_bytes += requires.memory_bytes;
        let needs = requires.devices.iter().filter(|need| need.binds(&worker.runtime));
        for (need, at) in needs.zip(&placement.devices) {
            worker.devices[*at].memory_free_bytes += need.memory_bytes;
        }
    }
}

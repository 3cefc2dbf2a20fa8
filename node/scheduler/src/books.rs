//! What is free, while a batch is placed.

use crate::devices::matching;
use crate::{Cluster, DeviceNeed, Requirements, Worker};

/// Free slots, memory and device memory of every worker, less what this batch has taken.
pub struct Books {
    slots: Vec<u32>,
    memory: Vec<u64>,
    /// Of all workers' devices, one after the other.
    devices: Vec<u64>,
    first_device: Vec<usize>,
    taken: Vec<u32>,
    changes: Vec<u32>,
}

impl Books {
    pub fn new(cluster: &Cluster) -> Self {
        let workers = cluster.workers();
        let mut first_device = Vec::with_capacity(workers.len());
        let mut devices = Vec::new();
        for worker in workers {
            first_device.push(devices.len());
            devices.extend(worker.devices.iter().map(|device| device.memory_free_bytes));
        }
        Self {
            slots: workers.iter().map(|worker| worker.slots_free).collect(),
            memory: workers.iter().map(|worker| worker.memory_free_bytes).collect(),
            devices,
            first_device,
            taken: vec![0; workers.len()],
            changes: vec![0; workers.len()],
        }
    }

    pub fn slots(&self, at: usize) -> u32 {
        self.slots[at]
    }

    pub fn memory(&self, at: usize) -> u64 {
        self.memory[at]
    }

    pub fn device(&self, at: usize, device: usize) -> u64 {
        self.devices[self.first_device[at] + device]
    }

    /// How often the worker was given a task of this batch.
    pub fn taken(&self, at: usize) -> u32 {
        self.taken[at]
    }

    /// How often what is free has changed: tells whether what was worked out for the worker still holds.
    pub fn changes(&self, at: usize) -> u32 {
        self.changes[at]
    }

    /// Whether the worker, which could run the task, has room for it now.
    pub fn has_room(&self, at: usize, worker: &Worker, requires: &Requirements) -> bool {
        self.slots[at] > 0
            && self.memory[at] >= requires.memory_bytes
            && (requires.devices.is_empty() || self.devices_for(at, worker, requires).is_some())
    }

    /// The devices for a task's needs, as far as they bind on the worker's runtime.
    pub fn devices_for(&self, at: usize, worker: &Worker, requires: &Requirements) -> Option<Vec<usize>> {
        matching(&binding(requires, &worker.runtime), &worker.devices, |device, facts| (!facts.lost).then(|| self.device(at, device)))
    }

    /// Takes what a task needs; `devices` as [`Books::devices_for`] gave them.
    pub fn take(&mut self, at: usize, worker: &Worker, requires: &Requirements, devices: &[usize]) {
        self.slots[at] -= 1;
        self.memory[at] -= requires.memory_bytes;
        for (need, device) in binding(requires, &worker.runtime).iter().zip(devices) {
            self.devices[self.first_device[at] + device] -= need.memory_bytes;
        }
        self.taken[at] += 1;
        self.changes[at] += 1;
    }

    /// Gives back what was taken. What was worked out for the worker no longer holds after this either.
    pub fn give_back(&mut self, at: usize, worker: &Worker, requires: &Requirements, devices: &[usize]) {
        self.slots[at] += 1;
        self.memory[at] += requires.memory_bytes;
        for (need, device) in binding(requires, &worker.runtime).iter().zip(devices) {
            self.devices[self.first_device[at] + device] += need.memory_bytes;
        }
        self.taken[at] -= 1;
        self.changes[at] += 1;
    }
}

/// The device needs of an attempt on this runtime.
pub fn binding<'a>(requires: &'a Requirements, runtime: &str) -> Vec<&'a DeviceNeed> {
    requires.devices.iter().filter(|need| need.binds(runtime)).collect()
}

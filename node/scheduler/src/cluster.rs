//! The workers as they stand, indexed by what tasks ask for.

use std::collections::{BTreeMap, BTreeSet};

use crate::bits::Bits;
use crate::score::hash;
use crate::{Requirements, Worker};

/// The most workers that a cluster can have.
pub const WORKERS_MAX: usize = 1 << 16;
/// The most devices that a worker can have.
pub const DEVICES_MAX: usize = 64;

/// All registered workers, and what data lies where. The order in which workers are given makes no difference.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// By id.
    workers: Vec<Worker>,
    /// Of their ids, for telling equal ones apart.
    hashes: Vec<u64>,
    by_runtime: BTreeMap<String, Bits>,
    by_label: BTreeMap<String, Bits>,
    /// Workers on whose node a piece of data lies, by its name.
    by_data: BTreeMap<String, Bits>,
}

impl Cluster {
    /// Takes the workers, and for each piece of data that tasks may name the nodes on which it lies.
    ///
    /// # Errors
    /// Two workers have the same id, something is freer than it is large, or there are too many.
    pub fn new(workers: Vec<Worker>, data: &BTreeMap<String, BTreeSet<String>>) -> Result<Self, ClusterError> {
        let mut workers = workers;
        if workers.len() > WORKERS_MAX {
            return Err(ClusterError::TooManyWorkers { count: workers.len() });
        }
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = workers.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ClusterError::SameWorker { id: pair[0].id.clone() });
        }
        for worker in &workers {
            check(worker)?;
        }
        let mut cluster = Self {
            hashes: workers.iter().map(|worker| hash(&worker.id)).collect(),
            workers: Vec::new(),
            by_runtime: BTreeMap::new(),
            by_label: BTreeMap::new(),
            by_data: BTreeMap::new(),
        };
        let mut by_node: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, worker) in workers.iter().enumerate() {
            add(&mut cluster.by_runtime, &worker.runtime, at, workers.len());
            for label in &worker.labels {
                add(&mut cluster.by_label, label, at, workers.len());
            }
            by_node.entry(&worker.node).or_default().push(at);
        }
        for (name, nodes) in data {
            for at in nodes.iter().filter_map(|node| by_node.get(node.as_str())).flatten() {
                add(&mut cluster.by_data, name, *at, workers.len());
            }
        }
        cluster.workers = workers;
        Ok(cluster)
    }

    /// All workers, by id.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub(crate) fn hash(&self, worker: usize) -> u64 {
        self.hashes[worker]
    }

    /// Whether this data lies on the node of the worker at this position.
    pub(crate) fn holds(&self, worker: usize, data: &str) -> bool {
        self.by_data.get(data).is_some_and(|bits| bits.contains(worker))
    }

    /// Workers of this runtime that carry the required labels and hold the required data. Whether they satisfy the rest is not
    /// looked at.
    pub(crate) fn shortlist(&self, requires: &Requirements, runtime: &str) -> Bits {
        let mut bits = match self.by_runtime.get(runtime) {
            Some(bits) => bits.clone(),
            None => Bits::none(self.workers.len()),
        };
        let labels = requires.labels.iter().map(|label| self.by_label.get(label));
        let data = requires.data.iter().map(|name| self.by_data.get(name));
        for set in labels.chain(data) {
            match set {
                Some(set) => bits.keep(set),
                None => bits.clear(),
            }
        }
        bits
    }
}

fn add(index: &mut BTreeMap<String, Bits>, key: &str, at: usize, len: usize) {
    if !index.contains_key(key) {
        index.insert(key.to_owned(), Bits::none(len));
    }
    if let Some(bits) = index.get_mut(key) {
        bits.insert(at);
    }
}

fn check(worker: &Worker) -> Result<(), ClusterError> {
    let freer = |what: &'static str| ClusterError::FreerThanLarge { id: worker.id.clone(), what };
    if worker.slots_free > worker.slots {
        return Err(freer("slots"));
    }
    if worker.memory_free_bytes > worker.memory_bytes {
        return Err(freer("memory"));
    }
    if worker.devices.iter().any(|d| d.memory_free_bytes > d.memory_bytes) {
        return Err(freer("device memory"));
    }
    if worker.devices.len() > DEVICES_MAX {
        return Err(ClusterError::TooManyDevices { id: worker.id.clone() });
    }
    if worker.quality > 1000 {
        return Err(ClusterError::QualityOutOfRange { id: worker.id.clone(), quality: worker.quality });
    }
    Ok(())
}

/// Why workers cannot be a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Two have the same id.
    #[error("two workers have the id {id}: name each once")]
    SameWorker {
        /// That id.
        id: String,
    },
    /// More is free than there is.
    #[error("worker {id} has more {what} free than it has: report what is free of it")]
    FreerThanLarge {
        /// The worker.
        id: String,
        /// Of what.
        what: &'static str,
    },
    /// A quality is given in thousandths.
    #[error("worker {id} has the quality {quality}: give it a value from 0 to 1000")]
    QualityOutOfRange {
        /// The worker.
        id: String,
        /// What was given.
        quality: u16,
    },
    /// More than [`WORKERS_MAX`].
    #[error("there are {count} workers: at most {WORKERS_MAX} can be scheduled together")]
    TooManyWorkers {
        /// How many.
        count: usize,
    },
    /// More than [`DEVICES_MAX`].
    #[error("worker {id} has more than {DEVICES_MAX} devices: register several workers")]
    TooManyDevices {
        /// The worker.
        id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn worker(id: &str, labels: &[&str]) -> Worker {
        Worker {
            id: id.into(),
            node: format!("n{id}"),
            runtime: "wasm".into(),
            labels: labels.iter().map(|label| label.to_string()).collect(),
            ..Worker::default()
        }
    }

    #[test]
    fn a_shortlist_is_what_carries_every_label_and_holds_every_datum() {
        let workers = vec![worker("c", &["gpu"]), worker("a", &["gpu", "fast"]), worker("b", &[])];
        let data = [("d".to_owned(), ["na".to_owned(), "nb".to_owned()].into())].into();
        let cluster = Cluster::new(workers, &data).unwrap();
        let list = |labels: &[&str], data: &[&str], runtime: &str| {
            let requires = Requirements {
                labels: labels.iter().map(|label| label.to_string()).collect(),
                data: data.iter().map(|name| name.to_string()).collect(),
                ..Requirements::default()
            };
            cluster.shortlist(&requires, runtime).iter().collect::<Vec<_>>()
        };
        assert_eq!(list(&[], &[], "wasm"), [0, 1, 2]);
        assert_eq!(list(&["gpu"], &[], "wasm"), [0, 2]);
        assert_eq!(list(&["gpu"], &["d"], "wasm"), [0]);
        assert!(list(&["nowhere"], &[], "wasm").is_empty());
        assert!(list(&[], &["nothing"], "wasm").is_empty());
        assert!(list(&[], &[], "native").is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let none = BTreeMap::new();
        let refused = |worker: Worker| Cluster::new(vec![worker], &none).unwrap_err().to_string();
        let mut slots = worker("a", &[]);
        slots.slots_free = 1;
        assert!(refused(slots).contains("more slots free"));
        let mut memory = worker("a", &[]);
        memory.memory_free_bytes = 1;
        assert!(refused(memory).contains("more memory free"));
        let mut device = worker("a", &[]);
        device.devices = vec![Device { memory_free_bytes: 1, ..Device::default() }];
        assert!(refused(device).contains("more device memory free"));
        let mut devices = worker("a", &[]);
        devices.devices = vec![Device::default(); DEVICES_MAX + 1];
        assert!(refused(devices).contains("more than 64 devices"));
        let mut quality = worker("a", &[]);
        quality.quality = 1001;
        assert!(refused(quality).contains("quality 1001"));
        let same = Cluster::new(vec![worker("a", &[]), worker("a", &["x"])], &none);
        assert!(same.unwrap_err().to_string().contains("two workers have the id a"));
    }
}

//! A cluster and its work, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tarn_scheduler::{Device, DeviceNeed, Isolation, Priority, Requirements, Runtimes, Task, Weighed, Worker};

const GIB: u64 = 1 << 30;
/// Runtime, isolation, share of nodes that have it, slots, cost per second.
const RUNTIMES: [(&str, Isolation, f64, u32, u64); 4] = [
    ("wasm", Isolation::Sandbox, 1.0, 4, 100),
    ("native", Isolation::Process, 0.5, 2, 130),
    ("cuda", Isolation::Process, 0.15, 4, 900),
    ("microvm", Isolation::Machine, 0.3, 2, 180),
];
const KINDS: usize = 200;

pub struct World {
    pub workers: Vec<Worker>,
    pub data: BTreeMap<String, BTreeSet<String>>,
    pub kinds: Vec<Kind>,
    /// In the order in which they were submitted, all at time 0.
    pub tasks: Vec<(usize, Task)>,
    /// Run time of a node next to the average, in thousandths.
    pub pace: BTreeMap<String, u64>,
}

/// Tasks of one artifact.
pub struct Kind {
    template: Task,
    /// On an average node, by runtime.
    pub run_ms: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, nodes: usize, tasks: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut workers = Vec::new();
        let mut pace = BTreeMap::new();
        for number in 0..nodes {
            let node = format!("node-{number:04}");
            pace.insert(node.clone(), rng.random_range(600..=1_600));
            workers.extend(node_workers(&node, &mut rng));
        }
        let mut data: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for number in 0..20 {
            let nodes = (0..nodes / 10).map(|_| format!("node-{:04}", rng.random_range(0..nodes)));
            data.insert(format!("data-{number}"), nodes.collect());
        }
        let kinds: Vec<Kind> = (0..KINDS).map(|number| kind(number, &mut rng)).collect();
        let tasks = (0..tasks)
            .map(|number| {
                // Half of the tasks are of a tenth of the kinds.
                let popular = if rng.random_bool(0.5) { KINDS / 10 } else { KINDS };
                let kind = rng.random_range(0..popular);
                let task = Task { id: format!("task-{number:06}"), ..kinds[kind].template.clone() };
                (kind, task)
            })
            .collect();
        Self { workers, data, kinds, tasks, pace }
    }

    pub fn slots(&self) -> u64 {
        self.workers.iter().map(|worker| u64::from(worker.slots)).sum()
    }

    /// How long a task really runs somewhere. Every policy meets the same luck.
    pub fn run_ms(&self, number: usize, worker: &Worker) -> u64 {
        let (kind, _) = self.tasks[number];
        let average_ms = self.kinds[kind].run_ms[worker.runtime.as_str()];
        let luck = SmallRng::seed_from_u64(number as u64).random_range(800..=1_250);
        (average_ms * self.pace[&worker.node] / 1000 * luck / 1000).max(1)
    }
}

fn node_workers(node: &str, rng: &mut SmallRng) -> Vec<Worker> {
    let mut labels = vec![format!("zone={}", ["a", "b", "c"].choose(rng).expect("there are zones"))];
    if rng.random_bool(0.4) {
        labels.push("ssd".into());
    }
    let mut workers = Vec::new();
    for (runtime, isolation, share, slots, cost) in RUNTIMES {
        if !rng.random_bool(share) {
            continue;
        }
        let memory_bytes = GIB * rng.random_range(16..=64);
        let device = Device {
            kind: "cuda".into(),
            memory_bytes: 80 * GIB,
            memory_free_bytes: 80 * GIB,
            capability: *[80, 90].choose(rng).expect("there are two"),
            lost: false,
        };
        let devices = if runtime == "cuda" { rng.random_range(1..=8) } else { 0 };
        workers.push(Worker {
            id: format!("{node}/{runtime}"),
            node: node.into(),
            runtime: runtime.into(),
            labels: labels.clone(),
            isolation,
            slots,
            slots_free: slots,
            memory_bytes,
            memory_free_bytes: memory_bytes,
            devices: vec![device; devices],
            cost_per_second: cost * rng.random_range(80..=120) / 100,
            quality: 1000,
            ..Worker::default()
        });
    }
    workers
}

fn kind(number: usize, rng: &mut SmallRng) -> Kind {
    let native_ms = (200.0 * 30_f64.powf(rng.random::<f64>())) as u64;
    let run_ms = [
        ("native", native_ms),
        ("wasm", native_ms * rng.random_range(110..=250) / 100),
        ("cuda", native_ms * rng.random_range(5..=30) / 100),
        ("microvm", native_ms * rng.random_range(105..=130) / 100),
    ];
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    let mut isolation = Isolation::Process;
    let mut devices = Vec::new();
    let runtimes = match rng.random_range(0..100) {
        0..25 => Runtimes::only("wasm"),
        25..75 => Runtimes::Auto(names(&["wasm", "native", "microvm"])),
        75..79 => {
            isolation = Isolation::Machine;
            Runtimes::Auto(names(&["wasm", "native", "microvm"]))
        }
        79..97 => Runtimes::Chain(names(&["cuda", "native", "wasm"])),
        _ => Runtimes::only("cuda"),
    };
    if runtimes.names()[0] == "cuda" {
        devices.push(DeviceNeed {
            kind: "cuda".into(),
            memory_bytes: GIB * rng.random_range(4..=40),
            capability: if rng.random_bool(0.3) { 90 } else { 80 },
            runtimes: vec!["cuda".into()],
        });
    }
    let chosen = |share: f64, name: &str, rng: &mut SmallRng| -> Vec<String> {
        (0..usize::from(rng.random_bool(share))).map(|_| name.to_owned()).collect()
    };
    let near = chosen(0.3, &format!("data-{}", number % 20), rng);
    let template = Task {
        requires: Requirements {
            runtimes,
            // Nodes with both are too rare for a kind that may be popular.
            labels: chosen(if devices.is_empty() { 0.15 } else { 0.0 }, "ssd", rng),
            isolation,
            memory_bytes: GIB * rng.random_range(0..=4),
            devices,
            ..Requirements::default()
        },
        artifact: format!("artifact-{number:03}"),
        prefers: chosen(0.2, "zone=a", rng),
        near: near.into_iter().map(|name| Weighed { name, bytes: GIB }).collect(),
        priority: *[Priority::Critical, Priority::Normal, Priority::Normal, Priority::Normal, Priority::Background]
            .choose(rng)
            .expect("there are priorities"),
        ..Task::default()
    };
    Kind { template, run_ms: run_ms.into() }
}

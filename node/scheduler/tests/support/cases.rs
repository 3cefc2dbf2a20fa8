//! Small clusters and batches, drawn from a seed, in which there is not quite room for everybody.

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tarn_scheduler::{Device, DeviceNeed, Finished, History, Isolation, Priority, Requirements, Runtimes, Task, Weighed, Worker};

/// A batch, and what it is placed on.
pub struct Case {
    pub workers: Vec<Worker>,
    pub tasks: Vec<Task>,
    pub history: History,
}

const RUNTIMES: [(&str, Isolation, u64); 3] =
    [("wasm", Isolation::Sandbox, 10), ("native", Isolation::Process, 14), ("cuda", Isolation::Process, 60)];
const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// Up to six tasks on up to five workers.
pub fn case(seed: u64) -> Case {
    let mut rng = SmallRng::seed_from_u64(seed);
    let workers: Vec<Worker> = (0..rng.random_range(2..=5)).map(|number| worker(number, &mut rng)).collect();
    let tasks = (0..rng.random_range(2..=6)).map(|number| task(number, &mut rng)).collect();
    let mut history = History::default();
    for _ in 0..rng.random_range(0..40) {
        let worker = workers.choose(&mut rng).expect("there are workers");
        history.record(Finished {
            artifact: ["a", "b"].choose(&mut rng).expect("there are two"),
            runtime: &worker.runtime,
            node: &worker.node,
            run_ms: rng.random_range(50..3_000),
            succeeded: rng.random_bool(0.9),
        });
    }
    Case { workers, tasks, history }
}

fn worker(number: usize, rng: &mut SmallRng) -> Worker {
    let (runtime, isolation, cost) = *RUNTIMES.choose(rng).expect("there are runtimes");
    let slots = rng.random_range(1..=3);
    let memory_bytes = rng.random_range(50..=100);
    let devices = match runtime == "cuda" || rng.random_bool(0.2) {
        true => vec![Device {
            kind: "cuda".into(),
            memory_bytes: 80,
            memory_free_bytes: rng.random_range(10..=80),
            capability: 90,
            lost: false,
        }],
        false => Vec::new(),
    };
    Worker {
        id: format!("w{number}"),
        node: format!("n{number}"),
        runtime: runtime.into(),
        isolation,
        labels: ["zone=a", "ssd"].into_iter().filter(|_| rng.random_bool(0.5)).map(str::to_owned).collect(),
        slots,
        slots_free: rng.random_range(1..=slots),
        memory_bytes,
        memory_free_bytes: rng.random_range(30..=memory_bytes),
        devices,
        cost_per_second: cost + rng.random_range(0..5),
        quality: 1000,
        ..Worker::default()
    }
}

fn task(number: usize, rng: &mut SmallRng) -> Task {
    let mut names: Vec<String> = RUNTIMES.iter().map(|(name, _, _)| name.to_string()).collect();
    names.shuffle(rng);
    names.truncate(rng.random_range(1..=3));
    let runtimes = match rng.random_bool(0.3) {
        true => Runtimes::Auto(names),
        false => Runtimes::Chain(names),
    };
    let devices = match rng.random_bool(0.3) {
        true => {
            vec![DeviceNeed { kind: "cuda".into(), memory_bytes: rng.random_range(10..=50), capability: 80, runtimes: vec!["cuda".into()] }]
        }
        false => Vec::new(),
    };
    let node = format!("n{}", rng.random_range(0..5));
    Task {
        id: format!("t{number}"),
        requires: Requirements {
            runtimes,
            labels: (0..usize::from(rng.random_bool(0.2))).map(|_| "ssd".to_owned()).collect(),
            memory_bytes: rng.random_range(0..=40),
            devices,
            ..Requirements::default()
        },
        artifact: ["a", "b"].choose(rng).expect("there are two").to_string(),
        results: (0..usize::from(rng.random_bool(0.3))).map(|_| Weighed { name: node.clone(), bytes: 100 }).collect(),
        priority: *PRIORITIES.choose(rng).expect("there are three"),
        // Fall-backs are free to be taken at once, as the exhaustive choice takes them.
        patience_ms: Some(0),
        ..Task::default()
    }
}

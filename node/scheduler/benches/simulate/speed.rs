//! Decisions per second.

use std::time::Instant;

use tarn_scheduler::{Cluster, History, Outcome, Scheduler, Task, Tuning, Weighed, Worker};

use crate::world::World;

const ROUNDS: usize = 5;

/// One batch of everything on a cluster with room for all of it; and batches of a thousand tasks, every one of its own kind.
pub fn report(world: &World) {
    let roomy: Vec<Worker> = world.workers.iter().map(|worker| with_room(worker, 40)).collect();
    let cluster = Cluster::new(roomy, &world.data).expect("the world is sound");
    let tasks: Vec<Task> = world.tasks.iter().map(|(_, task)| task.clone()).collect();
    for candidates in [0, 3] {
        let name = format!("one batch of {}, {candidates} candidates explained", tasks.len());
        measure(&name, &tasks, &cluster, candidates);
    }
    let mut different = tasks;
    different.truncate(1_000);
    for (number, task) in different.iter_mut().enumerate() {
        task.artifact = format!("unlike-{number}");
        task.results = vec![Weighed { name: format!("node-{:04}", number % 100), bytes: 1_000 }];
    }
    measure("one batch of 1000, all unlike, 3 candidates explained", &different, &cluster, 3);
}

fn with_room(worker: &Worker, times: u32) -> Worker {
    let mut worker = worker.clone();
    worker.slots *= times;
    worker.slots_free = worker.slots;
    worker.memory_bytes *= u64::from(times);
    worker.memory_free_bytes = worker.memory_bytes;
    for device in &mut worker.devices {
        device.memory_bytes *= u64::from(times);
        device.memory_free_bytes = device.memory_bytes;
    }
    worker
}

fn measure(name: &str, tasks: &[Task], cluster: &Cluster, candidates: usize) {
    let tuning = Tuning { candidates, ..Tuning::default() };
    let mut seconds = Vec::new();
    let mut processor = Vec::new();
    let mut placed = 0;
    for _ in 0..ROUNDS {
        let mut scheduler = Scheduler::new(tuning.clone(), History::default()).expect("the tuning is in range");
        let started = (Instant::now(), processor_seconds());
        let decisions = scheduler.place(tasks, cluster, 1);
        seconds.push(started.0.elapsed().as_secs_f64());
        processor.push(processor_seconds() - started.1);
        placed = decisions.iter().filter(|d| matches!(d.outcome, Outcome::Placed(_))).count();
    }
    let median = |times: &mut [f64]| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let per_second = |seconds: f64| tasks.len() as f64 / seconds;
    println!(
        "{name}: {:.0} decisions/s, {:.0} for each second of processor time (medians of {ROUNDS}; {placed} placed)",
        per_second(median(&mut seconds)),
        per_second(median(&mut processor)),
    );
}

/// What this thread has had of a processor, which tells more than the clock on a machine with other work. Linux alone says so.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

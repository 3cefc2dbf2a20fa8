//! Ways of placing tasks.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tarn_scheduler::{Cluster, Explanation, Finished, History, Outcome, Placement, Scheduler, Task, Tuning, Worker, compare};

use crate::support::ledger::Ledger;
use crate::world::World;

/// Chooses workers for tasks that wait; the caller takes what they need off the ledger.
pub trait Policy {
    fn name(&self) -> &'static str;
    /// As (position among the tasks, placement).
    fn place(&mut self, tasks: &[Task], ledger: &mut Ledger, eligible: &Eligible, now_ms: u64) -> Vec<(usize, Placement)>;
    fn learn(&mut self, _finished: Finished<'_>) {}
}

/// For each kind of task the ids of all workers that could run it if they were idle.
pub struct Eligible {
    by_kind: Vec<Vec<String>>,
}

impl Eligible {
    pub fn new(world: &World) -> Self {
        let cluster = Cluster::new(world.workers.clone(), &world.data).expect("the world is sound");
        let mut by_kind = vec![Vec::new(); world.kinds.len()];
        let mut seen = vec![false; world.kinds.len()];
        for (kind, task) in &world.tasks {
            if !std::mem::replace(&mut seen[*kind], true) {
                let able = compare(&task.requires, &cluster).filter(|(_, misses)| misses.is_empty());
                by_kind[*kind] = able.map(|(id, _)| id.to_owned()).collect();
            }
        }
        Self { by_kind }
    }

    fn of(&self, task: &Task) -> &[String] {
        let kind = task.artifact.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
        &self.by_kind[kind.expect("artifacts are numbered by kind")]
    }
}

/// This crate.
pub struct Tarn {
    scheduler: Scheduler,
}

impl Tarn {
    pub fn new() -> Self {
        let tuning = Tuning { candidates: 0, ..Tuning::default() };
        Self { scheduler: Scheduler::new(tuning, History::default()).expect("the tuning is in range") }
    }
}

impl Policy for Tarn {
    fn name(&self) -> &'static str {
        "tarn"
    }

    fn place(&mut self, tasks: &[Task], ledger: &mut Ledger, _: &Eligible, now_ms: u64) -> Vec<(usize, Placement)> {
        let decisions = self.scheduler.place(tasks, &ledger.cluster(), now_ms);
        let placed = decisions.into_iter().filter_map(|decision| match decision.outcome {
            Outcome::Placed(placement) => Some((decision.task, placement)),
            Outcome::Waits(_) => None,
        });
        let placed: Vec<_> = placed.collect();
        for (task, placement) in &placed {
            let taken = ledger.take(&tasks[*task].requires, placement);
            taken.expect("a placement keeps to what is free");
        }
        placed
    }

    fn learn(&mut self, finished: Finished<'_>) {
        self.scheduler.record(finished);
    }
}

/// Any worker that can run the task now.
pub struct RandomFeasible {
    rng: SmallRng,
}

impl RandomFeasible {
    pub fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed) }
    }
}

impl Policy for RandomFeasible {
    fn name(&self) -> &'static str {
        "random"
    }

    fn place(&mut self, tasks: &[Task], ledger: &mut Ledger, eligible: &Eligible, _: u64) -> Vec<(usize, Placement)> {
        each_by_priority(tasks, |task| {
            let workers = eligible.of(task);
            let start = self.rng.random_range(0..workers.len().max(1));
            let order = workers[start..].iter().chain(&workers[..start]);
            order.filter_map(|id| try_on(task, id, ledger)).next()
        })
    }
}

/// The worker with the largest share of free slots that can run the task now.
pub struct LeastLoaded;

impl Policy for LeastLoaded {
    fn name(&self) -> &'static str {
        "least loaded"
    }

    fn place(&mut self, tasks: &[Task], ledger: &mut Ledger, eligible: &Eligible, _: u64) -> Vec<(usize, Placement)> {
        each_by_priority(tasks, |task| {
            let load = |id: &String| {
                let worker = &ledger.workers[id];
                (worker.slots_free > 0).then(|| (worker.slots - worker.slots_free) * 1000 / worker.slots)
            };
            let mut order: Vec<_> = eligible.of(task).iter().filter_map(|id| Some((load(id)?, id))).collect();
            order.sort_unstable();
            order.into_iter().find_map(|(_, id)| try_on(task, id, ledger))
        })
    }
}

/// The urgent first, as everybody here does it.
fn each_by_priority(tasks: &[Task], mut place: impl FnMut(&Task) -> Option<Placement>) -> Vec<(usize, Placement)> {
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|task| tasks[*task].priority);
    // Tasks of the same artifact are alike: where one finds no room, the next finds none either.
    let mut full = BTreeSet::new();
    let mut placed = Vec::new();
    for number in order {
        let task = &tasks[number];
        if full.contains(&task.artifact) {
            continue;
        }
        match place(task) {
            Some(placement) => placed.push((number, placement)),
            None => drop(full.insert(&task.artifact)),
        }
    }
    placed
}

/// Takes the first devices that do.
fn try_on(task: &Task, id: &str, ledger: &mut Ledger) -> Option<Placement> {
    let worker: &Worker = &ledger.workers[id];
    let needs = task.requires.devices.iter().filter(|need| need.binds(&worker.runtime));
    let fitting = |need: &tarn_scheduler::DeviceNeed| {
        worker.devices.iter().position(|device| device.memory_free_bytes >= need.memory_bytes && device.capability >= need.capability)
    };
    let placement = Placement {
        worker: id.to_owned(),
        runtime: worker.runtime.clone(),
        devices: needs.map(fitting).collect::<Option<_>>()?,
        explanation: Explanation {
            level: 0,
            score_max: 0,
            candidates: Vec::new(),
            eligible: 0,
            registered: 0,
            passed_over: Vec::new(),
            prices: Vec::new(),
            moved_from: None,
        },
    };
    if worker.slots_free == 0 || worker.memory_free_bytes < task.requires.memory_bytes {
        return None;
    }
    ledger.take(&task.requires, &placement).ok().map(|()| placement)
}

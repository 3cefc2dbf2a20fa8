//! Runs the world's work to its end under one policy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use tarn_scheduler::{Finished, Placement, Priority, Task};

use crate::policy::{Eligible, Policy};
use crate::support::ledger::Ledger;
use crate::world::World;

/// Placing happens this often, in simulated milliseconds.
const TICK_MS: u64 = 250;

#[derive(Default)]
struct Totals {
    makespan_ms: u64,
    completions_ms: u64,
    critical: u64,
    critical_ms: u64,
    busy_slot_ms: u64,
    cost: u128,
    /// Tasks that were placed or left to wait, over all ticks.
    decided: u64,
    deciding: Duration,
}

/// Prints how it went.
pub fn report(world: &World, policy: &mut dyn Policy) {
    let totals = run(world, policy);
    let tasks = world.tasks.len() as u64;
    println!(
        "{:<12} {:>7.1} s {:>15.1} s {:>11.1} s {:>12.1} % {:>6.1} M   {:>7.0}/s",
        policy.name(),
        totals.makespan_ms as f64 / 1000.0,
        totals.completions_ms as f64 / tasks as f64 / 1000.0,
        totals.critical_ms as f64 / totals.critical.max(1) as f64 / 1000.0,
        totals.busy_slot_ms as f64 * 100.0 / (world.slots() * totals.makespan_ms) as f64,
        totals.cost as f64 / 1e9,
        totals.decided as f64 / totals.deciding.as_secs_f64()
    );
}

fn run(world: &World, policy: &mut dyn Policy) -> Totals {
    let eligible = Eligible::new(world);
    let mut ledger = Ledger::new(&world.workers, &world.data);
    let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); world.kinds.len()];
    for (number, (kind, _)) in world.tasks.iter().enumerate() {
        queues[*kind].push_back(number);
    }
    let mut running: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut placements: Vec<Option<Placement>> = vec![None; world.tasks.len()];
    let mut totals = Totals::default();
    let mut done = 0;
    let mut now_ms = 0;
    while done < world.tasks.len() {
        while let Some(Reverse((end_ms, number, run_ms))) = running.peek().copied()
            && end_ms <= now_ms
        {
            running.pop();
            done += 1;
            let placement = placements[number].take().expect("what runs was placed");
            finish(world, number, run_ms, end_ms, &placement, &mut totals);
            ledger.give_back(&world.tasks[number].1.requires, &placement);
            policy.learn(Finished {
                artifact: &world.tasks[number].1.artifact,
                runtime: &placement.runtime,
                node: &ledger.workers[&placement.worker].node,
                run_ms,
                succeeded: true,
            });
        }
        let (numbers, tasks) = offer(world, &queues, &ledger, now_ms);
        let mut placed_by_kind = vec![Vec::new(); queues.len()];
        let started = Instant::now();
        let placed = policy.place(&tasks, &mut ledger, &eligible, now_ms);
        totals.deciding += started.elapsed();
        totals.decided += tasks.len() as u64;
        for (at, placement) in placed {
            let number = numbers[at];
            let run_ms = world.run_ms(number, &ledger.workers[&placement.worker]);
            running.push(Reverse((now_ms + run_ms, number, run_ms)));
            placements[number] = Some(placement);
            placed_by_kind[world.tasks[number].0].push(number);
        }
        for (queue, placed) in queues.iter_mut().zip(placed_by_kind) {
            if !placed.is_empty() {
                queue.retain(|number| placements[*number].is_none());
            }
        }
        now_ms += TICK_MS;
    }
    totals
}

/// The first waiting tasks of each kind: as many as could find room, and some.
fn offer(world: &World, queues: &[VecDeque<usize>], ledger: &Ledger, now_ms: u64) -> (Vec<usize>, Vec<Task>) {
    let free: usize = ledger.workers.values().map(|worker| worker.slots_free as usize).sum();
    let limit = 10 + 2 * free / queues.len();
    let mut numbers: Vec<usize> = queues
        .iter()
        .flat_map(|queue| queue.iter().take(limit).copied())
        .collect();
    numbers.sort_unstable();
    let waiting = |number: &usize| Task {
        waited_ms: now_ms,
        ..world.tasks[*number].1.clone()
    };
    let tasks = numbers.iter().map(waiting).collect();
    (numbers, tasks)
}

fn finish(world: &World, number: usize, run_ms: u64, end_ms: u64, placement: &Placement, totals: &mut Totals) {
    totals.makespan_ms = totals.makespan_ms.max(end_ms);
    totals.completions_ms += end_ms;
    if world.tasks[number].1.priority == Priority::Critical {
        totals.critical += 1;
        totals.critical_ms += end_ms;
    }
    totals.busy_slot_ms += run_ms;
    let worker = world.workers.iter().find(|worker| worker.id == placement.worker);
    totals.cost += u128::from(run_ms) * u128::from(worker.map_or(0, |worker| worker.cost_per_second));
}

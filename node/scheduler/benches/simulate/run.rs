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
    /// From arrival to end.
    time_ms: u64,
    critical: u64,
    critical_ms: u64,
    busy_slot_ms: u64,
    cost: u128,
    /// Tasks that were placed or left to wait, over all ticks.
    decided: u64,
    deciding: Duration,
}

/// Prints how it went. The tasks arrive evenly over this time.
pub fn report(world: &World, policy: &mut dyn Policy, arrive_over_ms: u64) {
    let totals = run(world, policy, arrive_over_ms);
    let tasks = world.tasks.len() as u64;
    println!(
        "{:<12} {:>7.1} s {:>15.1} s {:>11.1} s {:>12.1} % {:>6.1} M   {:>7.0}/s",
        policy.name(),
        totals.makespan_ms as f64 / 1000.0,
        totals.time_ms as f64 / tasks as f64 / 1000.0,
        totals.critical_ms as f64 / totals.critical.max(1) as f64 / 1000.0,
        totals.busy_slot_ms as f64 * 100.0 / (world.slots() * totals.makespan_ms) as f64,
        totals.cost as f64 / 1e9,
        totals.decided as f64 / totals.deciding.as_secs_f64()
    );
}

fn run(world: &World, policy: &mut dyn Policy, arrive_over_ms: u64) -> Totals {
    let arrival_ms = |number: usize| number as u64 * arrive_over_ms / world.tasks.len() as u64;
    let eligible = Eligible::new(world);
    let mut ledger = Ledger::new(&world.workers, &world.data);
    let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); world.kinds.len()];
    let mut arrived = 0;
    let mut running: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut placements: Vec<Option<Placement>> = vec![None; world.tasks.len()];
    let mut totals = Totals::default();
    let mut done = 0;
    let mut now_ms = 0;
    while done < world.tasks.len() {
        while arrived < world.tasks.len() && arrival_ms(arrived) <= now_ms {
            queues[world.tasks[arrived].0].push_back(arrived);
            arrived += 1;
        }
        while let Some(Reverse((end_ms, number, run_ms))) = running.peek().copied()
            && end_ms <= now_ms
        {
            running.pop();
            done += 1;
            let placement = placements[number].take().expect("what runs was placed");
            finish(world, run_ms, end_ms, &placement, &mut totals);
            totals.time_ms += end_ms - arrival_ms(number);
            if world.tasks[number].1.priority == Priority::Critical {
                totals.critical += 1;
                totals.critical_ms += end_ms - arrival_ms(number);
            }
            ledger.give_back(&world.tasks[number].1.requires, &placement);
            policy.learn(Finished {
                artifact: &world.tasks[number].1.artifact,
                runtime: &placement.runtime,
                node: &ledger.workers[&placement.worker].node,
                run_ms,
                succeeded: true,
            });
        }
        let (numbers, tasks) = offer(world, &queues, &ledger, |number| now_ms - arrival_ms(number));
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
fn offer(world: &World, queues: &[VecDeque<usize>], ledger: &Ledger, waited_ms: impl Fn(usize) -> u64) -> (Vec<usize>, Vec<Task>) {
    let free: usize = ledger.workers.values().map(|worker| worker.slots_free as usize).sum();
    let limit = 10 + 2 * free / queues.len();
    let mut numbers: Vec<usize> = queues.iter().flat_map(|queue| queue.iter().take(limit).copied()).collect();
    numbers.sort_unstable();
    let waiting = |number: &usize| Task { waited_ms: waited_ms(*number), ..world.tasks[*number].1.clone() };
    let tasks = numbers.iter().map(waiting).collect();
    (numbers, tasks)
}

fn finish(world: &World, run_ms: u64, end_ms: u64, placement: &Placement, totals: &mut Totals) {
    totals.makespan_ms = totals.makespan_ms.max(end_ms);
    totals.busy_slot_ms += run_ms;
    let worker = world.workers.iter().find(|worker| worker.id == placement.worker);
    totals.cost += u128::from(run_ms) * u128::from(worker.map_or(0, |worker| worker.cost_per_second));
}

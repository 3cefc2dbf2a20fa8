//! 100,000 tasks on 1,000 simulated nodes: decisions per second; how soon, on how many slots and at what cost the tasks are done next to two
//! simple ways of placing them; and what is lost next to the best of all assignments, on small cases. Everything is drawn from a
//! seed, which is printed.
//!
//! `cargo bench -p tarn-scheduler --bench simulate`; `-- --quick` for a tenth of the tasks, `-- --seed 7` for another world.

#[path = "../../tests/support/mod.rs"]
mod support;

mod policy;
mod run;
mod speed;
mod world;

use policy::{LeastLoaded, Policy, RandomFeasible, Tarn};
use support::{cases::case, optimum::regret};
use tarn_scheduler::Tuning;
use world::World;

const ARRIVE_OVER_MS: u64 = 90_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let seed = arguments.iter().skip_while(|argument| *argument != "--seed").nth(1);
    let seed = seed.map_or(1, |seed| seed.parse().expect("a seed is a number"));
    let (nodes, tasks) = if quick { (100, 10_000) } else { (1_000, 100_000) };
    let world = World::new(seed, nodes, tasks);
    println!(
        "seed {seed}: {nodes} nodes, {} workers with {} slots, {tasks} tasks of {} kinds\n",
        world.workers.len(),
        world.slots(),
        world.kinds.len()
    );
    speed::report(&world);
    // All at once there is more work than room until the end; over this time there is mostly room to choose from.
    for arrive_over_ms in [0, ARRIVE_OVER_MS] {
        println!("\ntasks arrive over {} s", arrive_over_ms / 1000);
        println!("             makespan   arrival to end   of critical   slots in use     cost   decisions");
        let mut policies: [Box<dyn Policy>; 3] = [Box::new(Tarn::new()), Box::new(LeastLoaded), Box::new(RandomFeasible::new(seed))];
        for policy in &mut policies {
            run::report(&world, policy.as_mut(), arrive_over_ms);
        }
    }
    small_cases(if quick { 500 } else { 5_000 });
}

/// What is lost next to the best assignment. The test `regret` says more.
fn small_cases(count: u64) {
    let mut shares: Vec<f64> = (0..count).map(|seed| regret(&case(seed), &Tuning::default()).share).collect();
    shares.sort_by(f64::total_cmp);
    let mean = shares.iter().sum::<f64>() / count as f64;
    let at = |share: f64| 100.0 * shares[((count - 1) as f64 * share) as usize];
    println!(
        "\nregret on {count} small cases: mean {:.1} %, median {:.1} %, 95th percentile {:.1} %, most {:.1} %",
        100.0 * mean,
        at(0.5),
        at(0.95),
        at(1.0)
    );
}

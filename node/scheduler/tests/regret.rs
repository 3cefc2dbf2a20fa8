//! How far placing task by task falls behind the best of all assignments, measured on small cases in which there is not quite room for
//! everybody. The bounds are what was measured, which the run prints, and a fifth more.

mod support;

use support::cases::{Case, case};
use support::optimum::regret;
use tarn_scheduler::{Priority, Runtimes, Tuning};

const CASES: u64 = 3_000;

/// The mean share of worth that is lost, in ten-thousandths, and in how many cases fewer tasks are placed.
fn measure(change: fn(&mut Case), tuning: &Tuning) -> (u32, u32) {
    let mut lost = 0.0;
    let mut fewer = 0;
    for seed in 0..CASES {
        let mut case = case(seed);
        change(&mut case);
        let regret = regret(&case, tuning);
        lost += regret.share;
        fewer += u32::from(regret.unplaced > 0);
    }
    let mean = (lost / CASES as f64 * 10_000.0).round() as u32;
    println!("mean regret {mean} in 10,000; fewer placed in {fewer} of {CASES}");
    (mean, fewer)
}

fn as_drawn(_: &mut Case) {}

fn equally_urgent(case: &mut Case) {
    for task in &mut case.tasks {
        task.priority = Priority::Normal;
    }
}

fn on_one_runtime(case: &mut Case) {
    equally_urgent(case);
    for task in &mut case.tasks {
        let first = task.requires.runtimes.names()[0].clone();
        task.requires.runtimes = Runtimes::only(&first);
    }
}

/// The choice of workers alone.
#[test]
fn one_runtime() {
    let (mean, fewer) = measure(on_one_runtime, &Tuning::default());
    assert!(mean <= 112 && fewer <= 11, "{mean}, {fewer}");
}

/// With the choice of runtimes: a task takes its first one that has room, even where a later one would score better.
#[test]
fn several_runtimes() {
    let (mean, fewer) = measure(equally_urgent, &Tuning::default());
    assert!(mean <= 265 && fewer <= 67, "{mean}, {fewer}");
}

/// With priorities, which the best assignment ignores: an urgent task may well take the place of two others.
#[test]
fn several_priorities() {
    let (mean, fewer) = measure(as_drawn, &Tuning::default());
    assert!(mean <= 487 && fewer <= 353, "{mean}, {fewer}");
}

/// Moving tasks to make room is worth its lines.
#[test]
fn moves_lessen_the_regret() {
    let still = Tuning { moves: 0, ..Tuning::default() };
    let (with, without) = (measure(equally_urgent, &Tuning::default()), measure(equally_urgent, &still));
    assert!(with.0 < without.0 && with.1 * 2 < without.1, "{with:?}, {without:?}");
}

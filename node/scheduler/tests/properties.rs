//! What holds for every batch, tried on generated ones.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::ledger::Ledger;
use tarn_scheduler::{
    Cluster, Decision, Device, DeviceNeed, Finished, History, Isolation, Outcome, Parts, Priority, Prospect, Requirements, Runtimes,
    Scheduler, Task, Tuning, Weighed, Weights, Worker, compare,
};

const RUNTIMES: [&str; 4] = ["wasm", "native", "cuda", "microvm"];
const LABELS: [&str; 2] = ["gpu", "zone=a"];
const NODES: [&str; 3] = ["n0", "n1", "n2"];
const DATA: [&str; 2] = ["corpus", "model"];
const ARTIFACTS: [&str; 3] = ["a", "b", "c"];

fn some_of(names: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(names, 0..=names.len()).prop_map(|names| names.iter().map(|name| name.to_string()).collect())
}

fn isolation() -> impl Strategy<Value = Isolation> {
    select(&[Isolation::Process, Isolation::Sandbox, Isolation::Machine][..])
}

fn device() -> impl Strategy<Value = Device> {
    (1_u64..40, 0_u64..40, select(&[80_u32, 90][..]), prop::bool::weighted(0.1)).prop_map(|(memory_bytes, free, capability, lost)| Device {
        kind: "cuda".into(),
        memory_bytes,
        memory_free_bytes: free.min(memory_bytes),
        capability,
        lost,
    })
}

fn worker() -> impl Strategy<Value = Worker> {
    let place = (select(&NODES[..]), select(&RUNTIMES[..]), isolation(), some_of(&LABELS));
    let room = (1_u32..5, 0_u32..5, 0_u64..100, 0_u64..100, vec(device(), 0..3));
    let worth = (0_u64..50, 500_u16..=1000, prop::bool::weighted(0.05));
    (place, room, worth).prop_map(|(place, room, worth)| {
        let (slots, slots_free, memory_bytes, memory_free, devices) = room;
        Worker {
            node: place.0.into(),
            runtime: place.1.into(),
            isolation: place.2,
            labels: place.3,
            slots,
            slots_free: slots_free.min(slots),
            memory_bytes,
            memory_free_bytes: memory_free.min(memory_bytes),
            devices,
            cost_per_second: worth.0,
            quality: worth.1,
            draining: worth.2,
            ..Worker::default()
        }
    })
}

fn workers() -> impl Strategy<Value = Vec<Worker>> {
    vec(worker(), 0..8).prop_map(|mut workers| {
        for (number, worker) in workers.iter_mut().enumerate() {
            worker.id = format!("w{number}");
        }
        workers
    })
}

fn need() -> impl Strategy<Value = DeviceNeed> {
    (0_u64..30, select(&[0_u32, 90][..]), any::<bool>()).prop_map(|(memory_bytes, capability, everywhere)| DeviceNeed {
        kind: "cuda".into(),
        memory_bytes,
        capability,
        runtimes: if everywhere { Vec::new() } else { vec!["cuda".into()] },
    })
}

fn runtimes() -> impl Strategy<Value = Runtimes> {
    let names = Just(RUNTIMES.map(str::to_owned).to_vec()).prop_shuffle();
    (names, 1_usize..=4, any::<bool>()).prop_map(|(mut names, count, auto)| {
        names.truncate(count);
        if auto { Runtimes::Auto(names) } else { Runtimes::Chain(names) }
    })
}

fn requirements() -> impl Strategy<Value = Requirements> {
    let label = proptest::option::weighted(0.2, select(&LABELS[..]));
    let data = proptest::option::weighted(0.1, select(&DATA[..]));
    let isolation = prop_oneof![4 => Just(Isolation::Process), 1 => isolation()];
    let memory = prop_oneof![Just(0_u64), 1_u64..60];
    let devices = prop_oneof![3 => Just(Vec::new()), 1 => vec(need(), 1..3)];
    (runtimes(), label, data, isolation, memory, devices).prop_map(|(runtimes, label, data, isolation, memory_bytes, devices)| {
        Requirements {
            runtimes,
            labels: label.into_iter().map(str::to_owned).collect(),
            isolation,
            memory_bytes,
            devices,
            data: data.into_iter().map(str::to_owned).collect(),
            ..Requirements::default()
        }
    })
}

fn weighed(names: &'static [&'static str]) -> impl Strategy<Value = Vec<Weighed>> {
    vec((select(names), 0_u64..100), 0..3)
        .prop_map(|list| list.into_iter().map(|(name, bytes)| Weighed { name: name.into(), bytes }).collect())
}

fn task() -> impl Strategy<Value = Task> {
    let priority = select(&[Priority::Critical, Priority::High, Priority::Normal, Priority::Background][..]);
    let wishes = (some_of(&LABELS), weighed(&DATA), weighed(&NODES));
    (requirements(), select(&ARTIFACTS[..]), priority, wishes, 0_u64..3_000).prop_map(
        |(requires, artifact, priority, (prefers, near, results), waited_ms)| Task {
            requires,
            artifact: artifact.into(),
            priority,
            prefers,
            near,
            results,
            waited_ms,
            ..Task::default()
        },
    )
}

/// Some tasks, each several times, mixed.
fn tasks() -> impl Strategy<Value = Vec<Task>> {
    vec((task(), 1_usize..5), 0..8)
        .prop_map(|kinds| kinds.into_iter().flat_map(|(task, count)| vec![task; count]).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|mut tasks| {
            for (number, task) in tasks.iter_mut().enumerate() {
                task.id = format!("t{number}");
            }
            tasks
        })
}

fn history() -> impl Strategy<Value = History> {
    let finished = (select(&ARTIFACTS[..]), select(&RUNTIMES[..]), select(&NODES[..]), 1_u64..5_000, prop::bool::weighted(0.8));
    vec(finished, 0..30).prop_map(|list| {
        let mut history = History::default();
        for (artifact, runtime, node, run_ms, succeeded) in list {
            history.record(Finished { artifact, runtime, node, run_ms, succeeded });
        }
        history
    })
}

fn weights() -> impl Strategy<Value = Weights> {
    prop::array::uniform8(0_u16..=100).prop_map(|w| Weights {
        performance: w[0],
        cost: w[1],
        quality: w[2],
        priority: w[3],
        locality: w[4],
        dependencies: w[5],
        balance: w[6],
        thrift: w[7],
    })
}

fn tuning() -> impl Strategy<Value = Tuning> {
    (weights(), 0_u64..100, select(&[0_u64, 1_000][..]), select(&[0_usize, 256][..])).prop_map(|(weights, time_value, patience, moves)| {
        Tuning { moves, weights, time_value_per_second: time_value, chain_patience_ms: patience, ..Tuning::default() }
    })
}

fn data() -> BTreeMap<String, BTreeSet<String>> {
    [("corpus", vec!["n0", "n1"]), ("model", vec!["n2"])]
        .map(|(name, nodes)| (name.to_owned(), nodes.into_iter().map(str::to_owned).collect()))
        .into()
}

fn place(workers: &[Worker], tasks: &[Task], history: &History, tuning: &Tuning) -> Vec<Decision> {
    let cluster = Cluster::new(workers.to_vec(), &data()).unwrap();
    let mut scheduler = Scheduler::new(tuning.clone(), history.clone()).unwrap();
    scheduler.place(tasks, &cluster, 1_000)
}

/// The score of a placement's choice, and its runtime.
fn chosen(outcome: &Outcome) -> Option<(u32, &str)> {
    match outcome {
        Outcome::Placed(placement) => {
            let best = placement.explanation.candidates.first()?;
            Some((best.score, &placement.runtime))
        }
        Outcome::Waits(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_overcommitted_and_no_requirement_violated(
        workers in workers(), tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        let mut ledger = Ledger::new(&workers, &data());
        let decisions = place(&workers, &tasks, &history, &tuning);
        let mut decided: Vec<usize> = decisions.iter().map(|decision| decision.task).collect();
        for decision in &decisions {
            if let Outcome::Placed(placement) = &decision.outcome {
                let taken = ledger.take(&tasks[decision.task].requires, placement);
                prop_assert!(taken.is_ok(), "{}: {taken:?}", tasks[decision.task].id);
            }
        }
        // A task that waits, and does not hold out, is one that no worker could take even then. (A move may leave a little room behind.)
        for decision in &decisions {
            if let Outcome::Waits(waiting) = &decision.outcome
                && waiting.falls_back_at_ms.is_none()
                && tuning.moves == 0
            {
                let cluster = ledger.cluster();
                let able = compare(&tasks[decision.task].requires, &cluster).find(|(_, misses)| misses.is_empty());
                prop_assert!(able.is_none(), "{} could go to {able:?}", tasks[decision.task].id);
            }
        }
        decided.sort_unstable();
        prop_assert_eq!(decided, (0..tasks.len()).collect::<Vec<_>>(), "each task is decided on once");
    }

    #[test]
    fn the_order_of_the_workers_makes_no_difference(
        workers in workers().prop_flat_map(|workers| (Just(workers.clone()), Just(workers).prop_shuffle())),
        tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        let (one, other) = workers;
        prop_assert_eq!(place(&one, &tasks, &history, &tuning), place(&other, &tasks, &history, &tuning));
    }

    /// Lazy rescoring gives what scoring every worker anew for every task gives. Without *thrift* and moves, which look at the
    /// whole batch.
    #[test]
    fn a_batch_scores_as_its_tasks_one_by_one(
        workers in workers(), tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        let mut tuning = tuning;
        tuning.weights.thrift = 0;
        tuning.moves = 0;
        let mut ledger = Ledger::new(&workers, &data());
        for decision in place(&workers, &tasks, &history, &tuning) {
            let now: Vec<Worker> = ledger.workers.values().cloned().collect();
            let alone = place(&now, &tasks[decision.task..=decision.task], &history, &tuning);
            prop_assert_eq!(chosen(&alone[0].outcome), chosen(&decision.outcome), "task {}", decision.task);
            if let Outcome::Placed(placement) = &decision.outcome {
                ledger.take(&tasks[decision.task].requires, placement).unwrap();
            }
        }
    }

    #[test]
    fn decisions_go_by_level_and_then_as_given(
        workers in workers(), tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        let decisions = place(&workers, &tasks, &history, &tuning);
        let order: Vec<_> = decisions.iter().map(|d| (tasks[d.task].priority, d.task)).collect();
        prop_assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn candidates_are_the_best_and_their_scores_add_up(
        workers in workers(), tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        for decision in place(&workers, &tasks, &history, &tuning) {
            let Outcome::Placed(placement) = decision.outcome else { continue };
            let explanation = placement.explanation;
            prop_assert_eq!(&explanation.candidates[0].worker, &placement.worker);
            prop_assert!(explanation.candidates.is_sorted_by(|a, b| a.score >= b.score));
            for candidate in &explanation.candidates {
                prop_assert_eq!(candidate.parts.score(&tuning.weights), candidate.score);
                prop_assert!(candidate.score <= explanation.score_max);
                prop_assert!(candidate.parts.all().iter().all(|(_, part)| *part <= 1000));
            }
        }
    }

    /// Raising one weight never makes the chosen worker worse in that part.
    #[test]
    fn a_weight_that_is_raised_gets_what_it_asks_for(
        workers in workers(), task in task(), history in history(), tuning in tuning(),
        which in 0_usize..8, by in 1_u16..=100,
    ) {
        let mut raised = tuning.clone();
        let weight = weight(&mut raised.weights, which);
        *weight = (*weight + by).min(100);
        let part = |tuning: &Tuning| match &place(&workers, std::slice::from_ref(&task), &history, tuning)[0].outcome {
            Outcome::Placed(placement) => Some(placement.explanation.candidates[0].parts.all()[which].1),
            Outcome::Waits(_) => None,
        };
        prop_assert!(part(&raised) >= part(&tuning));
    }

    /// Of workers that differ in one way alone, the better is taken, whatever the weights.
    #[test]
    fn all_else_equal_the_better_worker_is_taken(worker in worker(), weights in weights(), seed in any::<u32>()) {
        let mut better = Worker { id: "better".into(), slots: 4, slots_free: 4, draining: false, cost_per_second: 10, quality: 900, ..worker };
        better.devices.clear();
        better.memory_free_bytes = better.memory_bytes;
        let worse = |spoil: fn(&mut Worker)| {
            let mut worse = Worker { id: "worse".into(), ..better.clone() };
            spoil(&mut worse);
            worse
        };
        let tuning = Tuning { weights, ..Tuning::default() };
        let mut task = Task { id: format!("t{seed}"), ..Task::default() };
        task.requires.runtimes = Runtimes::only(&better.runtime);
        for (weight, worse) in [
            (weights.cost, worse(|w| w.cost_per_second = 20)),
            (weights.quality, worse(|w| w.quality = 400)),
            (weights.balance, worse(|w| w.slots_free = 2)),
            (weights.thrift, worse(|w| w.devices = vec![Device { kind: "cuda".into(), ..Device::default() }])),
        ] {
            let decisions = place(&[better.clone(), worse], std::slice::from_ref(&task), &History::default(), &tuning);
            let Outcome::Placed(placement) = &decisions[0].outcome else { panic!("it fits") };
            prop_assert!(weight == 0 || placement.worker == "better");
        }
    }

    #[test]
    fn waiting_tasks_are_told_the_truth(
        workers in workers(), tasks in tasks(), history in history(), tuning in tuning(),
    ) {
        // As if every attempt had ended, and then as if every device were back as well.
        let mut idle = workers.clone();
        for worker in &mut idle {
            worker.slots_free = worker.slots;
            worker.memory_free_bytes = worker.memory_bytes;
            for device in &mut worker.devices {
                device.memory_free_bytes = device.memory_bytes;
            }
        }
        let mut mended = idle.clone();
        for device in mended.iter_mut().flat_map(|worker| &mut worker.devices) {
            device.lost = false;
        }
        let fits = |workers: &[Worker], requires: &Requirements| {
            let cluster = Cluster::new(workers.to_vec(), &data()).unwrap();
            compare(requires, &cluster).any(|(_, misses)| misses.is_empty())
        };
        for decision in place(&workers, &tasks, &history, &tuning) {
            let Outcome::Waits(waiting) = &decision.outcome else { continue };
            let requires = &tasks[decision.task].requires;
            let truth = match (fits(&idle, requires), fits(&mended, requires)) {
                (true, _) => Prospect::Busy,
                (false, true) => Prospect::Recovery,
                (false, false) => Prospect::Never,
            };
            prop_assert_eq!(waiting.prospect, truth);
        }
    }
}

fn weight(weights: &mut Weights, which: usize) -> &mut u16 {
    match which {
        0 => &mut weights.performance,
        1 => &mut weights.cost,
        2 => &mut weights.quality,
        3 => &mut weights.priority,
        4 => &mut weights.locality,
        5 => &mut weights.dependencies,
        6 => &mut weights.balance,
        _ => &mut weights.thrift,
    }
}

#[test]
fn weights_and_parts_have_the_same_names() {
    let weights = Weights::default().all().map(|(name, _)| name);
    assert_eq!(weights, Parts::default().all().map(|(name, _)| name));
}

/// More classes than pools are kept for: those that were dropped and made again choose as if they had been kept.
#[test]
fn a_batch_of_many_classes_scores_as_its_tasks_one_by_one() {
    let worker = |number: u64| Worker {
        id: format!("w{number}"),
        node: format!("n{number}"),
        runtime: "wasm".into(),
        slots: 500,
        slots_free: 500,
        memory_bytes: 1_000_000,
        memory_free_bytes: 1_000_000,
        cost_per_second: number,
        quality: 1000,
        ..Worker::default()
    };
    let workers: Vec<Worker> = (1..=4).map(worker).collect();
    let task = |number: u64| Task {
        id: format!("t{number}"),
        artifact: format!("a{}", number % 700),
        requires: Requirements { runtimes: Runtimes::only("wasm"), memory_bytes: number % 7, ..Requirements::default() },
        ..Task::default()
    };
    let tasks: Vec<Task> = (0..1_400).map(task).collect();
    let mut tuning = Tuning { moves: 0, ..Tuning::default() };
    tuning.weights.thrift = 0;
    let history = History::default();
    let mut ledger = Ledger::new(&workers, &data());
    for decision in place(&workers, &tasks, &history, &tuning) {
        let now: Vec<Worker> = ledger.workers.values().cloned().collect();
        let alone = place(&now, &tasks[decision.task..=decision.task], &history, &tuning);
        assert_eq!(chosen(&alone[0].outcome), chosen(&decision.outcome));
        let Outcome::Placed(placement) = &decision.outcome else { panic!("there is room") };
        ledger.take(&tasks[decision.task].requires, placement).unwrap();
    }
}

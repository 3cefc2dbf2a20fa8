//! Shares: leases are divided between namespaces by weight, however they are asked for, and nobody gets credit for being idle.

mod support;

use std::collections::BTreeMap;

use support::{Rig, answer, command, spec};
use tarn_proto::v1::*;

fn fill(rig: &mut Rig, namespace: &str, tasks: usize) {
    let request = EnqueueRequest { namespace: namespace.into(), tasks: vec![spec("q"); tasks], ..Default::default() };
    rig.apply_unchecked(vec![command(request)]);
}

/// Leases so many tasks, `step` at a time; counts them by namespace.
fn shares(rig: &mut Rig, worker: &str, leases: u32, step: u32) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..leases / step {
        let request = LeaseTasksRequest { worker_id: worker.into(), max_tasks: step, ..Default::default() };
        let outcome = rig.apply_unchecked(vec![command(request)]).outcomes.remove(0);
        for task in answer::<LeaseTasksRequest>(outcome).expect("it leases").tasks {
            *counts.entry(task.namespace).or_default() += 1;
        }
    }
    counts
}

fn contest(step: u32) -> (BTreeMap<String, u32>, BTreeMap<String, u32>) {
    let mut rig = Rig::new();
    let worker = rig.ok(RegisterWorkerRequest::default()).worker_id;
    for (name, weight) in [("small", 100), ("middle", 200), ("large", 700), ("late", 1_000)] {
        rig.ok(CreateNamespaceRequest { name: name.into(), weight, ..Default::default() });
    }
    for name in ["small", "middle", "large"] {
        fill(&mut rig, name, 1_000);
    }
    let before = shares(&mut rig, &worker, 500, step);
    fill(&mut rig, "late", 1_000);
    rig.restart();
    (before, shares(&mut rig, &worker, 500, step))
}

fn assert_near(counts: &BTreeMap<String, u32>, expected: &[(&str, u32)]) {
    for (name, count) in expected {
        let found = counts.get(*name).copied().unwrap_or(0);
        assert!(found.abs_diff(*count) <= 1, "{name} should have about {count}: {counts:?}");
    }
}

#[test]
fn leases_are_shared_by_weight() {
    for step in [1, 10, 100] {
        let (before, after) = contest(step);
        assert_near(&before, &[("small", 50), ("middle", 100), ("large", 350)]);
        assert_near(&after, &[("small", 25), ("middle", 50), ("large", 175), ("late", 250)]);
    }
}

#[test]
fn whoever_is_alone_gets_everything_and_owes_nothing_for_it() {
    let mut rig = Rig::new();
    let worker = rig.ok(RegisterWorkerRequest::default()).worker_id;
    for name in ["a", "b"] {
        rig.ok(CreateNamespaceRequest { name: name.into(), ..Default::default() });
    }
    fill(&mut rig, "a", 1_000);
    assert_eq!(shares(&mut rig, &worker, 200, 50).get("a"), Some(&200));
    fill(&mut rig, "b", 1_000);
    assert_near(&shares(&mut rig, &worker, 200, 50), &[("a", 100), ("b", 100)]);
}

#[test]
fn what_a_namespace_got_from_its_own_workers_does_not_count_against_it_elsewhere() {
    let mut rig = Rig::new();
    for name in ["a", "b", "c"] {
        rig.ok(CreateNamespaceRequest { name: name.into(), ..Default::default() });
    }
    let own = WorkerCapabilities { namespaces: vec!["a".into()], ..Default::default() };
    let own = rig.ok(RegisterWorkerRequest { capabilities: Some(own), ..Default::default() }).worker_id;
    let shared = rig.ok(RegisterWorkerRequest::default()).worker_id;
    fill(&mut rig, "a", 1_000);
    fill(&mut rig, "b", 1_000);
    assert_eq!(shares(&mut rig, &own, 500, 50).get("a"), Some(&500));
    assert_near(&shares(&mut rig, &shared, 100, 10), &[("a", 50), ("b", 50)]);
    // Nor does a newcomer have to wait for those that had much, or they for it.
    assert_eq!(shares(&mut rig, &own, 300, 50).get("a"), Some(&300));
    fill(&mut rig, "c", 1_000);
    assert_near(&shares(&mut rig, &shared, 150, 1), &[("a", 50), ("b", 50), ("c", 50)]);
}

#[test]
fn however_much_a_neighbour_has_waiting_a_tenants_task_is_among_the_next_two() {
    for backlog in [0, 100, 20_000] {
        let mut rig = Rig::new();
        let worker = rig.ok(RegisterWorkerRequest::default()).worker_id;
        for name in ["noisy", "quiet"] {
            rig.ok(CreateNamespaceRequest { name: name.into(), ..Default::default() });
        }
        for _ in 0..backlog / 1_000 {
            fill(&mut rig, "noisy", 1_000);
        }
        fill(&mut rig, "noisy", backlog % 1_000 + 300);
        for _ in 0..100 {
            fill(&mut rig, "quiet", 1);
            assert_eq!(shares(&mut rig, &worker, 2, 1).get("quiet"), Some(&1), "{backlog}");
        }
    }
}

//! Who runs whose tasks.

use std::collections::BTreeMap;

use tarn_proto::v1::*;

use crate::support::{Rig, command, spec};
use crate::{lease, rig, tasks, worker};

fn isolated(rig: &mut Rig, name: &str, isolation: Isolation, weight: u32) {
    rig.ok(CreateNamespaceRequest { name: name.into(), isolation: isolation.into(), weight, ..Default::default() });
}

/// Leases so many tasks one by one; counts them by namespace.
fn counts(rig: &mut Rig, worker: &str, leases: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..leases {
        for task in rig.ok(lease(worker, 1)).tasks {
            *counts.entry(task.namespace).or_default() += 1;
        }
    }
    counts
}

#[test]
fn a_strict_namespace_is_served_by_its_own_workers_alone() {
    let mut rig = rig();
    isolated(&mut rig, "vault", Isolation::Strict, 0);
    isolated(&mut rig, "other", Isolation::Shared, 0);
    let (any, both, own) = (worker(&mut rig, &[]), worker(&mut rig, &["vault", "other"]), worker(&mut rig, &["vault"]));
    let applied = rig.apply(vec![command(tasks("vault", 2)), command(tasks("other", 2))]);
    let group = applied.ready.iter().find(|group| &*group.namespace == "vault").expect("its tasks are ready");
    let serving =
        |names: &[&str]| WorkerCapabilities { namespaces: names.iter().map(|name| name.to_string()).collect(), ..Default::default() };
    assert!(group.suits(&serving(&["vault"])) && group.suits(&serving(&["vault", "vault"])));
    assert!(!group.suits(&serving(&[])) && !group.suits(&serving(&["vault", "other"])) && !group.suits(&serving(&["other"])));
    for stranger in [&any, &both] {
        let leased = rig.ok(lease(stranger, 1)).tasks;
        assert_eq!(leased[0].namespace, "other");
    }
    assert!(rig.ok(lease(&any, 10)).tasks.is_empty() && rig.ok(lease(&both, 10)).tasks.is_empty());
    assert!(!rig.machine.has_ready_task_for(&any) && !rig.machine.has_ready_task_for(&both));
    assert!(rig.machine.has_ready_task_for(&own));
    rig.ok(tasks("other", 1));
    let leased = rig.ok(lease(&own, 10)).tasks;
    assert!(leased.len() == 2 && leased.iter().all(|task| task.namespace == "vault"));
}

#[test]
fn what_runs_already_may_finish_when_a_namespace_becomes_strict() {
    let mut rig = rig();
    isolated(&mut rig, "a", Isolation::Shared, 0);
    let any = worker(&mut rig, &[]);
    rig.ok(tasks("a", 2));
    let leased = rig.ok(lease(&any, 1)).tasks;
    rig.ok(UpdateNamespaceRequest { name: "a".into(), isolation: Some(Isolation::Strict.into()), ..Default::default() });
    assert!(rig.ok(lease(&any, 1)).tasks.is_empty());
    rig.ok(crate::complete(&leased[0], 0));
    let applied = rig.apply(vec![command(UpdateNamespaceRequest {
        name: "a".into(),
        isolation: Some(Isolation::Shared.into()),
        ..Default::default()
    })]);
    assert!(applied.ready.iter().any(|group| &*group.namespace == "a"), "waiting workers are told");
    assert_eq!(rig.ok(lease(&any, 1)).tasks.len(), 1);
}

#[test]
fn namespaces_without_isolation_have_one_share_together() {
    let mut rig = rig();
    for name in ["x", "y", "z"] {
        isolated(&mut rig, name, Isolation::None, 100);
    }
    isolated(&mut rig, "own", Isolation::Shared, 100);
    let worker = worker(&mut rig, &[]);
    for name in ["x", "y", "z", "own"] {
        rig.ok(tasks(name, 200));
    }
    let found = counts(&mut rig, &worker, 100);
    assert_eq!(found.get("own"), Some(&50), "{found:?}");
    // Ready at the same time and of one priority, the tasks of x have the lower numbers.
    assert_eq!(found.get("x"), Some(&50), "{found:?}");
}

#[test]
fn among_namespaces_without_isolation_priority_counts_across() {
    let mut rig = rig();
    for name in ["x", "y"] {
        isolated(&mut rig, name, Isolation::None, 0);
    }
    isolated(&mut rig, "own", Isolation::Shared, 0);
    let worker = worker(&mut rig, &["x", "y"]);
    rig.ok(tasks("x", 50));
    let urgent = EnqueueRequest {
        namespace: "y".into(),
        tasks: vec![TaskSpec { priority: Priority::Critical.into(), ..spec("q") }; 30],
        ..Default::default()
    };
    rig.ok(urgent);
    assert_eq!(counts(&mut rig, &worker, 30).get("y"), Some(&30));
    assert_eq!(counts(&mut rig, &worker, 30).get("x"), Some(&30));
}

#[test]
fn a_namespace_at_its_limit_does_not_hold_up_its_lane() {
    let mut rig = rig();
    for name in ["x", "y"] {
        isolated(&mut rig, name, Isolation::None, 0);
    }
    rig.ok(UpdateNamespaceRequest {
        name: "x".into(),
        quotas: Some(Quotas { max_running: Some(2), ..Default::default() }),
        ..Default::default()
    });
    let worker = worker(&mut rig, &[]);
    rig.ok(tasks("x", 20));
    rig.ok(tasks("y", 20));
    let leased = rig.ok(lease(&worker, 50)).tasks;
    let of = |name: &str| leased.iter().filter(|task| task.namespace == name).count();
    assert_eq!((of("x"), of("y")), (2, 20));
}

//! A namespace that is to go takes nothing new, lets end or ends what is in it, and leaves nothing behind.

use tarn_machine::STATE;
use tarn_proto::v1::*;
use tarn_storage::{Engine, Range};

use crate::support::{Rig, command, spec};
use crate::{complete, create, get, lease, rig, tasks, usage, worker};

fn delete(drain: bool, cancel: bool) -> DeleteNamespaceRequest {
    DeleteNamespaceRequest { name: "a".into(), drain, cancel, ..Default::default() }
}

fn timer(namespace: &str, delay_ms: u64) -> ScheduleTimerRequest {
    ScheduleTimerRequest {
        namespace: namespace.into(),
        delay_ms,
        action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(spec("timed"))) })),
        ..Default::default()
    }
}

fn hold(namespace: &str, ttl_ms: u64) -> AcquireLeaseRequest {
    AcquireLeaseRequest { namespace: namespace.into(), name: "lock".into(), holder: "me".into(), ttl_ms, ..Default::default() }
}

fn bind(rig: &mut Rig, namespace: &str) {
    rig.ok(PutBindingRequest {
        binding: Some(Binding { principal: "user/ada".into(), role: "developer".into(), namespace: namespace.into() }),
        ..Default::default()
    });
}

/// Creates `a`; gives the number that is in the keys of all its rows.
fn begin(rig: &mut Rig) -> u64 {
    create(rig, "a", Quotas::default());
    rig.index << tarn_machine::limits::ORDINAL_BITS | 1
}

/// Keys that have this number in them.
fn rows(rig: &Rig, number: u64) -> Vec<Vec<u8>> {
    let bytes = number.to_be_bytes();
    let keys = rig.engine.scan(STATE, Range::all()).map(|entry| entry.expect("memory does not fail").0);
    keys.filter(|key| key.windows(8).any(|window| window == bytes)).collect()
}

fn exists(rig: &Rig) -> bool {
    rig.machine.tenants().contains_key("a")
}

/// One of everything: dead letters with edges, ended tasks with results and logs, waiting and running tasks, timers fired and pending,
/// a named lease, bindings.
fn furnish(rig: &mut Rig) -> Vec<LeasedTask> {
    let worker = worker(rig, &["a"]);
    bind(rig, "a");
    bind(rig, "a*");
    rig.ok(timer("a", 5));
    rig.pass_to(rig.now_ms + 10);
    rig.ok(tasks("a", 4));
    let leased = rig.ok(lease(&worker, 5)).tasks;
    rig.ok(complete(&leased[0], 2_000));
    let fail = FailTaskRequest {
        namespace: "a".into(),
        task_id: leased[1].task_id.clone(),
        token: leased[1].token,
        kind: FailureKind::Final.into(),
        logs: vec![1; 500].into(),
        ..Default::default()
    };
    let after = TaskSpec { after: vec![leased[1].task_id.clone(), leased[2].task_id.clone()], ..spec("later") };
    let chain = EnqueueRequest { namespace: "a".into(), tasks: vec![after; 3], ..Default::default() };
    rig.ok(chain);
    rig.ok(fail);
    let blocked = EnqueueRequest {
        namespace: "a".into(),
        tasks: vec![TaskSpec {
            after: vec![leased[2].task_id.clone()],
            on_dependency_failure: DependencyFailure::Run.into(),
            ..spec("later")
        }],
        ..Default::default()
    };
    rig.ok(blocked);
    rig.ok(timer("a", 50_000));
    rig.ok(hold("a", 40_000));
    leased[2..].to_vec()
}

#[test]
fn a_draining_namespace_takes_nothing_new_and_finishes_what_it_has() {
    let mut rig = rig();
    let number = begin(&mut rig);
    let running = furnish(&mut rig);
    assert_eq!(rig.refused(delete(false, false)), "NAMESPACE_NOT_EMPTY");
    assert!(rig.ok(delete(true, false)).draining);
    assert_eq!(get(&rig, "a").namespace.expect("it is there").state(), NamespaceState::Draining);
    rig.restart();
    assert_eq!(rig.refused(tasks("a", 1)), "NAMESPACE_DRAINING");
    assert_eq!(rig.refused(timer("a", 1)), "NAMESPACE_DRAINING");
    assert_eq!(rig.refused(hold("a", 1_000)), "NAMESPACE_DRAINING");
    let requeue = RequeueDeadRequest { namespace: "a".into(), queue: "q".into(), ..Default::default() };
    assert_eq!(rig.refused(requeue), "NAMESPACE_DRAINING");
    assert_eq!(rig.refused(CreateNamespaceRequest { name: "a".into(), ..Default::default() }), "NAMESPACE_EXISTS");
    // Its work goes on.
    for task in &running {
        rig.ok(complete(task, 10));
    }
    assert!(exists(&rig));
    rig.pass_to(rig.now_ms + 45_000);
    assert_eq!((usage(&rig, "a").named_leases, usage(&rig, "a").pending_timers), (0, 1));
    rig.pass_to(rig.now_ms + 6_000);
    assert_eq!(usage(&rig, "a").pending_timers, 0);
    let worker = worker(&mut rig, &["a"]);
    for task in rig.ok(lease(&worker, 100)).tasks {
        assert!(exists(&rig), "the last of its tasks runs");
        rig.ok(complete(&task, 10));
    }
    assert!(usage(&rig, "a").dead > 0, "dead letters do not hold it up");
    let events = rig.pass_to(rig.now_ms);
    assert!(!exists(&rig), "and then it goes by itself");
    assert!(events.iter().any(|event| event.kind() == EventKind::NamespaceDeleted && event.subject == "a"));
    assert_nothing_left(&mut rig, number);
}

#[test]
fn cancelled_it_goes_at_once() {
    let mut rig = rig();
    let number = begin(&mut rig);
    let running = furnish(&mut rig);
    rig.ok(delete(true, false));
    rig.pass_to(rig.now_ms + 1_000);
    assert!(exists(&rig));
    // It can be asked for later, and not taken back.
    let both = vec![command(delete(true, true)), command(delete(true, false))];
    rig.apply(both);
    assert_eq!(get(&rig, "a").namespace.expect("it is there").state(), NamespaceState::Cancelling);
    let events = rig.pass_to(rig.now_ms);
    assert!(!exists(&rig));
    for kind in [EventKind::TaskCancelled, EventKind::TimerCancelled, EventKind::LeaseExpired] {
        assert!(events.iter().any(|event| event.kind() == kind), "{kind:?}");
    }
    assert_eq!(rig.refused(complete(&running[0], 1)), "NAMESPACE_NOT_FOUND");
    assert_nothing_left(&mut rig, number);
}

/// Only the reminders of what was to be swept are left, and they go in time. A namespace of the same name knows nothing of the first.
fn assert_nothing_left(rig: &mut Rig, number: u64) {
    let reminder = |key: &Vec<u8>| [0x19, 0x2a].contains(&key[0]);
    let left = rows(rig, number);
    assert!(left.iter().all(reminder), "{left:02x?}");
    let bindings = rig.machine.list_bindings(&ListBindingsRequest::default()).expect("they can be listed");
    let named: Vec<_> = bindings.bindings.iter().map(|binding| binding.namespace.as_str()).collect();
    assert_eq!(named, ["a*"], "a binding to the name alone goes with it");
    create(rig, "a", Quotas::default());
    assert_eq!(usage(rig, "a"), NamespaceUsage::default());
    rig.restart();
    rig.pass_to(rig.now_ms + 31 * 24 * 3_600_000);
    assert_eq!(rows(rig, number), Vec::<Vec<u8>>::new());
    assert_eq!(usage(rig, "a"), NamespaceUsage::default());
}

#[test]
fn much_of_everything_goes_in_bounded_steps() {
    let mut rig = rig();
    let number = begin(&mut rig);
    let worker = worker(&mut rig, &["a"]);
    for _ in 0..3 {
        rig.ok(tasks("a", 1_000));
    }
    for _ in 0..4 {
        for task in rig.ok(lease(&worker, 256)).tasks {
            rig.apply_unchecked(vec![command(complete(&task, 0))]);
        }
    }
    let chain: Vec<_> =
        (0..500u32).map(|place| TaskSpec { after_in_batch: place.checked_sub(1).into_iter().collect(), ..spec("chain") }).collect();
    rig.ok(EnqueueRequest { namespace: "a".into(), tasks: chain, ..Default::default() });
    rig.ok(lease(&worker, 100));
    rig.ok(delete(true, true));
    let mut entries = 0;
    while exists(&rig) {
        let applied = rig.apply(Vec::new());
        let cancelled = applied.events.iter().filter(|event| event.kind() == EventKind::TaskCancelled).count();
        assert!(cancelled <= 2 * tarn_machine::limits::SWEEPS_PER_ENTRY_MAX);
        entries += 1;
        assert!(entries < 100 && (rig.machine.next_wake_ms() == Some(0) || !exists(&rig)));
    }
    assert!(entries > 3, "{entries}");
    rig.pass_to(rig.now_ms + 31 * 24 * 3_600_000);
    assert_eq!(rows(&rig, number), Vec::<Vec<u8>>::new());
}

#[test]
fn an_empty_namespace_goes_without_draining_and_its_bindings_with_it() {
    let mut rig = rig();
    let number = begin(&mut rig);
    bind(&mut rig, "a");
    let id = rig.ok(tasks("a", 1)).task_ids.remove(0);
    rig.ok(CancelTaskRequest { namespace: "a".into(), task_id: id, ..Default::default() });
    assert!(!rig.ok(delete(false, false)).draining);
    assert!(!exists(&rig));
    assert!(rig.machine.list_bindings(&ListBindingsRequest::default()).expect("it lists").bindings.is_empty());
    rig.pass_to(rig.now_ms + 31 * 24 * 3_600_000);
    assert_eq!(rows(&rig, number), Vec::<Vec<u8>>::new());
    let protected = DeleteNamespaceRequest { name: "default".into(), drain: true, cancel: true, ..Default::default() };
    assert_eq!(rig.refused(protected), "NAMESPACE_PROTECTED");
}

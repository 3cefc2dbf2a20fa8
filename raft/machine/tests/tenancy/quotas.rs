//! Each quota, at its edge: what just fits is taken, one more is refused and told why, and what ends makes room.

use tarn_proto::v1::*;

use crate::support::{Rig, command, spec};
use crate::{complete, create, get, lease, rig, tasks, usage, worker};

fn queued(limit: u64) -> Quotas {
    Quotas { max_queued: Some(limit), ..Default::default() }
}

fn stored(limit: u64) -> Quotas {
    Quotas { max_stored_bytes: Some(limit), ..Default::default() }
}

fn rejection<R: tarn_proto::CommandBody>(rig: &mut Rig, request: R) -> Rejection
where
    R::Response: std::fmt::Debug,
{
    rig.tell(request).0.expect_err("it is refused")
}

#[test]
fn a_refusal_names_the_quota_the_limit_the_use_and_when_to_try_again() {
    let mut rig = rig();
    create(&mut rig, "a", queued(5));
    rig.ok(tasks("a", 4));
    let refused = rejection(&mut rig, tasks("a", 2));
    assert_eq!((refused.code, refused.reason.as_str()), (8, "QUOTA_QUEUED"));
    assert_eq!((refused.field.as_str(), refused.limit, refused.retry_after_ms), ("max_queued", 5, 1_000));
    assert!(refused.message.contains("has 4 tasks"), "{}", refused.message);
    assert_eq!(usage(&rig, "a").ready, 4, "a batch is all or nothing");
    rig.ok(tasks("a", 1));
    let never = rejection(&mut rig, tasks("a", 6));
    assert_eq!(never.retry_after_ms, 0, "what can never fit is not worth another try");
    assert!(never.message.contains("fewer"), "{}", never.message);
    // Others are not concerned.
    rig.ok(tasks("default", 6));
}

#[test]
fn a_running_task_keeps_its_place_and_its_retry_needs_none() {
    let mut rig = rig();
    create(&mut rig, "a", queued(2));
    let worker = worker(&mut rig, &[]);
    rig.ok(tasks("a", 2));
    let leased = rig.ok(lease(&worker, 2)).tasks;
    assert_eq!(rig.refused(tasks("a", 1)), "QUOTA_QUEUED");
    rig.ok(FailTaskRequest { namespace: "a".into(), task_id: leased[0].task_id.clone(), token: leased[0].token, ..Default::default() });
    assert_eq!(usage(&rig, "a").delayed, 1);
    assert_eq!(rig.refused(tasks("a", 1)), "QUOTA_QUEUED");
    rig.ok(complete(&leased[1], 0));
    rig.ok(tasks("a", 1));
    assert_eq!(rig.refused(tasks("a", 1)), "QUOTA_QUEUED");
}

#[test]
fn dead_letters_need_room_to_come_back() {
    let mut rig = rig();
    create(&mut rig, "a", queued(3));
    let dying = TaskSpec { deadline_at_ms: 2_000, ..spec("q") };
    let batch = EnqueueRequest { namespace: "a".into(), tasks: vec![dying; 3], ..Default::default() };
    let ids = rig.ok(batch).task_ids;
    rig.pass_to(3_000);
    assert_eq!(usage(&rig, "a").dead, 3);
    rig.ok(tasks("a", 1));
    let requeue =
        |ids: &[String]| RequeueDeadRequest { namespace: "a".into(), queue: "q".into(), task_ids: ids.to_vec(), ..Default::default() };
    assert_eq!(rig.refused(requeue(&ids)), "QUOTA_QUEUED", "those that are named all come, or none");
    let answer = rig.ok(requeue(&[]));
    assert_eq!((answer.requeued, answer.remaining), (2, 1), "of all, as many as fit");
    assert_eq!(rig.refused(requeue(&[])), "QUOTA_QUEUED");
}

#[test]
fn a_timer_waits_for_room() {
    let mut rig = rig();
    create(&mut rig, "a", queued(1));
    rig.ok(ScheduleTimerRequest {
        namespace: "a".into(),
        delay_ms: 100,
        action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(spec("q"))) })),
        ..Default::default()
    });
    let first = rig.ok(tasks("a", 1)).task_ids.remove(0);
    rig.now_ms += 5_000;
    rig.tell(HeartbeatTasksRequest::default()).0.expect_err("nobody asks");
    assert_eq!((usage(&rig, "a").pending_timers, usage(&rig, "a").ready), (1, 1));
    rig.ok(CancelTaskRequest { namespace: "a".into(), task_id: first, ..Default::default() });
    rig.pass_to(rig.now_ms + 2_000);
    assert_eq!((usage(&rig, "a").pending_timers, usage(&rig, "a").ready), (0, 1));
}

#[test]
fn what_is_stored_counts_until_it_is_deleted() {
    let mut rig = rig();
    let payload = TaskSpec { payload: vec![1; 5_000].into(), retention_ms: 600_000, ..spec("q") };
    let size = prost::Message::encoded_len(&payload) as u64;
    let one = EnqueueRequest { namespace: "a".into(), tasks: vec![payload], ..Default::default() };
    create(&mut rig, "a", stored(2 * size));
    let worker = worker(&mut rig, &[]);
    rig.ok(one.clone());
    rig.ok(one.clone());
    assert_eq!(usage(&rig, "a").stored_bytes, 2 * size);
    let refused = rejection(&mut rig, one.clone());
    assert_eq!((refused.reason.as_str(), refused.field.as_str()), ("QUOTA_STORED_BYTES", "max_stored_bytes"));
    assert_eq!((refused.limit, refused.retry_after_ms), (2 * size, 60_000));
    // A result is taken although there is no room: the work is done.
    let leased = rig.ok(lease(&worker, 1)).tasks;
    rig.ok(complete(&leased[0], 3_000));
    assert_eq!(usage(&rig, "a").stored_bytes, 2 * size + 3_000);
    assert_eq!(usage(&rig, "a").ended, 1);
    assert_eq!(rig.refused(tasks("a", 1)), "QUOTA_STORED_BYTES");
    rig.restart();
    rig.pass_to(rig.now_ms + 602_000);
    assert_eq!((usage(&rig, "a").stored_bytes, usage(&rig, "a").ended), (size, 0));
    rig.ok(one);
}

#[test]
fn a_timer_counts_while_it_is_pending_and_moves_into_its_task() {
    let mut rig = rig();
    let payload = TaskSpec { payload: vec![1; 2_000].into(), ..spec("q") };
    let size = prost::Message::encoded_len(&payload) as u64;
    create(&mut rig, "a", stored(size));
    let timer = ScheduleTimerRequest {
        namespace: "a".into(),
        delay_ms: 1_000,
        action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(payload)) })),
        ..Default::default()
    };
    rig.ok(timer.clone());
    assert_eq!(rig.refused(timer), "QUOTA_STORED_BYTES");
    rig.pass_to(2_000);
    assert_eq!((usage(&rig, "a").ready, usage(&rig, "a").stored_bytes), (1, size));
}

#[test]
fn no_more_attempts_run_than_may_and_others_get_the_workers() {
    let mut rig = rig();
    create(&mut rig, "a", Quotas { max_running: Some(3), ..Default::default() });
    create(&mut rig, "b", Quotas::default());
    let worker = worker(&mut rig, &[]);
    rig.ok(tasks("a", 10));
    rig.ok(tasks("b", 10));
    let leased = rig.ok(lease(&worker, 20)).tasks;
    let of = |name: &str| leased.iter().filter(|task| task.namespace == name).count();
    assert_eq!((of("a"), of("b")), (3, 10));
    assert!(!rig.machine.has_ready_task_for(&worker), "what waits may not start");
    assert!(rig.ok(lease(&worker, 20)).tasks.is_empty());
    // Whoever waits for work is told that there is some again.
    let done = leased.iter().find(|task| task.namespace == "a").expect("three are");
    let applied = rig.apply(vec![command(complete(done, 0))]);
    assert!(applied.ready.iter().any(|group| &*group.namespace == "a"), "{:?}", applied.ready);
    assert_eq!(rig.ok(lease(&worker, 20)).tasks.len(), 1);
    // A higher quota has effect at once, and a lower one takes nothing away.
    let update = |limit| UpdateNamespaceRequest {
        name: "a".into(),
        quotas: Some(Quotas { max_running: Some(limit), ..Default::default() }),
        ..Default::default()
    };
    let applied = rig.apply(vec![command(update(5))]);
    assert!(applied.ready.iter().any(|group| &*group.namespace == "a"));
    assert_eq!(rig.ok(lease(&worker, 20)).tasks.len(), 2);
    rig.ok(update(1));
    assert_eq!(usage(&rig, "a").running, 5);
    assert!(rig.ok(lease(&worker, 20)).tasks.is_empty());
    rig.ok(update(0));
    assert_eq!(rig.ok(lease(&worker, 20)).tasks.len(), 4, "none is no limit");
}

#[test]
fn an_update_changes_what_it_names_alone() {
    let mut rig = rig();
    rig.ok(CreateNamespaceRequest {
        name: "a".into(),
        weight: 7,
        quotas: Some(Quotas { max_running: Some(1), max_queued: Some(2), max_stored_bytes: Some(3), requests_per_minute: Some(4) }),
        isolation: Isolation::Strict.into(),
        environment: "stage".into(),
        ..Default::default()
    });
    let before = get(&rig, "a").namespace;
    let same = rig.ok(UpdateNamespaceRequest { name: "a".into(), ..Default::default() });
    assert_eq!(same.namespace, before);
    rig.ok(UpdateNamespaceRequest {
        name: "a".into(),
        quotas: Some(Quotas { max_queued: Some(0), ..Default::default() }),
        environment: Some("prod".into()),
        ..Default::default()
    });
    rig.restart();
    let namespace = get(&rig, "a").namespace.expect("it is there");
    assert_eq!((namespace.weight, namespace.environment.as_str()), (7, "prod"));
    assert_eq!(namespace.isolation(), Isolation::Strict);
    let quotas = namespace.quotas.expect("version 2 tells them");
    let limits = [quotas.max_running, quotas.max_queued, quotas.max_stored_bytes, quotas.requests_per_minute];
    assert_eq!(limits, [Some(1), Some(0), Some(3), Some(4)]);
    assert_eq!(rig.refused(UpdateNamespaceRequest { name: "none".into(), ..Default::default() }), "NAMESPACE_NOT_FOUND");
    let tenants = rig.machine.tenants();
    let tenant = &tenants["a"];
    assert_eq!((&*tenant.environment, tenant.requests_per_minute), ("prod", 4));
    assert!(!tenants.contains_key("none"));
}

#[test]
fn what_can_never_be_is_refused() {
    let mut rig = rig();
    let create = |change: fn(&mut CreateNamespaceRequest)| {
        let mut request = CreateNamespaceRequest { name: "a".into(), ..Default::default() };
        change(&mut request);
        request
    };
    assert_eq!(rig.refused(create(|r| r.environment = "../prod".into())), "INVALID_NAME");
    assert_eq!(rig.refused(create(|r| r.environment = "x".repeat(65))), "INVALID_NAME");
    assert_eq!(rig.refused(create(|r| r.isolation = 9)), "UNKNOWN_VALUE");
    let update = |change: fn(&mut UpdateNamespaceRequest)| {
        let mut request = UpdateNamespaceRequest { name: "default".into(), ..Default::default() };
        change(&mut request);
        request
    };
    assert_eq!(rig.refused(update(|r| r.weight = Some(0))), "OUT_OF_RANGE");
    assert_eq!(rig.refused(update(|r| r.weight = Some(1_001))), "OUT_OF_RANGE");
    assert_eq!(rig.refused(update(|r| r.isolation = Some(-1))), "UNKNOWN_VALUE");
    assert_eq!(rig.refused(update(|r| r.environment = Some(String::new()))), "INVALID_NAME");
    assert_eq!(rig.refused(update(|r| r.name = "dеfault".into())), "INVALID_NAME", "a Cyrillic letter is another");
    // Quotas have no bounds of their own: the largest number does not overflow anything.
    rig.ok(update(|r| {
        let most = Some(u64::MAX);
        r.quotas = Some(Quotas { max_running: most, max_queued: most, max_stored_bytes: most, requests_per_minute: most });
    }));
    rig.ok(tasks("default", 3));
    let cancel = DeleteNamespaceRequest { name: "default".into(), cancel: true, ..Default::default() };
    assert_eq!(rig.refused(cancel), "CANCEL_WITHOUT_DRAIN");
}

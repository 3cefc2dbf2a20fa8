//! Before machine version 2 there are no quotas, and nothing is counted; what was there when the version rose counts from its next change.

use tarn_machine::STATE;
use tarn_proto::v1::*;
use tarn_storage::{Engine, Range};

use crate::support::{Rig, spec};
use crate::{complete, get, lease, tasks, usage, worker};

/// What is stored of usage, whoever's.
fn usage_rows(rig: &Rig) -> usize {
    rig.engine.scan(STATE, Range::prefix(&[0x0b])).count()
}

#[test]
fn version_1_knows_nothing_of_tenancy() {
    let mut rig = Rig::new();
    let create = |change: fn(&mut CreateNamespaceRequest)| {
        let mut request = CreateNamespaceRequest { name: "a".into(), ..Default::default() };
        change(&mut request);
        request
    };
    for change in [
        (|r| r.quotas = Some(Quotas::default())) as fn(&mut CreateNamespaceRequest),
        |r| r.isolation = Isolation::Shared.into(),
        |r| r.environment = "prod".into(),
    ] {
        assert_eq!(rig.refused(create(change)), "CLUSTER_VERSION_TOO_LOW");
    }
    let made = rig.ok(create(|_| {})).namespace.expect("it is made");
    let bare = Namespace { name: "a".into(), weight: 100, created_at_ms: 1_000, ..Default::default() };
    assert_eq!(made, bare, "an answer has no field that an older node does not know");
    let drain = DeleteNamespaceRequest { name: "a".into(), drain: true, ..Default::default() };
    assert_eq!(rig.refused(drain), "CLUSTER_VERSION_TOO_LOW");
    let update = UpdateNamespaceRequest { name: "a".into(), ..Default::default() };
    assert_eq!(rig.refused(update), "CLUSTER_VERSION_TOO_LOW");
    rig.ok(tasks("a", 3));
    assert_eq!((usage(&rig, "a").stored_bytes, usage_rows(&rig)), (0, 0));
}

#[test]
fn what_was_there_before_counts_from_its_next_change() {
    let mut rig = Rig::new();
    let worker = worker(&mut rig, &[]);
    let payload = TaskSpec { payload: vec![1; 3_000].into(), ..spec("q") };
    let size = prost::Message::encoded_len(&payload) as u64;
    rig.ok(EnqueueRequest { namespace: "default".into(), tasks: vec![payload; 3], ..Default::default() });
    let first = rig.ok(lease(&worker, 1)).tasks.remove(0);
    let fail = FailTaskRequest {
        namespace: "default".into(),
        task_id: first.task_id.clone(),
        token: first.token,
        logs: vec![1; 700].into(),
        ..Default::default()
    };
    rig.ok(fail);
    let done = rig.ok(lease(&worker, 1)).tasks.remove(0);
    rig.ok(complete(&done, 2_000));
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    rig.restart();
    let limited = UpdateNamespaceRequest {
        name: "default".into(),
        quotas: Some(Quotas { max_stored_bytes: Some(2 * size + 1_000), ..Default::default() }),
        ..Default::default()
    };
    rig.ok(limited);
    assert_eq!((usage(&rig, "default").stored_bytes, usage(&rig, "default").ended), (0, 0));
    // The next attempt of each is its next change: specification and logs count from there on.
    rig.pass_to(rig.now_ms + 10_000);
    let leased = rig.ok(lease(&worker, 5)).tasks;
    assert_eq!(leased.len(), 2);
    assert_eq!(usage(&rig, "default").stored_bytes, 2 * size + 700);
    for task in &leased {
        rig.ok(complete(task, 2_000));
    }
    assert_eq!((usage(&rig, "default").stored_bytes, usage(&rig, "default").ended), (2 * size + 4_700, 2));
    rig.pass_to(rig.now_ms + 2 * 24 * 3_600_000);
    assert_eq!((usage(&rig, "default").stored_bytes, usage(&rig, "default").ended), (0, 0));
    assert_eq!(get(&rig, "default").quotas.len(), 4);
}

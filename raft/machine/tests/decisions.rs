//! Decisions: that a changed, lost or moved row is found where it is, that the chain goes on when rows are dropped from its front, and what
//! the story of a task says about why it waits.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use support::{Rig, command, spec};
use tarn_machine::keys::Key;
use tarn_machine::{Machine, STATE, Versions, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, Durability, Engine, MemoryEngine, Range};

/// A cluster of version 2 with some namespaces made, one record each.
fn cluster(namespaces: u64) -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    for number in 0..namespaces {
        rig.ok(CreateNamespaceRequest { name: format!("team-{number}"), ..Default::default() });
    }
    rig
}

fn verify(machine: &Machine, through: u64) -> VerifyDecisionsResponse {
    let mut walk = machine.chain_walk(through);
    while !machine.walk_chain(&mut walk, 3) {}
    walk.report(1)
}

fn rows(engine: &dyn Engine) -> Vec<(u64, Vec<u8>)> {
    let rows = engine.scan(STATE, Range::prefix(&[0x60])).map(|entry| {
        let (key, row) = entry.expect("memory does not fail");
        let Some(Key::Decisions { index }) = Key::decode(&key) else { panic!("{key:02x?}") };
        (index, row)
    });
    rows.collect()
}

/// Changes the state behind the machine's back.
fn spoil(engine: &MemoryEngine, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    engine.write(batch, Durability::Buffered).expect("memory does not fail");
}

fn faults(report: &VerifyDecisionsResponse) -> Vec<(u64, &str)> {
    report.faults.iter().map(|fault| (fault.index, fault.reason.as_str())).collect()
}

#[test]
fn a_whole_chain_is_whole_from_its_beginning_and_up_to_any_place() {
    let rig = cluster(9);
    let report = verify(&rig.machine, 0);
    assert_eq!(faults(&report), []);
    assert_eq!((report.rows, report.records, report.through_index), (10, 10, rig.index));
    let ends = report.chain.unwrap();
    assert_eq!((ends.head_index, ends.head_rows, ends.start_index), (rig.index, 10, 0));
    assert_eq!(ends.head_hash, report.through_hash);
    for (place, (index, _)) in rows(&*rig.engine).into_iter().enumerate() {
        let report = verify(&rig.machine, index);
        assert_eq!((report.through_index, report.rows), (index, place as u64 + 1));
        assert_eq!(faults(&report), []);
    }
    // A chain without a row is whole too.
    assert_eq!(faults(&verify(&Rig::new().machine, 0)), []);
}

#[test]
fn every_changed_byte_of_every_row_is_found_where_it_is() {
    let rig = cluster(5);
    let rows = rows(&*rig.engine);
    let last = rows.last().expect("there are rows").0;
    for (index, row) in &rows {
        let key = Key::Decisions { index: *index }.encode();
        for place in 0..row.len() {
            let mut changed = row.clone();
            changed[place] ^= 0x01;
            spoil(&rig.engine, |batch| batch.put(STATE, &key, &changed));
            let report = verify(&rig.machine, 0);
            let found = faults(&report);
            let [(at, reason)] = found[..] else { panic!("byte {place} of row {index}: {found:?}") };
            assert_eq!(at, *index, "byte {place} of row {index}: {reason}");
            let whole_before = report.faults[0].message.contains(&format!("log entry {index}"));
            assert!(whole_before, "it says where: {:?}", report.faults);
        }
        spoil(&rig.engine, |batch| batch.put(STATE, &key, row));
    }
    assert_eq!(faults(&verify(&rig.machine, 0)), []);
    assert_eq!(last, rig.index);
}

#[test]
fn lost_moved_added_and_cut_rows_are_found() {
    let rig = cluster(5);
    let rows = rows(&*rig.engine);
    let key = |index: u64| Key::Decisions { index }.encode();
    // One is gone from the middle, the first, the last.
    for (place, expected) in [(2, (rows[1].0, "ROW_MISSING")), (0, (0, "ROW_MISSING")), (5, (rows[4].0, "ROW_MISSING"))] {
        let (index, row) = &rows[place];
        spoil(&rig.engine, |batch| batch.delete(STATE, key(*index)));
        assert_eq!(faults(&verify(&rig.machine, 0)), [expected]);
        spoil(&rig.engine, |batch| batch.put(STATE, key(*index), row));
    }
    // Two have changed places.
    spoil(&rig.engine, |batch| {
        batch.put(STATE, key(rows[1].0), &rows[2].1);
        batch.put(STATE, key(rows[2].0), &rows[1].1);
    });
    let report = verify(&rig.machine, 0);
    let found: BTreeSet<u64> = report.faults.iter().map(|fault| fault.index).collect();
    assert!(found.contains(&rows[1].0) && found.contains(&rows[2].0), "{report:?}");
    spoil(&rig.engine, |batch| {
        batch.put(STATE, key(rows[1].0), &rows[1].1);
        batch.put(STATE, key(rows[2].0), &rows[2].1);
    });
    // One too short to be a row, one that is no message.
    for bad in [vec![7; 5], [vec![0; 32], vec![0xff; 9]].concat()] {
        spoil(&rig.engine, |batch| batch.put(STATE, key(rows[3].0), &bad));
        assert!(faults(&verify(&rig.machine, 0)).iter().any(|(at, _)| *at == rows[3].0));
    }
}

#[test]
fn nodes_whose_chains_differ_have_different_hashes_though_each_is_whole() {
    let (one, mut two) = (cluster(3), cluster(2));
    two.ok(CreateNamespaceRequest { name: "forged".to_owned(), ..Default::default() });
    let (one, two) = (verify(&one.machine, one.index), verify(&two.machine, two.index));
    assert_eq!(one.through_index, two.through_index);
    assert!(one.faults.is_empty() && two.faults.is_empty());
    assert_ne!(one.through_hash, two.through_hash);
}

#[test]
fn what_is_dropped_from_the_front_leaves_a_chain_that_is_whole() {
    let mut rig = cluster(3);
    rig.ok(PutAuditSettingsRequest {
        settings: Some(AuditSettings { records_max: limits::AUDIT_RECORDS.0, ..Default::default() }),
        ..Default::default()
    });
    for number in 0..1_200u64 {
        rig.apply_unchecked(vec![command(PutRoleRequest {
            name: "role".to_owned(),
            rules: vec![Rule { verbs: vec![format!("v{number}")], resources: vec!["*".to_owned()] }],
            ..Default::default()
        })]);
    }
    rig.check();
    let settings = rig.machine.get_audit_settings(&GetAuditSettingsRequest {}).unwrap();
    // One entry drops before it writes its own.
    assert!((1_000..=1_001).contains(&settings.records), "{settings:?}");
    let bytes: usize = rows(&*rig.engine).iter().map(|(_, row)| row.len()).sum();
    assert_eq!(settings.bytes, bytes as u64);
    let report = verify(&rig.machine, 0);
    assert_eq!(faults(&report), []);
    let ends = report.chain.unwrap();
    assert_eq!(ends.start_rows + report.rows, ends.head_rows);
    assert!(ends.start_index > 0);
    rig.restart();
    assert_eq!(verify(&rig.machine, 0).through_hash, ends.head_hash);

    // What is known of the last dropped row is part of the chain.
    let mut walk = rig.machine.chain_walk(0);
    assert!(!rig.machine.walk_chain(&mut walk, 10));
    // A walk whose place is dropped under it goes on from where the chain begins.
    for number in 0..50u64 {
        rig.apply_unchecked(vec![
            command(DrainWorkerRequest { worker_id: "0000000000007".to_owned(), request_id: number.to_string() }),
            command(PutRoleRequest {
                name: "role".to_owned(),
                rules: vec![Rule { verbs: vec!["x".to_owned()], resources: vec!["*".to_owned()] }],
                ..Default::default()
            }),
        ]);
    }
    while !rig.machine.walk_chain(&mut walk, 10) {}
    assert_eq!(faults(&walk.report(1)), []);
}

#[test]
fn a_jump_of_the_clock_drops_only_so_many_rows_at_once() {
    let mut rig = cluster(100);
    rig.now_ms += limits::AUDIT_RETENTION_MS_DEFAULT + 1;
    let before = rows(&*rig.engine).len();
    rig.apply(vec![]);
    assert_eq!(rows(&*rig.engine).len(), before - limits::DECISION_ROWS_DROPPED_MAX);
    assert_eq!(faults(&verify(&rig.machine, 0)), []);
}

#[test]
fn a_cluster_of_version_1_is_as_it_was() {
    let mut rig = Rig::new();
    let worker = rig.ok(RegisterWorkerRequest { ttl_ms: 3_600_000, ..Default::default() }).worker_id;
    let ids = rig.ok(EnqueueRequest { namespace: "default".to_owned(), tasks: vec![spec("q"), spec("q")], ..Default::default() });
    let leased = rig.ok(LeaseTasksRequest { worker_id: worker, max_tasks: 1, ..Default::default() });
    rig.ok(FailTaskRequest {
        namespace: "default".to_owned(),
        task_id: leased.tasks[0].task_id.clone(),
        token: leased.tasks[0].token,
        ..Default::default()
    });
    rig.ok(CancelTaskRequest { namespace: "default".to_owned(), task_id: ids.task_ids[1].clone(), ..Default::default() });
    for entry in rig.engine.scan(STATE, Range::all()) {
        let (key, row) = entry.unwrap();
        assert!(key[0] < 0x60, "{key:02x?}");
        // Field 40 of a task: where records about it are.
        let task = matches!(key[0], 0x10..=0x12);
        assert!(!task || !row.windows(2).any(|tag| tag == [0xc2, 0x02]), "{row:02x?}");
    }
    let story = rig.machine.task_story("default", &ids.task_ids[0]).unwrap();
    assert!(story.decisions.is_empty() && story.decisions_incomplete);
}

// --- Stories ---------------------------------------------------------------------------------------------------------------------------

fn submit(rig: &mut Rig, tasks: Vec<TaskSpec>) -> Vec<String> {
    rig.ok(EnqueueRequest { namespace: "default".to_owned(), tasks, ..Default::default() }).task_ids
}

fn worker(rig: &mut Rig, capabilities: WorkerCapabilities) -> String {
    rig.ok(RegisterWorkerRequest { name: "w".to_owned(), capabilities: Some(capabilities), ttl_ms: 3_600_000, ..Default::default() })
        .worker_id
}

fn waiting(rig: &Rig, task: &str) -> Waiting {
    let story = rig.machine.task_story("default", task).expect("there is such a task");
    story.waiting.expect("it waits")
}

#[test]
fn a_story_says_what_no_worker_has() {
    let mut rig = cluster(0);
    let needy = TaskSpec {
        runtime: "wasm".to_owned(),
        requires: vec!["gpu".to_owned(), "zone=a".to_owned()],
        wasm: Some(WasmSpec { artifact: "a".to_owned(), ..Default::default() }),
        ..spec("q")
    };
    let id = submit(&mut rig, vec![needy])[0].clone();
    let nobody = waiting(&rig, &id);
    assert_eq!((nobody.workers, nobody.able), (0, 0));
    assert_eq!(nobody.missing, ["namespace default", "queue q", "runtime wasm", "handler ", "label gpu", "label zone=a"]);

    let capabilities = |runtimes: &[&str], labels: &[&str]| WorkerCapabilities {
        runtimes: runtimes.iter().map(|s| s.to_string()).collect(),
        labels: labels.iter().map(|s| s.to_string()).collect(),
        ..Default::default()
    };
    worker(&mut rig, capabilities(&["wasm"], &["zone=a"]));
    assert_eq!(waiting(&rig, &id).missing, ["label gpu"]);
    // Each thing is had by some, and no one has all.
    worker(&mut rig, capabilities(&[], &["gpu"]));
    let apart = waiting(&rig, &id);
    assert_eq!((apart.workers, apart.able, apart.missing.len()), (2, 0, 0));
    let able = worker(&mut rig, capabilities(&["wasm"], &["gpu", "zone=a"]));
    let able_now = waiting(&rig, &id);
    assert_eq!((able_now.able, able_now.free, able_now.ahead), (1, 1, 0));
    rig.ok(DrainWorkerRequest { worker_id: able, ..Default::default() });
    assert_eq!((waiting(&rig, &id).able, waiting(&rig, &id).free), (1, 0));
}

#[test]
fn a_story_says_who_stands_before() {
    let mut rig = cluster(0);
    worker(&mut rig, WorkerCapabilities { handlers: vec!["a".to_owned()], ..Default::default() });
    let of = |handler: &str, priority: Priority| TaskSpec { handler: handler.to_owned(), priority: priority.into(), ..spec("q") };
    let ids = submit(
        &mut rig,
        vec![
            of("a", Priority::Normal),
            of("a", Priority::Low),
            of("b", Priority::Critical),
            of("a", Priority::Critical),
            of("a", Priority::Normal),
        ],
    );
    let last = waiting(&rig, &ids[4]);
    // Not the one that no worker can run, nor that of lower priority.
    assert_eq!((last.ahead, last.first_ahead.as_str()), (2, ids[3].as_str()));
    assert_eq!(waiting(&rig, &ids[3]).ahead, 0);
    assert_eq!(waiting(&rig, &ids[1]).ahead, 3);
    assert_eq!(last.shares.len(), 1);
    assert_eq!((last.shares[0].namespace.as_str(), last.shares[0].ready), ("default", 5));
}

#[test]
fn a_story_finds_its_records_without_a_search() {
    let mut rig = cluster(0);
    let able = worker(&mut rig, WorkerCapabilities::default());
    let ids =
        submit(&mut rig, vec![spec("q"), TaskSpec { retry: Some(RetryPolicy { max_attempts: 2, ..Default::default() }), ..spec("r") }]);
    let mut index = Vec::new();
    for _ in 0..2 {
        rig.pass_to(rig.now_ms + 5_000);
        let leased = rig.ok(LeaseTasksRequest { worker_id: able.clone(), max_tasks: 2, ..Default::default() });
        index.push(rig.index);
        let task = leased.tasks.iter().find(|task| task.task_id == ids[1]).expect("it is leased");
        rig.ok(FailTaskRequest {
            namespace: "default".to_owned(),
            task_id: ids[1].clone(),
            token: task.token,
            error: Some(TaskError { reason: "BROKEN".to_owned(), ..Default::default() }),
            ..Default::default()
        });
        index.push(rig.index);
    }
    rig.ok(RequeueDeadRequest { namespace: "default".to_owned(), queue: "r".to_owned(), ..Default::default() });
    let story = rig.machine.task_story("default", &ids[1]).unwrap();
    let told: Vec<(DecisionKind, u64)> = story.decisions.iter().map(|d| (d.kind(), d.index)).collect();
    assert_eq!(
        told,
        [
            (DecisionKind::Admitted, 3),
            (DecisionKind::Retried, index[1]),
            (DecisionKind::Dead, index[3]),
            (DecisionKind::Admitted, rig.index),
            (DecisionKind::Requeued, rig.index),
        ],
        "the attempts' own records went with the attempts when it was requeued"
    );
    assert!(!story.decisions_incomplete);
    assert_eq!(story.decisions[1].delay_ms, rig_delay(&story.decisions[1]));

    // The worker is gone; the record of its registration still knows its name.
    let leased = rig.ok(LeaseTasksRequest { worker_id: able.clone(), max_tasks: 2, ..Default::default() });
    assert!(leased.tasks.iter().any(|task| task.task_id == ids[1]));
    rig.pass_to(rig.now_ms + 2 * 3_600_000);
    assert!(rig.machine.list_workers(&ListWorkersRequest {}).unwrap().workers.is_empty());
    let story = rig.machine.task_story("default", &ids[1]).unwrap();
    assert_eq!(story.workers.get(&able).map(String::as_str), Some("w"));
}

/// The delay in a record is a real one: the default's first, give or take its jitter.
fn rig_delay(record: &Decision) -> u64 {
    assert!((800..=1_200).contains(&record.delay_ms), "{record:?}");
    record.delay_ms
}

#[test]
fn a_task_that_waits_for_others_or_for_its_time_says_so() {
    let mut rig = cluster(0);
    let first = submit(&mut rig, vec![spec("q")])[0].clone();
    let later = TaskSpec { not_before_at_ms: 9_000, ..spec("q") };
    let ids = submit(&mut rig, vec![TaskSpec { after: vec![first.clone()], ..spec("q") }, later]);
    let blocked = waiting(&rig, &ids[0]);
    assert_eq!(blocked.dependencies.len(), 1);
    assert_eq!((blocked.dependencies[0].task_id.as_str(), blocked.dependencies[0].state()), (first.as_str(), TaskState::Ready));
    assert_eq!(waiting(&rig, &ids[1]).until_ms, 9_000);
    assert!(rig.machine.task_story("default", "0000000000007").is_err());
    assert!(rig.machine.task_story("nowhere", &first).is_err());
    rig.ok(CancelTaskRequest { namespace: "default".to_owned(), task_id: first.clone(), ..Default::default() });
    assert!(rig.machine.task_story("default", &first).unwrap().waiting.is_none());
}

// --- Cost ------------------------------------------------------------------------------------------------------------------------------

/// A record of a lease is small: what it costs is what the disk and the hash pay.
#[test]
fn a_lease_costs_few_bytes() {
    let mut rig = cluster(0);
    let able = worker(&mut rig, WorkerCapabilities::default());
    for _ in 0..10 {
        submit(&mut rig, vec![spec("q"); 100]);
    }
    let before = rig.machine.get_audit_settings(&GetAuditSettingsRequest {}).unwrap().bytes;
    let leased = rig.ok(LeaseTasksRequest { worker_id: able, max_tasks: 256, ..Default::default() }).tasks.len();
    let bytes = rig.machine.get_audit_settings(&GetAuditSettingsRequest {}).unwrap().bytes - before;
    assert_eq!(leased, 256);
    let each = bytes as usize / leased;
    println!("{each} bytes a lease");
    assert!(each <= 56, "{each} bytes a lease");
}

#[test]
fn a_late_machine_with_the_records_of_another_opens_over_them() {
    let rig = cluster(3);
    let opened = Machine::open(Arc::new(rig.engine.as_ref().clone()), Versions::CURRENT).unwrap();
    assert_eq!(opened.indices(), rig.machine.indices());
    assert_eq!(faults(&verify(&opened, 0)), []);
}

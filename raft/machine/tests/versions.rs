//! Versions and entries that a build does not understand: it stops, with a clear message, and leaves the state on disk as it was.

mod support;

use std::sync::Arc;

use prost::Message;
use support::{Rig, command, spec};
use tarn_machine::ids::Id;
use tarn_machine::{Fatal, Machine, STATE, Versions, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, Engine, Keyspace, MemoryEngine, Range};

/// A build before and one after a raise.
const OLD: Versions = Versions { min: 1, max: 1 };
const NEXT: Versions = Versions { min: 1, max: 2 };

fn open(versions: Versions) -> (Arc<MemoryEngine>, Machine) {
    let engine = Arc::new(MemoryEngine::new());
    let machine = Machine::open(engine.clone(), versions).expect("an empty engine opens");
    (engine, machine)
}

fn entry(version: u32, commands: Vec<Command>) -> Vec<u8> {
    Entry { version, now_ms: 1_000, commands }.encode_to_vec()
}

fn dump(engine: &dyn Engine) -> Vec<(Vec<u8>, Vec<u8>)> {
    engine.scan(STATE, Range::all()).map(|entry| entry.expect("memory does not fail")).collect()
}

/// Applies an entry that must be fatal, and checks that nothing was written.
fn stops(machine: &mut Machine, index: u64, entry: &[u8]) -> Fatal {
    let before = dump(&**machine.engine());
    let fatal = machine.apply(index, entry, &Batch::new()).expect_err("the node stops");
    assert_eq!(dump(&**machine.engine()), before);
    fatal
}

#[test]
fn a_higher_version_is_raised_only_where_it_is_understood() {
    let (_, mut old) = open(OLD);
    let (engine, mut new) = open(NEXT);
    assert_eq!((old.version(), new.version()), (1, 1), "a new build writes the cluster's version");
    let first = entry(1, vec![command(EnqueueRequest { namespace: "default".into(), tasks: vec![spec("q")], ..Default::default() })]);
    old.apply(1, &first, &Batch::new()).unwrap();
    new.apply(1, &first, &Batch::new()).unwrap();
    assert_eq!(old.digest(), new.digest(), "builds of different versions agree while the cluster has the lower one");

    let raise = entry(1, vec![command(RaiseVersion { version: 2, ..Default::default() })]);
    let fatal = stops(&mut old, 2, &raise);
    assert!(matches!(fatal, Fatal::UnknownVersion { found: 2, max: 1, .. }), "{fatal}");
    assert!(fatal.to_string().contains("upgrade this node"), "{fatal}");

    let applied = new.apply(2, &raise, &Batch::new()).unwrap();
    assert!(matches!(applied.outcomes[0].body, Some(outcome::Body::RaiseVersion(_))));
    assert_eq!(new.version(), 2);
    // Entries that were on their way with the lower version are still read; from now on there are those of the higher.
    new.apply(3, &entry(1, vec![]), &Batch::new()).unwrap();
    new.apply(4, &entry(2, vec![]), &Batch::new()).unwrap();
    // It does not go down again.
    new.apply(5, &entry(2, vec![command(RaiseVersion { version: 1, ..Default::default() })]), &Batch::new()).unwrap();
    assert_eq!(new.version(), 2);

    // The old build refuses the state, the new one goes on with it.
    let fatal = Machine::open(engine.clone(), OLD).err().expect("the state is of a higher version");
    assert!(matches!(fatal, Fatal::UnknownVersion { found: 2, .. }), "{fatal}");
    assert_eq!(Machine::open(engine, NEXT).unwrap().version(), 2);
}

/// Entries with every command of version 1, so that most of them do something, with a clock that goes on.
fn first_version() -> Vec<Vec<u8>> {
    let task_id = |index: u64, ordinal: u64| Id(index << limits::ORDINAL_BITS | ordinal).to_string();
    let namespace = || "default".to_owned();
    let hash = || bytes::Bytes::from_static(&[7; 32]);
    let retry = RetryPolicy { max_attempts: 2, ..Default::default() };
    let short = TaskSpec { deadline_at_ms: 40_000, retry: Some(retry), ..spec("q") };
    let waits = TaskSpec { after_in_batch: vec![0], ..spec("r") };
    let tasks = vec![short, waits, spec("q"), spec("q"), spec("q")];
    let worker_id = task_id(2, 1);
    let capabilities = WorkerCapabilities { labels: vec!["gpu".to_owned()], ..Default::default() };
    let (first, third, fourth) = (task_id(1, 1), task_id(1, 3), task_id(1, 4));
    let [first_token, third_token, fourth_token] = [1, 2, 3].map(|ordinal| 3 << limits::ORDINAL_BITS | ordinal);
    let door = |token| (namespace(), "door".to_owned(), token);
    let timer = |mark: &str, delay_ms| {
        command(ScheduleTimerRequest {
            namespace: namespace(),
            delay_ms,
            action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Mark(mark.to_owned())) })),
            ..Default::default()
        })
    };
    let named = |name: &str| CreateNamespaceRequest { name: name.to_owned(), ..Default::default() };
    let steps: Vec<(u64, Vec<Command>)> = vec![
        (1_000, vec![command(EnqueueRequest { request_id: "r1".to_owned(), namespace: namespace(), tasks })]),
        (1_500, vec![command(RegisterWorkerRequest { name: "w".to_owned(), capabilities: Some(capabilities), ..Default::default() })]),
        (2_000, vec![command(LeaseTasksRequest { worker_id: worker_id.clone(), max_tasks: 3, ..Default::default() })]),
        (
            2_500,
            vec![
                command(HeartbeatWorkerRequest { worker_id: worker_id.clone(), resources: None }),
                command(HeartbeatTasksRequest {
                    worker_id: worker_id.clone(),
                    leases: vec![TaskLease { namespace: namespace(), task_id: first.clone(), token: first_token, progress: None }],
                    lease_ms: 5_000,
                }),
                command(FailTaskRequest {
                    namespace: namespace(),
                    task_id: first,
                    token: first_token,
                    logs: "log".into(),
                    ..Default::default()
                }),
                command(CompleteTaskRequest {
                    request_id: "r2".to_owned(),
                    namespace: namespace(),
                    task_id: third,
                    token: third_token,
                    result: "result".into(),
                    ..Default::default()
                }),
                command(CancelTaskRequest { namespace: namespace(), task_id: fourth.clone(), ..Default::default() }),
                command(FailTaskRequest {
                    namespace: namespace(),
                    task_id: fourth,
                    token: fourth_token,
                    kind: FailureKind::Cancelled.into(),
                    ..Default::default()
                }),
                command(DrainWorkerRequest { worker_id, ..Default::default() }),
            ],
        ),
        (
            3_000,
            vec![
                command(AcquireLeaseRequest {
                    namespace: namespace(),
                    name: "door".to_owned(),
                    holder: "ann".to_owned(),
                    ..Default::default()
                }),
                timer("tea", 5_000),
                timer("cake", 5_000),
                command(named("team")),
                command(named("red")),
                command(PutJoinToken { key_hash: hash(), ..Default::default() }),
            ],
        ),
        (
            3_500,
            vec![
                {
                    let (namespace, name, token) = door(5 << limits::ORDINAL_BITS | 1);
                    command(RenewLeaseRequest { namespace, name, token, ..Default::default() })
                },
                {
                    let (namespace, name, token) = door(5 << limits::ORDINAL_BITS | 1);
                    command(ReleaseLeaseRequest { namespace, name, token, ..Default::default() })
                },
                command(CancelTimerRequest { namespace: namespace(), timer_id: task_id(5, 3), ..Default::default() }),
                command(DeleteNamespaceRequest { name: "red".to_owned(), ..Default::default() }),
                command(ConsumeJoinToken { key_hash: hash(), node_key_hash: hash(), node_id_min: 3 }),
                command(RaiseVersion { version: 1, ..Default::default() }),
            ],
        ),
        (100_000, vec![]),
        (100_000, vec![]),
        (
            100_500,
            vec![
                command(RequeueDeadRequest { namespace: namespace(), queue: "q".to_owned(), ..Default::default() }),
                command(PurgeQueueRequest {
                    namespace: namespace(),
                    queue: "q".to_owned(),
                    states: vec![TaskState::Ready.into()],
                    ..Default::default()
                }),
            ],
        ),
        (5_000_000, vec![]),
        (200_000_000, vec![]),
    ];
    let encode = |(now_ms, commands)| Entry { version: 1, now_ms, commands }.encode_to_vec();
    steps.into_iter().map(encode).collect()
}

/// What a build of the first release says to [`first_version`]. It never changes: a cluster that stays at version 1 may have nodes of that
/// build, and they compare digests.
const FIRST_DIGEST: &str = "5630d360309f2198dcbac06e476667080a4ef4ad04999f277e72b9b83bb337c7";

#[test]
fn a_cluster_that_stays_at_version_1_is_what_it_was_to_the_byte() {
    for versions in [OLD, NEXT, Versions::CURRENT] {
        let (_, mut machine) = open(versions);
        let (mut accepted, mut refused) = (0, Vec::new());
        for (place, entry) in first_version().iter().enumerate() {
            let applied = machine.apply(place as u64 + 1, entry, &Batch::new()).unwrap();
            for outcome in applied.outcomes {
                match outcome.body {
                    Some(outcome::Body::Rejected(rejection)) => refused.push(rejection.reason),
                    _ => accepted += 1,
                }
            }
        }
        assert!(refused.is_empty(), "every command does what it says: {refused:?}");
        assert_eq!(accepted, 24);
        let digest: String = machine.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, FIRST_DIGEST, "with {versions:?}");
    }
}

#[test]
fn workers_of_the_first_version_stay_anybodys_when_the_version_rises() {
    let mut rig = Rig::new();
    let by = |principal: &str, body: command::Body| Command { principal: principal.to_owned(), body: Some(body), ..Command::default() };
    let register = || command::Body::RegisterWorker(RegisterWorkerRequest::default());
    let heartbeat =
        |worker_id: &str| command::Body::HeartbeatWorker(HeartbeatWorkerRequest { worker_id: worker_id.to_owned(), resources: None });
    let registered = |rig: &mut Rig| {
        let applied = rig.apply(vec![by("user/ada", register())]);
        match &applied.outcomes[0].body {
            Some(outcome::Body::RegisterWorker(answer)) => answer.worker_id.clone(),
            other => panic!("{other:?}"),
        }
    };
    let beat = |rig: &mut Rig, principal: &str, worker: &str| {
        let applied = rig.apply(vec![by(principal, heartbeat(worker))]);
        match &applied.outcomes[0].body {
            Some(outcome::Body::Rejected(rejection)) => rejection.reason.clone(),
            _ => String::new(),
        }
    };
    let before = registered(&mut rig);
    assert_eq!(beat(&mut rig, "user/bob", &before), "");
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    let after = registered(&mut rig);
    rig.restart();
    for (principal, worker, expected) in [
        ("user/bob", &before, ""),
        ("user/bob", &after, "WORKER_NOT_YOURS"),
        ("user/ada", &after, ""),
        ("user/ad", &after, "WORKER_NOT_YOURS"),
        ("user/ada ", &after, "WORKER_NOT_YOURS"),
        ("", &after, "WORKER_NOT_YOURS"),
        ("user/admin", &after, ""),
        ("jwt/admin", &after, "WORKER_NOT_YOURS"),
        ("node/2", &after, ""),
        ("user/node/2", &after, "WORKER_NOT_YOURS"),
    ] {
        assert_eq!(beat(&mut rig, principal, worker), expected, "{principal}");
        assert_eq!(rig.machine.may_work_as(worker, principal), expected.is_empty());
    }
}

#[test]
fn going_back_works_until_the_version_is_raised() {
    let (engine, mut new) = open(NEXT);
    new.apply(1, &entry(1, vec![]), &Batch::new()).unwrap();
    drop(new);
    let mut old = Machine::open(engine, OLD).expect("the old build reads what the new one wrote");
    old.apply(2, &entry(1, vec![]), &Batch::new()).unwrap();
}

#[test]
fn entries_that_a_build_does_not_understand_stop_it() {
    let (_, mut machine) = open(NEXT);
    for version in [0, 3] {
        let fatal = stops(&mut machine, 1, &entry(version, vec![]));
        assert!(matches!(fatal, Fatal::UnknownVersion { .. }), "{fatal}");
    }
    let fatal = stops(&mut machine, 1, &entry(2, vec![]));
    assert!(matches!(fatal, Fatal::Malformed { index: 1, .. }), "version 2 was not raised: {fatal}");
    let fatal = stops(&mut machine, 1, b"\xff\xff\xff");
    assert!(matches!(fatal, Fatal::Malformed { .. }), "{fatal}");

    // A field that this build does not know: number 15 of the entry, a string.
    let mut unknown = entry(1, vec![]);
    unknown.extend_from_slice(b"\x7a\x01x");
    let fatal = stops(&mut machine, 1, &unknown);
    assert!(fatal.to_string().contains("fields that this build does not know"), "{fatal}");

    // The same inside a command.
    let mut inner = command(RaiseVersion { version: 1, ..Default::default() }).encode_to_vec();
    inner.extend_from_slice(b"\xfa\x07\x01x");
    let mut outer = entry(1, vec![]);
    outer.extend_from_slice(&[0x1a, inner.len() as u8]);
    outer.extend_from_slice(&inner);
    let fatal = stops(&mut machine, 1, &outer);
    assert!(matches!(fatal, Fatal::Malformed { .. }), "{fatal}");
}

#[test]
fn entries_come_once_and_in_order() {
    let mut rig = Rig::new();
    rig.apply(vec![]);
    rig.apply(vec![]);
    for index in [0, 1, 2, 4, u64::MAX] {
        let fatal = rig.machine.apply(index, &entry(1, vec![]), &Batch::new()).expect_err("out of order");
        assert!(matches!(fatal, Fatal::Assertion { .. }), "{fatal}");
        assert!(rig.machine.note(index, None, &Batch::new()).is_err());
    }
    rig.machine.note(3, None, &Batch::new()).unwrap();
    assert_eq!(rig.machine.applied_index(), 3);
    rig.restart();
    assert_eq!(rig.machine.applied_index(), 3);
}

#[test]
fn a_log_may_begin_at_zero() {
    let (_, mut machine) = open(Versions::CURRENT);
    machine.note(0, None, &Batch::new()).unwrap();
    machine.apply(1, &entry(1, vec![]), &Batch::new()).unwrap();
    assert_eq!(machine.applied_index(), 1);
}

#[test]
fn what_the_caller_adds_is_in_the_same_batch_and_not_in_the_digest() {
    let meta = Keyspace::new("meta");
    let (engine, mut one) = open(Versions::CURRENT);
    let (_, mut two) = open(Versions::CURRENT);
    let mut extra = Batch::new();
    extra.put(meta, "last_applied", "1");
    one.apply(1, &entry(1, vec![]), &extra).unwrap();
    two.apply(1, &entry(1, vec![]), &Batch::new()).unwrap();
    assert_eq!(engine.get(meta, b"last_applied").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(one.digest(), two.digest());
    // Nobody but the machine writes into its keyspace.
    let mut intruder = Batch::new();
    intruder.put(STATE, "x", "y");
    assert!(matches!(one.apply(2, &entry(1, vec![]), &intruder), Err(Fatal::Assertion { .. })));
}

#[test]
fn a_damaged_state_is_refused_with_a_reason() {
    for (key, value) in [
        (vec![0x10, 1], vec![]),
        (vec![0x77], vec![]),
        (vec![0x30, 0, 0, 0, 0, 0, 0, 0, 9], vec![0xff]),
        // A role's rules that are none, a binding of two parts, a token without a hash, a revocation under a name that is no text.
        (b"\x50mailer".to_vec(), vec![0xff]),
        (b"\x51user/ada\0viewer".to_vec(), vec![]),
        (vec![0x52, 0, 0, 0, 0, 0, 0, 0, 9], vec![]),
        (vec![0x53, 0xff], vec![]),
    ] {
        let (engine, machine) = open(Versions::CURRENT);
        drop(machine);
        let mut damage = Batch::new();
        damage.put(STATE, &key, &value);
        engine.write(damage, tarn_storage::Durability::Buffered).unwrap();
        match Machine::open(engine, Versions::CURRENT) {
            Err(Fatal::Assertion { .. }) => {}
            Err(other) => panic!("{other}"),
            // A kind of row that no index is made of is not looked at.
            Ok(_) => assert_eq!(key, [0x77]),
        }
    }
}

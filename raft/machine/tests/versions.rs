//! Versions and entries that a build does not understand: it stops, with a clear message, and leaves the state on disk as it was.

mod support;

use std::sync::Arc;

use prost::Message;
use support::{Rig, command, spec};
use tarn_machine::{Fatal, Machine, STATE, Versions};
use tarn_proto::v1::{Command, EnqueueRequest, Entry, RaiseVersion, outcome};
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
    Entry {
        version,
        now_ms: 1_000,
        commands,
    }
    .encode_to_vec()
}

fn dump(engine: &dyn Engine) -> Vec<(Vec<u8>, Vec<u8>)> {
    engine
        .scan(STATE, Range::all())
        .map(|entry| entry.expect("memory does not fail"))
        .collect()
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
    assert_eq!(
        (old.version(), new.version()),
        (1, 1),
        "a new build writes the cluster's version"
    );
    let first = entry(
        1,
        vec![command(EnqueueRequest {
            namespace: "default".into(),
            tasks: vec![spec("q")],
            ..Default::default()
        })],
    );
    old.apply(1, &first, &Batch::new()).unwrap();
    new.apply(1, &first, &Batch::new()).unwrap();
    assert_eq!(
        old.digest(),
        new.digest(),
        "builds of different versions agree while the cluster has the lower one"
    );

    let raise = entry(
        1,
        vec![command(RaiseVersion {
            version: 2,
            ..Default::default()
        })],
    );
    let fatal = stops(&mut old, 2, &raise);
    assert!(
        matches!(fatal, Fatal::UnknownVersion { found: 2, max: 1, .. }),
        "{fatal}"
    );
    assert!(fatal.to_string().contains("upgrade this node"), "{fatal}");

    let applied = new.apply(2, &raise, &Batch::new()).unwrap();
    assert!(matches!(applied.outcomes[0].body, Some(outcome::Body::RaiseVersion(_))));
    assert_eq!(new.version(), 2);
    // Entries that were on their way with the lower version are still read; from now on there are those of the higher.
    new.apply(3, &entry(1, vec![]), &Batch::new()).unwrap();
    new.apply(4, &entry(2, vec![]), &Batch::new()).unwrap();
    // It does not go down again.
    new.apply(
        5,
        &entry(
            2,
            vec![command(RaiseVersion {
                version: 1,
                ..Default::default()
            })],
        ),
        &Batch::new(),
    )
    .unwrap();
    assert_eq!(new.version(), 2);

    // The old build refuses the state, the new one goes on with it.
    let fatal = Machine::open(engine.clone(), OLD)
        .err()
        .expect("the state is of a higher version");
    assert!(matches!(fatal, Fatal::UnknownVersion { found: 2, .. }), "{fatal}");
    assert_eq!(Machine::open(engine, NEXT).unwrap().version(), 2);
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
    assert!(
        matches!(fatal, Fatal::Malformed { index: 1, .. }),
        "version 2 was not raised: {fatal}"
    );
    let fatal = stops(&mut machine, 1, b"\xff\xff\xff");
    assert!(matches!(fatal, Fatal::Malformed { .. }), "{fatal}");

    // A field that this build does not know: number 15 of the entry, a string.
    let mut unknown = entry(1, vec![]);
    unknown.extend_from_slice(b"\x7a\x01x");
    let fatal = stops(&mut machine, 1, &unknown);
    assert!(
        fatal.to_string().contains("fields that this build does not know"),
        "{fatal}"
    );

    // The same inside a command.
    let mut inner = command(RaiseVersion {
        version: 1,
        ..Default::default()
    })
    .encode_to_vec();
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
        let fatal = rig
            .machine
            .apply(index, &entry(1, vec![]), &Batch::new())
            .expect_err("out of order");
        assert!(matches!(fatal, Fatal::Assertion { .. }), "{fatal}");
        assert!(rig.machine.note(index, &Batch::new()).is_err());
    }
    rig.machine.note(3, &Batch::new()).unwrap();
    assert_eq!(rig.machine.applied_index(), 3);
    rig.restart();
    assert_eq!(rig.machine.applied_index(), 3);
}

#[test]
fn a_log_may_begin_at_zero() {
    let (_, mut machine) = open(Versions::CURRENT);
    machine.note(0, &Batch::new()).unwrap();
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
    assert!(matches!(
        one.apply(2, &entry(1, vec![]), &intruder),
        Err(Fatal::Assertion { .. })
    ));
}

#[test]
fn a_damaged_state_is_refused_with_a_reason() {
    for (key, value) in [
        (vec![0x10, 1], vec![]),
        (vec![0x77], vec![]),
        (vec![0x30, 0, 0, 0, 0, 0, 0, 0, 9], vec![0xff]),
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

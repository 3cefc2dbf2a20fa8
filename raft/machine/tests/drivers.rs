//! Drivers: what a small model says of them, and every limit that the state has on them.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "model/dice.rs"]
mod dice;
mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use dice::Dice;
use support::{Rig, answer, spec as task};
use tarn_machine::limits;
use tarn_proto::v1::*;

const KEY: [u8; limits::PUBLIC_KEY_BYTES] = [1; limits::PUBLIC_KEY_BYTES];

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 4, ..Default::default() });
    trust(&mut rig, &[KEY]);
    rig
}

fn trust(rig: &mut Rig, keys: &[[u8; limits::PUBLIC_KEY_BYTES]]) {
    let signer = |(place, key): (usize, &[u8; limits::PUBLIC_KEY_BYTES])| PolicySigner {
        name: format!("key{place}"),
        public_key: Bytes::copy_from_slice(key),
    };
    let settings = Some(DriverSettings { signers: keys.iter().enumerate().map(signer).collect() });
    rig.ok(PutDriverSettingsRequest { settings, ..Default::default() });
}

fn spec() -> DriverSpec {
    DriverSpec {
        artifact: format!("blake3:{}", "0a".repeat(32)),
        signature: vec![5; limits::SIGNATURE_BYTES].into(),
        signer: Bytes::copy_from_slice(blake3::hash(&KEY).as_bytes()),
        ..DriverSpec::default()
    }
}

fn install(namespace: &str, name: &str) -> InstallDriverRequest {
    InstallDriverRequest { namespace: namespace.to_owned(), name: name.to_owned(), spec: Some(spec()), ..Default::default() }
}

fn upgrade(name: &str) -> UpgradeDriverRequest {
    UpgradeDriverRequest { namespace: "default".to_owned(), name: name.to_owned(), spec: Some(spec()), ..Default::default() }
}

fn remove(name: &str) -> RemoveDriverRequest {
    RemoveDriverRequest { namespace: "default".to_owned(), name: name.to_owned(), ..Default::default() }
}

fn from(driver: &Driver) -> AdvanceDriver {
    AdvanceDriver {
        namespace: driver.namespace.clone(),
        name: driver.name.clone(),
        generation: driver.generation,
        step: driver.step,
        cursor: driver.cursor,
        cursor_ordinal: driver.cursor_ordinal,
        ..AdvanceDriver::default()
    }
}

/// In the driver's own name.
fn advance(rig: &mut Rig, change: AdvanceDriver) -> Result<DriverAdvanced, Rejection> {
    let principal = format!("driver/{}/{}", change.namespace, change.name);
    let body = Some(command::Body::AdvanceDriver(change));
    let mut applied = rig.apply(vec![Command { principal, gate: None, body }]);
    answer::<AdvanceDriver>(applied.outcomes.remove(0))
}

fn found(rig: &Rig, name: &str) -> GetDriverResponse {
    let request = GetDriverRequest { namespace: "default".to_owned(), name: name.to_owned() };
    rig.machine.get_driver(&request).expect("the driver is there")
}

#[test]
fn what_one_call_changes_is_taken_whole_and_once() {
    let mut rig = rig();
    let driver = rig.ok(install("default", "hook")).driver.unwrap();
    assert_eq!((driver.generation, driver.cursor), (1, rig.index));
    rig.apply(vec![]);
    let change = AdvanceDriver {
        cursor: driver.cursor + 1,
        cursor_ordinal: 3,
        state: Some("a".into()),
        tasks: vec![task("q"), task("q")],
        ..from(&driver)
    };
    let advanced = advance(&mut rig, change.clone()).unwrap();
    assert_eq!((advanced.step, advanced.task_ids.len()), (driver.step + 1, 2));
    assert_eq!(advance(&mut rig, change).unwrap_err().reason, "DRIVER_MOVED_ON");
    let now = found(&rig, "hook");
    assert_eq!((now.state.as_ref(), now.driver.as_ref().unwrap().state_bytes), (b"a".as_slice(), 1));
    let driver = now.driver.unwrap();
    // A task that cannot be taken, and nothing of the rest is.
    rig.ok(UpdateNamespaceRequest {
        name: "default".to_owned(),
        quotas: Some(Quotas { max_queued: Some(2), ..Quotas::default() }),
        ..Default::default()
    });
    let change = AdvanceDriver { state: Some("b".into()), tasks: vec![task("q")], ..from(&driver) };
    assert!(advance(&mut rig, change).unwrap_err().reason.starts_with("QUOTA_"));
    assert_eq!(found(&rig, "hook").state, "a");
    assert_eq!(found(&rig, "hook").driver.unwrap(), driver);
}

#[test]
fn a_cursor_never_goes_back_and_not_beyond_what_happened() {
    let mut rig = rig();
    let driver = rig.ok(install("default", "hook")).driver.unwrap();
    for (cursor, ordinal) in [(driver.cursor - 1, 9), (rig.index + 10, 0), (u64::MAX, 0)] {
        let change = AdvanceDriver { cursor, cursor_ordinal: ordinal, ..from(&driver) };
        assert_eq!(advance(&mut rig, change).unwrap_err().reason, "INVALID_CURSOR", "{cursor}");
    }
    advance(&mut rig, AdvanceDriver { cursor_ordinal: 5, ..from(&driver) }).unwrap();
    let driver = found(&rig, "hook").driver.unwrap();
    assert_eq!(advance(&mut rig, AdvanceDriver { cursor_ordinal: 4, ..from(&driver) }).unwrap_err().reason, "INVALID_CURSOR");
}

#[test]
fn the_generation_before_may_finish_what_is_no_event_and_nobody_else_may() {
    let mut rig = rig();
    let old = rig.ok(install("default", "hook")).driver.unwrap();
    assert_eq!(rig.refused(UpgradeDriverRequest { expected_generation: 2, ..upgrade("hook") }), "DRIVER_GENERATION_DIFFERS");
    let new = rig.ok(upgrade("hook")).driver.unwrap();
    assert_eq!((new.generation, new.step, new.cursor), (2, old.step, old.cursor));
    let handled = AdvanceDriver { cursor: old.cursor + 1, ..from(&old) };
    assert_eq!(advance(&mut rig, handled).unwrap_err().reason, "DRIVER_MOVED_ON");
    advance(&mut rig, AdvanceDriver { state: Some("finished".into()), ..from(&old) }).unwrap();
    rig.ok(upgrade("hook"));
    let ancient = AdvanceDriver { step: old.step + 1, ..from(&old) };
    assert_eq!(advance(&mut rig, ancient).unwrap_err().reason, "DRIVER_MOVED_ON");
    let other = AdvanceDriver { generation: 9, ..from(&found(&rig, "hook").driver.unwrap()) };
    assert_eq!(advance(&mut rig, other).unwrap_err().reason, "DRIVER_MOVED_ON");
    // Another driver of the same name is another driver.
    let before = found(&rig, "hook").driver.unwrap();
    rig.ok(remove("hook"));
    assert_eq!(advance(&mut rig, from(&before)).unwrap_err().reason, "DRIVER_NOT_FOUND");
    let again = rig.ok(install("default", "hook")).driver.unwrap();
    let stale = AdvanceDriver { generation: 1, ..from(&before) };
    assert_eq!((again.generation, advance(&mut rig, stale).unwrap_err().reason.as_str()), (1, "DRIVER_MOVED_ON"));
    assert_eq!(rig.refused(from(&again)), "NODES_ONLY");
}

#[test]
fn only_what_a_trusted_key_signed_gets_in_and_trust_can_end() {
    let mut rig = rig();
    let unsigned = DriverSpec { signature: Bytes::new(), ..spec() };
    let foreign = DriverSpec { signer: vec![9; 32].into(), ..spec() };
    let nobody = DriverSpec { signer: Bytes::new(), ..spec() };
    rig.ok(install("default", "hook"));
    for (spec, reason) in [(unsigned, "DRIVER_NOT_SIGNED"), (foreign, "DRIVER_SIGNATURE"), (nobody, "DRIVER_SIGNATURE")] {
        let new = InstallDriverRequest { spec: Some(spec.clone()), ..install("default", "other") };
        assert_eq!(rig.refused(new), reason);
        assert_eq!(rig.refused(UpgradeDriverRequest { spec: Some(spec), ..upgrade("hook") }), reason);
    }
    assert!(rig.machine.driver_standing("default", "hook").unwrap().trusted);
    trust(&mut rig, &[[2; limits::PUBLIC_KEY_BYTES]]);
    assert!(!rig.machine.driver_standing("default", "hook").unwrap().trusted);
    rig.restart();
    assert_eq!(rig.refused(upgrade("hook")), "DRIVER_SIGNATURE");
}

#[test]
fn drivers_are_bounded_and_go_with_their_namespace() {
    let mut rig = rig();
    rig.ok(CreateNamespaceRequest { name: "team".to_owned(), ..Default::default() });
    for number in 0..limits::DRIVERS_OF_NAMESPACE_MAX {
        rig.ok(install("team", &format!("d{number}")));
    }
    assert_eq!(rig.refused(install("team", "more")), "TOO_MANY_DRIVERS");
    assert_eq!(rig.refused(install("team", "d0")), "DRIVER_EXISTS");
    assert_eq!(rig.refused(install("nowhere", "d0")), "NAMESPACE_NOT_FOUND");
    let delete = |drain| DeleteNamespaceRequest { name: "team".to_owned(), drain, ..Default::default() };
    assert_eq!(rig.refused(delete(false)), "NAMESPACE_NOT_EMPTY");
    // Something keeps it from going at once.
    rig.ok(EnqueueRequest { namespace: "team".to_owned(), tasks: vec![task("q")], ..Default::default() });
    rig.ok(delete(true));
    assert_eq!(rig.refused(install("team", "late")), "NAMESPACE_DRAINING");
    rig.ok(DeleteNamespaceRequest { cancel: true, ..delete(true) });
    rig.pass_to(rig.now_ms + 10_000);
    assert!(rig.machine.drivers().is_empty(), "they went with it");
    rig.restart();
    assert!(rig.machine.drivers().is_empty());
}

/// What the model knows of a driver.
#[derive(Clone, Default, PartialEq, Debug)]
struct Known {
    generation: u64,
    step: u64,
    at: (u64, u32),
    state: Bytes,
    tasks: u64,
}

#[test]
fn whatever_is_tried_the_cluster_has_what_the_model_has() {
    for seed in 0..20 {
        let (mut rig, mut dice) = (rig(), Dice::new(seed));
        let mut model: BTreeMap<String, Known> = BTreeMap::new();
        let mut tasks = 0;
        for _ in 0..300 {
            let name = dice.pick(&["a", "b", "c"]).to_owned();
            let known = model.get(&name).cloned();
            match dice.below(10) {
                0 => {
                    let (answer, _) = rig.tell(install("default", &name));
                    assert_eq!(answer.is_ok(), known.is_none());
                    if let Ok(answer) = answer {
                        let driver = answer.driver.unwrap();
                        let at = (driver.cursor, 0);
                        model.insert(name, Known { generation: 1, step: driver.step, at, ..Known::default() });
                    }
                }
                1 => {
                    assert_eq!(rig.tell(upgrade(&name)).0.is_ok(), known.is_some());
                    if let Some(known) = model.get_mut(&name) {
                        known.generation += 1;
                    }
                }
                2 if dice.chance(30) => {
                    assert_eq!(rig.tell(remove(&name)).0.is_ok(), known.is_some());
                    model.remove(&name);
                }
                3 => rig.restart(),
                _ => {
                    let Some(mut known) = known else { continue };
                    let before = known.clone();
                    let generation = (known.generation + 1).saturating_sub(dice.pick(&[1, 1, 1, 2, 3])).max(1);
                    let step = known.step + dice.pick(&[0, 0, 0, 1]);
                    let at = (known.at.0 + dice.pick(&[0, 0, 1, 5]), dice.below(3) as u32);
                    let state = dice.chance(50).then(|| Bytes::from(vec![dice.below(9) as u8; 3]));
                    let enqueued = dice.below(3);
                    let change = AdvanceDriver {
                        namespace: "default".to_owned(),
                        name: name.clone(),
                        generation,
                        step,
                        cursor: at.0,
                        cursor_ordinal: at.1,
                        state: state.clone(),
                        tasks: (0..enqueued).map(|_| task("q")).collect(),
                        ..AdvanceDriver::default()
                    };
                    let answer = advance(&mut rig, change);
                    let current = generation == known.generation;
                    let finishes = generation + 1 == known.generation && at == known.at;
                    let fits = step == known.step && (current || finishes) && at >= known.at && at.0 < rig.index;
                    assert_eq!(answer.is_ok(), fits, "{known:?} and {answer:?}");
                    if fits {
                        (known.step, known.at, known.tasks) = (step + 1, at, known.tasks + enqueued);
                        known.state = state.unwrap_or(known.state);
                        tasks += enqueued;
                    }
                    assert!(fits || known == before);
                    model.insert(name, known);
                }
            }
            for (name, known) in &model {
                let now = found(&rig, name);
                let driver = now.driver.unwrap();
                assert_eq!((driver.generation, driver.step), (known.generation, known.step));
                assert_eq!(((driver.cursor, driver.cursor_ordinal), now.state), (known.at, known.state.clone()));
            }
            assert_eq!(rig.machine.drivers().len(), model.len());
            assert_eq!(rig.machine.ready_tasks(), tasks);
        }
    }
}

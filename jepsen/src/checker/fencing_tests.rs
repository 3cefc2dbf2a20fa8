//! Known-good and known-bad histories of locks.

use serde_json::{Value, json};

use super::*;
use crate::checker::Outcome;
use crate::checker::testing::{Lie, Script, refute, worst};

fn judge(script: &Script) -> Outcome {
    worst(excluded(script.events()))
}

fn lease(holder: &str, token: u64, from: u64, to: u64) -> Value {
    json!({"holder": holder, "token": token, "acquired_at_ms": from, "expires_at_ms": to})
}

fn write(script: &mut Script, holder: &str, token: u64, taken: bool) {
    script.info(WRITE, json!({"holder": holder, "token": token, "taken": taken}));
}

/// The first holder releases, the second lets it expire and writes too late.
fn good() -> Script {
    let mut script = Script::new("lock");
    script.at_ms(1_000);
    script.ok(ACQUIRE, json!({"holder": "a"}), lease("a", 10, 1_000, 3_000));
    write(&mut script, "a", 10, true);
    script.ok(RENEW, json!({"token": 10}), lease("a", 10, 1_000, 4_000));
    script.ok(RELEASE, json!({"token": 10}), Value::Null);
    script.at_ms(2_000);
    script.ok(ACQUIRE, json!({"holder": "b"}), lease("b", 20, 2_000, 4_000));
    write(&mut script, "b", 20, true);
    script.at_ms(4_010);
    script.ok(ACQUIRE, json!({"holder": "c"}), lease("c", 30, 4_000, 6_000));
    write(&mut script, "c", 30, true);
    write(&mut script, "b", 20, false);
    write(&mut script, "c", 30, true);
    script
}

#[test]
fn one_holder_after_the_other_is_valid() {
    assert_eq!(judge(&good()), Outcome::Valid);
}

#[test]
fn every_class_of_broken_exclusion_is_found() {
    let bad: [Lie; 8] = [
        ("protected writes never interleave", "a stale write is taken", |s| write(s, "b", 20, true)),
        ("protected writes never interleave", "a good write is refused", |s| write(s, "c", 30, false)),
        ("protected writes never interleave", "a token that was never given", |s| write(s, "d", 99, true)),
        ("tokens grow", "a token given twice", |s| {
            s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 30, 6_000, 9_000));
        }),
        ("tokens grow", "a token of another lease", |s| {
            s.key("another lock");
            s.ok(ACQUIRE, json!({"holder": "c"}), lease("c", 30, 6_000, 9_000));
        }),
        ("tokens grow", "a token that does not grow", |s| {
            s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 25, 6_000, 9_000));
        }),
        ("leases do not overlap", "a lease that begins too early", |s| {
            s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 5_999, 9_000));
        }),
        ("leases do not overlap", "a lease renewed for one who has lost it", |s| {
            s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 6_000, 9_000));
            s.ok(RENEW, json!({"token": 30}), lease("c", 30, 4_000, 7_000));
        }),
    ];
    refute(&good(), &bad, excluded);
}

#[test]
fn a_lease_that_ends_before_its_time_is_found_by_the_holders_own_clock() {
    // Its holder was told of three seconds, and after one another's token has been seen by the store.
    let mut script = good();
    script.at_ms(10_000);
    script.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 6_000, 9_000));
    script.at_ms(10_900);
    script.ok(ACQUIRE, json!({"holder": "e"}), lease("e", 50, 9_000, 12_000));
    write(&mut script, "e", 50, true);
    write(&mut script, "d", 40, false);
    let check = |script: &Script, name: &str| {
        let checks = excluded(script.events());
        checks.into_iter().find(|check| check.name == name).unwrap()
    };
    let broken = check(&script, "leases are kept for their time");
    assert_eq!(broken.outcome, Outcome::Invalid, "{broken:?}");
    for other in ["tokens grow", "protected writes never interleave", "leases do not overlap"] {
        assert_eq!(check(&script, other).outcome, Outcome::Valid, "{other} does not see it");
    }
    let mut late = good();
    late.at_ms(10_000);
    late.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 6_000, 9_000));
    late.at_ms(13_100);
    late.ok(ACQUIRE, json!({"holder": "e"}), lease("e", 50, 9_000, 12_000));
    write(&mut late, "e", 50, true);
    write(&mut late, "d", 40, false);
    assert_eq!(judge(&late), Outcome::Valid);
    let mut clock = Script::new("lock");
    clock.info("fault", json!({"nemesis": "clock", "number": 1, "moment": "injecting"}));
    clock.events_mut().append(&mut script.events().to_vec());
    assert_eq!(judge(&clock), Outcome::Valid, "clocks were wrong");
}

#[test]
fn the_sdks_lock_is_judged_by_what_its_holder_read() {
    let mut script = good();
    script.ok(ACQUIRE, json!({"holder": "d"}), json!({"holder": "d", "token": 40}));
    script.info(TOLD, lease("d", 40, 6_000, 9_000));
    script.info(TOLD, lease("d", 40, 6_000, 11_000));
    assert_eq!(judge(&script), Outcome::Valid);
    script.ok(ACQUIRE, json!({"holder": "e"}), json!({"holder": "e", "token": 50}));
    assert_eq!(judge(&script), Outcome::Valid, "nobody read since when it holds");
    script.info(TOLD, lease("e", 50, 10_000, 12_000));
    let overlap = leases_do_not_overlap(script.events(), &grants(script.events()));
    assert_eq!(overlap.outcome, Outcome::Invalid, "{overlap:?}");
}

#[test]
fn a_lock_that_nobody_got_proves_nothing() {
    assert_eq!(judge(&Script::new("lock")), Outcome::Unknown);
}

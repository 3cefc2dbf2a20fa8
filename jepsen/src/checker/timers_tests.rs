//! Known-good and known-bad histories of timers.

use serde_json::{Value, json};

use super::*;
use crate::checker::Outcome;
use crate::checker::facts::{ATTEMPT, CLOSING, FINAL};
use crate::checker::testing::{Lie, Script, refute, worst};
use crate::checker::watch::{REACHED, SIGHT, STRETCH, Stretch};

fn judge(script: &Script) -> Outcome {
    worst(punctual(script.events()))
}

fn fired(script: &mut Script, revision: u64, id: &str, at_ms: u64) {
    script.info(SIGHT, json!({"revision": revision, "kind": "TIMER_FIRED", "subject": id, "at_ms": at_ms}));
}

fn at_end(script: &mut Script, id: &str, name: &str, fired_at_ms: u64, task: &str) {
    let value = json!({"id": id, "name": name, "due_at_ms": 2_000, "fired_at_ms": fired_at_ms, "task": task});
    script.info(TIMER, value);
}

/// One timer with a task, one with a mark, one that is cancelled, one whose cancellation came too late, one that was refused.
fn good() -> Script {
    let mut script = Script::new("watcher");
    script.info(STRETCH, Stretch::default());
    let due = |id: &str| json!({"id": id, "due_at_ms": 2_000});
    script.ok(SCHEDULE, json!({"name": "a", "task": true}), due("1"));
    script.ok(SCHEDULE, json!({"name": "b"}), due("2"));
    script.ok(SCHEDULE, json!({"name": "c"}), due("3"));
    script.ok(SCHEDULE, json!({"name": "d"}), due("4"));
    script.fail(SCHEDULE, json!({"name": "e"}), "UNAVAILABLE: nothing was done");
    script.unknown(SCHEDULE, json!({"name": "f"}));
    script.ok(CANCEL, "3", Value::Null);
    for (revision, id) in [(10, "1"), (11, "2"), (12, "4")] {
        fired(&mut script, revision, id, 2_005);
    }
    script.fail(CANCEL, "4", "TIMER_FIRED: too late");
    at_end(&mut script, "1", "a", 2_005, "t");
    at_end(&mut script, "2", "b", 2_005, "");
    at_end(&mut script, "4", "d", 2_005, "");
    script.info(FINAL, json!({"task": "t", "item": "a", "state": "succeeded"}));
    script.info(CLOSING, json!({"complete": true}));
    script.info(REACHED, json!({"revision": 20}));
    script
}

#[test]
fn timers_that_keep_their_promise_are_valid() {
    assert_eq!(judge(&good()), Outcome::Valid);
}

#[test]
fn every_class_of_broken_promise_is_found() {
    let bad: [Lie; 14] = [
        ("timers are never early", "early", |s| fired(s, 9, "1", 1_999)),
        ("timers are never early", "early at the end", |s| at_end(s, "1", "a", 1_999, "t")),
        ("timers are never early", "due at another time than was said", |s| {
            s.ok(SCHEDULE, json!({"name": "g"}), json!({"id": "9", "due_at_ms": 1_000}));
            at_end(s, "9", "g", 2_005, "");
        }),
        ("timers fire once", "twice", |s| fired(s, 15, "2", 2_100)),
        ("timers fire once", "two tasks", |s| {
            s.info(FINAL, json!({"task": "u", "item": "a", "state": "succeeded"}));
        }),
        ("cancelled timers never fire", "after the cancellation", |s| fired(s, 15, "3", 2_100)),
        ("cancelled timers never fire", "cancelled and still there", |s| at_end(s, "3", "c", 0, "")),
        ("cancelled timers never fire", "cancelled, and refused as fired", |s| {
            s.fail(CANCEL, "3", "TIMER_FIRED: too late");
        }),
        ("refused timers never fire", "a refused one is there", |s| at_end(s, "9", "e", 2_005, "")),
        ("refused timers never fire", "one that nobody asked for", |s| at_end(s, "9", "x", 2_005, "")),
        ("timers fire once", "two of an unknown one", |s| {
            at_end(s, "7", "f", 2_005, "");
            at_end(s, "8", "f", 2_005, "");
        }),
        ("timers fire once", "its task is gone", |s| {
            s.events_mut().retain(|event| event.op != FINAL);
        }),
        ("timers fire once", "never seen in the log", |s| {
            s.events_mut().retain(|event| !(event.op == SIGHT && event.value["subject"] == "2"));
        }),
        ("timers fire once", "gone", |s| s.events_mut().retain(|event| !(event.op == TIMER && event.value["name"] == "b"))),
    ];
    refute(&good(), &bad, punctual);
}

#[test]
fn a_timer_that_the_cluster_takes_for_punctual_is_early_by_the_clients_clock() {
    let early = |script: &Script| never_early(&timers(script.events(), &Facts::of(script.events())), first_clock_fault(script.events()));
    let at = |seen_ms: u64, op: &str| {
        let mut script = good();
        script.at_ms(1_000);
        script.ok(SCHEDULE, json!({"name": "g", "delay_ms": 500, "task": true}), json!({"id": "9", "due_at_ms": 2_000}));
        script.at_ms(seen_ms);
        match op {
            ATTEMPT => {
                script.info(ATTEMPT, json!({"task": "t9", "item": "g", "token": 9, "number": 1}));
            }
            _ => fired(&mut script, 30, "9", 2_005),
        }
        script
    };
    assert_eq!(early(&at(1_501, SIGHT)).outcome, Outcome::Valid);
    assert_eq!(early(&at(1_390, SIGHT)).outcome, Outcome::Invalid);
    assert_eq!(early(&at(1_390, ATTEMPT)).outcome, Outcome::Invalid);
    let mut clock = Script::new("watcher");
    clock.info("fault", json!({"nemesis": "clock", "number": 1, "moment": "injecting"}));
    clock.events_mut().append(&mut at(1_390, SIGHT).events().to_vec());
    assert_eq!(early(&clock).outcome, Outcome::Valid, "clocks were wrong");
}

#[test]
fn a_timer_that_is_still_pending_proves_nothing() {
    let mut script = good();
    script.ok(SCHEDULE, json!({"name": "g"}), json!({"id": "9", "due_at_ms": 2_000}));
    at_end(&mut script, "9", "g", 0, "");
    assert_eq!(judge(&script), Outcome::Unknown);
}

//! Known-good and known-bad lives of tasks.

use serde_json::json;

use super::*;
use crate::checker::Outcome;
use crate::checker::facts::FINAL;
use crate::checker::testing::{Lie, Script, refute, step, told, watched};

fn judged(history: &[Event]) -> Vec<Check> {
    vec![one_state_at_a_time(&Facts::of(history), Lives::of(history).as_ref())]
}

/// A task that is tried again, given back, dies, is put back and succeeds; one that waits and is cancelled; one that dies unseen.
fn good() -> Script {
    let mut script = watched();
    let steps = [
        ("t", "ENQUEUED", 0),
        ("t", "READY", 0),
        ("t", "LEASED", 1),
        ("t", "RETRIED", 1),
        ("t", "READY", 0),
        ("t", "LEASED", 2),
        ("t", "RETURNED", 2),
        ("t", "LEASED", 2),
        ("t", "DEAD", 2),
        ("t", "REQUEUED", 0),
        ("t", "LEASED", 1),
        ("t", "CANCEL_REQUESTED", 1),
        ("t", "SUCCEEDED", 1),
        ("u", "ENQUEUED", 0),
        ("u", "CANCELLED", 0),
        ("v", "ENQUEUED", 0),
        ("v", "DEAD", 0),
    ];
    for (at, (task, kind, attempt)) in steps.into_iter().enumerate() {
        step(&mut script, at as u64 + 1, kind, task, attempt, "");
    }
    for (task, state) in [("t", "succeeded"), ("u", "cancelled"), ("v", "dead")] {
        script.info(FINAL, json!({"task": task, "item": task, "state": state}));
    }
    script
}

/// Removes the step at this revision.
fn without(script: &mut Script, revision: u64) {
    script.events_mut().retain(|event| event.value["revision"] != revision);
}

#[test]
fn a_life_that_a_task_may_have_is_valid() {
    assert_eq!(told(judged(good().events()).remove(0)), Outcome::Valid);
}

#[test]
fn every_class_of_impossible_life_is_found() {
    let bad: [Lie; 12] = [
        ("one state at a time", "in two places", |s| step(s, 30, "LEASED", "u", 1, "")),
        ("one state at a time", "leased twice", |s| without(s, 4)),
        ("one state at a time", "an attempt too many", |s| without(s, 3)),
        ("one state at a time", "from nowhere", |s| without(s, 14)),
        ("one state at a time", "put back alive", |s| without(s, 9)),
        ("one state at a time", "alive again", |s| without(s, 10)),
        ("one state at a time", "two ends", |s| step(s, 30, "DEAD", "t", 1, "")),
        ("one state at a time", "another attempt ends", |s| {
            let end = s.events_mut().iter_mut().find(|event| event.value["revision"] == 13);
            end.unwrap().value["attempt"] = json!(2);
        }),
        ("one state at a time", "an attempt that was given back counts", |s| {
            let again = s.events_mut().iter_mut().find(|event| event.value["revision"] == 8);
            again.unwrap().value["attempt"] = json!(3);
        }),
        ("one state at a time", "enqueued twice", |s| step(s, 30, "ENQUEUED", "w", 0, "")),
        ("one state at a time", "another end than is read", |s| {
            s.info(FINAL, json!({"task": "u", "item": "u", "state": "succeeded"}));
        }),
        ("one state at a time", "never heard of", |s| {
            s.info(FINAL, json!({"task": "x", "item": "x", "state": "succeeded"}));
        }),
    ];
    let mut twice = good();
    step(&mut twice, 29, "ENQUEUED", "w", 0, "");
    refute(&good(), &bad[..9], judged);
    refute(&twice, &bad[9..], judged);
}

#[test]
fn without_the_whole_log_nothing_is_proven() {
    let mut script = good();
    script.events_mut().remove(1);
    assert_eq!(told(judged(script.events()).remove(0)), Outcome::Unknown);
    assert_eq!(told(judged(watched().events()).remove(0)), Outcome::Unknown, "no steps");
}

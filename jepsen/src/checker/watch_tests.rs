//! Known-good and known-bad histories of watchers.

use serde_json::json;

use super::*;
use crate::checker::Outcome;
use crate::checker::facts::{ENQUEUE, Item};
use crate::checker::testing::{Lie, Script, refute, worst};

fn sight(revision: u64, ordinal: u32, subject: &str) -> Sight {
    Sight {
        revision,
        ordinal,
        at_ms: 1_000 + revision,
        kind: "TASK_ENQUEUED".to_owned(),
        queue: "q".to_owned(),
        subject: subject.to_owned(),
        ..Sight::default()
    }
}

/// Two watchers of three events; the second begins anew in the middle.
fn good() -> Script {
    let mut script = Script::new("a");
    let item = |name: &str| Item { name: name.to_owned(), ..Item::default() };
    script.ok(ENQUEUE, [item("x"), item("y")], ["t1", "t2"]);
    script.ok(ENQUEUE, [item("z")], ["t3"]);
    script.info(STRETCH, Stretch::default());
    for seen in [sight(3, 0, "t1"), sight(3, 1, "t2"), sight(5, 0, "t3")] {
        script.info(SIGHT, seen);
    }
    script.info(REACHED, Reached { revision: 5 });
    script.key("b");
    script.info(STRETCH, json!({"after": 0, "queue": "q"}));
    script.info(SIGHT, sight(3, 0, "t1"));
    script.info(SIGHT, sight(3, 1, "t2"));
    script.info(STRETCH, json!({"after": 3, "queue": "q"}));
    script.info(SIGHT, sight(5, 0, "t3"));
    script.info(REACHED, Reached { revision: 5 });
    script
}

fn judge(script: &Script) -> Outcome {
    worst(continuous(script.events()))
}

/// The place in the script of the last event that says this.
fn last(script: &Script, op: &str) -> usize {
    script.events().iter().rposition(|event| event.op == op).expect("there is one")
}

#[test]
fn a_continuous_history_is_valid() {
    assert_eq!(judge(&good()), Outcome::Valid);
}

#[test]
fn every_class_of_discontinuity_is_found() {
    let bad: [Lie; 12] = [
        ("watches have no gap", "gap", |s| {
            let at = s.events().iter().position(|event| event.op == SIGHT).unwrap();
            s.events_mut().remove(at);
        }),
        ("watches have no gap", "gap between stretches", |s| {
            let at = s.events().iter().rposition(|event| event.op == STRETCH).unwrap();
            s.events_mut().remove(at - 1);
        }),
        ("watches have no gap", "gap at the end", |s| {
            let at = last(s, SIGHT);
            s.events_mut().remove(at);
        }),
        ("watches have no gap", "an event of a queue that was not asked for", |s| {
            s.info(SIGHT, Sight { queue: "other".to_owned(), ..sight(6, 0, "t8") });
        }),
        ("watches are in order", "repeat", |s| {
            s.info(SIGHT, sight(5, 0, "t3"));
        }),
        ("watches are in order", "reordered", |s| {
            s.info(SIGHT, sight(4, 0, "t9"));
        }),
        ("watches agree", "another event at the same place", |s| {
            let at = last(s, SIGHT);
            s.events_mut()[at].value = json!(sight(5, 0, "t4"));
        }),
        ("watches are in order", "before the stretch", |s| {
            s.info(STRETCH, json!({"after": 9}));
            s.info(SIGHT, sight(7, 0, "t9"));
        }),
        ("watches agree", "time goes back", |s| {
            s.info(SIGHT, Sight { at_ms: 1, ..sight(6, 0, "t8") });
        }),
        ("acknowledged changes are seen", "a task is seen to begin twice", |s| {
            s.info(SIGHT, sight(6, 0, "t3"));
        }),
        ("acknowledged changes are seen", "a lease is taken and never seen", |s| {
            s.ok(super::super::register::ACQUIRE, json!({"holder": "h"}), json!({"holder": "h", "token": 1}));
        }),
        ("acknowledged changes are seen", "an accepted task is never seen", |s| {
            s.ok(ENQUEUE, json!([{"name": "w"}]), ["t7"]);
        }),
    ];
    refute(&good(), &bad, continuous);
}

#[test]
fn a_watcher_that_did_not_arrive_proves_nothing() {
    let mut script = good();
    let at = last(&script, REACHED);
    script.events_mut().remove(at);
    assert_eq!(judge(&script), Outcome::Unknown);
}

#[test]
fn compaction_that_is_said_is_no_gap() {
    let mut script = good();
    script.key("c");
    script.info(STRETCH, Stretch::default());
    script.info(STRETCH, json!({"after": 4, "compacted": true}));
    script.info(SIGHT, sight(5, 0, "t3"));
    script.info(REACHED, Reached { revision: 5 });
    assert_eq!(judge(&script), Outcome::Valid);
}

//! Histories by hand: good ones, and the same with a lie.

use serde_json::{Value, json};

use super::converged::converged;
use super::forward::forward;
use super::handover::{LOG, OFFER, once};
use super::kept::kept;
use super::{CONFLICT, CONTENT, CONVERGED, DELETE, GET, PUT};
use crate::checker::testing::{Lie, Script, only, told, worst};
use crate::checker::{Check, Outcome};
use crate::history::{Event, Kind, Process};

fn put(script: &mut Script, cluster: &str, key: &str, value: &str) {
    script.key(key);
    script.ok(PUT, json!({"cluster": cluster, "value": value}), json!(null));
}

fn get(script: &mut Script, cluster: &str, key: &str, value: Value) {
    script.key(key);
    script.ok(GET, json!({"cluster": cluster}), json!({ "value": value }));
}

/// A write of another client than the one that writes everything else.
fn put_by_another(script: &mut Script, cluster: &str, key: &str, value: &str) {
    script.key(key);
    let other = Process::Client(1);
    let of = script.push(other, Kind::Invoke, PUT, None, json!({"cluster": cluster, "value": value}));
    script.push(other, Kind::Ok, PUT, Some(of), json!(null));
}

fn content(script: &mut Script, cluster: &str, entries: Value) {
    script.info(CONTENT, json!({"cluster": cluster, "entries": entries}));
}

fn equal(script: &mut Script) {
    script.info(CONVERGED, json!({"seconds": 0.5, "digests": {"a": "d1", "b": "d1"}, "unsigned": {"a": 0, "b": 0}}));
}

/// A key of one writer, one that both clusters write at once, one that the second has seen, and one that is removed.
fn work() -> Script {
    let mut script = Script::new("k");
    put(&mut script, "a", "own", "own-1");
    get(&mut script, "b", "own", json!("own-1"));
    put(&mut script, "a", "own", "own-2");
    put(&mut script, "a", "both", "of-a");
    put_by_another(&mut script, "b", "both", "of-b");
    put(&mut script, "a", "seen", "first");
    get(&mut script, "b", "seen", json!("first"));
    put_by_another(&mut script, "b", "seen", "second");
    put(&mut script, "a", "gone", "here");
    script.ok(DELETE, json!({"cluster": "a"}), json!(null));
    script
}

fn ended(mut script: Script, change: impl Fn(&str, &mut Value)) -> Script {
    equal(&mut script);
    for cluster in ["a", "b"] {
        let mut entries = json!({"own": "own-2", "both": "of-b", "seen": "second"});
        change(cluster, &mut entries);
        content(&mut script, cluster, entries);
        script.info(CONFLICT, json!({"cluster": cluster, "key": "both", "winner": "of-b", "losers": ["of-a"]}));
    }
    script
}

fn good() -> Script {
    ended(work(), |_, _| {})
}

fn judge(history: &[Event]) -> Vec<Check> {
    vec![converged(history), kept(history), forward(history)]
}

#[test]
fn good_histories_are_valid() {
    assert_eq!(worst(judge(good().events())), Outcome::Valid);
    let mut unknown = work();
    unknown.key("own");
    unknown.unknown(PUT, json!({"cluster": "a", "value": "own-3"}));
    unknown.fail(PUT, json!({"cluster": "a", "value": "own-4"}), "QUOTA_EXCEEDED: no");
    for value in ["own-2", "own-3"] {
        let script = ended(unknown.clone(), |_, entries| entries["own"] = json!(value));
        assert_eq!(worst(judge(script.events())), Outcome::Valid, "{value}");
    }
}

#[test]
fn an_empty_history_proves_nothing() {
    assert!(judge(&[]).into_iter().all(|check| told(check) == Outcome::Unknown));
    assert!(once(&[]).is_none());
}

/// Changes what both clusters have at the end.
fn everywhere(script: &mut Script, key: &str, value: Value) {
    for event in script.events_mut().iter_mut().filter(|event| event.op == CONTENT) {
        match &value {
            Value::Null => drop(event.value["entries"].as_object_mut().unwrap().remove(key)),
            value => event.value["entries"][key] = value.clone(),
        }
    }
}

fn last<'a>(script: &'a mut Script, op: &str) -> &'a mut Event {
    script.events_mut().iter_mut().rev().find(|event| event.op == op).unwrap()
}

#[test]
fn lost_writes_and_copies_that_differ_are_found() {
    let lies: [Lie; 13] = [
        ("acknowledged writes are kept", "the writer's last is lost, an earlier one is back", |s| everywhere(s, "own", json!("own-1"))),
        ("acknowledged writes are kept", "a key is lost", |s| everywhere(s, "own", json!(null))),
        ("acknowledged writes are kept", "a value that another cluster replaced is back", |s| everywhere(s, "seen", json!("first"))),
        ("acknowledged writes are kept", "what was removed is back", |s| everywhere(s, "gone", json!("here"))),
        ("acknowledged writes are kept", "a value that nobody wrote", |s| everywhere(s, "own", json!("own-9"))),
        ("acknowledged writes are kept", "a key that nobody wrote", |s| everywhere(s, "strange", json!("x"))),
        ("acknowledged writes are kept", "a loser that had been replaced", |s| {
            for event in s.events_mut().iter_mut().filter(|event| event.op == CONFLICT) {
                event.value = json!({"cluster": event.value["cluster"], "key": "seen", "winner": "second", "losers": ["first"]});
            }
        }),
        ("clusters agree", "the digests differ", |s| last(s, CONVERGED).value["digests"]["b"] = json!("d2")),
        ("clusters agree", "they do not come to agree", |s| {
            last(s, CONVERGED).value = json!({"seconds": 60.0, "digests": {"a": "d1", "b": "d2"}, "missing": "the copies differ"});
        }),
        ("clusters agree", "each has another value of two that may win", |s| {
            last(s, CONTENT).value["entries"]["both"] = json!("of-a");
            last(s, CONFLICT).value["winner"] = json!("of-a");
            last(s, CONFLICT).value["losers"] = json!(["of-b"]);
        }),
        ("clusters agree", "the winner is not what the key has", |s| {
            for event in s.events_mut().iter_mut().filter(|event| event.op == CONFLICT) {
                event.value["winner"] = json!("of-a");
                event.value["losers"] = json!(["of-b"]);
            }
        }),
        ("clusters agree", "one does not tell the conflict", |s| drop(s.events_mut().pop())),
        ("nobody sees a key go back", "an earlier value after a later one", |s| {
            get(s, "b", "own", json!("own-2"));
            get(s, "b", "own", json!("own-1"));
        }),
    ];
    only(&good(), &lies, judge);
}

#[test]
fn clusters_that_did_not_answer_prove_nothing() {
    let mut script = good();
    last(&mut script, CONVERGED).value = json!({"seconds": 3.0, "digests": {}, "missing": "a does not answer"});
    assert_eq!(told(converged(script.events())), Outcome::Unknown);
}

#[test]
fn what_a_slow_client_may_have_seen_in_another_order_is_no_lie() {
    let mut script = good();
    script.key("own");
    script.unknown(PUT, json!({"cluster": "a", "value": "own-3"}));
    put(&mut script, "a", "own", "own-4");
    get(&mut script, "b", "own", json!("own-4"));
    get(&mut script, "b", "own", json!("own-3"));
    assert_eq!(told(forward(script.events())), Outcome::Valid, "the one without an answer may have come last");
}

fn moved() -> Script {
    let mut script = Script::new("t");
    for (task, home) in [("t1", "a"), ("t2", "b")] {
        script.ok(OFFER, json!({"cluster": home}), json!({"cluster": home, "task": task}));
    }
    script.unknown(OFFER, json!({"cluster": "a"}));
    script.info(LOG, json!({"cluster": "b", "kind": "TRANSFER_CONFIRMED", "subject": "x1", "detail": "t1b"}));
    // The task that runs for the other cluster ends there, too.
    script.info(LOG, json!({"cluster": "b", "kind": "TASK_SUCCEEDED", "subject": "t1b"}));
    script.info(LOG, json!({"cluster": "a", "kind": "TASK_SUCCEEDED", "subject": "t1"}));
    script.info(LOG, json!({"cluster": "b", "kind": "TASK_DEAD", "subject": "t2"}));
    script
}

#[test]
fn tasks_that_move_end_once() {
    let judge = |history: &[Event]| once(history).into_iter().collect::<Vec<_>>();
    assert_eq!(worst(judge(moved().events())), Outcome::Valid);
    let lies: [Lie; 3] = [
        ("tasks that move end once", "a result is accepted twice", |s| {
            s.info(LOG, json!({"cluster": "a", "kind": "TASK_SUCCEEDED", "subject": "t1"}));
        }),
        ("tasks that move end once", "a task is lost", |s| drop(s.events_mut().pop())),
        ("tasks that move end once", "two clusters run one transfer", |s| {
            s.info(LOG, json!({"cluster": "a", "kind": "TRANSFER_CONFIRMED", "subject": "x1", "detail": "t1a"}));
        }),
    ];
    only(&moved(), &lies, judge);
}

//! Known-good and known-bad histories of tasks.

use serde_json::{Value, json};

use super::*;
use crate::checker::Outcome;
use crate::checker::facts::{ATTEMPT, CLOSING, COMPLETE, ENQUEUE, FAIL, FINAL, HANDLED};
use crate::checker::testing::{Lie, Script, only, refute, step, watched, worst};

fn judge(script: &Script) -> Outcome {
    worst(exactly_once(script.events()))
}

fn item(name: &str) -> Value {
    json!({"name": name, "max_attempts": 3})
}

fn attempt(script: &mut Script, item: &str, token: u64, number: u32, worker: &str) {
    let task = format!("task {item}");
    script.info(ATTEMPT, json!({"task": task, "item": item, "token": token, "number": number, "worker": worker}));
}

fn handled(script: &mut Script, item: &str, token: u64) {
    script.info(HANDLED, json!({"task": format!("task {item}"), "item": item, "token": token}));
}

fn complete(script: &mut Script, item: &str, token: u64) {
    handled(script, item, token);
    let result = result_of(item, &[]);
    script.ok(COMPLETE, json!({"task": format!("task {item}"), "token": token, "result": result}), Value::Null);
}

fn at_end(script: &mut Script, task: &str, item: &str, state: &str, token: u64) {
    let result = if state == "succeeded" { result_of(item, &[]) } else { String::new() };
    let reason = if state == "dead" { "HANDLER_FAILED" } else { "" };
    script.info(
        FINAL,
        json!({"task": task, "item": item, "state": state, "result": result, "reason": reason,
               "attempts_begun": 1, "last_token": token}),
    );
}

/// Three items succeed, one after a retry; one dies as it should; one was refused; one is unknown and came into being, another did not.
fn good() -> Script {
    let mut script = watched();
    script.ok(ENQUEUE, json!([item("a"), item("b")]), ["task a", "task b"]);
    script.ok(ENQUEUE, json!([item("c")]), ["task c"]);
    script.ok(ENQUEUE, json!([{"name": "d", "max_attempts": 3, "fate": "final"}]), ["task d"]);
    script.fail(ENQUEUE, json!([item("e")]), "UNAVAILABLE: nothing was done");
    script.unknown(ENQUEUE, json!([item("f")]));
    script.unknown(ENQUEUE, json!([item("g")]));
    attempt(&mut script, "a", 10, 1, "w");
    complete(&mut script, "a", 10);
    attempt(&mut script, "b", 11, 1, "w");
    script.ok(FAIL, json!({"task": "task b", "token": 11}), "delayed");
    attempt(&mut script, "b", 14, 2, "v");
    script.fail(COMPLETE, json!({"task": "task b", "token": 11, "result": "x"}), "STALE_TOKEN: gone");
    complete(&mut script, "b", 14);
    attempt(&mut script, "c", 12, 1, "w");
    complete(&mut script, "c", 12);
    attempt(&mut script, "d", 13, 1, "w");
    script.ok(FAIL, json!({"task": "task d", "token": 13, "last": true}), "dead");
    attempt(&mut script, "f", 15, 1, "w");
    complete(&mut script, "f", 15);
    for (item, state, token) in
        [("a", "succeeded", 10), ("b", "succeeded", 14), ("c", "succeeded", 12), ("d", "dead", 13), ("f", "succeeded", 15)]
    {
        at_end(&mut script, &format!("task {item}"), item, state, token);
    }
    seen_by_a_watcher(&mut script);
    script.info(CLOSING, json!({"complete": true, "counted": {"dead": 1, "ready": 0, "running": 0}}));
    script
}

/// What a watcher saw of the tasks of the good history.
fn seen_by_a_watcher(script: &mut Script) {
    for (at, task) in ["task a", "task b", "task c", "task d", "task f"].into_iter().enumerate() {
        step(script, at as u64 + 1, "ENQUEUED", task, 0, "");
    }
    let steps = [
        (100, "LEASED", "task a", 1, ""),
        (101, "SUCCEEDED", "task a", 1, ""),
        (110, "LEASED", "task b", 1, ""),
        (115, "RETRIED", "task b", 1, "LEASE_EXPIRED"),
        (116, "READY", "task b", 0, ""),
        (120, "LEASED", "task c", 1, ""),
        (121, "SUCCEEDED", "task c", 1, ""),
        (130, "LEASED", "task d", 1, ""),
        (135, "DEAD", "task d", 1, "LEASE_EXPIRED"),
        (140, "LEASED", "task b", 2, ""),
        (141, "SUCCEEDED", "task b", 2, ""),
        (150, "LEASED", "task f", 1, ""),
        (151, "SUCCEEDED", "task f", 1, ""),
    ];
    for (revision, kind, task, attempt, detail) in steps {
        step(script, revision, kind, task, attempt, detail);
    }
}

/// Removes the final state of a task.
fn lose(script: &mut Script, task: &str) {
    script.events_mut().retain(|event| !(event.op == FINAL && event.value["task"] == task));
}

#[test]
fn a_history_in_which_everything_ends_once_is_valid() {
    assert_eq!(judge(&good()), Outcome::Valid);
}

/// Replaces the final state of a task.
fn ends_as(script: &mut Script, item: &str, end: Value) {
    let task = format!("task {item}");
    lose(script, &task);
    let mut end = end;
    end["task"] = json!(task);
    end["item"] = json!(item);
    script.info(FINAL, end);
}

#[test]
fn every_class_of_lost_or_doubled_work_is_found() {
    let bad: [Lie; 26] = [
        ("accepted tasks end", "lost", |s| lose(s, "task a")),
        ("accepted tasks end", "all lost", |s| {
            s.events_mut().retain(|event| event.op != FINAL);
        }),
        ("accepted tasks end", "acknowledged without an id", |s| {
            s.ok(ENQUEUE, json!([item("h")]), json!([]));
        }),
        ("accepted once", "doubled", |s| at_end(s, "task x", "a", "succeeded", 30)),
        ("accepted once", "an unknown one twice", |s| {
            at_end(s, "task x", "g", "succeeded", 30);
            at_end(s, "task y", "g", "succeeded", 31);
        }),
        ("accepted once", "from nowhere", |s| at_end(s, "task x", "x", "succeeded", 30)),
        ("accepted once", "another task than the answer named", |s| {
            lose(s, "task a");
            at_end(s, "task x", "a", "succeeded", 10);
        }),
        ("refused are never seen", "a refused one at the end", |s| at_end(s, "task e", "e", "succeeded", 30)),
        ("refused are never seen", "a refused one runs", |s| attempt(s, "e", 30, 1, "w")),
        ("results are right", "a wrong result", |s| {
            ends_as(s, "a", json!({"state": "succeeded", "result": "0", "last_token": 10}));
        }),
        ("results are right", "dead without need", |s| {
            lose(s, "task c");
            at_end(s, "task c", "c", "dead", 12);
        }),
        ("results are right", "dead without a reason", |s| {
            ends_as(s, "d", json!({"state": "dead", "last_token": 13}));
        }),
        ("results are right", "succeeded against its fate", |s| at_end(s, "task d", "d", "succeeded", 13)),
        ("completed once", "completed twice", |s| complete(s, "a", 30)),
        ("completed once", "completed with two results", |s| {
            s.ok(COMPLETE, json!({"task": "task f", "token": 15, "result": "x"}), Value::Null);
        }),
        ("completed once", "a completion is forgotten", |s| {
            ends_as(s, "a", json!({"state": "dead", "reason": "LEASE_EXPIRED", "last_token": 10}));
        }),
        ("completed once", "another attempt's completion at the end", |s| {
            ends_as(s, "a", json!({"state": "succeeded", "result": result_of("a", &[]), "last_token": 40}));
        }),
        ("completed once", "another result at the end", |s| {
            ends_as(s, "a", json!({"state": "succeeded", "result": "x", "last_token": 10}));
        }),
        ("nothing runs after the end", "runs after the end", |s| attempt(s, "a", 30, 2, "w")),
        ("tokens are unique", "a token at two workers", |s| attempt(s, "c", 12, 1, "other")),
        ("tokens are unique", "a token of two tasks", |s| attempt(s, "b", 12, 1, "w")),
        ("attempts are bounded", "too many attempts", |s| attempt(s, "d", 13, 4, "w")),
        ("attempts are bounded", "an attempt without a number", |s| attempt(s, "d", 13, 0, "w")),
        ("counts agree", "filtered wrongly", |s| {
            s.info(CLOSING, json!({"complete": true, "counted": {"dead": 1}, "filtered": {"succeeded": 3}}));
        }),
        ("counts agree", "counted wrongly", |s| {
            s.info(CLOSING, json!({"complete": true, "counted": {"dead": 2}}));
        }),
        ("stale tokens are refused", "a stale report is taken", |s| {
            attempt(s, "d", 16, 2, "w");
            attempt(s, "d", 20, 3, "v");
            s.ok(FAIL, json!({"task": "task d", "token": 16}), "delayed");
        }),
    ];
    refute(&good(), &bad, exactly_once);
}

#[test]
fn the_invariants_are_named_with_what_breaks_them() {
    let mut script = good();
    lose(&mut script, "task c");
    let check = accepted_tasks_end(&Facts::of(script.events()));
    assert_eq!(check.invariants, ["no task lost", "every task ends"]);
    assert!(check.detail.starts_with("no task lost is violated: task task c was accepted and is gone"), "{}", check.detail);
}

#[test]
fn tokens_grow_with_the_attempts_unless_a_task_was_put_back() {
    let mut script = good();
    attempt(&mut script, "d", 30, 3, "w");
    attempt(&mut script, "d", 40, 1, "w");
    let tokens = |script: &Script, lives: Option<&Lives>| tokens_are_unique(&Facts::of(script.events()), lives).outcome;
    assert_eq!(tokens(&script, None), Outcome::Valid, "nobody knows whether it was put back");
    let lives = Lives::of(script.events()).expect("it is whole");
    assert_eq!(tokens(&script, Some(&lives)), Outcome::Invalid);
    step(&mut script, 900, "REQUEUED", "task d", 0, "");
    let lives = Lives::of(script.events()).expect("it is whole");
    assert_eq!(tokens(&script, Some(&lives)), Outcome::Valid, "attempts are counted anew");
}

#[test]
fn a_report_under_a_stale_token_must_not_be_taken() {
    let mut script = good();
    script.ok(FAIL, json!({"task": "task f", "token": 15}), "delayed");
    let facts = Facts::of(script.events());
    assert_eq!(stale_tokens_are_refused(&facts, None).outcome, Outcome::Valid, "no newer token was seen");
    let mut script = Script::new("q");
    script.ok(ENQUEUE, json!([item("a")]), ["task a"]);
    attempt(&mut script, "a", 10, 1, "w");
    attempt(&mut script, "a", 20, 2, "v");
    complete(&mut script, "a", 10);
    assert_eq!(stale_tokens_are_refused(&Facts::of(script.events()), None).outcome, Outcome::Invalid);
}

/// A worker of the SDK, whose reports are no operations: it begins, is through, and the log tells how it ended.
fn by_sdk(script: &mut Script, item: &str, token: u64, number: u32, end: (&str, &str)) {
    let task = format!("task {item}");
    step(script, token * 10, "LEASED", &task, number, "");
    attempt(script, item, token, number, "sdk");
    handled(script, item, token);
    step(script, token * 10 + 5, end.0, &task, number, end.1);
}

/// Two attempts at one item, both of the SDK's worker.
fn good_of_the_sdk() -> Script {
    let mut script = good();
    script.ok(ENQUEUE, json!([item("s")]), ["task s"]);
    step(&mut script, 500, "ENQUEUED", "task s", 0, "");
    by_sdk(&mut script, "s", 60, 1, ("RETRIED", "HANDLER_FAILED"));
    by_sdk(&mut script, "s", 70, 2, ("SUCCEEDED", ""));
    at_end(&mut script, "task s", "s", "succeeded", 70);
    script
}

/// Takes away the worker's note that it was through under this token.
fn unhandled(script: &mut Script, token: u64) -> Value {
    let is_it = |event: &crate::history::Event| event.op == HANDLED && event.value["token"] == token;
    let at = script.events().iter().position(is_it).expect("there is one");
    let event = script.events_mut().remove(at);
    event.value
}

#[test]
fn what_the_sdks_worker_reports_is_judged_by_its_notes_and_the_log() {
    assert_eq!(judge(&good_of_the_sdk()), Outcome::Valid);
    let bad: [Lie; 2] = [
        ("stale tokens are refused", "another's failure ends an attempt", |s| {
            let note = unhandled(s, 60);
            s.info(HANDLED, note);
        }),
        ("completed once", "a success under a token that no worker was through with", |s| {
            ends_as(s, "s", json!({"state": "succeeded", "result": result_of("s", &[]), "last_token": 71}));
        }),
    ];
    only(&good_of_the_sdk(), &bad, exactly_once);
    let bad: [Lie; 5] = [
        ("completed once", "a success before the worker was through", |s| {
            let note = unhandled(s, 70);
            s.info(HANDLED, note);
        }),
        ("completed once", "succeeded twice", |s| {
            step(s, 706, "SUCCEEDED", "task s", 2, "");
        }),
        ("completed once", "a success that the log does not know", |s| {
            s.events_mut().retain(|event| event.value["kind"] != "TASK_SUCCEEDED" || event.value["subject"] != "task s");
        }),
        ("completed once", "a success of a task that is dead at the end", |s| {
            ends_as(s, "s", json!({"state": "dead", "reason": "FATE", "last_token": 70}));
        }),
        ("nothing runs after the end", "leased after its success", |s| {
            step(s, 800, "LEASED", "task s", 3, "");
        }),
    ];
    refute(&good_of_the_sdk(), &bad, exactly_once);
}

#[test]
fn a_payload_that_changed_is_found() {
    let bad: [Lie; 2] = [
        ("results are right", "another payload", |s| {
            ends_as(s, "a", json!({"state": "succeeded", "result": result_of("a", &[]), "last_token": 10, "damaged": true}));
        }),
        ("results are right", "succeeded beyond its attempts", |s| {
            let asked = s.events_mut().iter_mut().find(|event| event.op == ENQUEUE);
            asked.unwrap().value[0]["fate"] = json!({"retry": 3});
        }),
    ];
    only(&good(), &bad, exactly_once);
}

#[test]
fn losses_are_split_by_where_they_lie() {
    let parts = |lost: &[&str]| {
        let mut script = good();
        lost.iter().for_each(|item| lose(&mut script, &format!("task {item}")));
        let counts = accepted_tasks_end(&Facts::of(script.events())).counts;
        ["lost_head", "lost_middle", "lost_tail"].map(|part| counts.get(part).copied().unwrap_or(0))
    };
    assert_eq!(parts(&["a"]), [1, 0, 0]);
    assert_eq!(parts(&["c"]), [0, 1, 0]);
    assert_eq!(parts(&["d"]), [0, 0, 1]);
    assert_eq!(parts(&["a", "c", "d"]), [1, 0, 2], "only the second is left");
}

#[test]
fn a_run_that_did_not_drain_is_unknown() {
    let mut unread = good();
    unread.events_mut().retain(|event| event.op != CLOSING);
    assert_eq!(judge(&unread), Outcome::Unknown);
    let mut running = good();
    lose(&mut running, "task c");
    at_end(&mut running, "task c", "c", "running", 12);
    running.info(CLOSING, json!({"complete": true, "counted": {"dead": 1, "running": 1}}));
    running.events_mut().retain(|event| !(event.op == COMPLETE && event.value["task"] == "task c"));
    assert_eq!(judge(&running), Outcome::Unknown);
}

#[test]
fn one_lost_item_of_ten_thousand_is_found() {
    let mut script = watched();
    for n in 0..10_000u64 {
        let (name, task) = (format!("i{n:05}"), format!("task i{n:05}"));
        script.ok(ENQUEUE, json!([item(&name)]), [&task]);
        step(&mut script, 10 * n + 1, "ENQUEUED", &task, 0, "");
        step(&mut script, 10 * n + 2, "LEASED", &task, 1, "");
        attempt(&mut script, &name, n + 1, 1, "w");
        complete(&mut script, &name, n + 1);
        step(&mut script, 10 * n + 3, "SUCCEEDED", &task, 1, "");
        at_end(&mut script, &task, &name, "succeeded", n + 1);
    }
    script.info(CLOSING, json!({"complete": true, "counted": {"dead": 0}}));
    assert_eq!(judge(&script), Outcome::Valid);
    lose(&mut script, "task i05000");
    assert_eq!(judge(&script), Outcome::Invalid);
}

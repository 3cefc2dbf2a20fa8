//! Known-good and known-bad histories of tasks.

use serde_json::{Value, json};

use super::*;
use crate::checker::Outcome;
use crate::checker::facts::{ATTEMPT, CLOSING, COMPLETE, ENQUEUE, FAIL, FINAL};
use crate::checker::testing::{Lie, Script, worst};

fn judge(script: &Script) -> Outcome {
    worst(exactly_once(script.events()))
}

fn item(name: &str) -> Value {
    json!({"name": name, "max_attempts": 3})
}

fn attempt(script: &mut Script, item: &str, token: u64, number: u32, worker: &str) {
    let task = format!("task {item}");
    script.info(
        ATTEMPT,
        json!({"task": task, "item": item, "token": token, "number": number, "worker": worker}),
    );
}

fn complete(script: &mut Script, item: &str, token: u64) {
    let result = result_of(item, &[]);
    script.ok(
        COMPLETE,
        json!({"task": format!("task {item}"), "token": token, "result": result}),
        Value::Null,
    );
}

fn at_end(script: &mut Script, task: &str, item: &str, state: &str, token: u64) {
    let result = if state == "succeeded" {
        result_of(item, &[])
    } else {
        String::new()
    };
    let reason = if state == "dead" { "HANDLER_FAILED" } else { "" };
    script.info(
        FINAL,
        json!({"task": task, "item": item, "state": state, "result": result, "reason": reason,
               "attempts_begun": 1, "last_token": token}),
    );
}

/// Three items succeed, one after a retry; one dies as it should; one was refused; one is unknown and came into being, another did not.
fn good() -> Script {
    let mut script = Script::new("q");
    script.ok(ENQUEUE, json!([item("a"), item("b")]), ["task a", "task b"]);
    script.ok(ENQUEUE, json!([item("c")]), ["task c"]);
    script.ok(
        ENQUEUE,
        json!([{"name": "d", "max_attempts": 3, "fate": "final"}]),
        ["task d"],
    );
    script.fail(ENQUEUE, json!([item("e")]), "UNAVAILABLE: nothing was done");
    script.unknown(ENQUEUE, json!([item("f")]));
    script.unknown(ENQUEUE, json!([item("g")]));
    attempt(&mut script, "a", 10, 1, "w");
    complete(&mut script, "a", 10);
    attempt(&mut script, "b", 11, 1, "w");
    script.ok(FAIL, json!({"task": "task b", "token": 11}), "delayed");
    attempt(&mut script, "b", 14, 2, "v");
    script.fail(
        COMPLETE,
        json!({"task": "task b", "token": 11, "result": "x"}),
        "STALE_TOKEN: gone",
    );
    complete(&mut script, "b", 14);
    attempt(&mut script, "c", 12, 1, "w");
    complete(&mut script, "c", 12);
    attempt(&mut script, "d", 13, 1, "w");
    script.ok(FAIL, json!({"task": "task d", "token": 13, "last": true}), "dead");
    attempt(&mut script, "f", 15, 1, "w");
    complete(&mut script, "f", 15);
    for (item, state, token) in [
        ("a", "succeeded", 10),
        ("b", "succeeded", 14),
        ("c", "succeeded", 12),
        ("d", "dead", 13),
        ("f", "succeeded", 15),
    ] {
        at_end(&mut script, &format!("task {item}"), item, state, token);
    }
    script.info(
        CLOSING,
        json!({"complete": true, "counted": {"dead": 1, "ready": 0, "running": 0}}),
    );
    script
}

/// Removes the final state of a task.
fn lose(script: &mut Script, task: &str) {
    script
        .events_mut()
        .retain(|event| !(event.op == FINAL && event.value["task"] == task));
}

#[test]
fn a_history_in_which_everything_ends_once_is_valid() {
    assert_eq!(judge(&good()), Outcome::Valid);
}

#[test]
fn every_class_of_lost_or_doubled_work_is_found() {
    let bad: [Lie; 16] = [
        ("lost", |s| lose(s, "task a")),
        ("all lost", |s| s.events_mut().retain(|event| event.op != FINAL)),
        ("doubled", |s| at_end(s, "task x", "a", "succeeded", 30)),
        ("an unknown one twice", |s| {
            at_end(s, "task x", "g", "succeeded", 30);
            at_end(s, "task y", "g", "succeeded", 31);
        }),
        ("from nowhere", |s| at_end(s, "task x", "x", "succeeded", 30)),
        ("a refused one at the end", |s| {
            at_end(s, "task e", "e", "succeeded", 30)
        }),
        ("a refused one runs", |s| attempt(s, "e", 30, 1, "w")),
        ("a wrong result", |s| {
            lose(s, "task a");
            s.info(
                FINAL,
                json!({"task": "task a", "item": "a", "state": "succeeded", "result": "0", "last_token": 10}),
            );
        }),
        ("dead without need", |s| {
            lose(s, "task c");
            at_end(s, "task c", "c", "dead", 12);
        }),
        ("succeeded against its fate", |s| {
            at_end(s, "task d", "d", "succeeded", 13)
        }),
        ("completed twice", |s| complete(s, "a", 30)),
        ("runs after the end", |s| attempt(s, "a", 30, 2, "w")),
        ("a token at two workers", |s| attempt(s, "c", 12, 1, "other")),
        ("too many attempts", |s| attempt(s, "d", 13, 4, "w")),
        ("filtered wrongly", |s| {
            s.info(
                CLOSING,
                json!({"complete": true, "counted": {"dead": 1}, "filtered": {"succeeded": 3}}),
            );
        }),
        ("counted wrongly", |s| {
            s.info(CLOSING, json!({"complete": true, "counted": {"dead": 2}}));
        }),
    ];
    for (what, spoil) in bad {
        let mut script = good();
        spoil(&mut script);
        assert_eq!(judge(&script), Outcome::Invalid, "{what}");
    }
}

#[test]
fn a_report_under_a_stale_token_must_not_be_taken() {
    let mut script = good();
    script.ok(FAIL, json!({"task": "task f", "token": 15}), "delayed");
    let facts = Facts::of(script.events());
    assert_eq!(
        stale_tokens_are_refused(&facts).outcome,
        Outcome::Valid,
        "no newer token was seen"
    );
    let mut script = Script::new("q");
    script.ok(ENQUEUE, json!([item("a")]), ["task a"]);
    attempt(&mut script, "a", 10, 1, "w");
    attempt(&mut script, "a", 20, 2, "v");
    complete(&mut script, "a", 10);
    assert_eq!(
        stale_tokens_are_refused(&Facts::of(script.events())).outcome,
        Outcome::Invalid
    );
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
    running
        .events_mut()
        .retain(|event| !(event.op == COMPLETE && event.value["task"] == "task c"));
    assert_eq!(judge(&running), Outcome::Unknown);
}

#[test]
fn ten_thousand_items_take_a_second() {
    let mut script = Script::new("q");
    for n in 0..10_000u64 {
        let (name, task) = (format!("i{n:05}"), format!("task i{n:05}"));
        script.ok(ENQUEUE, json!([item(&name)]), [&task]);
        attempt(&mut script, &name, n + 1, 1, "w");
        complete(&mut script, &name, n + 1);
        at_end(&mut script, &task, &name, "succeeded", n + 1);
    }
    script.info(CLOSING, json!({"complete": true, "counted": {"dead": 0}}));
    let begun = std::time::Instant::now();
    assert_eq!(judge(&script), Outcome::Valid);
    let took = begun.elapsed();
    assert!(took.as_secs() < 10, "{took:?}");
    println!("10,000 items took {took:?}");
}

//! Dependencies: nothing runs before what it waits for has ended, and a dead dependency is answered as the submitter asked.

use super::facts::{Facts, Final, Item};
use super::{Check, Findings};
use crate::history::Event;

/// The reason with which a task dies because one that it waited for did.
const FAILED: &str = "DEPENDENCY_FAILED";

/// All checks on dependencies.
pub fn respected(history: &[Event]) -> Vec<Check> {
    let facts = Facts::of(history);
    let pairs = pairs(&facts);
    vec![never_before(&facts, &pairs), death_is_passed_on(&facts)]
}

/// A task and one that it waits for, both acknowledged and read at the end.
struct Pair<'a> {
    item: &'a Item,
    task: &'a Final,
    input: &'a str,
    dependency: &'a Final,
}

fn pairs<'a>(facts: &'a Facts<'_>) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for submitted in facts.submitted.values() {
        let Some(task) = facts.acknowledged(&submitted.item.name) else {
            continue;
        };
        for input in &submitted.item.after {
            if let Some(dependency) = facts.acknowledged(input) {
                pairs.push(Pair { item: &submitted.item, task, input, dependency });
            }
        }
    }
    pairs
}

/// No attempt begins before each dependency has ended: by the tokens, which grow along the log; by the cluster's time; and by what the
/// workers saw, for whom the dependency's handler was through first.
fn never_before(facts: &Facts<'_>, pairs: &[Pair<'_>]) -> Check {
    let mut findings = Findings::new("never before a dependency");
    findings.count("dependencies", pairs.len());
    if pairs.is_empty() {
        findings.doubt("there are no dependencies");
    }
    findings.needs("attempts");
    let (handled, attempts) = (facts.handled_at(), facts.attempts_by_task());
    for pair in pairs {
        let (name, input) = (&pair.item.name, pair.input);
        if pair.task.started_at_ms != 0 && pair.task.started_at_ms < pair.dependency.ended_at_ms {
            findings.violation(format!(
                "{name} began at {}, before {input} had ended at {}",
                pair.task.started_at_ms, pair.dependency.ended_at_ms
            ));
        }
        let dependency = (pair.dependency.task.as_str(), pair.dependency.last_token);
        let through = handled.get(&dependency).copied();
        for seen in attempts.get(pair.task.task.as_str()).into_iter().flatten() {
            findings.count("attempts", 1);
            if seen.attempt.token < pair.dependency.last_token {
                findings.violation(format!(
                    "event {} runs {name} under token {}, and {input} was running under token {} later",
                    seen.index, seen.attempt.token, pair.dependency.last_token
                ));
            }
            if pair.dependency.state == "succeeded" && through.is_none_or(|through| through > seen.index) {
                findings.violation(format!("event {} runs {name}, and {input} had not been handled before", seen.index));
            }
        }
    }
    findings.finish("no attempt began before what it waits for had ended")
}

/// A task dies with its dependency, without ever having run, unless it was to run anyway; and dies of that reason only then.
fn death_is_passed_on(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("dead dependencies are passed on");
    findings.needs("ran");
    let attempts = facts.attempts_by_task();
    for submitted in facts.submitted.values().filter(|s| !s.item.after.is_empty()) {
        let item = &submitted.item;
        let Some(task) = facts.acknowledged(&item.name) else {
            continue;
        };
        let inputs: Vec<&Final> = item.after.iter().filter_map(|input| facts.acknowledged(input)).collect();
        if inputs.len() < item.after.len() {
            continue;
        }
        let failed = inputs.iter().any(|input| matches!(input.state.as_str(), "dead" | "cancelled"));
        let died_of_it = task.state == "dead" && task.reason == FAILED;
        if failed && !item.run_anyway {
            findings.count("dead", 1);
            if !died_of_it {
                findings.violation(format!("{} is {} although a dependency died", item.name, task.state));
            }
            if let Some(seen) = attempts.get(task.task.as_str()).and_then(|seen| seen.first()) {
                findings.violation(format!("event {} runs {} although a dependency died", seen.index, item.name));
            }
        } else {
            findings.count(if failed { "ran_anyway" } else { "ran" }, 1);
            if died_of_it {
                findings.violation(format!("{} is dead as if a dependency had failed it", item.name));
            }
        }
    }
    findings.finish("a dead dependency killed its dependents, unless they were to run anyway")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ATTEMPT, ENQUEUE, FINAL, HANDLED};
    use crate::checker::testing::{Lie, Script, refute, worst};

    fn judge(script: &Script) -> Outcome {
        worst(respected(script.events()))
    }

    fn ran(script: &mut Script, op: &str, item: &str, token: u64) {
        script.info(op, json!({"task": format!("task {item}"), "item": item, "token": token, "number": 1}));
    }

    fn ended(script: &mut Script, item: &str, state: &str, reason: &str, token: u64, began: u64, ended: u64) {
        script.info(
            FINAL,
            json!({"task": format!("task {item}"), "item": item, "state": state, "reason": reason,
                   "last_token": token, "started_at_ms": began, "ended_at_ms": ended}),
        );
    }

    /// `b` and `c` after `a`, which succeeds; `e` and `f` after `d`, which dies, `f` anyway.
    fn good() -> Script {
        let mut script = Script::new("");
        let items = json!([
            {"name": "a"}, {"name": "b", "after": ["a"]}, {"name": "c", "after": ["a", "b"]},
            {"name": "d"}, {"name": "e", "after": ["d"]}, {"name": "f", "after": ["d"], "run_anyway": true}
        ]);
        script.ok(ENQUEUE, items, ["task a", "task b", "task c", "task d", "task e", "task f"]);
        for (item, token) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("f", 5)] {
            ran(&mut script, ATTEMPT, item, token);
            ran(&mut script, HANDLED, item, token);
        }
        ended(&mut script, "a", "succeeded", "", 1, 10, 11);
        ended(&mut script, "b", "succeeded", "", 2, 11, 12);
        ended(&mut script, "c", "succeeded", "", 3, 13, 14);
        ended(&mut script, "d", "dead", "HANDLER_FAILED", 4, 14, 15);
        ended(&mut script, "e", "dead", FAILED, 0, 0, 15);
        ended(&mut script, "f", "succeeded", "", 5, 16, 17);
        script
    }

    #[test]
    fn respected_dependencies_are_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
    }

    #[test]
    fn every_class_of_disrespect_is_found() {
        let bad: [Lie; 6] = [
            ("never before a dependency", "an attempt before its dependency", |s| {
                let at = s.events().iter().position(|e| e.op == ATTEMPT && e.value["item"] == "b").unwrap();
                s.events_mut()[at].index = 0;
            }),
            ("never before a dependency", "a token before its dependency's", |s| ran(s, ATTEMPT, "c", 1)),
            ("never before a dependency", "a time before its dependency's end", |s| ended(s, "b", "succeeded", "", 2, 10, 12)),
            ("dead dependencies are passed on", "it runs although its dependency died", |s| ran(s, ATTEMPT, "e", 9)),
            ("dead dependencies are passed on", "it succeeded although its dependency died", |s| ended(s, "e", "succeeded", "", 9, 16, 17)),
            ("dead dependencies are passed on", "it died although it was to run anyway", |s| ended(s, "f", "dead", FAILED, 0, 0, 17)),
        ];
        refute(&good(), &bad, respected);
    }

    #[test]
    fn no_dependencies_prove_nothing() {
        assert_eq!(judge(&Script::new("")), Outcome::Unknown);
    }
}

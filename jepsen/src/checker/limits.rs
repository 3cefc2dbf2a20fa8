//! Attempts: no task has more than it may, and one that fails each time is dead after exactly as many as it has.

use super::facts::{Facts, Item};
use super::lives::Lives;
use super::tasks::BY_TIME;
use super::{Check, Findings};

/// The reasons with which workers report the failures that an item's fate asks for: the SDK's worker, and the one made of single calls.
pub const BY_WORKERS: [&str; 2] = ["HANDLER_FAILED", "FATE"];

/// No attempt has a number beyond the limit that its task was submitted with: of those that workers saw, and of all that the log tells.
pub fn attempts_are_bounded(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("attempts are bounded");
    findings.needs("attempts");
    for seen in &facts.attempts {
        let attempt = &seen.attempt;
        let limit = facts.submitted.get(&attempt.item).map_or(u32::MAX, |s| s.item.max_attempts);
        if attempt.number == 0 || attempt.number > limit {
            findings.violation(format!("event {} is attempt {} of task {}, which has {limit}", seen.index, attempt.number, attempt.task));
        }
        findings.count("attempts", 1);
        findings.at_least("most_attempts", attempt.number.into());
    }
    for (task, item) in facts.items_by_task() {
        let leases = lives.into_iter().flat_map(|lives| lives.steps(task, "LEASED"));
        for step in leases {
            findings.count("leases", 1);
            if step.sight.attempt > item.max_attempts {
                findings.violation(format!(
                    "task {task}, which has {} attempts, was leased for attempt {} at revision {}",
                    item.max_attempts, step.sight.attempt, step.sight.revision
                ));
            }
        }
    }
    findings.finish("no task was attempted more often than it may be")
}

/// A task whose every attempt fails is dead after exactly as many as it has, with the reason of whoever ended the last: a worker, or the
/// cluster where a fault outlasted the lease. It never gets there sooner, and never further.
pub fn dead_at_the_limit(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("attempts end at the limit");
    findings.needs("dead_at_limit");
    let tasks = facts.items_by_task();
    for (task, item) in tasks.iter().filter(|(_, item)| item.is_exhausted()) {
        if let Some(end) = facts.finals.get(*task).filter(|end| end.state == "dead") {
            findings.count("dead_at_limit", 1);
            judge(&mut findings, task, item, end.attempts_begun, &end.reason, "the final read");
        }
        let Some(steps) = lives.and_then(|lives| lives.of.get(*task)) else {
            continue;
        };
        for step in steps {
            let (attempt, place) = (step.sight.attempt, format!("revision {}", step.sight.revision));
            match step.kind() {
                "DEAD" => {
                    findings.count("deaths", 1);
                    judge(&mut findings, task, item, attempt, &step.sight.detail, &place);
                }
                "RETRIED" if attempt >= item.max_attempts => findings
                    .violation(format!("task {task} is to be tried again after attempt {attempt} of {} at {place}", item.max_attempts)),
                _ => {}
            }
        }
    }
    findings.finish("tasks that failed each time are dead after exactly as many attempts as they have")
}

fn judge(findings: &mut Findings, task: &str, item: &Item, attempts: u32, reason: &str, place: &str) {
    if attempts != item.max_attempts {
        findings.violation(format!("task {task} is dead after {attempts} of {} attempts, by {place}", item.max_attempts));
    }
    if !BY_WORKERS.contains(&reason) && !BY_TIME.contains(&reason) {
        findings.violation(format!("task {task} is dead with {reason:?}, by {place}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ATTEMPT, ENQUEUE, FINAL};
    use crate::checker::testing::{Lie, Script, refute, step, told, watched, worst};
    use crate::history::Event;

    fn judged(history: &[Event]) -> Vec<Check> {
        let (facts, lives) = (Facts::of(history), Lives::of(history));
        vec![attempts_are_bounded(&facts, lives.as_ref()), dead_at_the_limit(&facts, lives.as_ref())]
    }

    /// A task that fails each of its two attempts, the last by time; is put back, and fails both again.
    fn good() -> Script {
        let mut script = watched();
        let item = json!({"name": "a", "max_attempts": 2, "fate": {"retry": 9}});
        script.ok(ENQUEUE, json!([item]), ["t"]);
        let attempt = |number: u32| json!({"task": "t", "item": "a", "token": number, "number": number, "worker": "w"});
        script.info(ATTEMPT, attempt(1));
        let steps = [
            ("ENQUEUED", 0, ""),
            ("LEASED", 1, ""),
            ("RETRIED", 1, "FATE"),
            ("READY", 0, ""),
            ("LEASED", 2, ""),
            ("DEAD", 2, "LEASE_EXPIRED"),
            ("REQUEUED", 0, ""),
            ("LEASED", 1, ""),
            ("RETRIED", 1, "FATE"),
            ("READY", 0, ""),
            ("LEASED", 2, ""),
            ("DEAD", 2, "HANDLER_FAILED"),
        ];
        for (at, (kind, attempt, detail)) in steps.into_iter().enumerate() {
            step(&mut script, at as u64 + 1, kind, "t", attempt, detail);
        }
        at_end(&mut script, 2, "HANDLER_FAILED");
        script
    }

    fn at_end(script: &mut Script, attempts: u32, reason: &str) {
        let end = json!({"task": "t", "item": "a", "state": "dead", "reason": reason, "attempts_begun": attempts});
        script.info(FINAL, end);
    }

    /// Changes the last step of this kind.
    fn change(script: &mut Script, kind: &str, lie: fn(&mut Value)) {
        let kind = format!("TASK_{kind}");
        let found = script.events_mut().iter_mut().rev().find(|event| event.value["kind"] == kind);
        lie(&mut found.expect("there is one").value);
    }

    #[test]
    fn a_task_that_fails_each_time_dies_at_its_limit() {
        assert_eq!(worst(judged(good().events())), Outcome::Valid);
        let bad: [Lie; 7] = [
            ("attempts end at the limit", "too soon", |s| {
                change(s, "DEAD", |step| step["attempt"] = json!(1));
            }),
            ("attempts end at the limit", "too soon, by the final read", |s| at_end(s, 1, "FATE")),
            ("attempts end at the limit", "too late, by the final read", |s| at_end(s, 3, "FATE")),
            ("attempts end at the limit", "tried beyond", |s| {
                change(s, "RETRIED", |step| step["attempt"] = json!(2));
            }),
            ("attempts end at the limit", "another's reason", |s| {
                at_end(s, 2, "DEPENDENCY_FAILED");
            }),
            ("attempts end at the limit", "no reason in the log", |s| {
                change(s, "DEAD", |step| step["detail"] = json!(""));
            }),
            ("attempts are bounded", "an attempt that no worker saw", |s| {
                change(s, "LEASED", |step| step["attempt"] = json!(3));
            }),
        ];
        refute(&good(), &bad, judged);
    }

    #[test]
    fn where_nothing_came_to_its_limit_nothing_is_proven() {
        let mut script = good();
        script.events_mut().retain(|event| event.op != FINAL);
        let facts = Facts::of(script.events());
        assert_eq!(told(dead_at_the_limit(&facts, None)), Outcome::Unknown);
    }
}

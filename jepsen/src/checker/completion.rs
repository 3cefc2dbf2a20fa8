//! Attempts, their tokens and their reports: a task succeeds once, by a worker that did it, under a token that nobody else has.
//!
//! Reports of workers made of single calls are operations of the history. Those of the SDK's worker are not: what became of them is in the log
//! of events, which is set against the notes that every worker makes before it begins and before it reports.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tarn_invariants::tasks::{self as rules, COMPLETED_ONCE, Completion, Completions, FENCED, Grant, Grants, LEASED_ONCE};

use super::facts::{Attempt, Facts, Reported, Seen, has_ended, hash_of};
use super::limits::BY_WORKERS;
use super::lives::{Lives, Step};
use super::{Check, Findings};
use crate::history::Kind;

/// At most one attempt of a task is acknowledged as its success, and what was acknowledged is what the task ended with. Whoever reports, a task
/// succeeds once, under a token with which some worker was through before anybody saw the success.
pub fn completed_once(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("completed once").asking(&[COMPLETED_ONCE]);
    findings.needs("succeeded");
    acknowledged_once(facts, &mut findings);
    let handled = facts.handled_at();
    for task in facts.finals.values() {
        let seen = lives.map(|lives| lives.steps(&task.task, "SUCCEEDED").collect::<Vec<_>>());
        let succeeded = task.state == "succeeded";
        let times = seen.as_ref().map_or(usize::from(succeeded), Vec::len);
        findings.count("seen", seen.as_ref().map_or(0, Vec::len));
        // What had not ended when it was read may have succeeded since.
        let wrong = match has_ended(&task.state) {
            true => times != usize::from(succeeded),
            false => times > 1,
        };
        if wrong {
            let told = format!("task {} is {} at the end, and was seen to succeed {times} times", task.task, task.state);
            findings.judge(Err(COMPLETED_ONCE.violated(told)), || "by the log".to_owned());
        }
        if !succeeded {
            continue;
        }
        findings.count("succeeded", 1);
        let through = handled.get(&(task.task.as_str(), task.last_token)).copied();
        let first = seen.and_then(|steps| steps.first().map(|step| step.index));
        let (token, name) = (task.last_token, &task.task);
        match (through, first) {
            (None, _) => {
                let told = format!("task {name} succeeded under token {token}, and no worker was through with it under that token");
                findings.judge(Err(COMPLETED_ONCE.violated(told)), || "by the final read".to_owned());
            }
            (Some(through), Some(first)) if through > first => {
                let told = format!("task {name} succeeded before the worker was through that holds token {token}");
                findings.judge(Err(COMPLETED_ONCE.violated(told)), || {
                    format!("the success is seen in event {first}, the worker is through in event {through}")
                });
            }
            _ => {}
        }
    }
    findings.finish("no task was completed twice or by nobody, and no acknowledged completion was lost")
}

/// The part that reports of single calls show.
fn acknowledged_once(facts: &Facts<'_>, findings: &mut Findings) {
    let mut completions = Completions::default();
    for reported in facts.completions.iter().filter(|r| r.operation.outcome() == Kind::Ok) {
        let report = &reported.report;
        let event = reported.operation.ended_by().unwrap_or_default();
        findings.count("acknowledged", 1);
        let at_end = facts.finals.get(&report.task);
        let result = report.result.as_ref().or(at_end.map(|task| &task.result));
        let completion = Completion { task: &report.task, token: report.token, result: hash_of(result.map(String::as_str)) };
        findings.judge(completions.observe(completion), || format!("the latter in event {event}"));
        let Some(task) = at_end else { continue };
        if task.state != "succeeded" {
            let lost = format!("{completion:?} was accepted, and the task is {} at the end", task.state);
            findings.judge(Err(COMPLETED_ONCE.violated(lost)), || format!("accepted in event {event}"));
            continue;
        }
        let end = Completion { task: &task.task, token: task.last_token, result: hash_of([task.result.as_str()]) };
        findings.judge(rules::completed_once(Some(completion), end), || format!("the former in event {event}, the latter at the end"));
    }
}

/// No attempt begins under a token that is newer than the one with which the task succeeded, and by the log none is leased after the success.
pub fn nothing_runs_after_the_end(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("nothing runs after the end");
    findings.needs("attempts");
    let done: BTreeMap<&str, u64> =
        facts.finals.values().filter(|task| task.state == "succeeded").map(|task| (task.task.as_str(), task.last_token)).collect();
    findings.count("attempts", facts.attempts.len());
    for seen in &facts.attempts {
        let attempt = &seen.attempt;
        if done.get(attempt.task.as_str()).is_some_and(|token| attempt.token > *token) {
            findings.violation(format!(
                "task {} succeeded under token {}, and event {} runs it under token {}",
                attempt.task,
                done[attempt.task.as_str()],
                seen.index,
                attempt.token
            ));
        }
    }
    for (task, steps) in lives.into_iter().flat_map(|lives| &lives.of) {
        let mut over: Option<&Step> = None;
        for step in steps {
            match (step.kind(), over) {
                ("SUCCEEDED" | "CANCELLED", None) => over = Some(step),
                ("LEASED", Some(end)) => findings.violation(format!(
                    "task {task} is {} at revision {}, and leased at revision {}",
                    end.sight.kind, end.sight.revision, step.sight.revision
                )),
                ("LEASED", None) => findings.count("leases", 1),
                _ => {}
            }
        }
    }
    findings.finish("no attempt began after its task had succeeded")
}

/// A report is not taken once another attempt has been seen under a newer token: that attempt's lease had made the older token stale. And by
/// the log, an attempt that ends by a report ends only after its own worker was through with it: what ends it sooner is another's report.
pub fn stale_tokens_are_refused(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("stale tokens are refused").asking(&[FENCED]);
    findings.needs("taken");
    // The first event at which each token of a task was seen, by token.
    let mut tokens: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
    for seen in &facts.attempts {
        let known = tokens.entry(&seen.attempt.task).or_default();
        known.entry(seen.attempt.token).or_insert(seen.index);
    }
    let repeated = repeated(facts);
    for reported in facts.completions.iter().chain(&facts.failures) {
        let report = &reported.report;
        if reported.operation.outcome() == Kind::Fail && reported.operation.reason() == "STALE_TOKEN" {
            findings.count("refused", 1);
        }
        // An earlier report under this token was, or may have been, what ended the attempt: then the repeat of it is answered as it was.
        if reported.operation.outcome() != Kind::Ok || repeated.contains(&(report.task.as_str(), report.token)) {
            continue;
        }
        findings.count("taken", 1);
        // The task's token may have been newer than any that was seen; it was certainly not older.
        let asked = reported.operation.invoke.index;
        let mut known = tokens.get(report.task.as_str()).into_iter().flatten();
        let newest = known.rfind(|(_, index)| **index < asked);
        let (current, seen) =
            newest.filter(|(token, _)| **token > report.token).map_or((report.token, asked), |(token, index)| (*token, *index));
        findings.judge(rules::fenced(&report.task, Some(current), report.token), || {
            format!("event {seen} runs it under the newer token, and event {asked} begins the report that is taken")
        });
    }
    let handled = facts.handled_at();
    for (task, steps) in lives.into_iter().flat_map(|lives| &lives.of) {
        if let Some(tokens) = tokens.get(task.as_str()) {
            ends_are_its_own(task, steps, tokens, &handled, &mut findings);
        }
    }
    findings.finish("no report with a stale token was taken")
}

/// Sets the ends of a task's attempts against its workers. Tokens grow along the log, so that the first lease has the lowest; where some lease
/// was never seen by a worker nobody knows which, and nothing is judged.
fn ends_are_its_own(task: &str, steps: &[Step], tokens: &BTreeMap<u64, u64>, handled: &HashMap<(&str, u64), u64>, findings: &mut Findings) {
    if steps.iter().filter(|step| step.kind() == "LEASED").count() != tokens.len() {
        findings.count("with_unseen_leases", 1);
        return;
    }
    let mut leases = tokens.keys();
    let mut current = None;
    for step in steps {
        let reported = match step.kind() {
            "LEASED" => {
                current = leases.next().copied();
                false
            }
            "SUCCEEDED" => true,
            "RETRIED" | "DEAD" => BY_WORKERS.contains(&step.sight.detail.as_str()),
            _ => false,
        };
        let Some(token) = current.filter(|_| reported) else {
            continue;
        };
        findings.count("taken", 1);
        let through = handled.get(&(task, token)).copied();
        if through.is_none_or(|through| through > step.index) {
            let told = format!("a report ends the attempt of task {task} under token {token} before its worker is through");
            findings.judge(Err(FENCED.violated(told)), || {
                let through = through.map_or("never".to_owned(), |event| format!("in event {event}"));
                format!("{} is seen in event {}, the worker is through {through}", step.sight.kind, step.index)
            });
        }
    }
}

/// The tokens under which more than one report went out that was not refused.
fn repeated<'a>(facts: &'a Facts<'_>) -> BTreeSet<(&'a str, u64)> {
    let reports = facts.completions.iter().chain(&facts.failures);
    let not_refused = reports.filter(|reported| reported.operation.outcome() != Kind::Fail);
    let (mut once, mut again) = (BTreeSet::new(), BTreeSet::new());
    for Reported { report, .. } in not_refused {
        let token = (report.task.as_str(), report.token);
        if !once.insert(token) {
            again.insert(token);
        }
    }
    again
}

/// A token belongs to one attempt of one task, at one worker. Of tasks that were certainly never put back from the dead letters, which counts
/// attempts from one again, a later attempt has a greater token.
pub fn tokens_are_unique(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("tokens are unique").asking(&[LEASED_ONCE]);
    findings.needs("tokens");
    let mut owners: BTreeMap<u64, &Seen> = BTreeMap::new();
    let mut in_order = Grants::default();
    for seen in &facts.attempts {
        let first = *owners.entry(seen.attempt.token).or_insert(seen);
        let (known, grant) = (grant(&first.attempt), grant(&seen.attempt));
        if let Err(violation) = rules::one_lease_a_token(Some(known), grant) {
            findings.judge(Err(violation), || format!("events {} and {}", seen.index, first.index));
        } else if lives.is_some_and(|lives| lives.steps(grant.task, "REQUEUED").next().is_none()) {
            findings.count("in_order", 1);
            findings.judge(in_order.observe(grant), || format!("event {}", seen.index));
        }
    }
    findings.count("tokens", owners.len());
    findings.finish("no two attempts had the same token, and a task's tokens grew")
}

fn grant(attempt: &Attempt) -> Grant<'_> {
    Grant { task: &attempt.task, token: attempt.token, attempt: attempt.number, worker: &attempt.worker }
}

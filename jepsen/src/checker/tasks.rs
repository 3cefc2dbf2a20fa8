//! Each accepted task ends exactly once, with the result that its input asks for.
//!
//! The checks are kept apart, because each failure means something else: a lost task, a doubled one, a ghost of a refused one, a wrong
//! result, two completions, work after the end, a stale token that was taken, attempts beyond the limit, counts that disagree.

use std::collections::{BTreeMap, BTreeSet};

use tarn_invariants::tasks::{
    self as rules, COMPLETED_ONCE, Completion, Completions, EVERY_TASK_ENDS, FENCED, Grant, Grants, LEASED_ONCE,
    NO_TASK_LOST,
};

use super::facts::{Attempt, Facts, Fate, Seen, Submitted, has_ended, hash_of, result_of};
use super::{Check, Findings, watch};
use crate::history::{Event, Kind};

/// Reasons with which the cluster itself ends an attempt: faults may use up a task's attempts this way.
const BY_TIME: [&str; 2] = ["LEASE_EXPIRED", "ATTEMPT_TIMEOUT"];

/// All checks on tasks, in the order of how bad a violation is.
pub fn exactly_once(history: &[Event]) -> Vec<Check> {
    let facts = Facts::of(history);
    vec![
        accepted_tasks_end(&facts),
        accepted_once(&facts),
        refused_are_never_seen(&facts),
        results_are_right(&facts),
        completed_once(&facts),
        nothing_runs_after_the_end(&facts),
        stale_tokens_are_refused(&facts),
        tokens_are_unique(&facts, put_back(history).as_ref()),
        attempts_are_bounded(&facts),
        counts_agree(&facts),
    ]
}

/// Every acknowledged submission is a task at the end, and has ended. Lost ones are split by where they lie among those that were kept:
/// a loss in the middle, with survivors on both sides, cannot be explained by anything that happened at either end of the run.
pub fn accepted_tasks_end(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("accepted tasks end").asking(&[NO_TASK_LOST, EVERY_TASK_ENDS]);
    let mut accepted: Vec<&Submitted> = facts.submitted.values().filter(|s| s.outcome == Kind::Ok).collect();
    accepted.sort_by_key(|submitted| submitted.ended);
    findings.count("accepted", accepted.len());
    let unknown = facts.submitted.values().filter(|s| s.outcome == Kind::Unknown);
    findings.count("unknown", unknown.count());
    let refused = facts.submitted.values().filter(|s| s.outcome == Kind::Fail);
    findings.count("refused", refused.count());
    if !facts.is_complete() {
        findings.doubt("the final state was not read");
        return findings.finish("");
    }
    if accepted.is_empty() {
        findings.doubt("nothing was accepted");
    }
    for name in &facts.reused {
        findings.doubt(format!("the workload used the name {name} twice"));
    }
    let found: BTreeSet<&str> = facts.finals.keys().map(String::as_str).collect();
    let ended = facts.finals.values().filter(|task| has_ended(&task.state));
    let ended: BTreeSet<&str> = ended.map(|task| task.task.as_str()).collect();
    let is_found = |submitted: &&Submitted| submitted.task.as_deref().is_some_and(|task| found.contains(task));
    let survivors = (accepted.iter().position(is_found), accepted.iter().rposition(is_found));
    for (at, submitted) in accepted.iter().enumerate() {
        let (name, task) = (&submitted.item.name, submitted.task.as_deref().unwrap_or("without id"));
        if let Err(lost) = rules::no_task_lost([task], &found) {
            let part = part(at, survivors);
            findings.count(&format!("lost_{part}"), 1);
            let event = submitted.ended.unwrap_or_default();
            findings.judge(Err(lost), || {
                format!("lost ({part}): item {name}, acknowledged in event {event}")
            });
            continue;
        }
        let state = facts.finals.get(task).map_or("gone", |task| task.state.as_str());
        match rules::every_task_ends([task], &ended) {
            Ok(()) => findings.count(state, 1),
            // Nobody knows whether it would have ended a little later: the run did not drain.
            Err(open) => {
                findings.count("unended", 1);
                findings.doubt(format!("{}: item {name} is {state} at the end", open.detail));
            }
        }
    }
    findings.finish("every acknowledged task is there at the end, and has ended")
}

/// Where a lost task lies among those that were kept, of which the first and the last are known.
fn part(at: usize, survivors: (Option<usize>, Option<usize>)) -> &'static str {
    match survivors {
        (Some(first), _) if at < first => "head",
        (_, Some(last)) if at > last => "tail",
        (None, _) | (_, None) => "head",
        _ => "middle",
    }
}

/// No item is more than one task, and each acknowledged one is the task that the answer named.
pub fn accepted_once(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("accepted once");
    let by_item = facts.tasks_by_item();
    findings.count("items", by_item.len());
    for (item, tasks) in &by_item {
        let ids: Vec<&str> = tasks.iter().map(|task| task.task.as_str()).collect();
        if ids.len() > 1 {
            findings.count("duplicates", ids.len() - 1);
            findings.violation(format!("item {item} is {} tasks: {}", ids.len(), ids.join(", ")));
        }
        match facts.submitted.get(*item) {
            None => findings.violation(format!("task {} has the item {item:?}, which nobody submitted", ids[0])),
            Some(Submitted { task: Some(task), .. }) if !ids.contains(&task.as_str()) => {
                findings.violation(format!(
                    "item {item} was acknowledged as task {task} and is {}",
                    ids.join(", ")
                ));
            }
            Some(_) => {}
        }
    }
    if by_item.is_empty() {
        findings.doubt("the final state was not read");
    }
    findings.finish("no item became more than one task")
}

/// What was refused is never seen: neither by a worker nor at the end.
pub fn refused_are_never_seen(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("refused are never seen");
    let refused: BTreeSet<&str> = facts
        .submitted
        .values()
        .filter(|submitted| submitted.outcome == Kind::Fail)
        .map(|submitted| submitted.item.name.as_str())
        .collect();
    findings.count("refused", refused.len());
    for task in facts
        .finals
        .values()
        .filter(|task| refused.contains(task.item.as_str()))
    {
        findings.violation(format!("item {} was refused and is task {}", task.item, task.task));
    }
    for seen in facts
        .attempts
        .iter()
        .filter(|seen| refused.contains(seen.attempt.item.as_str()))
    {
        let attempt = &seen.attempt;
        findings.violation(format!(
            "item {} was refused, and event {} runs it as task {}",
            attempt.item, seen.index, attempt.task
        ));
    }
    findings.finish("nothing that was refused came into being")
}

/// A task that succeeded has the result of its input, one that was to die is dead with a reason, and one that was not is not, unless faults
/// used up its attempts.
pub fn results_are_right(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("results are right");
    for task in facts.finals.values().filter(|task| has_ended(&task.state)) {
        let Some(submitted) = facts.submitted.get(&task.item) else {
            continue;
        };
        let item = &submitted.item;
        match task.state.as_str() {
            "succeeded" => {
                let inputs: Vec<&str> = item.after.iter().map(|input| result_at_end(facts, input)).collect();
                let expected = result_of(&item.name, &inputs);
                findings.count("succeeded", 1);
                if task.result != expected {
                    findings.violation(format!(
                        "task {} of item {} has the result {:?} in place of {expected:?}",
                        task.task, item.name, task.result
                    ));
                }
                if item.fate == Fate::Final {
                    findings.violation(format!(
                        "task {} of item {} can never succeed, and did",
                        task.task, item.name
                    ));
                }
            }
            "dead" => {
                findings.count("dead", 1);
                if task.reason.is_empty() {
                    findings.violation(format!("task {} is dead without a reason", task.task));
                }
                let used_up = task.attempts_begun >= item.max_attempts && BY_TIME.contains(&task.reason.as_str());
                findings.count("dead_by_faults", usize::from(used_up));
                let doomed = matches!(item.fate, Fate::Final | Fate::FinalOnce) || !item.after.is_empty();
                if !doomed && !used_up {
                    findings.violation(format!(
                        "task {} of item {} is dead with {} after {} of {} attempts, and should have succeeded",
                        task.task, item.name, task.reason, task.attempts_begun, item.max_attempts
                    ));
                }
            }
            _ => findings.count("cancelled", 1),
        }
    }
    findings.finish("every result is the function of its input, and only those died that had to")
}

/// The result of an input as its dependent sees it: empty unless it succeeded.
fn result_at_end<'a>(facts: &'a Facts<'_>, item: &str) -> &'a str {
    facts.acknowledged(item).map_or("", |task| task.result.as_str())
}

/// At most one attempt of a task is acknowledged as its success, and what was acknowledged is what the task ended with.
pub fn completed_once(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("completed once").asking(&[COMPLETED_ONCE]);
    let mut completions = Completions::default();
    for reported in facts.completions.iter().filter(|r| r.operation.outcome() == Kind::Ok) {
        let report = &reported.report;
        let event = reported.operation.ended_by().unwrap_or_default();
        findings.count("acknowledged", 1);
        let at_end = facts.finals.get(&report.task);
        let result = report.result.as_ref().or(at_end.map(|task| &task.result));
        let completion = Completion {
            task: &report.task,
            token: report.token,
            result: hash_of(result.map(String::as_str)),
        };
        findings.judge(completions.observe(completion), || {
            format!("the latter in event {event}")
        });
        let Some(task) = at_end else { continue };
        if task.state != "succeeded" {
            let lost = format!("{completion:?} was accepted, and the task is {} at the end", task.state);
            findings.judge(Err(COMPLETED_ONCE.violated(lost)), || {
                format!("accepted in event {event}")
            });
            continue;
        }
        let end = Completion {
            task: &task.task,
            token: task.last_token,
            result: hash_of([task.result.as_str()]),
        };
        findings.judge(rules::completed_once(Some(completion), end), || {
            format!("the former in event {event}, the latter at the end")
        });
    }
    findings.finish("no task was completed twice, and no acknowledged completion was lost")
}

/// No attempt begins under a token that is newer than the one with which the task succeeded.
pub fn nothing_runs_after_the_end(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("nothing runs after the end");
    let done: BTreeMap<&str, u64> = facts
        .finals
        .values()
        .filter(|task| task.state == "succeeded")
        .map(|task| (task.task.as_str(), task.last_token))
        .collect();
    findings.count("attempts", facts.attempts.len());
    for seen in &facts.attempts {
        let attempt = &seen.attempt;
        if done
            .get(attempt.task.as_str())
            .is_some_and(|token| attempt.token > *token)
        {
            findings.violation(format!(
                "task {} succeeded under token {}, and event {} runs it under token {}",
                attempt.task,
                done[attempt.task.as_str()],
                seen.index,
                attempt.token
            ));
        }
    }
    findings.finish("no attempt began after its task had succeeded")
}

/// A report is not taken once another attempt has been seen under a newer token: that attempt's lease had made the older token stale.
pub fn stale_tokens_are_refused(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("stale tokens are refused").asking(&[FENCED]);
    // The first event at which each token of a task was seen, by token.
    let mut tokens: BTreeMap<&str, BTreeMap<u64, u64>> = BTreeMap::new();
    for seen in &facts.attempts {
        let known = tokens.entry(&seen.attempt.task).or_default();
        known.entry(seen.attempt.token).or_insert(seen.index);
    }
    for reported in facts.completions.iter().chain(&facts.failures) {
        let report = &reported.report;
        if reported.operation.outcome() == Kind::Fail && reported.operation.reason() == "STALE_TOKEN" {
            findings.count("refused", 1);
        }
        if reported.operation.outcome() != Kind::Ok || was_ended_by(facts, report.task.as_str(), report.token) {
            continue;
        }
        findings.count("taken", 1);
        // The task's token may have been newer than any that was seen; it was certainly not older.
        let asked = reported.operation.invoke.index;
        let mut known = tokens.get(report.task.as_str()).into_iter().flatten();
        let newest = known.rfind(|(_, index)| **index < asked);
        let (current, seen) = newest
            .filter(|(token, _)| **token > report.token)
            .map_or((report.token, asked), |(token, index)| (*token, *index));
        findings.judge(rules::fenced(&report.task, Some(current), report.token), || {
            format!("event {seen} runs it under the newer token, and event {asked} begins the report that is taken")
        });
    }
    findings.finish("no report with a stale token was taken")
}

/// Whether an earlier report under this token was, or may have been, what ended the attempt: then the repeat of it is answered as it was.
fn was_ended_by(facts: &Facts<'_>, task: &str, token: u64) -> bool {
    let reports = facts.completions.iter().chain(&facts.failures);
    let same = reports.filter(|reported| reported.report.task == task && reported.report.token == token);
    same.filter(|reported| reported.operation.outcome() != Kind::Fail)
        .count()
        > 1
}

/// The tasks that were put back from the dead letters, if some watcher saw the whole log.
fn put_back(history: &[Event]) -> Option<BTreeSet<String>> {
    let log = watch::is_whole(history).then(|| watch::log(history))?;
    let requeued = log.into_values().filter(|sight| sight.kind == "TASK_REQUEUED");
    Some(requeued.map(|sight| sight.subject).collect())
}

/// A token belongs to one attempt of one task, at one worker. Of tasks that were certainly never `put_back`, which counts attempts from one
/// again, a later attempt has a greater token.
pub fn tokens_are_unique(facts: &Facts<'_>, put_back: Option<&BTreeSet<String>>) -> Check {
    let mut findings = Findings::new("tokens are unique").asking(&[LEASED_ONCE]);
    let mut owners: BTreeMap<u64, &Seen> = BTreeMap::new();
    let mut in_order = Grants::default();
    for seen in &facts.attempts {
        let first = *owners.entry(seen.attempt.token).or_insert(seen);
        let (known, grant) = (grant(&first.attempt), grant(&seen.attempt));
        if let Err(violation) = rules::one_lease_a_token(Some(known), grant) {
            findings.judge(Err(violation), || format!("events {} and {}", seen.index, first.index));
        } else if put_back.is_some_and(|tasks| !tasks.contains(grant.task)) {
            findings.count("in_order", 1);
            findings.judge(in_order.observe(grant), || format!("event {}", seen.index));
        }
    }
    findings.count("tokens", owners.len());
    findings.finish("no two attempts had the same token, and a task's tokens grew")
}

fn grant(attempt: &Attempt) -> Grant<'_> {
    Grant {
        task: &attempt.task,
        token: attempt.token,
        attempt: attempt.number,
        worker: &attempt.worker,
    }
}

/// No attempt has a number beyond the limit that its task was submitted with.
pub fn attempts_are_bounded(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("attempts are bounded");
    for seen in &facts.attempts {
        let attempt = &seen.attempt;
        let limit = facts
            .submitted
            .get(&attempt.item)
            .map_or(u32::MAX, |s| s.item.max_attempts);
        if attempt.number == 0 || attempt.number > limit {
            findings.violation(format!(
                "event {} is attempt {} of task {}, which has {limit}",
                seen.index, attempt.number, attempt.task
            ));
        }
        findings.at_least("most_attempts", attempt.number.into());
    }
    findings.finish("no task was attempted more often than it may be")
}

/// The queue's own counts are those of the tasks in it, and so are the lists of each state: no task is in two places or in none, and a
/// query with a filter shows what a full scan shows.
pub fn counts_agree(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("counts agree");
    let closing = facts.closing.clone().unwrap_or_default();
    if closing.counted.is_none() {
        findings.doubt("the queue's counts were not read");
    }
    let sources = [
        ("the queue counts", closing.counted),
        ("the list of that state has", closing.filtered),
    ];
    for (source, counts) in sources {
        for (state, counted) in counts.unwrap_or_default() {
            findings.count("compared", 1);
            let listed = facts.finals.values().filter(|task| task.state == state).count() as u64;
            if listed != counted {
                findings.violation(format!(
                    "{source} {counted} tasks as {state}, and {listed} are listed in all"
                ));
            }
        }
    }
    findings.finish("counts, filters and the whole list agree")
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;

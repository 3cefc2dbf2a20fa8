//! Each accepted task ends exactly once, with the result that its input asks for.
//!
//! The checks are kept apart, because each failure means something else: a lost task, a doubled one, a ghost of a refused one, a wrong
//! result, two completions, work after the end, a stale token that was taken, attempts beyond the limit, counts that disagree.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Facts, Fate, Final, Submitted, has_ended, result_of};
use super::{Check, Findings};
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
        tokens_are_unique(&facts),
        attempts_are_bounded(&facts),
        counts_agree(&facts),
    ]
}

/// Every acknowledged submission is a task at the end, and has ended. Lost ones are split by where they lie among those that were kept:
/// a loss in the middle, with survivors on both sides, cannot be explained by anything that happened at either end of the run.
pub fn accepted_tasks_end(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("accepted tasks end");
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
    let found: Vec<Option<&Final>> = accepted.iter().map(|s| facts.finals.get(s.task.as_ref()?)).collect();
    let first = found.iter().position(Option::is_some);
    let last = found.iter().rposition(Option::is_some);
    for (at, (submitted, found)) in accepted.iter().zip(&found).enumerate() {
        let (name, task) = (&submitted.item.name, submitted.task.as_deref().unwrap_or("without id"));
        match found {
            Some(found) if has_ended(&found.state) => {
                findings.count(&found.state, 1);
            }
            Some(found) => {
                findings.count("unended", 1);
                findings.doubt(format!("task {task} of item {name} is {} at the end", found.state));
            }
            None => {
                let part = match (first, last) {
                    (Some(first), _) if at < first => "head",
                    (_, Some(last)) if at > last => "tail",
                    (None, _) | (_, None) => "head",
                    _ => "middle",
                };
                findings.count(&format!("lost_{part}"), 1);
                findings.violation(format!(
                    "lost ({part}): item {name}, acknowledged as task {task} in event {}",
                    submitted.ended.unwrap_or_default()
                ));
            }
        }
    }
    findings.finish("every acknowledged task is there at the end, and has ended")
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
    let mut findings = Findings::new("completed once");
    let mut completed: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for reported in facts.completions.iter().filter(|r| r.operation.outcome() == Kind::Ok) {
        let report = &reported.report;
        let event = reported.operation.ended_by().unwrap_or_default();
        findings.count("acknowledged", 1);
        let (token, first) = *completed.entry(&report.task).or_insert((report.token, event));
        if token != report.token {
            findings.violation(format!(
                "task {} was completed with token {token} in event {first} and again with token {} in event {event}",
                report.task, report.token
            ));
        }
        let Some(task) = facts.finals.get(&report.task) else {
            continue;
        };
        let same_result = report.result.as_ref().is_none_or(|result| *result == task.result);
        if task.state != "succeeded" || task.last_token != report.token || !same_result {
            findings.violation(format!(
                "task {} was completed with token {} in event {event}, and at the end is {} with token {}",
                report.task, report.token, task.state, task.last_token
            ));
        }
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
    let mut findings = Findings::new("stale tokens are refused");
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
        let newer = tokens
            .get(report.task.as_str())
            .into_iter()
            .flat_map(|known| known.range(report.token + 1..))
            .find(|(_, index)| **index < reported.operation.invoke.index);
        if let Some((token, index)) = newer {
            findings.violation(format!(
                "event {index} runs task {} under token {token}, and event {} reports for it under token {} and is taken",
                report.task, reported.operation.invoke.index, report.token
            ));
        }
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

/// A token belongs to one attempt of one task, at one worker.
pub fn tokens_are_unique(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("tokens are unique");
    let mut owners: BTreeMap<u64, &super::facts::Seen> = BTreeMap::new();
    for seen in &facts.attempts {
        let first = *owners.entry(seen.attempt.token).or_insert(seen);
        let (one, other) = (&first.attempt, &seen.attempt);
        if (&one.task, &one.worker, one.number) != (&other.task, &other.worker, other.number) {
            findings.violation(format!(
                "token {} is task {} at {} in event {} and task {} at {} in event {}",
                other.token, one.task, one.worker, first.index, other.task, other.worker, seen.index
            ));
        }
    }
    findings.count("tokens", owners.len());
    findings.finish("no two attempts had the same token")
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

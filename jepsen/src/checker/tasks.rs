//! Each accepted task ends exactly once, with the result that its input asks for.
//!
//! The checks are kept apart, because each failure means something else: a lost task, a doubled one, a ghost of a refused one, a wrong
//! result, two completions, work after the end, a stale token that was taken, attempts beyond the limit, counts that disagree.

use std::collections::BTreeSet;

use tarn_invariants::tasks::{self as rules, EVERY_TASK_ENDS, NO_TASK_LOST};

use super::completion::{completed_once, nothing_runs_after_the_end, stale_tokens_are_refused, tokens_are_unique};
use super::facts::{Facts, Fate, Submitted, has_ended, result_of};
use super::limits::attempts_are_bounded;
use super::lives::{Lives, one_state_at_a_time};
use super::lost::lost_work_comes_back;
use super::{Check, Findings};
use crate::history::{Event, Kind};

/// Reasons with which the cluster itself ends an attempt: faults may use up a task's attempts this way.
pub const BY_TIME: [&str; 2] = ["LEASE_EXPIRED", "ATTEMPT_TIMEOUT"];

/// All checks on tasks, in the order of how bad a violation is.
pub fn exactly_once(history: &[Event]) -> Vec<Check> {
    let (facts, lives) = (Facts::of(history), Lives::of(history));
    let lives = lives.as_ref();
    vec![
        accepted_tasks_end(&facts),
        accepted_once(&facts),
        refused_are_never_seen(&facts),
        results_are_right(&facts),
        completed_once(&facts, lives),
        nothing_runs_after_the_end(&facts, lives),
        stale_tokens_are_refused(&facts, lives),
        tokens_are_unique(&facts, lives),
        attempts_are_bounded(&facts, lives),
        one_state_at_a_time(&facts, lives),
        lost_work_comes_back(history, &facts, lives),
        counts_agree(&facts),
    ]
}

/// Those of the checks that also hold for tasks which nobody submitted as items, such as those of timers.
pub fn ended_once(history: &[Event]) -> Vec<Check> {
    let (facts, lives) = (Facts::of(history), Lives::of(history));
    let lives = lives.as_ref();
    vec![
        completed_once(&facts, lives),
        nothing_runs_after_the_end(&facts, lives),
        stale_tokens_are_refused(&facts, lives),
        one_state_at_a_time(&facts, lives),
        lost_work_comes_back(history, &facts, lives),
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
            findings.judge(Err(lost), || format!("lost ({part}): item {name}, acknowledged in event {event}"));
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
                findings.violation(format!("item {item} was acknowledged as task {task} and is {}", ids.join(", ")));
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
    for task in facts.finals.values().filter(|task| refused.contains(task.item.as_str())) {
        findings.violation(format!("item {} was refused and is task {}", task.item, task.task));
    }
    for seen in facts.attempts.iter().filter(|seen| refused.contains(seen.attempt.item.as_str())) {
        let attempt = &seen.attempt;
        findings.violation(format!("item {} was refused, and event {} runs it as task {}", attempt.item, seen.index, attempt.task));
    }
    findings.finish("nothing that was refused came into being")
}

/// A task that succeeded has the result of its input, one that was to die is dead with a reason, and one that was not is not, unless faults
/// used up its attempts.
pub fn results_are_right(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("results are right");
    findings.needs("succeeded");
    for task in facts.finals.values().filter(|task| has_ended(&task.state)) {
        let Some(submitted) = facts.submitted.get(&task.item) else {
            continue;
        };
        let item = &submitted.item;
        if task.damaged {
            findings.violation(format!("task {} of item {} has another payload than it was submitted with", task.task, item.name));
        }
        findings.count("large", usize::from(item.padding > 0));
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
                if item.fate == Fate::Final || item.is_exhausted() {
                    findings.violation(format!("task {} of item {} can never succeed, and did", task.task, item.name));
                }
            }
            "dead" => {
                findings.count("dead", 1);
                if task.reason.is_empty() {
                    findings.violation(format!("task {} is dead without a reason", task.task));
                }
                let used_up = task.attempts_begun >= item.max_attempts && BY_TIME.contains(&task.reason.as_str());
                findings.count("dead_by_faults", usize::from(used_up));
                let doomed = matches!(item.fate, Fate::Final | Fate::FinalOnce) || item.is_exhausted();
                let doomed = doomed || !item.after.is_empty();
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

/// The queue's own counts are those of the tasks in it, and so are the lists of each state: no task is in two places or in none, and a
/// query with a filter shows what a full scan shows.
pub fn counts_agree(facts: &Facts<'_>) -> Check {
    let mut findings = Findings::new("counts agree");
    findings.needs("compared");
    let closing = facts.closing.clone().unwrap_or_default();
    if closing.counted.is_none() {
        findings.doubt("the queue's counts were not read");
    }
    let sources = [("the queue counts", closing.counted), ("the list of that state has", closing.filtered)];
    for (source, counts) in sources {
        for (state, counted) in counts.unwrap_or_default() {
            findings.count("compared", 1);
            let listed = facts.finals.values().filter(|task| task.state == state).count() as u64;
            if listed != counted {
                findings.violation(format!("{source} {counted} tasks as {state}, and {listed} are listed in all"));
            }
        }
    }
    findings.finish("counts, filters and the whole list agree")
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;

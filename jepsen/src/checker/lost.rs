//! Work that nobody does any more comes back: a task whose worker was lost, walked away or was cut off is free for others within a bound.
//!
//! The log says when a task was leased and when that lease ended, whatever became of its worker, in the cluster's time. Where no clock was made
//! wrong that time and the harness's differ by a constant, so that both can be set against the faults: a lease must end within its length and a
//! bound after the last sign of its worker, counted in a stretch of time in which the cluster was left alone.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::lives::{Lives, Step};
use super::quiet::{Disturbed, first_clock_fault};
use super::{Check, Findings};
use crate::history::Event;

/// The lease that the workers of the workloads ask for.
pub const LEASE_NS: u64 = 3_000_000_000;
/// How long an attempt may renew its lease: the longest that a worker is at one item, and not silent.
const WORK_NS: u64 = 3_000_000_000;
/// The longest pause before another attempt.
const BACKOFF_NS: u64 = 1_500_000_000;
/// What a cluster that is left alone may need beyond that. Expected are fractions of a second; the machine may be busy.
pub const BOUND_NS: u64 = 10_000_000_000;

/// Each lease ends, by a report or by time, and what is to be tried again is free again, both within the bound.
pub fn lost_work_comes_back(history: &[Event], facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("lost work comes back");
    let Some(lives) = lives else {
        findings.doubt("no watcher saw the whole log");
        return findings.finish("");
    };
    let Some(clocks) = Clocks::of(history, lives) else {
        findings.doubt("there was nothing to look at: the log has no tasks");
        return findings.finish("");
    };
    if first_clock_fault(history).is_none() {
        findings.needs("leases");
    }
    let disturbed = Disturbed::of(history);
    let signs = signs(history, facts);
    for (task, steps) in &lives.of {
        for (at, step) in steps.iter().enumerate() {
            let begun = clocks.harness_ns(step);
            if begun >= clocks.until_ns {
                break;
            }
            let next = steps.get(at + 1).map(|next| (next, clocks.harness_ns(next)));
            let (from, what) = match step.kind() {
                "LEASED" => {
                    // Signs after the end of this attempt are another's.
                    let end = next.map_or(u64::MAX, |(_, at)| at);
                    let signs = signs.get(task.as_str()).map_or(&[][..], Vec::as_slice);
                    let last = signs.iter().rfind(|sign| **sign <= end).copied().unwrap_or(0);
                    (last.max(begun) + LEASE_NS + WORK_NS, "leases")
                }
                "RETRIED" => (begun + BACKOFF_NS, "retries"),
                _ => continue,
            };
            let due = disturbed.end_of_quiet(from, BOUND_NS);
            match next {
                Some((_, ended)) if ended <= due => {
                    findings.count(what, 1);
                    findings.count("expired", usize::from(next.is_some_and(|(next, _)| by_time(next))));
                    findings.at_least("longest_ms", ended.saturating_sub(begun) / 1_000_000);
                }
                // Nobody knows whether it would have ended a little later.
                _ if due >= clocks.until_ns => findings.count("open", 1),
                _ => findings.violation(format!(
                    "task {task}: what {} at revision {} (event {}) began had not ended {:.1} s later, with nothing in its way",
                    step.sight.kind,
                    step.sight.revision,
                    step.index,
                    due.saturating_sub(begun) as f64 / 1e9
                )),
            }
        }
    }
    findings.finish("every lease ended, and what was to be tried again was free again, within the bound")
}

fn by_time(step: &Step) -> bool {
    step.sight.detail == "LEASE_EXPIRED"
}

/// When workers last gave a sign of each task: they begin, or are through. In nanoseconds since the run began, ascending.
fn signs<'a>(history: &[Event], facts: &'a Facts<'_>) -> BTreeMap<&'a str, Vec<u64>> {
    let times: BTreeMap<u64, u64> = history.iter().map(|event| (event.index, event.time_ns)).collect();
    let mut signs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for seen in facts.attempts.iter().chain(&facts.handled) {
        let time = times.get(&seen.index).copied().unwrap_or_default();
        signs.entry(&seen.attempt.task).or_default().push(time);
    }
    signs.values_mut().for_each(|times| times.sort_unstable());
    signs
}

/// What turns the cluster's time into the harness's.
struct Clocks {
    /// What is to be added to nanoseconds of the cluster's time.
    offset_ns: i128,
    /// Until when, by the harness's time, the two agree.
    until_ns: u64,
}

impl Clocks {
    /// Learnt from the quickest way of an event to a client.
    fn of(history: &[Event], lives: &Lives) -> Option<Self> {
        let end = history.last()?.time_ns;
        let until_ns = first_clock_fault(history).unwrap_or(end).min(end);
        let steps = lives.of.values().flatten().filter(|step| step.time_ns <= until_ns);
        let offsets = steps.map(|step| i128::from(step.time_ns) - i128::from(step.sight.at_ms) * 1_000_000);
        Some(Self { offset_ns: offsets.min()?, until_ns })
    }

    fn harness_ns(&self, step: &Step) -> u64 {
        let at = i128::from(step.sight.at_ms) * 1_000_000 + self.offset_ns;
        u64::try_from(at.max(0)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ATTEMPT, FINAL};
    use crate::checker::testing::{Lie, Script, refute, step_at, told, watched};

    fn judged(history: &[Event]) -> Vec<Check> {
        vec![lost_work_comes_back(history, &Facts::of(history), Lives::of(history).as_ref())]
    }

    /// A worker takes a task at 2 s and is never heard of again; the lease ends at 5 s, and another has the task soon after.
    fn good() -> Script {
        let mut script = watched();
        step_at(&mut script, 1_000, "ENQUEUED", 0, "");
        step_at(&mut script, 2_000, "LEASED", 1, "");
        script.info(ATTEMPT, json!({"task": "t", "item": "a", "token": 1, "number": 1}));
        step_at(&mut script, 5_000, "RETRIED", 1, "LEASE_EXPIRED");
        step_at(&mut script, 5_100, "READY", 0, "");
        step_at(&mut script, 5_200, "LEASED", 2, "");
        step_at(&mut script, 5_300, "SUCCEEDED", 2, "");
        script.at_ms(60_000);
        script.info(FINAL, json!({"task": "t", "item": "a", "state": "succeeded"}));
        script
    }

    /// Cuts the history off after this step, and lets time pass.
    fn stuck_after(script: &mut Script, kind: &str) {
        let kind = format!("TASK_{kind}");
        let last = script.events().iter().position(|event| event.value["kind"] == kind).unwrap();
        let mut at = 0;
        script.events_mut().retain(|event| {
            at += 1;
            at <= last + 1 || !event.value["kind"].as_str().is_some_and(|kind| kind.starts_with("TASK_"))
        });
    }

    /// Nothing is left alone from this moment on.
    fn disturbed(script: &mut Script, at_ms: u64, nemesis: &str) {
        script.at_ms(at_ms);
        script.info("fault", json!({"nemesis": nemesis, "number": 1, "moment": "injecting"}));
        script.at_ms(60_000);
    }

    #[test]
    fn a_lost_workers_task_goes_to_others_within_a_bound() {
        assert_eq!(told(judged(good().events()).remove(0)), Outcome::Valid);
        let bad: [Lie; 3] = [
            ("lost work comes back", "the lease never ends", |s| stuck_after(s, "LEASED")),
            ("lost work comes back", "it never becomes ready", |s| stuck_after(s, "RETRIED")),
            ("lost work comes back", "the lease ends late", |s| {
                let expired = s.events_mut().iter_mut().find(|event| event.value["kind"] == "TASK_RETRIED");
                let expired = expired.unwrap();
                expired.value["at_ms"] = json!(1_000_000 + 30_000);
                expired.time_ns = 30_000_000_000;
            }),
        ];
        refute(&good(), &bad, judged);
    }

    #[test]
    fn what_a_fault_holds_up_is_not_held_against_the_cluster() {
        let mut script = good();
        stuck_after(&mut script, "LEASED");
        disturbed(&mut script, 6_000, "kill");
        assert_eq!(told(judged(script.events()).remove(0)), Outcome::Unknown, "nothing was judged");
        let mut script = good();
        stuck_after(&mut script, "LEASED");
        disturbed(&mut script, 1_500, "clock");
        assert_ne!(told(judged(script.events()).remove(0)), Outcome::Invalid);
    }
}

//! The life of each task as the log of events tells it: every change of its state in order, with the moment at which a client first saw it.
//!
//! Workers see their own attempts, and the final read sees the end; the log sees everything, whichever worker did it, with single calls or
//! through the SDK. A life is only told where some watcher saw the whole log.

use std::collections::BTreeMap;

use tarn_invariants::tasks::COMPLETED_ONCE;

use super::facts::{Facts, has_ended};
use super::watch::{SIGHT, Sight, is_whole};
use super::{Check, Findings};
use crate::history::{Event, infos};

/// A change of a task's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the log says.
    pub sight: Sight,
    /// The index of the event with which a client first saw it.
    pub index: u64,
    /// When that was, in nanoseconds since the run began.
    pub time_ns: u64,
}

impl Step {
    /// The kind without the word `TASK_`.
    pub fn kind(&self) -> &str {
        self.sight.kind.trim_start_matches("TASK_")
    }
}

/// The lives of all tasks, by their ids.
#[derive(Debug, Default)]
pub struct Lives {
    /// Each task's steps, in the order of the log.
    pub of: BTreeMap<String, Vec<Step>>,
}

impl Lives {
    /// The lives that a history tells; `None` unless some watcher saw the whole log.
    pub fn of(history: &[Event]) -> Option<Self> {
        if !is_whole(history) {
            return None;
        }
        let mut log: BTreeMap<(u64, u32), Step> = BTreeMap::new();
        for (event, sight) in infos::<Sight>(history, SIGHT) {
            if sight.kind.starts_with("TASK_") {
                let place = (sight.revision, sight.ordinal);
                log.entry(place).or_insert(Step { sight, index: event.index, time_ns: event.time_ns });
            }
        }
        let mut lives = Self::default();
        for step in log.into_values() {
            lives.of.entry(step.sight.subject.clone()).or_default().push(step);
        }
        Some(lives)
    }

    /// The steps of this kind of a task.
    pub fn steps<'a>(&'a self, task: &str, kind: &'a str) -> impl Iterator<Item = &'a Step> {
        let steps = self.of.get(task).map_or(&[][..], Vec::as_slice);
        steps.iter().filter(move |step| step.kind() == kind)
    }
}

/// Where a task stands between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody knows it yet.
    Nowhere,
    /// It waits, blocked, delayed or ready, after so many attempts that count.
    Waits(u32),
    /// This attempt runs.
    Runs(u32),
    Succeeded,
    Dead,
    Cancelled,
    /// It was removed from the dead letters.
    Purged,
}

impl Standing {
    /// Where a step leads from here; `None` where no task may take it.
    fn after(self, kind: &str, attempt: u32) -> Option<Self> {
        Some(match (self, kind) {
            (Self::Nowhere, "ENQUEUED") => Self::Waits(0),
            (Self::Waits(done), "READY") => Self::Waits(done),
            (Self::Waits(done), "LEASED") if attempt == done + 1 => Self::Runs(attempt),
            (Self::Waits(_), "DEAD") => Self::Dead,
            (Self::Waits(_), "CANCELLED") => Self::Cancelled,
            (Self::Runs(number), "CANCEL_REQUESTED") => Self::Runs(number),
            (Self::Runs(number), _) if attempt != number => return None,
            (Self::Runs(number), "RETRIED") => Self::Waits(number),
            // An attempt that was given back does not count.
            (Self::Runs(number), "RETURNED") => Self::Waits(number - 1),
            (Self::Runs(_), "SUCCEEDED") => Self::Succeeded,
            (Self::Runs(_), "DEAD") => Self::Dead,
            (Self::Runs(_), "CANCELLED") => Self::Cancelled,
            // Put back, a task counts its attempts from one again.
            (Self::Dead, "REQUEUED") => Self::Waits(0),
            (Self::Dead, "PURGED") => Self::Purged,
            _ => return None,
        })
    }

    /// In the words of a final read.
    fn name(self) -> &'static str {
        match self {
            Self::Nowhere | Self::Purged => "gone",
            Self::Waits(_) => "waiting",
            Self::Runs(_) => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// At every moment a task is in one state, and goes from each only to those that may follow: it waits, is leased, runs, and ends or waits
/// again; nothing follows its end, unless it was dead and is put back. What the final read finds is where the log leads.
pub fn one_state_at_a_time(facts: &Facts<'_>, lives: Option<&Lives>) -> Check {
    let mut findings = Findings::new("one state at a time").asking(&[COMPLETED_ONCE]);
    let Some(lives) = lives else {
        findings.doubt("no watcher saw the whole log");
        return findings.finish("");
    };
    findings.needs("steps");
    for (task, steps) in &lives.of {
        let mut standing = Standing::Nowhere;
        for step in steps {
            findings.count("steps", 1);
            let Some(next) = standing.after(step.kind(), step.sight.attempt) else {
                findings.violation(format!(
                    "task {task} is {} and then {} with attempt {} at revision {} (event {})",
                    told(standing),
                    step.sight.kind,
                    step.sight.attempt,
                    step.sight.revision,
                    step.index
                ));
                break;
            };
            standing = next;
        }
        let Some(end) = facts.finals.get(task).filter(|end| has_ended(&end.state)) else {
            continue;
        };
        findings.count("ends", 1);
        if end.state != standing.name() {
            findings.violation(format!("task {task} is {} by the log, and the final read says {}", told(standing), end.state));
        }
    }
    for task in facts.finals.keys().filter(|task| !lives.of.contains_key(*task)) {
        findings.violation(format!("task {task} is there at the end, and the log never speaks of it"));
    }
    findings.finish("every task went only from one state to another that may follow, and ended where the log says")
}

fn told(standing: Standing) -> String {
    match standing {
        Standing::Runs(number) => format!("running attempt {number}"),
        Standing::Waits(done) => format!("waiting after {done} attempts"),
        other => other.name().to_owned(),
    }
}

#[cfg(test)]
#[path = "lives_tests.rs"]
mod tests;

//! Timers: never early by the cluster's time nor by that of who asked, once, and never after a cancellation was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tarn_invariants::timers::{self as rules, FIRES_ONCE, NEVER_EARLY};

use super::facts::{ATTEMPT, Facts, Item};
use super::quiet::{AGREED_MS, first_clock_fault};
use super::watch::{SIGHT, Sight, is_whole, log};
use super::{Check, Findings};
use crate::history::{Event, Kind, infos, operations};

/// The operation of scheduling a timer: its value is a [`Plan`], its answer a [`Scheduled`].
pub const SCHEDULE: &str = "schedule";
/// The operation of cancelling one: its value is the timer's id.
pub const CANCEL: &str = "cancel_timer";
/// A timer as it is at the end: a [`TimerAtEnd`].
pub const TIMER: &str = "timer";
/// The reason with which a cancellation is refused because the timer has fired.
const FIRED: &str = "TIMER_FIRED";
/// Two clocks of machines that are set right differ in their rate by less than one part in this many.
const RATES: u64 = 1_000;

/// A timer that is to be scheduled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The item of its task, or the text of its mark: a name that no other has.
    pub name: String,
    /// How long from now, in milliseconds.
    pub delay_ms: u64,
    /// It enqueues a task; otherwise it leaves a mark in the log.
    pub task: bool,
}

/// A timer that was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduled {
    /// The timer's id.
    pub id: String,
    /// When it is due, by the cluster's time.
    pub due_at_ms: u64,
}

/// A timer as it is at the end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimerAtEnd {
    /// The timer's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was due.
    pub due_at_ms: u64,
    /// When it fired; 0 if it has not.
    pub fired_at_ms: u64,
    /// The task that it enqueued.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task: String,
}

/// A timer and all that is known of it.
#[derive(Debug, Default)]
struct Timer {
    plan: Plan,
    accepted: Option<Kind>,
    scheduled: Scheduled,
    cancelled: bool,
    refused_as_fired: bool,
    maybe_cancelled: bool,
    at_end: Vec<TimerAtEnd>,
    fired: Vec<Sight>,
    tasks: BTreeSet<String>,
    /// When the client asked for it, by its own clock: nanoseconds since the run began.
    asked_ns: u64,
    /// When anybody first saw that it had fired, by the same clock, and in which event.
    first_seen: Option<(u64, u64)>,
}

/// All checks on timers.
pub fn punctual(history: &[Event]) -> Vec<Check> {
    let facts = Facts::of(history);
    let timers = timers(history, &facts);
    let whole = is_whole(history);
    vec![
        never_early(&timers, first_clock_fault(history)),
        fire_once(&timers, facts.is_complete(), whole),
        cancelled_never_fire(&timers),
        refused_never_fire(&timers),
    ]
}

fn timers(history: &[Event], facts: &Facts<'_>) -> Vec<Timer> {
    let mut timers: BTreeMap<String, Timer> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for operation in operations(history, SCHEDULE) {
        let plan: Plan = operation.invoke.read().unwrap_or_default();
        let scheduled: Scheduled = operation.answer().unwrap_or_default();
        names.insert(scheduled.id.clone(), plan.name.clone());
        let timer = timers.entry(plan.name.clone()).or_default();
        timer.accepted = Some(operation.outcome());
        timer.asked_ns = operation.invoke.time_ns;
        (timer.plan, timer.scheduled) = (plan, scheduled);
    }
    for (_, at_end) in infos::<TimerAtEnd>(history, TIMER) {
        names.insert(at_end.id.clone(), at_end.name.clone());
        timers.entry(at_end.name.clone()).or_default().at_end.push(at_end);
    }
    for operation in operations(history, CANCEL) {
        let id: String = operation.invoke.read().unwrap_or_default();
        let Some(timer) = names.get(&id).and_then(|name| timers.get_mut(name)) else {
            continue;
        };
        match operation.outcome() {
            Kind::Ok => timer.cancelled = true,
            Kind::Unknown => timer.maybe_cancelled = true,
            _ => timer.refused_as_fired |= operation.reason() == FIRED,
        }
    }
    for sight in log(history).into_values().filter(|sight| sight.kind == FIRED) {
        if let Some(timer) = names.get(&sight.subject).and_then(|name| timers.get_mut(name)) {
            timer.fired.push(sight);
        }
    }
    // Whichever comes first: the event of a watch, or the beginning of its task.
    for event in history.iter().filter(|event| event.kind == Kind::Info) {
        let name = match event.op.as_str() {
            SIGHT => event.read::<Sight>().filter(|sight| sight.kind == FIRED).and_then(|sight| names.get(&sight.subject)),
            ATTEMPT => event.value["item"].as_str().and_then(|item| timers.get_key_value(item)).map(|(name, _)| name),
            _ => None,
        };
        if let Some(timer) = name.cloned().and_then(|name| timers.get_mut(&name)) {
            timer.first_seen.get_or_insert((event.time_ns, event.index));
        }
    }
    for task in facts.finals.values() {
        if let Some(timer) = timers.get_mut(&task.item) {
            timer.tasks.insert(task.task.clone());
        }
    }
    for seen in &facts.attempts {
        if let Some(timer) = timers.get_mut(&seen.attempt.item) {
            timer.tasks.insert(seen.attempt.task.clone());
        }
    }
    timers.into_values().collect()
}

/// The items of timers' tasks, as the workers know them.
pub fn item(plan: &Plan) -> Item {
    Item { name: plan.name.clone(), max_attempts: 50, ..Item::default() }
}

impl Timer {
    fn has_fired(&self) -> bool {
        !self.fired.is_empty() || !self.tasks.is_empty() || self.at_end.iter().any(|timer| timer.fired_at_ms != 0)
    }
}

/// Neither by the cluster's time, which says itself when a timer was due and when it fired, nor by the clock of the client, between asking for the
/// timer and seeing what it did; the latter up to the first clock fault, from which on the cluster's hours are not the client's.
fn never_early(timers: &[Timer], clocks_until: Option<u64>) -> Check {
    let mut findings = Findings::new("timers are never early").asking(&[NEVER_EARLY]);
    findings.needs("fired");
    if clocks_until.is_none() {
        findings.needs("by_own_clock");
    }
    for timer in timers {
        if let Some((seen, event)) = timer.first_seen.filter(|(seen, _)| clocks_until.is_none_or(|until| *seen < until)) {
            findings.count("by_own_clock", 1);
            let (asked_ms, seen_ms) = (timer.asked_ns / 1_000_000, seen / 1_000_000);
            let delay_ms = timer.plan.delay_ms - timer.plan.delay_ms / RATES - AGREED_MS.min(timer.plan.delay_ms);
            findings.judge(rules::never_early(&timer.plan.name, asked_ms + delay_ms, seen_ms), || {
                format!(
                    "by the client's clock: asked for in {} ms, and seen in event {event} after {} ms",
                    timer.plan.delay_ms,
                    seen_ms.saturating_sub(asked_ms)
                )
            });
        }
        let due = timer.at_end.first().map_or(timer.scheduled.due_at_ms, |timer| timer.due_at_ms);
        if timer.accepted == Some(Kind::Ok) && timer.scheduled.due_at_ms != due {
            findings.violation(format!("timer {} was to fire at {}, and is due at {due}", timer.plan.name, timer.scheduled.due_at_ms));
        }
        let ends = timer.at_end.iter().map(|timer| timer.fired_at_ms).filter(|at| *at != 0);
        let times: Vec<u64> = ends.chain(timer.fired.iter().map(|sight| sight.at_ms)).collect();
        for at in times {
            findings.count("fired", 1);
            findings.at_least("latest_ms", at.saturating_sub(due));
            findings.judge(rules::never_early(&timer.plan.name, due, at), || format!("{} ms early", due.saturating_sub(at)));
        }
    }
    findings.finish("no timer fired before it was due")
}

/// Each accepted timer that was not cancelled fires, with its effect once.
fn fire_once(timers: &[Timer], complete: bool, whole: bool) -> Check {
    let mut findings = Findings::new("timers fire once").asking(&[FIRES_ONCE]);
    findings.needs("accepted");
    if !complete {
        findings.doubt("the final state was not read");
    }
    if !whole {
        findings.doubt("no watcher saw the whole log");
    }
    for timer in timers {
        let name = &timer.plan.name;
        let (kept, fired, tasks) = (timer.at_end.len(), timer.fired.len(), timer.tasks.len());
        let effects = kept.max(fired).max(tasks);
        if effects > 1 {
            findings
                .judge(rules::fires_once(name, effects), || format!("it is {kept} timers, fired {fired} times and enqueued {tasks} tasks"));
        }
        if timer.accepted != Some(Kind::Ok) || timer.cancelled || !complete {
            continue;
        }
        findings.count("accepted", 1);
        match timer.at_end.first() {
            None if timer.maybe_cancelled && !timer.has_fired() => {}
            None => findings.judge(rules::fires_once(name, 0), || "it was accepted and is gone".to_owned()),
            Some(at_end) if at_end.fired_at_ms == 0 => findings.doubt(format!("timer {name} has not fired")),
            Some(at_end) => {
                if timer.plan.task && (at_end.task.is_empty() || !timer.tasks.contains(&at_end.task)) {
                    findings.judge(rules::fires_once(name, 0), || format!("it fired, and its task {:?} is gone", at_end.task));
                }
                if whole {
                    findings.judge(rules::fires_once(name, fired), || format!("it fired, and was seen to {fired} times"));
                }
            }
        }
    }
    if timers.is_empty() {
        findings.doubt("there are no timers");
    }
    findings.finish("every timer fired, and took effect once")
}

fn cancelled_never_fire(timers: &[Timer]) -> Check {
    let mut findings = Findings::new("cancelled timers never fire").asking(&[FIRES_ONCE]);
    findings.needs("cancelled");
    for timer in timers {
        findings.count("cancelled", usize::from(timer.cancelled));
        findings.count("too_late", usize::from(timer.refused_as_fired));
        if timer.cancelled {
            let fired = rules::cancelled_never_fires(&timer.plan.name, timer.has_fired());
            findings.judge(fired, || format!("seen {} times in the log", timer.fired.len()));
        }
        if timer.cancelled && !timer.at_end.is_empty() {
            findings.violation(format!("timer {} was cancelled and is still there", timer.plan.name));
        }
        if timer.cancelled && timer.refused_as_fired {
            findings.violation(format!("timer {} was both cancelled and refused as fired", timer.plan.name));
        }
    }
    findings.finish("no timer fired after its cancellation was acknowledged")
}

/// What was refused, or was never asked for, does not fire.
fn refused_never_fire(timers: &[Timer]) -> Check {
    let mut findings = Findings::new("refused timers never fire");
    for timer in timers {
        let exists = timer.has_fired() || !timer.at_end.is_empty();
        match timer.accepted {
            None => findings.violation(format!("timer {:?} was never asked for", timer.at_end)),
            Some(Kind::Fail) if exists => {
                findings.violation(format!("timer {} was refused, and is there", timer.plan.name));
            }
            Some(_) => {}
        }
    }
    findings.finish("nothing fired that was refused")
}

#[cfg(test)]
#[path = "timers_tests.rs"]
mod tests;

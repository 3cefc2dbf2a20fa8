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
            SIGHT => event
                .read::<Sight>()
                .filter(|sight| sight.kind == FIRED)
                .and_then(|sight| names.get(&sight.subject)),
            ATTEMPT => event.value["item"]
                .as_str()
                .and_then(|item| timers.get_key_value(item))
                .map(|(name, _)| name),
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
    Item {
        name: plan.name.clone(),
        max_attempts: 50,
        ..Item::default()
    }
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
        if let Some((seen, event)) = timer
            .first_seen
            .filter(|(seen, _)| clocks_until.is_none_or(|until| *seen < until))
        {
            findings.count("by_own_clock", 1);
            let (asked_ms, seen_ms) = (timer.asked_ns / 1_000_000, seen / 1_000_000);
            let delay_ms = timer.plan.delay_ms - timer.plan.delay_ms / RATES - AGREED_MS.min(timer.plan.delay_ms);
            findings.judge(
                rules::never_early(&timer.plan.name, asked_ms + delay_ms, seen_ms),
                || {
                    format!(
                        "by the client's clock: asked for in {} ms, and seen in event {event} after {} ms",
                        timer.plan.delay_ms,
                        seen_ms.saturating_sub(asked_ms)
                    )
                },
            );
        }
        let due = timer
            .at_end
            .first()
            .map_or(timer.scheduled.due_at_ms, |timer| timer.due_at_ms);
        if timer.accepted == Some(Kind::Ok) && timer.scheduled.due_at_ms != due {
            findings.violation(format!(
                "timer {} was to fire at {}, and is due at {due}",
                timer.plan.name, timer.scheduled.due_at_ms
            ));
        }
        let ends = timer.at_end.iter().map(|timer| timer.fired_at_ms).filter(|at| *at != 0);
        let times: Vec<u64> = ends.chain(timer.fired.iter().map(|sight| sight.at_ms)).collect();
        for at in times {
            findings.count("fired", 1);
            findings.at_least("latest_ms", at.saturating_sub(due));
            findings.judge(rules::never_early(&timer.plan.name, due, at), || {
                format!("{} ms early", due.saturating_sub(at))
            });
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
            findings.judge(rules::fires_once(name, effects), || {
                format!("it is {kept} timers, fired {fired} times and enqueued {tasks} tasks")
            });
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
                    findings.judge(rules::fires_once(name, 0), || {
                        format!("it fired, and its task {:?} is gone", at_end.task)
                    });
                }
                if whole {
                    findings.judge(rules::fires_once(name, fired), || {
                        format!("it fired, and was seen to {fired} times")
                    });
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
            findings.violation(format!(
                "timer {} was both cancelled and refused as fired",
                timer.plan.name
            ));
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ATTEMPT, CLOSING, FINAL};
    use crate::checker::testing::{Lie, Script, refute, worst};
    use crate::checker::watch::{REACHED, SIGHT, STRETCH, Stretch};

    fn judge(script: &Script) -> Outcome {
        worst(punctual(script.events()))
    }

    fn fired(script: &mut Script, revision: u64, id: &str, at_ms: u64) {
        script.info(
            SIGHT,
            json!({"revision": revision, "kind": "TIMER_FIRED", "subject": id, "at_ms": at_ms}),
        );
    }

    fn at_end(script: &mut Script, id: &str, name: &str, fired_at_ms: u64, task: &str) {
        let value = json!({"id": id, "name": name, "due_at_ms": 2_000, "fired_at_ms": fired_at_ms, "task": task});
        script.info(TIMER, value);
    }

    /// One timer with a task, one with a mark, one that is cancelled, one whose cancellation came too late, one that was refused.
    fn good() -> Script {
        let mut script = Script::new("watcher");
        script.info(STRETCH, Stretch::default());
        let due = |id: &str| json!({"id": id, "due_at_ms": 2_000});
        script.ok(SCHEDULE, json!({"name": "a", "task": true}), due("1"));
        script.ok(SCHEDULE, json!({"name": "b"}), due("2"));
        script.ok(SCHEDULE, json!({"name": "c"}), due("3"));
        script.ok(SCHEDULE, json!({"name": "d"}), due("4"));
        script.fail(SCHEDULE, json!({"name": "e"}), "UNAVAILABLE: nothing was done");
        script.unknown(SCHEDULE, json!({"name": "f"}));
        script.ok(CANCEL, "3", Value::Null);
        for (revision, id) in [(10, "1"), (11, "2"), (12, "4")] {
            fired(&mut script, revision, id, 2_005);
        }
        script.fail(CANCEL, "4", "TIMER_FIRED: too late");
        at_end(&mut script, "1", "a", 2_005, "t");
        at_end(&mut script, "2", "b", 2_005, "");
        at_end(&mut script, "4", "d", 2_005, "");
        script.info(FINAL, json!({"task": "t", "item": "a", "state": "succeeded"}));
        script.info(CLOSING, json!({"complete": true}));
        script.info(REACHED, json!({"revision": 20}));
        script
    }

    #[test]
    fn timers_that_keep_their_promise_are_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
    }

    #[test]
    fn every_class_of_broken_promise_is_found() {
        let bad: [Lie; 14] = [
            ("timers are never early", "early", |s| fired(s, 9, "1", 1_999)),
            ("timers are never early", "early at the end", |s| {
                at_end(s, "1", "a", 1_999, "t")
            }),
            ("timers are never early", "due at another time than was said", |s| {
                s.ok(SCHEDULE, json!({"name": "g"}), json!({"id": "9", "due_at_ms": 1_000}));
                at_end(s, "9", "g", 2_005, "");
            }),
            ("timers fire once", "twice", |s| fired(s, 15, "2", 2_100)),
            ("timers fire once", "two tasks", |s| {
                s.info(FINAL, json!({"task": "u", "item": "a", "state": "succeeded"}));
            }),
            ("cancelled timers never fire", "after the cancellation", |s| {
                fired(s, 15, "3", 2_100)
            }),
            ("cancelled timers never fire", "cancelled and still there", |s| {
                at_end(s, "3", "c", 0, "")
            }),
            ("cancelled timers never fire", "cancelled, and refused as fired", |s| {
                s.fail(CANCEL, "3", "TIMER_FIRED: too late");
            }),
            ("refused timers never fire", "a refused one is there", |s| {
                at_end(s, "9", "e", 2_005, "")
            }),
            ("refused timers never fire", "one that nobody asked for", |s| {
                at_end(s, "9", "x", 2_005, "")
            }),
            ("timers fire once", "two of an unknown one", |s| {
                at_end(s, "7", "f", 2_005, "");
                at_end(s, "8", "f", 2_005, "");
            }),
            ("timers fire once", "its task is gone", |s| {
                s.events_mut().retain(|event| event.op != FINAL);
            }),
            ("timers fire once", "never seen in the log", |s| {
                s.events_mut()
                    .retain(|event| !(event.op == SIGHT && event.value["subject"] == "2"));
            }),
            ("timers fire once", "gone", |s| {
                s.events_mut()
                    .retain(|event| !(event.op == TIMER && event.value["name"] == "b"))
            }),
        ];
        refute(&good(), &bad, punctual);
    }

    #[test]
    fn a_timer_that_the_cluster_takes_for_punctual_is_early_by_the_clients_clock() {
        let early = |script: &Script| {
            never_early(
                &timers(script.events(), &Facts::of(script.events())),
                first_clock_fault(script.events()),
            )
        };
        let at = |seen_ms: u64, op: &str| {
            let mut script = good();
            script.at_ms(1_000);
            script.ok(
                SCHEDULE,
                json!({"name": "g", "delay_ms": 500, "task": true}),
                json!({"id": "9", "due_at_ms": 2_000}),
            );
            script.at_ms(seen_ms);
            match op {
                ATTEMPT => {
                    script.info(ATTEMPT, json!({"task": "t9", "item": "g", "token": 9, "number": 1}));
                }
                _ => fired(&mut script, 30, "9", 2_005),
            }
            script
        };
        assert_eq!(early(&at(1_501, SIGHT)).outcome, Outcome::Valid);
        assert_eq!(early(&at(1_390, SIGHT)).outcome, Outcome::Invalid);
        assert_eq!(early(&at(1_390, ATTEMPT)).outcome, Outcome::Invalid);
        let mut clock = Script::new("watcher");
        clock.info("fault", json!({"nemesis": "clock", "number": 1, "moment": "injecting"}));
        clock.events_mut().append(&mut at(1_390, SIGHT).events().to_vec());
        assert_eq!(early(&clock).outcome, Outcome::Valid, "clocks were wrong");
    }

    #[test]
    fn a_timer_that_is_still_pending_proves_nothing() {
        let mut script = good();
        script.ok(SCHEDULE, json!({"name": "g"}), json!({"id": "9", "due_at_ms": 2_000}));
        at_end(&mut script, "9", "g", 0, "");
        assert_eq!(judge(&script), Outcome::Unknown);
    }
}

//! Watches: every watcher sees the same events in the same order, without gap or repeat, across reconnects; what is gone is said to be gone.
//!
//! A watcher's history is cut into *stretches*: one begins where the watcher says after which revision it wants to see events, which it does
//! at the start, each time it begins anew, and after the cluster told it that events are gone. Within a stretch the SDK reconnects by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::{Check, Findings};
use crate::history::{Event, Kind, Operation, infos, operations};

/// A watcher begins a stretch: a [`Stretch`]. The event's key is the watcher's name.
pub const STRETCH: &str = "watch";
/// A watcher saw an event: a [`Sight`]. The event's key is the watcher's name.
pub const SIGHT: &str = "event";
/// A watcher has seen all that there is: a [`Reached`]. The event's key is the watcher's name.
pub const REACHED: &str = "watched";

/// A stretch of watching.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stretch {
    /// Events after this revision are wanted.
    pub after: u64,
    /// The queue to which they are limited; empty: all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue: String,
    /// The cluster has said that earlier events are gone, so this stretch need not join the one before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub compacted: bool,
}

/// An event as a watcher saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sight {
    /// The log index.
    pub revision: u64,
    /// Position within the revision.
    pub ordinal: u32,
    /// The cluster's time.
    pub at_ms: u64,
    /// The kind, such as `TASK_LEASED`.
    pub kind: String,
    /// The queue, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue: String,
    /// What it is about.
    pub subject: String,
    /// The attempt, where there is one.
    pub attempt: u32,
    /// The reason of a failure, the text of a mark.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The end of a watcher's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reached {
    /// Up to this revision it has seen everything.
    pub revision: u64,
}

/// Where an event stands in the log.
type Place = (u64, u32);

/// What one watcher saw.
#[derive(Debug, Default)]
struct Watched {
    stretches: Vec<(Stretch, Vec<(u64, Sight)>)>,
    reached: Option<u64>,
}

/// The events that any watcher saw, in the order of the log.
pub fn log(history: &[Event]) -> BTreeMap<Place, Sight> {
    infos::<Sight>(history, SIGHT)
        .into_iter()
        .map(|(_, sight)| ((sight.revision, sight.ordinal), sight))
        .collect()
}

/// Whether the union of all that watchers saw is the whole log from the first stretch's beginning to where some watcher arrived.
pub fn is_whole(history: &[Event]) -> bool {
    watchers(history).values().any(|watched| {
        watched.reached.is_some()
            && watched
                .stretches
                .iter()
                .all(|(stretch, _)| stretch.queue.is_empty() && !stretch.compacted)
    })
}

/// All checks on watches.
pub fn continuous(history: &[Event]) -> Vec<Check> {
    let watchers = watchers(history);
    let log = log(history);
    vec![
        in_order(&watchers),
        without_gap(&watchers, &log),
        alike(history),
        complete(history, &watchers, &log),
    ]
}

fn watchers(history: &[Event]) -> BTreeMap<String, Watched> {
    let mut watchers: BTreeMap<String, Watched> = BTreeMap::new();
    for event in history.iter().filter(|event| event.kind == Kind::Info) {
        let name = event.key.clone().unwrap_or_default();
        match event.op.as_str() {
            STRETCH => {
                let stretch = event.read().unwrap_or_default();
                watchers.entry(name).or_default().stretches.push((stretch, Vec::new()));
            }
            SIGHT => {
                let watched = watchers.entry(name).or_default();
                if let (Some((_, sights)), Some(sight)) = (watched.stretches.last_mut(), event.read()) {
                    sights.push((event.index, sight));
                }
            }
            REACHED => {
                let reached: Option<Reached> = event.read();
                watchers.entry(name).or_default().reached = reached.map(|reached| reached.revision);
            }
            _ => {}
        }
    }
    watchers
}

/// Within a stretch events come in the order of the log, each once, and none from before the stretch.
fn in_order(watchers: &BTreeMap<String, Watched>) -> Check {
    let mut findings = Findings::new("watches are in order");
    for (name, watched) in watchers {
        for (stretch, sights) in &watched.stretches {
            findings.count("events", sights.len());
            let mut before: Option<(Place, u64)> = None;
            for (index, sight) in sights {
                let place = (sight.revision, sight.ordinal);
                if sight.revision <= stretch.after {
                    findings.violation(format!(
                        "{name} asked for events after revision {} and got {place:?} in event {index}",
                        stretch.after
                    ));
                }
                if let Some((last, at)) = before.filter(|(last, _)| place <= *last) {
                    let what = if place == last { "repeated" } else { "out of order" };
                    findings.violation(format!(
                        "{name}: {place:?} of event {index} is {what} after {last:?} of event {at}"
                    ));
                }
                before = Some((place, *index));
            }
        }
        findings.count("stretches", watched.stretches.len());
        findings.count(
            "compacted",
            watched
                .stretches
                .iter()
                .filter(|(stretch, _)| stretch.compacted)
                .count(),
        );
    }
    findings.count("watchers", watchers.len());
    findings.finish("each watcher saw events in the order of the log, each once")
}

/// A watcher misses nothing that others saw between two of its own events, nor between two stretches that join.
fn without_gap(watchers: &BTreeMap<String, Watched>, log: &BTreeMap<Place, Sight>) -> Check {
    let mut findings = Findings::new("watches have no gap");
    for (name, watched) in watchers {
        for (stretch, sights) in &watched.stretches {
            let seen: BTreeSet<Place> = sights.iter().map(|(_, s)| (s.revision, s.ordinal)).collect();
            let Some(last) = seen.last().copied().filter(|(revision, _)| *revision > stretch.after) else {
                continue;
            };
            let wanted = log
                .range((stretch.after + 1, 0)..=last)
                .filter(|(_, sight)| stretch.queue.is_empty() || sight.queue == stretch.queue);
            for (place, sight) in wanted.filter(|(place, _)| !seen.contains(*place)) {
                findings.violation(format!("{name} missed {place:?}, {} of {}", sight.kind, sight.subject));
            }
        }
    }
    findings.finish("no watcher missed what another saw")
}

/// What stands at one place of the log is the same event to everybody, and the cluster's time does not go back along the log.
fn alike(history: &[Event]) -> Check {
    let mut findings = Findings::new("watches agree");
    let mut first: BTreeMap<Place, (Sight, u64)> = BTreeMap::new();
    for (event, sight) in infos::<Sight>(history, SIGHT) {
        let place = (sight.revision, sight.ordinal);
        let (known, at) = first.entry(place).or_insert_with(|| (sight.clone(), event.index));
        if *known != sight {
            findings.violation(format!(
                "{place:?} is {known:?} in event {at} and {sight:?} in event {}",
                event.index
            ));
        }
    }
    let mut before: Option<(Place, u64)> = None;
    for (place, (sight, _)) in &first {
        if let Some((last, at_ms)) = before.filter(|(_, at_ms)| sight.at_ms < *at_ms) {
            findings.violation(format!(
                "time goes back from {at_ms} at {last:?} to {} at {place:?}",
                sight.at_ms
            ));
        }
        before = Some((*place, sight.at_ms));
    }
    findings.finish("all watchers saw the same log")
}

/// What was acknowledged is in the log, once: each task's beginning, each acquisition of a lease.
fn complete(history: &[Event], watchers: &BTreeMap<String, Watched>, log: &BTreeMap<Place, Sight>) -> Check {
    let mut findings = Findings::new("acknowledged changes are seen");
    for (name, watched) in watchers {
        if watched.reached.is_none() {
            findings.doubt(format!("{name} did not get to the end"));
        }
    }
    if !is_whole(history) {
        findings.doubt("no watcher saw the whole log");
        return findings.finish("");
    }
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for sight in log.values() {
        *seen.entry((sight.kind.as_str(), sight.subject.as_str())).or_default() += 1;
    }
    for submitted in Facts::of(history).submitted.into_values() {
        let Some(task) = submitted.task else { continue };
        findings.count("tasks", 1);
        match seen.get(&("TASK_ENQUEUED", task.as_str())).copied().unwrap_or(0) {
            1 => {}
            times => findings.violation(format!(
                "task {task} was accepted, and its beginning was seen {times} times"
            )),
        }
    }
    let taken = |call: &Operation<'_>| call.outcome() == Kind::Ok;
    let mut acquired: BTreeMap<&str, usize> = BTreeMap::new();
    for call in operations(history, super::register::ACQUIRE).into_iter().filter(taken) {
        *acquired
            .entry(call.invoke.key.as_deref().unwrap_or_default())
            .or_default() += 1;
    }
    for (name, times) in acquired {
        findings.count("leases", times);
        let seen = seen.get(&("LEASE_ACQUIRED", name)).copied().unwrap_or(0);
        if seen < times {
            findings.violation(format!("lease {name} was acquired {times} times, and {seen} were seen"));
        }
    }
    findings.finish("every acknowledged change was seen in the log")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ENQUEUE, Item};
    use crate::checker::testing::{Lie, Script, worst};

    fn sight(revision: u64, ordinal: u32, subject: &str) -> Sight {
        Sight {
            revision,
            ordinal,
            at_ms: 1_000 + revision,
            kind: "TASK_ENQUEUED".to_owned(),
            queue: "q".to_owned(),
            subject: subject.to_owned(),
            ..Sight::default()
        }
    }

    /// Two watchers of three events; the second begins anew in the middle.
    fn good() -> Script {
        let mut script = Script::new("a");
        let item = |name: &str| Item {
            name: name.to_owned(),
            ..Item::default()
        };
        script.ok(ENQUEUE, [item("x"), item("y")], ["t1", "t2"]);
        script.ok(ENQUEUE, [item("z")], ["t3"]);
        script.info(STRETCH, Stretch::default());
        for seen in [sight(3, 0, "t1"), sight(3, 1, "t2"), sight(5, 0, "t3")] {
            script.info(SIGHT, seen);
        }
        script.info(REACHED, Reached { revision: 5 });
        script.key("b");
        script.info(STRETCH, json!({"after": 0, "queue": "q"}));
        script.info(SIGHT, sight(3, 0, "t1"));
        script.info(SIGHT, sight(3, 1, "t2"));
        script.info(STRETCH, json!({"after": 3, "queue": "q"}));
        script.info(SIGHT, sight(5, 0, "t3"));
        script.info(REACHED, Reached { revision: 5 });
        script
    }

    fn judge(script: &Script) -> Outcome {
        worst(continuous(script.events()))
    }

    /// The place in the script of the last event that says this.
    fn last(script: &Script, op: &str) -> usize {
        script
            .events()
            .iter()
            .rposition(|event| event.op == op)
            .expect("there is one")
    }

    #[test]
    fn a_continuous_history_is_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
    }

    #[test]
    fn every_class_of_discontinuity_is_found() {
        let bad: [Lie; 6] = [
            ("gap", |s| {
                let at = s.events().iter().position(|event| event.op == SIGHT).unwrap();
                s.events_mut().remove(at);
            }),
            ("repeat", |s| {
                s.info(SIGHT, sight(5, 0, "t3"));
            }),
            ("reordered", |s| {
                s.info(SIGHT, sight(4, 0, "t9"));
            }),
            ("another event at the same place", |s| {
                let at = last(s, SIGHT);
                s.events_mut()[at].value = json!(sight(5, 0, "t4"));
            }),
            ("before the stretch", |s| {
                s.info(STRETCH, json!({"after": 9}));
                s.info(SIGHT, sight(7, 0, "t9"));
            }),
            ("an accepted task is never seen", |s| {
                s.ok(ENQUEUE, json!([{"name": "w"}]), ["t7"]);
            }),
        ];
        for (what, spoil) in bad {
            let mut script = good();
            spoil(&mut script);
            assert_eq!(judge(&script), Outcome::Invalid, "{what}");
        }
    }

    #[test]
    fn a_watcher_that_did_not_arrive_proves_nothing() {
        let mut script = good();
        let at = last(&script, REACHED);
        script.events_mut().remove(at);
        assert_eq!(judge(&script), Outcome::Unknown);
    }

    #[test]
    fn compaction_that_is_said_is_no_gap() {
        let mut script = good();
        script.key("c");
        script.info(STRETCH, Stretch::default());
        script.info(STRETCH, json!({"after": 4, "compacted": true}));
        script.info(SIGHT, sight(5, 0, "t3"));
        script.info(REACHED, Reached { revision: 5 });
        assert_eq!(judge(&script), Outcome::Valid);
    }
}

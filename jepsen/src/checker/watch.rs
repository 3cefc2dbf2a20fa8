//! Watches: every watcher sees the same events in the same order, without gap or repeat, across reconnects; what is gone is said to be gone.
//!
//! A watcher's history is cut into *stretches*: one begins where the watcher says after which revision it wants to see events, which it does
//! at the start, each time it begins anew, and after the cluster told it that events are gone. Within a stretch the SDK reconnects by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tarn_invariants::watch::{self as rules, CONTINUOUS};

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

/// A place as the invariants have it.
fn standing((revision, ordinal): Place) -> rules::Place {
    rules::Place { revision, ordinal }
}

/// What one watcher saw.
#[derive(Debug, Default)]
struct Watched {
    stretches: Vec<(Stretch, Vec<(u64, Sight)>)>,
    reached: Option<u64>,
}

impl Watched {
    /// The revision up to which a stretch has everything, by what the watcher said afterwards: where it went on, or where it arrived.
    fn through(&self, at: usize) -> Option<u64> {
        match self.stretches.get(at + 1) {
            Some((next, _)) => (!next.compacted).then_some(next.after),
            None => self.reached,
        }
    }
}

/// The events that any watcher saw, in the order of the log.
pub fn log(history: &[Event]) -> BTreeMap<Place, Sight> {
    infos::<Sight>(history, SIGHT).into_iter().map(|(_, sight)| ((sight.revision, sight.ordinal), sight)).collect()
}

/// Whether the union of all that watchers saw is the whole log from the first stretch's beginning to where some watcher arrived.
pub fn is_whole(history: &[Event]) -> bool {
    watchers(history).values().any(|watched| {
        watched.reached.is_some() && watched.stretches.iter().all(|(stretch, _)| stretch.queue.is_empty() && !stretch.compacted)
    })
}

/// All checks on watches.
pub fn continuous(history: &[Event]) -> Vec<Check> {
    let watchers = watchers(history);
    let log = log(history);
    vec![in_order(&watchers), without_gap(&watchers, &log), alike(history), complete(history, &watchers, &log)]
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
    let mut findings = Findings::new("watches are in order").asking(&[CONTINUOUS]);
    findings.needs("events");
    for (name, watched) in watchers {
        for (stretch, sights) in &watched.stretches {
            findings.count("events", sights.len());
            // All watchers are limited to a namespace, so that places may be left out.
            let mut before: Option<rules::Place> = None;
            for (index, sight) in sights {
                let place = standing((sight.revision, sight.ordinal));
                findings.judge(rules::after(stretch.after, place), || format!("{name}, event {index}"));
                findings.judge(rules::ordered(before, place), || format!("{name}, event {index}"));
                before = Some(place);
            }
        }
        findings.count("stretches", watched.stretches.len());
        findings.count("compacted", watched.stretches.iter().filter(|(stretch, _)| stretch.compacted).count());
    }
    findings.count("watchers", watchers.len());
    findings.finish("each watcher saw events in the order of the log, each once")
}

/// A watcher misses nothing that others saw: between two of its own events, before the place from which its next stretch goes on, and before
/// the revision at which it arrived.
fn without_gap(watchers: &BTreeMap<String, Watched>, log: &BTreeMap<Place, Sight>) -> Check {
    let mut findings = Findings::new("watches have no gap").asking(&[CONTINUOUS]);
    findings.needs("compared");
    for (name, watched) in watchers {
        for (at, (stretch, sights)) in watched.stretches.iter().enumerate() {
            let seen: BTreeSet<Place> = sights.iter().map(|(_, s)| (s.revision, s.ordinal)).collect();
            let last = seen.last().copied().max(watched.through(at).map(|revision| (revision, u32::MAX)));
            let Some(last) = last.filter(|(revision, _)| *revision > stretch.after) else {
                continue;
            };
            let wanted: Vec<rules::Place> = log
                .range((stretch.after + 1, 0)..=last)
                .filter(|(_, sight)| stretch.queue.is_empty() || sight.queue == stretch.queue)
                .map(|(place, _)| standing(*place))
                .collect();
            let seen: Vec<rules::Place> = seen.into_iter().filter(|(revision, _)| *revision > stretch.after).map(standing).collect();
            findings.count("compared", wanted.len());
            findings.judge(rules::complete(stretch.after, &seen, &wanted), || {
                format!("{name}, which saw {} of {} events of a stretch", seen.len(), wanted.len())
            });
        }
    }
    findings.finish("no watcher missed what another saw")
}

/// What stands at one place of the log is the same event to everybody, and the cluster's time does not go back along the log.
fn alike(history: &[Event]) -> Check {
    let mut findings = Findings::new("watches agree");
    findings.needs("compared");
    let mut first: BTreeMap<Place, (Sight, u64)> = BTreeMap::new();
    for (event, sight) in infos::<Sight>(history, SIGHT) {
        let place = (sight.revision, sight.ordinal);
        let (known, at) = &*first.entry(place).or_insert_with(|| (sight.clone(), event.index));
        findings.count("compared", usize::from(*at != event.index));
        if *known != sight {
            findings.violation(format!("{place:?} is {known:?} in event {at} and {sight:?} in event {}", event.index));
        }
    }
    let mut before: Option<(Place, u64)> = None;
    for (place, (sight, _)) in &first {
        if let Some((last, at_ms)) = before.filter(|(_, at_ms)| sight.at_ms < *at_ms) {
            findings.violation(format!("time goes back from {at_ms} at {last:?} to {} at {place:?}", sight.at_ms));
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
    findings.needs("tasks");
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for sight in log.values() {
        *seen.entry((sight.kind.as_str(), sight.subject.as_str())).or_default() += 1;
    }
    for submitted in Facts::of(history).submitted.into_values() {
        let Some(task) = submitted.task else { continue };
        findings.count("tasks", 1);
        match seen.get(&("TASK_ENQUEUED", task.as_str())).copied().unwrap_or(0) {
            1 => {}
            times => findings.violation(format!("task {task} was accepted, and its beginning was seen {times} times")),
        }
    }
    let taken = |call: &Operation<'_>| call.outcome() == Kind::Ok;
    let mut acquired: BTreeMap<&str, usize> = BTreeMap::new();
    for call in operations(history, super::register::ACQUIRE).into_iter().filter(taken) {
        *acquired.entry(call.invoke.key.as_deref().unwrap_or_default()).or_default() += 1;
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
#[path = "watch_tests.rs"]
mod tests;

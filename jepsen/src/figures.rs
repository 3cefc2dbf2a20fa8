//! What a run's history says in figures: how operations ended, how long nothing was served, how soon after a fault something was again.
//!
//! Figures never decide a verdict. They are taken from the history alone, so that they can be taken again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::faults::{self, Fault, Phase};
use crate::history::{Event, Kind, Process};

/// A client that was answered fewer times than this in a whole run is left out where the figure is about every client: some clients only
/// watch or wait.
const REGULAR: usize = 5;

/// How operations ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answered by the cluster.
    pub ok: u64,
    /// Certainly without effect.
    pub fail: u64,
    /// Without an answer.
    pub unknown: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Ok => self.ok += 1,
            Kind::Fail => self.fail += 1,
            Kind::Unknown => self.unknown += 1,
            Kind::Invoke | Kind::Info => {}
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.ok + self.fail + self.unknown
    }
}

/// How times are spread, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// Half of them are at most this.
    pub median_ms: f64,
    /// 99 in 100 are at most this.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Spread {
    /// The spread of these times, given in nanoseconds.
    pub fn of(mut times_ns: Vec<u64>) -> Self {
        times_ns.sort_unstable();
        Self {
            count: times_ns.len() as u64,
            median_ms: millis(quantile(&times_ns, 0.5)),
            p99_ms: millis(quantile(&times_ns, 0.99)),
            max_ms: millis(quantile(&times_ns, 1.0)),
        }
    }
}

/// The smallest of the sorted values that is at least as large as this share of them; 0 where there are none.
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// Nanoseconds as milliseconds, rounded to a hundredth.
pub fn millis(ns: u64) -> f64 {
    (ns as f64 / 1e4).round() / 100.0
}

/// What followed the faults of one nemesis.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// How many faults were made.
    pub made: u64,
    /// How many could not be made, or only in part, or found nobody to hit.
    pub not_made: u64,
    /// From a fault to the first answer to an operation that a client began after it.
    pub after_fault: Spread,
    /// From a healing to the first answer to an operation that a client began after it.
    pub after_healing: Spread,
    /// From a healing until every client has had such an answer, those that speak to one node alone included. Measured where no other fault
    /// came between.
    pub everyone: Spread,
}

/// The longest time in which no operation was answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// How long it was.
    pub ms: f64,
    /// When it began, in seconds since clients began to work.
    pub from_s: f64,
    /// The nemeses whose faults lie in it.
    pub during: Vec<String>,
}

/// The figures of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How long clients worked.
    pub seconds: f64,
    /// How operations ended, all together.
    pub operations: Tally,
    /// How operations ended, by name.
    pub by_operation: BTreeMap<String, Tally>,
    /// How long the cluster took to answer, by the operation's name.
    pub latency: BTreeMap<String, Spread>,
    /// How often operations failed or stayed unknown, by their name and the reason at the start of their error.
    pub reasons: BTreeMap<String, u64>,
    /// What followed the faults, by nemesis.
    pub faults: BTreeMap<String, Recovery>,
    /// The longest time in which no operation was answered.
    pub longest_gap: Gap,
}

/// One operation of a client, as the figures and the report need it.
#[derive(Debug, Clone, Copy)]
pub struct Done<'a> {
    /// Its name.
    pub op: &'a str,
    /// Whose it is.
    pub client: u32,
    /// When it was begun.
    pub begun_ns: u64,
    /// When it ended; when the history ends, for one that did not.
    pub ended_ns: u64,
    /// How it ended.
    pub kind: Kind,
    /// The reason at the start of its error. Empty where it has none.
    pub reason: &'a str,
}

/// All operations of the clients, in the order of their ends. One without an end is unknown at the end of the history.
pub fn done(history: &[Event]) -> Vec<Done<'_>> {
    let mut open: BTreeMap<u64, &Event> = BTreeMap::new();
    let mut all = Vec::new();
    let last = history.last().map_or(0, |event| event.time_ns);
    for event in history {
        match (event.kind, event.process) {
            (Kind::Invoke, Process::Client(_)) => {
                open.insert(event.index, event);
            }
            (kind @ (Kind::Ok | Kind::Fail | Kind::Unknown), _) => {
                if let Some(invoke) = event.of.and_then(|of| open.remove(&of)) {
                    all.extend(pair(invoke, event.time_ns, kind, event.reason()));
                }
            }
            _ => {}
        }
    }
    all.extend(open.values().filter_map(|invoke| pair(invoke, last, Kind::Unknown, "")));
    all
}

fn pair<'a>(invoke: &'a Event, ended_ns: u64, kind: Kind, reason: &'a str) -> Option<Done<'a>> {
    let Process::Client(client) = invoke.process else {
        return None;
    };
    Some(Done { op: &invoke.op, client, begun_ns: invoke.time_ns, ended_ns, kind, reason })
}

/// Takes the figures of a history.
pub fn of(history: &[Event]) -> Figures {
    let operations = done(history);
    let faults = faults::faults(history);
    let last = history.last().map_or(0, |event| event.time_ns);
    let from = faults::phase(history, Phase::Work).unwrap_or(0);
    // From here on fewer and fewer clients work, and what they do not do is nobody's failure.
    let to = faults::phase(history, Phase::Stop).unwrap_or(last).max(from);
    let mut figures = Figures {
        seconds: (to - from) as f64 / 1e9,
        longest_gap: longest_gap(&operations, &faults, from, to),
        faults: recoveries(&operations, &faults, to),
        ..Figures::default()
    };
    let mut latencies: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for operation in &operations {
        figures.operations.add(operation.kind);
        figures.by_operation.entry(operation.op.to_owned()).or_default().add(operation.kind);
        if operation.kind == Kind::Ok {
            let times = latencies.entry(operation.op.to_owned()).or_default();
            times.push(operation.ended_ns - operation.begun_ns);
        } else {
            let reason = format!("{}: {}", operation.op, operation.reason);
            *figures.reasons.entry(reason).or_default() += 1;
        }
    }
    figures.latency = latencies.into_iter().map(|(op, times)| (op, Spread::of(times))).collect();
    figures
}

fn longest_gap(operations: &[Done<'_>], faults: &[Fault], from: u64, to: u64) -> Gap {
    let answers = operations
        .iter()
        .filter(|operation| operation.kind == Kind::Ok && (from..to).contains(&operation.ended_ns))
        .map(|operation| operation.ended_ns);
    let (mut before, mut longest) = (from, (from, from));
    for answer in answers.chain([to]) {
        if answer - before > longest.1 - longest.0 {
            longest = (before, answer);
        }
        before = answer;
    }
    let (begin, end) = longest;
    let mut during: Vec<String> = faults
        .iter()
        .filter(|fault| fault.harmed() && fault.begun_ns < end && fault.over_ns(to) > begin)
        .map(|fault| fault.nemesis.clone())
        .collect();
    during.sort();
    during.dedup();
    Gap { ms: millis(end - begin), from_s: (begin - from) as f64 / 1e9, during }
}

fn recoveries(operations: &[Done<'_>], faults: &[Fault], end: u64) -> BTreeMap<String, Recovery> {
    #[derive(Default)]
    struct Times {
        made: u64,
        not_made: u64,
        after_fault: Vec<u64>,
        after_healing: Vec<u64>,
        everyone: Vec<u64>,
    }
    let answers = Answers::of(operations);
    let mut times: BTreeMap<&str, Times> = BTreeMap::new();
    for fault in faults {
        let times = times.entry(&fault.nemesis).or_default();
        match fault.made_ns {
            Some(made) => {
                times.made += 1;
                times.after_fault.extend(answers.after(made).map(|answer| answer - made));
            }
            None => times.not_made += 1,
        }
        if !fault.harmed() {
            continue;
        }
        let Some(healed) = fault.healed_ns else { continue };
        let next = faults.iter().filter(|other| other.harmed() && other.begun_ns > healed).map(|other| other.begun_ns).min().unwrap_or(end);
        let others = faults.iter().any(|other| other.harmed() && other != fault && other.begun_ns < healed && other.over_ns(end) > healed);
        times.after_healing.extend(answers.after(healed).map(|answer| answer - healed));
        let everyone = answers.everyone_after(healed).filter(|answer| *answer < next && !others);
        times.everyone.extend(everyone.map(|answer| answer - healed));
    }
    times
        .into_iter()
        .map(|(nemesis, times)| {
            let recovery = Recovery {
                made: times.made,
                not_made: times.not_made,
                after_fault: Spread::of(times.after_fault),
                after_healing: Spread::of(times.after_healing),
                everyone: Spread::of(times.everyone),
            };
            (nemesis.to_owned(), recovery)
        })
        .collect()
}

/// Answered operations, ordered so that the first answer to those begun after a moment is found by bisection.
struct Answers {
    all: Sorted,
    clients: Vec<Sorted>,
}

/// Pairs of beginning and the earliest end of those that begin then or later, by beginning.
struct Sorted(Vec<(u64, u64)>);

impl Answers {
    fn of(operations: &[Done<'_>]) -> Self {
        let mut all = Vec::new();
        let mut clients: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for operation in operations.iter().filter(|operation| operation.kind == Kind::Ok) {
            all.push((operation.begun_ns, operation.ended_ns));
            let client = clients.entry(operation.client).or_default();
            client.push((operation.begun_ns, operation.ended_ns));
        }
        Self { all: Sorted::of(all), clients: clients.into_values().filter(|answers| answers.len() >= REGULAR).map(Sorted::of).collect() }
    }

    fn after(&self, moment: u64) -> Option<u64> {
        self.all.after(moment)
    }

    fn everyone_after(&self, moment: u64) -> Option<u64> {
        let answers: Option<Vec<u64>> = self.clients.iter().map(|client| client.after(moment)).collect();
        answers?.into_iter().max()
    }
}

impl Sorted {
    fn of(mut pairs: Vec<(u64, u64)>) -> Self {
        pairs.sort_unstable();
        let mut earliest = u64::MAX;
        for pair in pairs.iter_mut().rev() {
            earliest = earliest.min(pair.1);
            pair.1 = earliest;
        }
        Self(pairs)
    }

    fn after(&self, moment: u64) -> Option<u64> {
        let at = self.0.partition_point(|(begun, _)| *begun < moment);
        self.0.get(at).map(|(_, ended)| *ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(client: u32, begun_ns: u64, ended_ns: u64) -> Done<'static> {
        Done { op: "put", client, begun_ns, ended_ns, kind: Kind::Ok, reason: "" }
    }

    fn fault(nemesis: &str, begun_ns: u64, healed_ns: u64) -> Fault {
        Fault {
            nemesis: nemesis.into(),
            begun_ns,
            made_ns: Some(begun_ns + 1),
            healing_ns: Some(healed_ns - 1),
            healed_ns: Some(healed_ns),
            what: serde_json::Value::Null,
            error: None,
        }
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)), (50, 99, 100));
        assert_eq!((quantile(&[7], 0.5), quantile(&[], 0.5)), (7, 0));
    }

    #[test]
    fn an_operation_begun_before_the_fault_proves_no_recovery() {
        let millisecond = 1_000_000;
        let at = |ms: u64| ms * millisecond;
        // Ends after the fault, but was begun before it; the first one begun after it ends 40 ms after it.
        let operations = [answered(0, at(90), at(110)), answered(0, at(120), at(140) + 1)];
        let recovery = &recoveries(&operations, &[fault("kill", at(100), at(200))], at(300))["kill"];
        assert_eq!(recovery.made, 1);
        assert_eq!(recovery.after_fault.max_ms, 40.0);
        assert_eq!(recovery.after_healing.count, 0);
    }

    #[test]
    fn everyone_is_the_slowest_client_and_not_measured_across_the_next_fault() {
        let at = |ms: u64| ms * 1_000_000;
        let mut operations: Vec<Done<'_>> = (0..10).map(|n| answered(0, at(200 + n * 10), at(205 + n * 10))).collect();
        operations.extend((0..10).map(|n| answered(1, at(230 + n * 10), at(239 + n * 10))));
        let alone = recoveries(&operations, &[fault("pause", at(100), at(200))], at(400));
        assert_eq!(alone["pause"].after_healing.max_ms, 5.0);
        assert_eq!(alone["pause"].everyone.max_ms, 39.0);
        let next = [fault("pause", at(100), at(200)), fault("kill", at(220), at(300))];
        assert_eq!(recoveries(&operations, &next, at(400))["pause"].everyone.count, 0);
    }

    #[test]
    fn what_hit_nobody_is_no_fault() {
        let at = |ms: u64| ms * 1_000_000;
        let operations: Vec<Done<'_>> = (0..10).map(|n| answered(0, at(200 + n), at(201 + n))).collect();
        let nobody = Fault { made_ns: None, ..fault("pause", at(100), at(150)) };
        let failed = Fault { error: Some("no such library".to_owned()), ..nobody.clone() };
        let recovery = &recoveries(&operations, std::slice::from_ref(&nobody), at(400))["pause"];
        assert_eq!((recovery.made, recovery.not_made, recovery.after_healing.count), (0, 1, 0));
        let recovery = &recoveries(&operations, &[failed], at(400))["pause"];
        assert_eq!((recovery.made, recovery.not_made, recovery.after_healing.count), (0, 1, 1));
        assert!(longest_gap(&operations, &[nobody], 0, at(400)).during.is_empty());
    }

    #[test]
    fn the_longest_gap_counts_from_the_first_moment_to_the_last() {
        let at = |ms: u64| ms * 1_000_000;
        let operations = [answered(0, at(10), at(30)), answered(0, at(30), at(40))];
        let gap = longest_gap(&operations, &[fault("kill", at(50), at(60)), fault("cut", at(1), at(20))], 0, at(100));
        assert_eq!((gap.ms, gap.from_s, gap.during), (60.0, 0.04, vec!["kill".to_owned()]));
        assert_eq!(longest_gap(&[], &[], at(5), at(10)).ms, 5.0);
    }
}

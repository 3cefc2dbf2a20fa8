//! How long artifacts ran and how often they failed, by runtime and by node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::estimate::Expectation;
use crate::{Estimate, Tuning};

/// Rows that are kept unless said otherwise: some 15 MB.
pub const HISTORY_ROWS: usize = 1 << 16;
/// An average leans on about this many of the latest attempts.
pub(crate) const WINDOW: u64 = 16;
/// Run times are kept in 1024ths of a millisecond, so that rounding does not hold an average back.
const FRACTION_BITS: u32 = 10;
/// No attempt counts as longer than thirty days.
const RUN_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;
const MILLION: u64 = 1_000_000;
/// How many attempts the average over all nodes is worth next to that of one node.
pub(crate) const SHARED_RUNS: u64 = 4;
/// Attempts of an artifact after which its average is good enough to compare a node with.
const PACE_RUNS_MIN: u64 = 3;
/// No node is taken to be more than ten times as fast as the average,
const PACE_MIN: u64 = 100;
/// or as slow.
const PACE_MAX: u64 = 10_000;
pub(crate) const THOUSAND: u64 = 1_000;
/// One attempt that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// As in [`Task::artifact`](crate::Task::artifact).
    pub artifact: &'a str,
    /// On which it ran.
    pub runtime: &'a str,
    /// On which it ran.
    pub node: &'a str,
    /// From its start to its end, in milliseconds. Only that of a success is learned from: a failure may end at once.
    pub run_ms: u64,
    /// Whether it succeeded. Attempts that were cancelled or given back say nothing and are not recorded.
    pub succeeded: bool,
}

/// One line of a [`History`], for keeping it over a restart: of an artifact on a runtime over all nodes, of the same on one node, or of all
/// artifacts on a runtime on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// As in [`Finished`]. None: all; then the record's run time is the node's pace in thousandths, again in 1024ths: 2,000 where things
    /// take twice as long as they do on average.
    pub artifact: Option<String>,
    /// As in [`Finished`].
    pub runtime: String,
    /// Empty: over all nodes.
    pub node: String,
    /// The numbers.
    pub record: Record,
}

/// Moving averages over attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Successes so far.
    pub runs: u64,
    /// Their average run time, in 1024ths of a millisecond.
    pub run_ms_q10: u64,
    /// Attempts so far.
    pub attempts: u64,
    /// The share that succeeded, in millionths.
    pub success_ppm: u64,
}

impl Record {
    fn add(&mut self, run_ms: u64, succeeded: bool) {
        self.attempts = self.attempts.saturating_add(1);
        let ppm = if succeeded { MILLION } else { 0 };
        self.success_ppm = towards(self.success_ppm, ppm, self.attempts);
        if succeeded {
            self.runs = self.runs.saturating_add(1);
            let run_q10 = run_ms.min(RUN_MS_MAX) << FRACTION_BITS;
            self.run_ms_q10 = towards(self.run_ms_q10, run_q10, self.runs);
        }
    }

    pub(crate) fn run_ms(&self) -> u64 {
        self.run_ms_q10.min(RUN_MS_MAX << FRACTION_BITS) >> FRACTION_BITS
    }
}

/// The plain average of the first values, then an exponentially weighted one.
fn towards(average: u64, value: u64, count: u64) -> u64 {
    let step = value.abs_diff(average) / count.clamp(1, WINDOW);
    if value > average { average + step } else { average - step }
}

type Key = (Option<String>, String, String);

/// What was learned from attempts. It is bounded: what was not added to for longest is forgotten first.
///
/// What it expects leans on the prior while it knows little: the average over all nodes counts as many attempts as there were, up to
/// sixteen, and the prior as two. For a node this is scaled by its pace, which is learned from all artifacts that ran there, and counts as
/// four attempts next to what the artifact itself did there.
#[derive(Debug, Clone)]
pub struct History {
    rows: BTreeMap<Key, (u64, Record)>,
    /// Keys by when they were added to last.
    oldest: BTreeMap<u64, Key>,
    next: u64,
    capacity: usize,
}

impl Default for History {
    fn default() -> Self {
        Self::new(HISTORY_ROWS)
    }
}

impl History {
    /// With room for so many rows; at least two, which one attempt takes.
    pub fn new(capacity: usize) -> Self {
        Self { rows: BTreeMap::new(), oldest: BTreeMap::new(), next: 0, capacity: capacity.max(2) }
    }

    /// Learns from an attempt.
    pub fn record(&mut self, finished: Finished<'_>) {
        self.record_pace(finished);
        for node in [finished.node, ""] {
            let key = (Some(finished.artifact.into()), finished.runtime.into(), node.into());
            self.add(key, finished.run_ms, finished.succeeded);
            if finished.node.is_empty() {
                break;
            }
        }
    }

    /// How the attempt compares with the artifact's average, once there is one to speak of.
    fn record_pace(&mut self, finished: Finished<'_>) {
        let key = (Some(finished.artifact.into()), finished.runtime.into(), String::new());
        let usual = self.rows.get(&key).filter(|(_, record)| record.runs >= PACE_RUNS_MIN);
        let usual_ms = usual.map_or(0, |(_, record)| record.run_ms());
        if finished.succeeded && usual_ms > 0 && !finished.node.is_empty() {
            let pace = finished.run_ms.min(RUN_MS_MAX) * THOUSAND / usual_ms;
            let key = (None, finished.runtime.into(), finished.node.into());
            self.add(key, pace.clamp(PACE_MIN, PACE_MAX), true);
        }
    }

    fn add(&mut self, key: Key, run_ms: u64, succeeded: bool) {
        let mut record = self.rows.get(&key).map_or(Record::default(), |(_, record)| *record);
        record.add(run_ms, succeeded);
        self.put(key, record);
    }

    /// How long things take on a node next to the average, in thousandths.
    pub(crate) fn pace(&self, runtime: &str, node: &str) -> u64 {
        let key = (None, runtime.to_owned(), node.to_owned());
        self.rows.get(&key).map_or(THOUSAND, |(_, record)| {
            let runs = record.runs.min(WINDOW);
            (THOUSAND * SHARED_RUNS + record.run_ms().clamp(PACE_MIN, PACE_MAX) * runs) / (SHARED_RUNS + runs)
        })
    }

    /// Everything, the longest untouched first: given back to [`History::restore`] in this order, nothing is lost.
    pub fn rows(&self) -> impl Iterator<Item = HistoryRow> + '_ {
        self.oldest.values().filter_map(|key| {
            let (_, record) = self.rows.get(key)?;
            Some(HistoryRow { artifact: key.0.clone(), runtime: key.1.clone(), node: key.2.clone(), record: *record })
        })
    }

    /// Takes rows that [`History::rows`] gave.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = HistoryRow>) {
        for row in rows {
            let mut record = row.record;
            record.success_ppm = record.success_ppm.min(MILLION);
            record.run_ms_q10 = record.run_ms_q10.min(RUN_MS_MAX << FRACTION_BITS);
            self.put((row.artifact, row.runtime, row.node), record);
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was learned yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What to expect of an artifact on a runtime, on a node.
    pub fn expect(&self, artifact: &str, runtime: &str, node: &str, tuning: &Tuning) -> Estimate {
        let (general, by_node) = self.on_runtime(artifact, runtime, tuning);
        general.on(self.pace(runtime, node), by_node.get(node).copied()).estimate()
    }

    /// What to expect over all nodes, and what is known of each.
    pub(crate) fn on_runtime(&self, artifact: &str, runtime: &str, tuning: &Tuning) -> (Expectation, BTreeMap<&str, Record>) {
        let mut general = self.prior(artifact, runtime, tuning);
        let mut by_node = BTreeMap::new();
        let from = (Some(artifact.to_owned()), runtime.to_owned(), String::new());
        for ((_, _, node), (_, record)) in
            self.rows.range(from..).take_while(|((a, r, _), _)| a.as_deref() == Some(artifact) && r == runtime)
        {
            if node.is_empty() {
                general = general.general(record);
            } else {
                by_node.insert(node.as_str(), *record);
            }
        }
        (general, by_node)
    }

    /// What to expect where the artifact was not seen on this runtime: what it did on the one where it was seen most, scaled by how the
    /// priors of the two relate; the runtime's own prior if it was seen nowhere.
    fn prior(&self, artifact: &str, runtime: &str, tuning: &Tuning) -> Expectation {
        let prior_ms = tuning.prior_ms(runtime);
        let mut seen_most: Option<(&str, &Record)> = None;
        let from = (Some(artifact.to_owned()), String::new(), String::new());
        for ((_, other, node), (_, record)) in self.rows.range(from..).take_while(|((a, _, _), _)| a.as_deref() == Some(artifact)) {
            let more = seen_most.is_none_or(|(_, most)| record.runs > most.runs);
            if node.is_empty() && other != runtime && record.runs > 0 && more {
                seen_most = Some((other, record));
            }
        }
        let run_ms = match seen_most {
            Some((other, record)) => {
                let scaled = u128::from(record.run_ms()) * u128::from(prior_ms) / u128::from(tuning.prior_ms(other));
                u64::try_from(scaled).unwrap_or(RUN_MS_MAX).min(RUN_MS_MAX)
            }
            None => prior_ms,
        };
        Expectation::prior(run_ms)
    }

    fn put(&mut self, key: Key, record: Record) {
        self.next += 1;
        if let Some((before, _)) = self.rows.insert(key.clone(), (self.next, record)) {
            self.oldest.remove(&before);
        }
        self.oldest.insert(self.next, key);
        while self.rows.len() > self.capacity {
            let Some((_, key)) = self.oldest.pop_first() else { break };
            self.rows.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(runtime: &'static str, node: &'static str, run_ms: u64) -> Finished<'static> {
        Finished { artifact: "a", runtime, node, run_ms, succeeded: true }
    }

    #[test]
    fn nothing_known_gives_the_prior() {
        let tuning = Tuning::default();
        let expected = History::default().expect("a", "wasm", "n1", &tuning);
        assert_eq!((expected.run_ms, expected.success), (1500, 950));
        assert_eq!(History::default().expect("a", "odd", "n1", &tuning).run_ms, 1000);
    }

    #[test]
    fn many_attempts_outweigh_the_prior_and_late_ones_outweigh_early_ones() {
        let tuning = Tuning::default();
        let mut history = History::default();
        for _ in 0..100 {
            history.record(ran("wasm", "n1", 100));
        }
        // (2 × 1500 + 16 × 100) / 18 for all nodes, and then (4 × that + 16 × 100) / 20 on the node.
        assert_eq!(history.expect("a", "wasm", "n2", &tuning).run_ms, 255);
        assert_eq!(history.expect("a", "wasm", "n1", &tuning).run_ms, 131);
        for _ in 0..100 {
            history.record(ran("wasm", "n1", 900));
        }
        let expected = history.expect("a", "wasm", "n1", &tuning).run_ms;
        assert!((890..=920).contains(&expected), "{expected}");
    }

    #[test]
    fn an_artifact_takes_its_pace_along_to_a_runtime_where_it_was_not_seen() {
        let tuning = Tuning::default();
        let mut history = History::default();
        history.record(ran("wasm", "n1", 60_000));
        assert_eq!(history.expect("a", "native", "n1", &tuning).run_ms, 40_000);
        assert_eq!(history.expect("b", "native", "n1", &tuning).run_ms, 1_000);
    }

    #[test]
    fn a_node_that_is_slow_for_one_artifact_is_slow_for_the_next() {
        let tuning = Tuning::default();
        let mut history = History::default();
        for _ in 0..10 {
            history.record(ran("wasm", "quick", 500));
            history.record(ran("wasm", "slow", 1_500));
        }
        let other = |node| history.expect("b", "wasm", node, &tuning).run_ms;
        assert!(other("slow") > 1_800 && other("quick") < 1_000, "{} {}", other("slow"), other("quick"));
        assert_eq!(other("new"), 1_500);
    }

    #[test]
    fn failures_lower_the_success_and_leave_the_run_time() {
        let tuning = Tuning::default();
        let mut history = History::default();
        history.record(ran("wasm", "n1", 1500));
        for _ in 0..50 {
            history.record(Finished { succeeded: false, run_ms: 1, ..ran("wasm", "n1", 0) });
        }
        let expected = history.expect("a", "wasm", "n1", &tuning);
        assert_eq!(expected.run_ms, 1500);
        assert!(expected.success < 200, "{}", expected.success);
    }

    #[test]
    fn what_was_untouched_for_longest_is_forgotten_first_and_rows_come_back() {
        let tuning = Tuning::default();
        let mut history = History::new(4);
        history.record(ran("wasm", "n1", 10));
        history.record(ran("wasm", "n2", 20));
        history.record(ran("native", "n1", 30));
        assert_eq!(history.len(), 4);
        let kept: Vec<_> = history.rows().map(|row| format!("{}/{}", row.runtime, row.node)).collect();
        assert_eq!(kept, ["wasm/n2", "wasm/", "native/n1", "native/"]);
        let mut restored = History::new(4);
        restored.restore(history.rows());
        assert_eq!(restored.rows().collect::<Vec<_>>(), history.rows().collect::<Vec<_>>());
        assert_eq!(restored.expect("a", "wasm", "n2", &tuning), history.expect("a", "wasm", "n2", &tuning));
    }

    #[test]
    fn absurd_numbers_overflow_nothing() {
        let tuning = Tuning { priors_ms: [("wasm".into(), crate::tuning::TIME_MS_MAX), ("native".into(), 1)].into(), ..Tuning::default() };
        tuning.check().unwrap();
        let mut history = History::default();
        history.record(ran("native", "n", u64::MAX));
        assert_eq!(history.expect("a", "wasm", "n", &tuning).run_ms, RUN_MS_MAX);
        history.restore([HistoryRow {
            artifact: Some("a".into()),
            runtime: "native".into(),
            node: "n".into(),
            record: Record { runs: u64::MAX, run_ms_q10: u64::MAX, attempts: u64::MAX, success_ppm: u64::MAX },
        }]);
        history.record(ran("native", "n", u64::MAX));
        assert_eq!(history.expect("a", "native", "n", &tuning).success, 995);
    }
}

//! What an operator can tune while the cluster runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The largest weight.
pub const WEIGHT_MAX: u16 = 100;
/// The longest patience, settling or ageing time: a day.
pub const TIME_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// The most candidates that an explanation names.
pub const CANDIDATES_MAX: usize = 8;
/// The most tasks of a batch that may be moved.
pub const MOVES_MAX: usize = 1 << 16;
/// The most runtimes for which a prior can be set.
pub const PRIORS_MAX: usize = 32;

/// How much each part of a score counts, from 0 (not at all) to [`WEIGHT_MAX`]. Only their relation to each other matters.
///
/// For a single task, raising a weight never makes the chosen worker worse in that part, all else equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weights {
    /// Raised: workers on which this artifact runs fast, even where they cost more.
    pub performance: u16,
    /// Raised: workers on which the task costs least until it has succeeded, even where they are slow.
    pub cost: u16,
    /// Raised: workers on which this artifact seldom fails, whose results are good, and on which this task has not failed yet.
    pub quality: u16,
    /// Raised: urgent tasks get the fast workers, and the others mind their speed less.
    pub priority: u16,
    /// Raised: nodes that hold the task's data already, and workers with the labels that it prefers.
    pub locality: u16,
    /// Raised: nodes on which the results of the task's dependencies lie.
    pub dependencies: u16,
    /// Raised: load is spread. 0: the best worker is filled before the next one is touched.
    pub balance: u16,
    /// Raised: tasks keep off workers with devices that they do not need, and off those that others in the batch need more.
    pub thrift: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { performance: 30, cost: 20, quality: 15, priority: 10, locality: 15, dependencies: 15, balance: 15, thrift: 20 }
    }
}

impl Weights {
    /// Names and values, in the order in which parts are always given.
    pub fn all(&self) -> [(&'static str, u16); 8] {
        [
            ("performance", self.performance),
            ("cost", self.cost),
            ("quality", self.quality),
            ("priority", self.priority),
            ("locality", self.locality),
            ("dependencies", self.dependencies),
            ("balance", self.balance),
            ("thrift", self.thrift),
        ]
    }

    /// The score of a worker that is perfect in every part.
    pub fn score_max(&self) -> u32 {
        self.all().iter().map(|(_, weight)| u32::from(*weight) * 1000).sum()
    }
}

/// All that an operator can tune. It takes effect with the next batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// How much each part of a score counts.
    pub weights: Weights,
    /// What a second of run time is worth, in the unit of [`Worker::cost_per_second`](crate::Worker::cost_per_second). 0: a
    /// task with `runtime: auto` goes wherever it costs least, however slow that is. Raised: a faster runtime may cost as much
    /// more as the time that it saves is worth.
    pub time_value_per_second: u64,
    /// How long a task holds out for a busy runtime of its chain, in milliseconds. Raised: tasks wait for the runtime that they
    /// like best; lowered: they start sooner on another one.
    pub chain_patience_ms: u64,
    /// The same for `runtime: auto`. Raised: tasks wait for the cheapest runtime.
    pub auto_patience_ms: u64,
    /// How long a runtime that was lost must be back, or one that was full must have had room, before it counts as steady
    /// again, in milliseconds. Raised: less to and fro when a device comes and goes.
    pub settle_ms: u64,
    /// After each such time of waiting a task counts as one priority higher, in milliseconds. 0: never, because whoever calls
    /// orders the tasks.
    pub ageing_ms: u64,
    /// Whether tasks are decided in the order given, because whoever calls has ordered them, and not by level first.
    pub in_given_order: bool,
    /// How long an attempt is taken to run on a runtime of which nothing is known, in milliseconds. Their relation also tells
    /// how long an artifact may run on one runtime when it was only seen on another.
    pub priors_ms: BTreeMap<String, u64>,
    /// Candidates that an explanation names, the chosen one included. 0: none, which is fastest.
    pub candidates: usize,
    /// How many tasks of a batch may be moved from the worker where they scored best to another one, each to make room for one that could go
    /// nowhere else. Only tasks of the same level are moved. 0: none.
    pub moves: usize,
}

/// For runtimes without a prior of their own.
const PRIOR_MS: u64 = 1_000;

impl Default for Tuning {
    fn default() -> Self {
        let priors = [("cuda", 250), ("native", 1_000), ("wasm", 1_500), ("microvm", 1_250)];
        Self {
            weights: Weights::default(),
            time_value_per_second: 0,
            chain_patience_ms: 2_000,
            auto_patience_ms: 0,
            settle_ms: 5_000,
            ageing_ms: 0,
            in_given_order: false,
            priors_ms: priors.map(|(name, ms)| (name.to_owned(), ms)).into(),
            candidates: 3,
            moves: 256,
        }
    }
}

impl Tuning {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first one that is out of range.
    pub fn check(&self) -> Result<(), TuningError> {
        for (name, weight) in self.weights.all() {
            within(name, weight.into(), 0, WEIGHT_MAX.into())?;
        }
        within("time_value_per_second", self.time_value_per_second, 0, 1 << 40)?;
        within("chain_patience_ms", self.chain_patience_ms, 0, TIME_MS_MAX)?;
        within("auto_patience_ms", self.auto_patience_ms, 0, TIME_MS_MAX)?;
        within("settle_ms", self.settle_ms, 0, TIME_MS_MAX)?;
        within("ageing_ms", self.ageing_ms, 0, TIME_MS_MAX)?;
        within("priors_ms", self.priors_ms.len() as u64, 0, PRIORS_MAX as u64)?;
        for ms in self.priors_ms.values() {
            within("priors_ms", *ms, 1, TIME_MS_MAX)?;
        }
        within("candidates", self.candidates as u64, 0, CANDIDATES_MAX as u64)?;
        within("moves", self.moves as u64, 0, MOVES_MAX as u64)
    }

    pub(crate) fn prior_ms(&self, runtime: &str) -> u64 {
        self.priors_ms.get(runtime).copied().unwrap_or(PRIOR_MS).max(1)
    }
}

/// A value that is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: give it a value from {min} to {max}")]
pub struct TuningError {
    /// As in [`Tuning`] or [`Weights`].
    pub field: &'static str,
    /// What was given; of `priors_ms`, the value or how many there are.
    pub value: u64,
    /// The smallest that is allowed.
    pub min: u64,
    /// The largest that is allowed.
    pub max: u64,
}

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), TuningError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(TuningError { field, value, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_in_range_and_what_is_not_is_named() {
        Tuning::default().check().unwrap();
        let mut tuning = Tuning::default();
        tuning.weights.thrift = WEIGHT_MAX + 1;
        assert_eq!(tuning.check().unwrap_err().to_string(), "thrift is 101: give it a value from 0 to 100");
        for spoil in [
            (|t| t.time_value_per_second = u64::MAX) as fn(&mut Tuning),
            |t| t.chain_patience_ms = TIME_MS_MAX + 1,
            |t| t.auto_patience_ms = TIME_MS_MAX + 1,
            |t| t.settle_ms = TIME_MS_MAX + 1,
            |t| t.ageing_ms = TIME_MS_MAX + 1,
            |t| t.priors_ms = [("wasm".to_owned(), 0)].into(),
            |t| t.priors_ms = (0..=PRIORS_MAX).map(|n| (n.to_string(), 1)).collect(),
            |t| t.candidates = CANDIDATES_MAX + 1,
            |t| t.moves = MOVES_MAX + 1,
        ] {
            let mut tuning = Tuning::default();
            spoil(&mut tuning);
            tuning.check().unwrap_err();
        }
    }

    #[test]
    fn it_is_read_from_a_part_of_itself_and_refuses_a_typing_error() {
        let tuning: Tuning = serde_json::from_str(r#"{"weights": {"cost": 90}, "settle_ms": 1}"#).unwrap();
        assert_eq!((tuning.weights.cost, tuning.settle_ms), (90, 1));
        assert_eq!(tuning.weights.quality, Weights::default().quality);
        serde_json::from_str::<Tuning>(r#"{"weights": {"costs": 90}}"#).unwrap_err();
        let text = serde_json::to_string(&tuning).unwrap();
        assert_eq!(serde_json::from_str::<Tuning>(&text).unwrap(), tuning);
    }
}

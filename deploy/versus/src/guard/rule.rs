//! When a figure has fallen: by more than 30% against the median of the last recorded runs.

use std::collections::BTreeMap;

use super::history::Line;
use crate::measure::median;

/// The part of before that a figure has at least.
const PART_MIN: f64 = 0.7;
/// How many of the last recorded runs count.
const RUNS: usize = 5;

/// A figure that fell.
#[derive(Clone, Debug, PartialEq)]
pub struct Fall {
    /// Which one.
    pub name: String,
    /// What it is now, as a part of what it was.
    pub part: f64,
}

/// The figures that fell, by name. One that was never recorded cannot fall.
pub fn falls(history: &[&Line], now: &BTreeMap<String, f64>) -> Vec<Fall> {
    let parts = now.iter().filter_map(|(name, figure)| Some(Fall { name: name.clone(), part: figure / before(history, name)? }));
    parts.filter(|fall| fall.part < PART_MIN).collect()
}

/// The median of a figure in the last recorded runs that have it.
pub fn before(history: &[&Line], name: &str) -> Option<f64> {
    let last: Vec<f64> = history.iter().rev().filter_map(|line| line.figures.get(name).copied()).take(RUNS).collect();
    (!last.is_empty()).then(|| median(last)).filter(|median| *median > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(puts: &[f64]) -> Vec<Line> {
        let line = |figure: &f64| Line {
            date: "2026-01-02".into(),
            commit: "abc".into(),
            cores: 2,
            processor: "x".into(),
            disturbed: false,
            figures: BTreeMap::from([("puts".to_owned(), *figure)]),
        };
        puts.iter().map(line).collect()
    }

    fn fallen(puts: &[f64], now: f64) -> bool {
        let lines = recorded(puts);
        !falls(&lines.iter().collect::<Vec<_>>(), &BTreeMap::from([("puts".to_owned(), now)])).is_empty()
    }

    #[test]
    fn thirty_percent_is_allowed_and_more_is_not() {
        assert!(!fallen(&[10.0, 10.0, 10.0], 7.0));
        assert!(fallen(&[10.0, 10.0, 10.0], 6.9));
        assert!(!fallen(&[10.0, 10.0, 10.0], 1_000.0));
    }

    #[test]
    fn one_odd_run_does_not_move_the_bar_and_old_runs_do_not_count() {
        assert!(fallen(&[10.0, 10.0, 3.0], 6.0));
        assert!(!fallen(&[100.0, 100.0, 100.0, 10.0, 10.0, 10.0, 10.0, 10.0], 9.0));
    }

    #[test]
    fn without_a_history_nothing_falls() {
        assert!(!fallen(&[], 0.001));
        let lines = recorded(&[10.0]);
        assert!(falls(&lines.iter().collect::<Vec<_>>(), &BTreeMap::from([("gets".to_owned(), 0.1)])).is_empty());
    }
}

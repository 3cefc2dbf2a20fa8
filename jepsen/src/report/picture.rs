//! A history, made small enough to draw: some hundred columns of time, whatever its length.

use std::collections::BTreeMap;

use crate::faults::{self, Fault, Phase};
use crate::figures::{self, Done, quantile};
use crate::history::{Event, Kind};

/// Columns of time in the plots.
pub const COLUMNS: usize = 300;
/// Columns of time in the clients' lanes.
pub const FINE: usize = 1_000;
/// Rows per power of ten in the plot of latencies.
pub const ROWS_PER_DECADE: f64 = 12.0;
/// The lowest latency that is told apart, in nanoseconds: 0.1 ms.
pub const LOWEST_NS: f64 = 1e5;

/// The outcomes, in the order in which they are drawn over each other.
pub const OUTCOMES: [Kind; 3] = [Kind::Ok, Kind::Fail, Kind::Unknown];

/// What ended in one column of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Column {
    /// How many operations, by outcome.
    pub ended: [u64; 3],
    /// Of the answered ones: half took at most this, in nanoseconds; 0 where there are none.
    pub median_ns: u64,
    /// Of the answered ones: 99 in 100 took at most this.
    pub p99_ns: u64,
}

/// A client's lane: for each outcome the stretches of fine columns in which an operation with that outcome was open.
pub type Lane = [Vec<(usize, usize)>; 3];

/// What is drawn.
pub struct Picture {
    /// When it begins, in nanoseconds since the run began.
    pub from_ns: u64,
    /// When it ends.
    pub to_ns: u64,
    /// When clients were told to stop.
    pub stop_ns: u64,
    /// Ends of operations over time.
    pub columns: Vec<Column>,
    /// How many operations ended in a column of time and a row of latency, by outcome.
    pub cells: [BTreeMap<(usize, usize), u64>; 3],
    /// The clients' lanes, by client.
    pub lanes: BTreeMap<u32, Lane>,
    /// The faults.
    pub faults: Vec<Fault>,
    /// The nemeses, in the order of their first faults.
    pub nemeses: Vec<String>,
}

impl Picture {
    /// Makes a history small.
    pub fn of(history: &[Event]) -> Self {
        let last = history.last().map_or(0, |event| event.time_ns);
        let from_ns = faults::phase(history, Phase::Work).unwrap_or(0);
        let faults = faults::faults(history);
        let mut nemeses: Vec<String> = Vec::new();
        for fault in &faults {
            if !nemeses.contains(&fault.nemesis) {
                nemeses.push(fault.nemesis.clone());
            }
        }
        let mut picture = Self {
            from_ns,
            to_ns: last.max(from_ns + 1),
            stop_ns: faults::phase(history, Phase::Stop).unwrap_or(last),
            columns: vec![Column::default(); COLUMNS],
            cells: Default::default(),
            lanes: BTreeMap::new(),
            faults,
            nemeses,
        };
        let operations = figures::done(history);
        picture.count(&operations);
        picture.open(&operations);
        picture
    }

    /// How long a column lasts, in nanoseconds.
    pub fn column_ns(&self) -> f64 {
        (self.to_ns - self.from_ns) as f64 / COLUMNS as f64
    }

    /// Where this moment is, from 0 to 1.
    pub fn place(&self, ns: u64) -> f64 {
        let along = ns.clamp(self.from_ns, self.to_ns) - self.from_ns;
        along as f64 / (self.to_ns - self.from_ns) as f64
    }

    fn at(&self, ns: u64, columns: usize) -> usize {
        ((self.place(ns) * columns as f64) as usize).min(columns - 1)
    }

    fn count(&mut self, operations: &[Done<'_>]) {
        let mut answered: Vec<Vec<u64>> = vec![Vec::new(); COLUMNS];
        for operation in operations.iter().filter(|operation| operation.ended_ns >= self.from_ns) {
            let Some(outcome) = OUTCOMES.iter().position(|kind| *kind == operation.kind) else {
                continue;
            };
            let at = self.at(operation.ended_ns, COLUMNS);
            let took = operation.ended_ns - operation.begun_ns;
            self.columns[at].ended[outcome] += 1;
            *self.cells[outcome].entry((at, row(took))).or_default() += 1;
            if outcome == 0 {
                answered[at].push(took);
            }
        }
        for (column, mut times) in self.columns.iter_mut().zip(answered) {
            times.sort_unstable();
            column.median_ns = quantile(&times, 0.5);
            column.p99_ns = quantile(&times, 0.99);
        }
    }

    fn open(&mut self, operations: &[Done<'_>]) {
        let mut lanes: BTreeMap<u32, [Vec<bool>; 3]> = BTreeMap::new();
        for operation in operations.iter().filter(|operation| operation.ended_ns >= self.from_ns) {
            let Some(outcome) = OUTCOMES.iter().position(|kind| *kind == operation.kind) else {
                continue;
            };
            let (begin, end) = (self.at(operation.begun_ns, FINE), self.at(operation.ended_ns, FINE));
            let lane = lanes.entry(operation.client).or_insert_with(|| std::array::from_fn(|_| vec![false; FINE]));
            lane[outcome][begin..=end].fill(true);
        }
        self.lanes = lanes.into_iter().map(|(client, lane)| (client, lane.map(|columns| stretches(&columns)))).collect();
    }
}

/// The row of a latency: 0 for the lowest that is told apart.
pub fn row(ns: u64) -> usize {
    ((ns as f64 / LOWEST_NS).log10() * ROWS_PER_DECADE).max(0.0) as usize
}

/// The stretches of columns that are set: first, and first after.
fn stretches(columns: &[bool]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut begin = None;
    for (at, set) in columns.iter().copied().chain([false]).enumerate() {
        match (begin, set) {
            (None, true) => begin = Some(at),
            (Some(from), false) => {
                found.push((from, at));
                begin = None;
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_half_open() {
        let columns = [true, true, false, true, false, false, true];
        assert_eq!(stretches(&columns), [(0, 2), (3, 4), (6, 7)]);
        assert_eq!(stretches(&[false; 3]), []);
    }

    #[test]
    fn rows_grow_with_the_logarithm() {
        assert_eq!((row(0), row(100_000)), (0, 0));
        assert_eq!(row(1_000_000), 12);
        assert_eq!(row(10_000_001), 24);
    }
}

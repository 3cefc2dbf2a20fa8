//! What a load is, and what it gave.

use std::time::Duration;

use crate::usage::Meter;

/// A load on one cluster. What a field means for a scenario says [`crate::scenario`].
#[derive(Clone, Debug)]
pub struct Load {
    /// How long is measured, after the warm-up.
    pub time: Duration,
    /// How long the load runs before anything is counted.
    pub warm_up: Duration,
    /// Clients that submit, put, get or call at once; each does its next when its last was answered.
    pub clients: usize,
    /// Connections that the clients share, and those that the workers share.
    pub connections: usize,
    /// Consumers, each with a stream or channel of its own.
    pub workers: usize,
    /// Tasks that are submitted and not completed, at most: clients wait beyond.
    pub outstanding: usize,
    /// Operations a second, all clients together; `None`: as many as possible.
    pub rate: Option<u32>,
    /// Bytes of a value or of a task's payload.
    pub payload: usize,
    /// Reads the processors' use at both ends of the measured time.
    pub meter: Meter,
}

/// What one load gave.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Latencies of what ended within the measured time, in microseconds.
    pub micros: Vec<u32>,
    /// How long was measured.
    pub took: Duration,
    /// What else is to be known, such as how often something was delivered again.
    pub facts: Vec<(&'static str, String)>,
}

/// A latency as it is kept: whole microseconds, at most some 71 minutes.
pub fn micros(latency: Duration) -> u32 {
    u32::try_from(latency.as_micros()).unwrap_or(u32::MAX)
}

/// Rate and percentiles of one load.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Operations that ended within the measured time.
    pub operations: usize,
    /// The same for each second.
    pub per_second: f64,
    /// Latencies in milliseconds, by nearest rank; 0 where nothing ended.
    pub p50_ms: f64,
    /// As `p50_ms`.
    pub p90_ms: f64,
    /// As `p50_ms`.
    pub p99_ms: f64,
    /// As `p50_ms`.
    pub p999_ms: f64,
    /// As `p50_ms`.
    pub max_ms: f64,
}

impl Summary {
    /// Of these samples.
    pub fn of(samples: &Samples) -> Summary {
        let mut micros = samples.micros.clone();
        micros.sort_unstable();
        let at = |per_mille: usize| match micros.len() {
            0 => 0.0,
            len => f64::from(micros[(len * per_mille).div_ceil(1_000).clamp(1, len) - 1]) / 1e3,
        };
        Summary {
            operations: micros.len(),
            per_second: micros.len() as f64 / samples.took.as_secs_f64().max(f64::MIN_POSITIVE),
            p50_ms: at(500),
            p90_ms: at(900),
            p99_ms: at(990),
            p999_ms: at(999),
            max_ms: at(1_000),
        }
    }
}

/// The middle of these figures: of an even number, the mean of the two in the middle; NaN of none.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => figures[len / 2],
        len => f64::midpoint(figures[len / 2 - 1], figures[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples = Samples { micros: (1..=1_000).rev().map(|ms| ms * 1_000).collect(), took: Duration::from_secs(2), facts: Vec::new() };
        let summary = Summary::of(&samples);
        assert_eq!((summary.operations, summary.per_second), (1_000, 500.0));
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.p999_ms, summary.max_ms), (500.0, 990.0, 999.0, 1_000.0));
        assert_eq!(Summary::of(&Samples { took: Duration::from_secs(1), ..Samples::default() }).p99_ms, 0.0);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}

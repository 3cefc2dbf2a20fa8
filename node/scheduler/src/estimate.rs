//! What is to be expected of an attempt.

use crate::history::{Record, SHARED_RUNS, THOUSAND, WINDOW};

/// How many attempts the prior is worth.
const PRIOR_RUNS: u64 = 2;
/// How likely an attempt is taken to succeed of which nothing is known, in millionths.
const PRIOR_SUCCESS_PPM: u64 = 950_000;
/// No success is taken to be less likely than this, in thousandths: what always failed may have been mended.
const SUCCESS_MIN: u64 = 50;

/// What is to be expected of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// How long it runs, in milliseconds; at least 1.
    pub run_ms: u64,
    /// How likely it succeeds, in thousandths; from 50 to 1,000.
    pub success: u64,
}

/// An estimate before it is rounded.
#[derive(Debug, Clone, Copy)]
pub struct Expectation {
    run_ms: u64,
    success_ppm: u64,
}

impl Expectation {
    /// Of an artifact that takes this long, and of whose failures nothing is known.
    pub fn prior(run_ms: u64) -> Self {
        Self { run_ms, success_ppm: PRIOR_SUCCESS_PPM }
    }

    /// With what is known of the artifact on this runtime.
    pub fn general(self, record: &Record) -> Self {
        self.blend(record, PRIOR_RUNS)
    }

    /// Leans towards a record by as much as it knows, against a weight of so many attempts.
    fn blend(self, record: &Record, weight: u64) -> Self {
        let mix = |ours: u64, theirs: u64, count: u64| {
            let count = count.min(WINDOW);
            (ours * weight + theirs * count) / (weight + count)
        };
        Self {
            run_ms: mix(self.run_ms, record.run_ms(), record.runs),
            success_ppm: mix(self.success_ppm, record.success_ppm, record.attempts),
        }
    }

    /// On a node with this pace, where this is known of the artifact.
    pub fn on(self, pace: u64, node: Option<Record>) -> Self {
        let scaled = Self { run_ms: self.run_ms * pace / THOUSAND, ..self };
        node.map_or(scaled, |record| scaled.blend(&record, SHARED_RUNS))
    }

    pub fn estimate(self) -> Estimate {
        Estimate { run_ms: self.run_ms.max(1), success: (self.success_ppm / 1000).clamp(SUCCESS_MIN, 1000) }
    }
}

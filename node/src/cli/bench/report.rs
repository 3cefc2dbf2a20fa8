//! What a load run found: counts, a rate, and latencies.

use std::time::Duration;

use serde_json::json;

/// Latencies and failures, gathered by one task of the load generator and merged at the end.
#[derive(Debug, Default)]
pub struct Samples {
    /// One for each finished operation, in microseconds.
    micros: Vec<u32>,
    /// What went wrong, by its reason, with how often.
    pub failures: std::collections::BTreeMap<String, u64>,
}

impl Samples {
    /// Adds one finished operation.
    pub fn record(&mut self, took: Duration) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds one operation that failed.
    pub fn fail(&mut self, reason: &str) {
        *self.failures.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds operations that were due and never begun.
    pub fn miss(&mut self, operations: u64) {
        if operations > 0 {
            self.failures.insert("DUE_AND_NEVER_BEGUN".to_owned(), operations);
        }
    }

    /// How many operations finished.
    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// Takes in another's samples.
    pub fn merge(&mut self, other: Samples) {
        self.micros.extend(other.micros);
        for (reason, count) in other.failures {
            *self.failures.entry(reason).or_default() += count;
        }
    }

    /// The latency that this many thousandths of the operations did not exceed, in microseconds (nearest rank).
    fn at(&self, per_mille: usize) -> u32 {
        match self.micros.len() {
            0 => 0,
            len => self.micros[(len * per_mille).div_ceil(1_000).clamp(1, len) - 1],
        }
    }

    fn mean(&self) -> u64 {
        let sum: u64 = self.micros.iter().map(|micros| u64::from(*micros)).sum();
        sum / (self.micros.len() as u64).max(1)
    }

    /// The report on operations that took this long all together; `units` is how many tasks an operation stands for.
    pub fn report(mut self, title: &str, units: u64, took: Duration) -> Report {
        self.micros.sort_unstable();
        let tasks = self.micros.len() as u64 * units;
        let per_second = u128::from(tasks) * 1_000_000 / took.as_micros().max(1);
        Report {
            title: title.to_owned(),
            tasks,
            seconds: took.as_secs_f64(),
            per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            mean: self.mean(),
            p50: self.at(500),
            p99: self.at(990),
            p999: self.at(999),
            max: self.at(1_000),
            failures: self.failures,
        }
    }
}

/// One kind of operation, summed up. Latencies are in microseconds.
#[derive(Debug)]
pub struct Report {
    title: String,
    tasks: u64,
    seconds: f64,
    per_second: u64,
    mean: u64,
    p50: u32,
    p99: u32,
    p999: u32,
    max: u32,
    failures: std::collections::BTreeMap<String, u64>,
}

impl Report {
    /// The median, in microseconds.
    pub fn median(&self) -> u32 {
        self.p50
    }

    /// As JSON; latencies in microseconds.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "operation": self.title,
            "tasks": self.tasks,
            "seconds": self.seconds,
            "tasks_per_second": self.per_second,
            "latency_us": { "mean": self.mean, "p50": self.p50, "p99": self.p99, "p99_9": self.p999, "max": self.max },
            "failures": self.failures,
        })
    }

    /// The cells of a table's row, under [`Report::HEAD`].
    pub fn row(&self) -> Vec<String> {
        let ms = |micros: u32| format!("{:.2}", f64::from(micros) / 1_000.0);
        vec![
            self.title.clone(),
            self.tasks.to_string(),
            format!("{:.1}", self.seconds),
            self.per_second.to_string(),
            ms(self.p50),
            ms(self.p99),
            ms(self.p999),
            ms(self.max),
            self.failures.values().sum::<u64>().to_string(),
        ]
    }

    /// The titles of [`Report::row`].
    pub const HEAD: [&'static str; 9] = ["operation", "tasks", "seconds", "tasks/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "failed"];

    /// What went wrong, in words; empty if nothing did.
    pub fn failures(&self) -> String {
        self.failures.iter().map(|(reason, count)| format!("{}: {count} × {reason}\n", self.title)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut samples = Samples::default();
        for ms in (1..=1_000).rev() {
            samples.record(Duration::from_millis(ms));
        }
        samples.fail("X");
        let report = samples.report("put", 2, Duration::from_secs(10));
        assert_eq!((report.p50, report.p99, report.p999, report.max), (500_000, 990_000, 999_000, 1_000_000));
        assert_eq!(report.per_second, 200);
        assert_eq!(report.to_json()["failures"]["X"], 1);
        assert_eq!(Samples::default().report("none", 1, Duration::from_secs(1)).p99, 0);
    }
}

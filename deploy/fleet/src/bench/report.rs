//! What all rounds together say, beside the bars.

use serde::Serialize;

use super::{BenchArgs, Round, quantile};

/// A measurement, its bar, and whether it holds in the median.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    what: String,
    unit: &'static str,
    median: f64,
    least: f64,
    most: f64,
    /// At most this; `None`: told beside the others, without a bar.
    bar: Option<f64>,
    holds: Option<bool>,
}

impl Bar {
    fn of(what: String, unit: &'static str, bar: Option<f64>, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let median = quantile(&values, 500);
        let (least, most) = (quantile(&values, 0), quantile(&values, 1_000));
        Self { what, unit, median, least, most, bar, holds: bar.map(|bar| median <= bar) }
    }
}

/// The whole.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    nodes: usize,
    /// Processes that wanted to run, over the last minute, when the bench ended: this machine's own work included.
    load: f64,
    bars: Vec<Bar>,
    rounds: Vec<Round>,
}

impl Report {
    /// Puts rounds together.
    pub fn of(args: &BenchArgs, rounds: Vec<Round>) -> Self {
        let all = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
        let visible = |what: &str| format!("a change is visible at the other cluster, {} offered a second, {what}", args.rate);
        let cut = all(|round| round.agree.cut_s);
        let bars = vec![
            Bar::of("changes acknowledged a second".to_owned(), "/s", None, all(|round| round.delay.rate)),
            Bar::of(visible("median"), "ms", None, all(|round| round.delay.p50_ms)),
            Bar::of(visible("p99"), "ms", Some(100.0), all(|round| round.delay.p99_ms)),
            Bar::of(visible("p99 after its acknowledgement"), "ms", None, all(|round| round.delay.after_acknowledgement_p99_ms)),
            Bar::of(
                format!("equal after a cut of {:.0} s with {} changes on each side", quantile(&cut, 0), args.changes),
                "s",
                Some(5.0),
                all(|round| round.agree.seconds),
            ),
            Bar::of("an idle link, both ways, TLS included".to_owned(), "bytes/s", Some(1_000.0), all(|round| round.idle.bytes_per_second)),
        ];
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load = load.and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or_default();
        Self { nodes: args.nodes, load, bars, rounds }
    }

    /// For people: a table.
    pub fn text(&self) -> String {
        let mut text = format!("two clusters of {} nodes, {} rounds; load {:.1}\n\n", self.nodes, self.rounds.len(), self.load);
        text.push_str("| what | median | least to most | bar |\n| --- | --- | --- | --- |\n");
        for bar in &self.bars {
            let limit = match (bar.bar, bar.holds) {
                (Some(limit), Some(true)) => format!("{limit} {}", bar.unit),
                (Some(limit), _) => format!("{limit} {}: MISSED", bar.unit),
                (None, _) => String::new(),
            };
            let value = |value: f64| if bar.unit == "s" { format!("{value:.2}") } else { format!("{value:.0}") };
            let (median, least, most) = (value(bar.median), value(bar.least), value(bar.most));
            text.push_str(&format!("| {} | {median} {} | {least} to {most} | {limit} |\n", bar.what, bar.unit));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_held_or_missed_by_the_median() {
        let held = Bar::of("x".to_owned(), "ms", Some(100.0), vec![300.0, 20.0, 90.0]);
        assert_eq!((held.median, held.least, held.most, held.holds), (90.0, 20.0, 300.0, Some(true)));
        assert_eq!(Bar::of("x".to_owned(), "ms", Some(100.0), vec![101.0]).holds, Some(false));
        assert_eq!(Bar::of("x".to_owned(), "ms", None, Vec::new()).holds, None);
    }
}

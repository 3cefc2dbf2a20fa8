//! The latest lines of one driver's log.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tarn_proto::v1::DriverLogLine;
use tokio::sync::watch;

/// Lines that are kept, and bytes of their texts.
const LINES_MAX: usize = 1_000;
const BYTES_MAX: usize = 256 << 10;
/// Lines in one answer.
const PAGE: usize = 200;

/// A ring of lines, each with a number that only grows.
pub(super) struct Logs {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<DriverLogLine>,
    bytes: usize,
}

impl Default for Logs {
    fn default() -> Self {
        Self { kept: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Logs {
    /// Adds a line; its number is set here.
    pub fn add(&self, mut line: DriverLogLine) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        line.number = *self.last.borrow() + 1;
        kept.bytes += line.text.len();
        let number = line.number;
        kept.lines.push_back(line);
        while kept.lines.len() > LINES_MAX || kept.bytes > BYTES_MAX {
            let Some(gone) = kept.lines.pop_front() else { break };
            kept.bytes -= gone.text.len();
        }
        self.last.send_replace(number);
    }

    /// The first lines after this one, as many as fit into an answer.
    pub fn after(&self, number: u64) -> Vec<DriverLogLine> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().filter(|line| line.number > number).take(PAGE).cloned().collect()
    }

    /// Returns when there is a line after this one.
    pub async fn arrived(&self, number: u64) {
        let mut last = self.last.subscribe();
        // The sender lives as long as this does.
        let _ = last.wait_for(|last| *last > number).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: String) -> DriverLogLine {
        DriverLogLine { text, ..DriverLogLine::default() }
    }

    #[tokio::test]
    async fn the_latest_lines_are_kept_and_numbers_go_on() {
        let logs = Logs::default();
        for number in 0..1_500 {
            logs.add(line(format!("line {number}")));
        }
        let first = logs.after(0);
        assert_eq!((first[0].number, first.len()), (501, PAGE));
        assert_eq!(logs.after(1_499).len(), 1);
        logs.arrived(1_499).await;
        for _ in 0..10 {
            logs.add(line("x".repeat(100 << 10)));
        }
        assert_eq!(logs.after(0).len(), 2, "no more than 256 KiB");
        assert!(logs.after(1_510).is_empty());
    }
}

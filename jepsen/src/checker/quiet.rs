//! When a run was left alone: what may be asked of the cluster's time and its speed depends on the faults that were made.

use crate::faults::{self, Phase, faults};
use crate::history::{Event, infos};

/// The nemesis that makes clocks wrong.
const CLOCK: &str = "clock";
/// By how much the cluster's time may move against a client's when leadership changes, in milliseconds: a leader learns the other nodes' clocks over
/// the network, and each learns them a little differently. Nothing to do with how long an outage was.
pub const AGREED_MS: u64 = 100;
/// What a cluster may need after a fault was taken back: an election, connections that are made again, a watcher that is late.
const SETTLE_NS: u64 = 5_000_000_000;
/// The event that tells that every node is back after the last fault.
const READY: &str = "ready";

/// When the first clock was made wrong, in nanoseconds since the run began. From there on the cluster's time and that of clients have nothing
/// to do with each other, even after the clocks were set right, because the cluster's time never goes back.
pub fn first_clock_fault(history: &[Event]) -> Option<u64> {
    let clocks = faults(history).into_iter().filter(|fault| fault.nemesis == CLOCK);
    clocks.map(|fault| fault.begun_ns).min()
}

/// The times in which a cluster may be slow for a reason, from their beginning to their end, in nanoseconds since the run began.
#[derive(Debug, Default)]
pub struct Disturbed(Vec<(u64, u64)>);

impl Disturbed {
    /// Every fault with the time that its healing may take, and the time from the last healing until every node was back.
    pub fn of(history: &[Event]) -> Self {
        let end = history.last().map_or(0, |event| event.time_ns);
        let mut times: Vec<(u64, u64)> =
            faults(history).iter().map(|fault| (fault.begun_ns, fault.over_ns(end).saturating_add(SETTLE_NS))).collect();
        if let Some(calm) = faults::phase(history, Phase::Calm) {
            let ready = infos::<serde_json::Value>(history, READY).pop();
            times.push((calm, ready.map_or(end, |(event, _)| event.time_ns) + SETTLE_NS));
        }
        times.sort_unstable();
        Self(times)
    }

    /// The end of the first stretch of this length without any disturbance, at or after this moment.
    pub fn end_of_quiet(&self, from_ns: u64, length_ns: u64) -> u64 {
        let mut from = from_ns;
        for (begun, over) in &self.0 {
            if *begun < from.saturating_add(length_ns) && *over > from {
                from = *over;
            }
        }
        from.saturating_add(length_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_stretch_lies_behind_every_disturbance_that_touches_it() {
        let disturbed = Disturbed(vec![(10, 20), (18, 30), (50, 60)]);
        assert_eq!(disturbed.end_of_quiet(0, 5), 5);
        assert_eq!(disturbed.end_of_quiet(7, 5), 35);
        assert_eq!(disturbed.end_of_quiet(15, 25), 85);
        assert_eq!(disturbed.end_of_quiet(70, 5), 75);
    }
}

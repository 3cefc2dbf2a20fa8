//! Timers: never early, once.

use std::collections::BTreeSet;

use crate::{Invariant, Verdict};

/// See [`never_early`].
pub const NEVER_EARLY: Invariant = Invariant {
    name: "timers never fire early",
    rule: "a timer fires at or after the time at which it is due, by the cluster's time",
    source: "design, domains: firing happens when time passes, inside apply; anchors, test 18",
};

/// See [`Firings`].
pub const FIRES_ONCE: Invariant = Invariant {
    name: "timers fire once",
    rule: "a timer has its effect once, and one whose cancellation was acknowledged has none",
    source: "anchors, test 18",
};

/// A timer that is due at `due_at_ms` fires at `fired_at_ms`, both by the cluster's time.
///
/// # Errors
///
/// It fires too early ([`NEVER_EARLY`]).
pub fn never_early(timer: &str, due_at_ms: u64, fired_at_ms: u64) -> Verdict {
    NEVER_EARLY.require(fired_at_ms >= due_at_ms, || {
        format!("timer {timer} is due at {due_at_ms} and fires at {fired_at_ms}")
    })
}

/// Monitor of [`never_early`] and [`FIRES_ONCE`].
#[derive(Clone, Default, Debug)]
pub struct Firings {
    fired: BTreeSet<String>,
    cancelled: BTreeSet<String>,
}

impl Firings {
    /// A timer fired.
    ///
    /// # Errors
    ///
    /// Too early, a second time, or after its cancellation.
    pub fn fired(&mut self, timer: &str, due_at_ms: u64, fired_at_ms: u64) -> Verdict {
        never_early(timer, due_at_ms, fired_at_ms)?;
        FIRES_ONCE.require(!self.cancelled.contains(timer), || {
            format!("timer {timer} fires after its cancellation was acknowledged")
        })?;
        FIRES_ONCE.require(self.fired.insert(timer.to_owned()), || {
            format!("timer {timer} fires a second time")
        })
    }

    /// A cancellation was acknowledged.
    ///
    /// # Errors
    ///
    /// The timer had fired ([`FIRES_ONCE`]): the cancellation should have been refused.
    pub fn cancelled(&mut self, timer: &str) -> Verdict {
        self.cancelled.insert(timer.to_owned());
        FIRES_ONCE.require(!self.fired.contains(timer), || {
            format!("the cancellation of timer {timer} is acknowledged after it fired")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_once_and_not_early() {
        let mut firings = Firings::default();
        firings.fired("a", 10, 10).unwrap();
        assert_eq!(firings.fired("a", 10, 12).unwrap_err().invariant, FIRES_ONCE);
        assert_eq!(firings.fired("b", 10, 9).unwrap_err().invariant, NEVER_EARLY);
        firings.cancelled("c").unwrap();
        assert!(firings.fired("c", 10, 12).is_err());
        assert!(firings.cancelled("a").is_err());
    }
}

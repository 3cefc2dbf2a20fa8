//! Timers: never early, once.

use std::collections::BTreeSet;

use crate::{Invariant, Verdict};

/// See [`never_early`].
pub const NEVER_EARLY: Invariant = Invariant {
    name: "timers never fire early",
    rule: "a timer fires at or after the time at which it is due, by the cluster's time",
    source: "design, domains: firing happens when time passes, inside apply; anchors, test 18",
};

/// See [`fires_once`] and [`cancelled_never_fires`].
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
    NEVER_EARLY.require(fired_at_ms >= due_at_ms, || format!("timer {timer} is due at {due_at_ms} and fires at {fired_at_ms}"))
}

/// A timer that was neither cancelled nor is still pending has had its effect so many times.
///
/// # Errors
///
/// Another number than one ([`FIRES_ONCE`]).
pub fn fires_once(timer: &str, effects: usize) -> Verdict {
    FIRES_ONCE.require(effects == 1, || format!("timer {timer} has had its effect {effects} times"))
}

/// The cancellation of a timer is or was acknowledged; `fired` says whether it has had an effect.
///
/// # Errors
///
/// It has ([`FIRES_ONCE`]).
pub fn cancelled_never_fires(timer: &str, fired: bool) -> Verdict {
    FIRES_ONCE.require(!fired, || format!("the cancellation of timer {timer} was acknowledged, and it fired"))
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
        if self.cancelled.contains(timer) {
            cancelled_never_fires(timer, true)?;
        }
        let effects = if self.fired.insert(timer.to_owned()) { 1 } else { 2 };
        fires_once(timer, effects)
    }

    /// A cancellation was acknowledged.
    ///
    /// # Errors
    ///
    /// The timer had fired ([`FIRES_ONCE`]): the cancellation should have been refused.
    pub fn cancelled(&mut self, timer: &str) -> Verdict {
        self.cancelled.insert(timer.to_owned());
        cancelled_never_fires(timer, self.fired.contains(timer))
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
        fires_once("a", 1).unwrap();
        cancelled_never_fires("a", false).unwrap();
        assert!(fires_once("a", 0).is_err() && fires_once("a", 2).is_err());
        assert_eq!(cancelled_never_fires("a", true).unwrap_err().invariant, FIRES_ONCE);
    }
}

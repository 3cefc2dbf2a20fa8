//! Time as the leader proposes it.
//!
//! The kernel has no clock: each log entry carries one, the leader's. Wall clocks lie, so the leader's clock is made
//! of three sources. The monotonic clock moves it on; the wall clock only pulls it forward; and the wall clocks of the
//! other voters say how far the leader's own is to be believed.
//!
//! A leadership begins with the machine's time, asks every voter for its wall clock, and goes at once to the latest time
//! that a majority has reached ([`reached_by_majority`]): so time passes over hours in which the whole cluster was down,
//! and yet no minority of clocks that are ahead, the leader's among them, ends a lease early. It keeps asking, and keeps
//! the correction of its own wall clock up to date. It never goes back, whatever the wall clocks do, and one that jumps
//! far ahead within a leadership is approached slowly: at most at double speed, so that leases and back-offs end sooner
//! than they should, but no faster than twice as soon. As long as no majority answers, the leader's own clock is
//! approached in the same way. Only a cluster that has no time yet takes its first leader's clock for the moment until they
//! have answered.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from: the system's clocks, or what a test says.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: milliseconds since the Unix epoch. May jump in both directions.
    fn wall_ms(&self) -> u64;

    /// Time since some moment of the past. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// The system's clocks; its monotonic time begins now.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        // A clock before 1970 says nothing: the machine's own time carries on.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// How far the wall clock may be ahead and still be believed at once. What time servers correct lies far below.
pub const STEP_MS_MAX: u64 = 1_000;

/// The latest time that the clocks of a majority of the voters have reached, in milliseconds since the Unix epoch. One
/// clock per voter, `None` for one that did not answer; no majority: `None`. As long as fewer than half are ahead, so is
/// the result not ahead of all the others.
pub fn reached_by_majority(mut clocks: Vec<Option<u64>>) -> Option<u64> {
    clocks.sort_unstable_by(|a, b| b.cmp(a));
    clocks.get(clocks.len() / 2).copied().flatten()
}

/// The clock of one leadership.
#[derive(Debug)]
pub struct LeaderClock {
    /// The last time given out, since the Unix epoch. Finer than a millisecond, so that frequent reading loses nothing.
    now: Duration,
    /// The monotonic clock at that moment.
    read_at: Duration,
    /// What to add to the wall clock, in milliseconds, to get what a majority's clocks show; once one has answered.
    correction_ms: Option<i64>,
}

impl LeaderClock {
    /// Starts a leadership from the machine's time; from the wall clock if the machine has none yet.
    pub fn start(clock: &dyn Clock, machine_ms: u64) -> Self {
        let now_ms = match machine_ms {
            0 => clock.wall_ms(),
            _ => machine_ms,
        };
        Self { now: Duration::from_millis(now_ms), read_at: clock.monotonic(), correction_ms: None }
    }

    /// Takes what a majority's clocks have reached: at once the first time, and as the goal to approach after that. As
    /// long as the machine has no time, that of the leader alone is taken back.
    pub fn agree(&mut self, clock: &dyn Clock, machine_ms: u64, majority_ms: u64) {
        if machine_ms == 0 {
            self.now = Duration::from_millis(majority_ms);
        } else if self.correction_ms.is_none() {
            self.raise_to(majority_ms);
        }
        self.correction_ms = Some(majority_ms.wrapping_sub(clock.wall_ms()).cast_signed());
    }

    /// Never gives out less than this from now on. For a machine that applied entries of an earlier leader meanwhile.
    pub fn raise_to(&mut self, machine_ms: u64) {
        self.now = self.now.max(Duration::from_millis(machine_ms));
    }

    /// The time to propose, in milliseconds since the Unix epoch. Never less than before.
    pub fn now_ms(&mut self, clock: &dyn Clock) -> u64 {
        let monotonic = clock.monotonic();
        let elapsed = monotonic.saturating_sub(self.read_at);
        self.read_at = monotonic.max(self.read_at);
        self.now += elapsed;

        let wall_ms = clock.wall_ms().saturating_add_signed(self.correction_ms.unwrap_or(0));
        let ahead = Duration::from_millis(wall_ms).saturating_sub(self.now);
        self.now += if ahead <= Duration::from_millis(STEP_MS_MAX) { ahead } else { ahead.min(elapsed) };
        u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A clock that moves only when told to.
    #[derive(Debug, Default)]
    struct ManualClock {
        times: Mutex<(u64, Duration)>,
    }

    impl ManualClock {
        /// A clock whose wall shows this time, in milliseconds since the Unix epoch.
        fn new(wall_ms: u64) -> Self {
            Self { times: Mutex::new((wall_ms, Duration::ZERO)) }
        }

        /// Lets time pass: both clocks move.
        fn advance(&self, by: Duration) {
            let mut times = self.lock();
            times.0 += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            times.1 += by;
        }

        /// Sets the wall clock alone, as an operator or a time server would.
        fn set_wall_ms(&self, wall_ms: u64) {
            self.lock().0 = wall_ms;
        }

        fn lock(&self) -> std::sync::MutexGuard<'_, (u64, Duration)> {
            self.times.lock().expect("no holder of this lock panics")
        }
    }

    impl Clock for ManualClock {
        fn wall_ms(&self) -> u64 {
            self.lock().0
        }

        fn monotonic(&self) -> Duration {
            self.lock().1
        }
    }

    const T0: u64 = 1_000_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_leadership_starts_at_the_later_of_machine_and_wall() {
        let clock = ManualClock::new(T0);
        assert_eq!(LeaderClock::start(&clock, T0 - 5).now_ms(&clock), T0);
        assert_eq!(LeaderClock::start(&clock, T0 + 5).now_ms(&clock), T0 + 5);
        let mut first = LeaderClock::start(&clock, 0);
        assert_eq!(first.now_ms(&clock), T0, "the first time of a new cluster");
        first.agree(&clock, 0, T0 - HOUR_MS);
        assert_eq!(first.now_ms(&clock), T0 - HOUR_MS, "as long as nothing was applied");
    }

    #[test]
    fn a_new_leader_whose_clock_is_far_ahead_does_not_make_time_jump() {
        let clock = ManualClock::new(T0 + HOUR_MS);
        let mut leader = LeaderClock::start(&clock, T0);
        assert_eq!(leader.now_ms(&clock), T0);
        clock.advance(ms(100));
        assert_eq!(leader.now_ms(&clock), T0 + 200, "until the others have answered");
        leader.agree(&clock, T0 + 200, T0 + 300);
        assert_eq!(leader.now_ms(&clock), T0 + 300);
        clock.advance(ms(100));
        assert_eq!(leader.now_ms(&clock), T0 + 400, "and then no faster than time");
    }

    #[test]
    fn a_cluster_that_was_down_for_hours_catches_up_at_once() {
        let clock = ManualClock::new(T0 + 5 * HOUR_MS);
        let mut leader = LeaderClock::start(&clock, T0);
        leader.agree(&clock, T0, T0 + 5 * HOUR_MS - 2);
        assert_eq!(leader.now_ms(&clock), T0 + 5 * HOUR_MS - 2);
        // The clocks of a majority that jump later are approached like the leader's own.
        leader.agree(&clock, T0, T0 + 9 * HOUR_MS);
        clock.advance(ms(100));
        assert_eq!(leader.now_ms(&clock), T0 + 5 * HOUR_MS + 198);
    }

    #[test]
    fn a_majority_is_believed_as_far_as_all_of_it_has_come() {
        let some = |clocks: &[u64]| clocks.iter().copied().map(Some).collect();
        assert_eq!(reached_by_majority(some(&[7])), Some(7));
        assert_eq!(reached_by_majority(some(&[9, 7])), Some(7));
        assert_eq!(reached_by_majority(some(&[100, 7, 8])), Some(8));
        assert_eq!(reached_by_majority(some(&[1, 7, 8])), Some(7));
        assert_eq!(reached_by_majority(some(&[1, 100, 100, 8])), Some(8));
        assert_eq!(reached_by_majority(vec![None, Some(7), Some(8)]), Some(7));
        assert_eq!(reached_by_majority(vec![None, None, Some(8)]), None);
        assert_eq!(reached_by_majority(vec![]), None);
    }

    #[test]
    fn a_wall_clock_that_goes_back_is_not_followed() {
        let clock = ManualClock::new(T0);
        let mut leader = LeaderClock::start(&clock, 0);
        clock.set_wall_ms(T0 - HOUR_MS);
        assert_eq!(leader.now_ms(&clock), T0);
        clock.advance(ms(250));
        assert_eq!(leader.now_ms(&clock), T0 + 250);
    }

    #[test]
    fn a_small_step_ahead_is_taken_at_once() {
        let clock = ManualClock::new(T0);
        let mut leader = LeaderClock::start(&clock, 0);
        clock.set_wall_ms(T0 + STEP_MS_MAX);
        assert_eq!(leader.now_ms(&clock), T0 + STEP_MS_MAX);
    }

    #[test]
    fn a_large_step_ahead_is_approached_at_double_speed() {
        let clock = ManualClock::new(T0);
        let mut leader = LeaderClock::start(&clock, 0);
        clock.set_wall_ms(T0 + HOUR_MS);
        assert_eq!(leader.now_ms(&clock), T0, "without time passing it does not move");
        for second in 1..=10 {
            clock.advance(ms(1_000));
            assert_eq!(leader.now_ms(&clock), T0 + second * 2_000);
        }
        // Within reach of a small step it closes the gap, and then follows.
        clock.set_wall_ms(T0 + 20_000 + 1_500);
        clock.advance(ms(600));
        assert_eq!(leader.now_ms(&clock), T0 + 20_000 + 1_200);
        assert_eq!(leader.now_ms(&clock), T0 + 20_000 + 2_100);
    }

    #[test]
    fn parts_of_milliseconds_add_up() {
        let clock = ManualClock::new(T0);
        let mut leader = LeaderClock::start(&clock, T0 + HOUR_MS);
        for _ in 0..1_000 {
            clock.advance(Duration::from_micros(100));
            leader.now_ms(&clock);
        }
        assert_eq!(leader.now_ms(&clock), T0 + HOUR_MS + 100);
    }

    #[test]
    fn it_never_falls_behind_the_machine() {
        let clock = ManualClock::new(T0);
        let mut leader = LeaderClock::start(&clock, 0);
        leader.raise_to(T0 + 70);
        assert_eq!(leader.now_ms(&clock), T0 + 70);
        leader.raise_to(T0);
        assert_eq!(leader.now_ms(&clock), T0 + 70);
    }
}

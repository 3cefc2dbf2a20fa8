//! Time as the leader proposes it.
//!
//! The kernel has no clock: each log entry carries one, the leader's. Wall clocks lie, so the leader's clock is made
//! of two sources. The monotonic clock moves it on; the wall clock only pulls it forward. It never goes back, whatever
//! the wall clock does, and a wall clock that jumps far ahead is approached slowly: at most at double speed, so that
//! leases and back-offs end sooner than they should, but no faster than twice as soon.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where time comes from. The system's for real nodes, a manual one for tests.
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
        Self {
            started: Instant::now(),
        }
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
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    times: Mutex<(u64, Duration)>,
}

impl ManualClock {
    /// A clock whose wall shows this time, in milliseconds since the Unix epoch.
    pub fn new(wall_ms: u64) -> Self {
        Self {
            times: Mutex::new((wall_ms, Duration::ZERO)),
        }
    }

    /// Lets time pass: both clocks move.
    pub fn advance(&self, by: Duration) {
        let mut times = self.lock();
        times.0 += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        times.1 += by;
    }

    /// Sets the wall clock alone, as an operator or a time server would.
    pub fn set_wall_ms(&self, wall_ms: u64) {
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

/// How far the wall clock may be ahead and still be believed at once. What time servers correct lies far below.
pub const STEP_MS_MAX: u64 = 1_000;

/// The clock of one leadership.
#[derive(Debug)]
pub struct LeaderClock {
    /// The last time given out, since the Unix epoch. Finer than a millisecond, so that frequent reading loses nothing.
    now: Duration,
    /// The monotonic clock at that moment.
    read_at: Duration,
}

impl LeaderClock {
    /// Starts a leadership: from the machine's time or from the wall clock, whichever is later.
    pub fn start(clock: &dyn Clock, machine_ms: u64) -> Self {
        Self {
            now: Duration::from_millis(machine_ms.max(clock.wall_ms())),
            read_at: clock.monotonic(),
        }
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

        let ahead = Duration::from_millis(clock.wall_ms()).saturating_sub(self.now);
        self.now += if ahead <= Duration::from_millis(STEP_MS_MAX) {
            ahead
        } else {
            ahead.min(elapsed)
        };
        u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

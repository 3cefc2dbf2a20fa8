//! Clocks that lie: each node has its own, which runs fast or slow and whose wall clock jumps.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tarn_raft::clock::Clock;

/// The true time at which a simulation begins, in milliseconds since the Unix epoch: 2027.
pub const BEGIN_MS: u64 = 1_800_000_000_000;

/// A node's clock. It belongs to the machine: a restart of the process does not touch it.
#[derive(Debug)]
pub struct SimClock {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    monotonic_us: u64,
    wall_us: u64,
    /// Its speed in millionths of the true time's.
    rate: u64,
}

/// The speed of a clock that is right.
pub const TRUE_RATE: u64 = 1_000_000;

impl SimClock {
    /// A clock that is off by `skew_ms`.
    pub fn new(skew_ms: i64) -> Self {
        let wall_ms = BEGIN_MS.saturating_add_signed(skew_ms);
        Self { state: Mutex::new(State { monotonic_us: 0, wall_us: wall_ms * 1_000, rate: TRUE_RATE }) }
    }

    /// A millisecond of true time passes.
    pub fn tick(&self) {
        let mut state = self.lock();
        let passed = 1_000 * state.rate / TRUE_RATE;
        state.monotonic_us += passed;
        state.wall_us += passed;
    }

    /// Sets the speed, in millionths of the true one.
    pub fn set_rate(&self, rate: u64) {
        self.lock().rate = rate;
    }

    /// The wall clock jumps.
    pub fn jump(&self, by_ms: i64) {
        let mut state = self.lock();
        state.wall_us = state.wall_us.saturating_add_signed(by_ms * 1_000);
    }

    /// The wall clock is put right, and the speed too.
    pub fn mend(&self, true_ms: u64) {
        let mut state = self.lock();
        state.wall_us = true_ms * 1_000;
        state.rate = TRUE_RATE;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.lock().wall_us / 1_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.lock().monotonic_us)
    }
}

//! How fast a client goes, and what chance decides for it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::Scene;

/// A client's steps: so many a second at most, until the scene stops.
pub struct Pace {
    step: Duration,
    stop: CancellationToken,
    /// The client's own chance: the same in each run with the same seed.
    pub rng: StdRng,
}

impl Pace {
    /// At most this many steps a second, on average.
    pub fn new(scene: &Scene, process: u32, per_second: f64) -> Self {
        Self {
            step: Duration::from_secs_f64(1.0 / per_second),
            stop: scene.stop.clone(),
            rng: StdRng::seed_from_u64(scene.seed ^ (u64::from(process) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    /// Waits for the next step, between half and one and a half of the usual pause, so that clients do not march in step. False once the
    /// scene stops.
    pub async fn next(&mut self) -> bool {
        let pause = self.step.mul_f64(self.rng.random_range(0.5..1.5));
        self.wait(pause).await
    }

    /// Waits this long. False once the scene stops.
    pub async fn wait(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause) => !self.stop.is_cancelled(),
        }
    }

    /// With this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    /// Milliseconds from a range.
    pub fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }
}

/// How long each call of a process may take. Every fourth gives up within one try, so that many outcomes are unknown; the others try again at
/// length, as patient users do.
pub fn deadline(process: u32) -> Duration {
    Duration::from_secs(if process.is_multiple_of(4) { 4 } else { 15 })
}

//! How long to wait after a failure: doubling, with a cap and some chance, so that drivers that broke together do not come back together.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

/// The first delay and the longest.
const DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// What ran this long since the last failure has recovered: the next failure is a first one.
const RECOVERED_AFTER: Duration = Duration::from_secs(300);

/// Delays of one thing that fails.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    failed_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: DELAY.0, failed_at: None }
    }
}

impl Backoff {
    /// It failed: how long to wait. Up to half of it again is by chance.
    pub fn failed(&mut self) -> Duration {
        if self.failed_at.is_some_and(|at| at.elapsed() > RECOVERED_AFTER + self.next) {
            self.next = DELAY.0;
        }
        let delay = self.next;
        self.next = (delay * 2).min(DELAY.1);
        self.failed_at = Some(Instant::now());
        delay + rand::rng().random_range(Duration::ZERO..=delay / 2)
    }

    /// It works.
    pub fn works(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_double_up_to_a_cap_and_start_over_after_a_good_while() {
        let mut backoff = Backoff::default();
        let mut least = DELAY.0;
        for _ in 0..12 {
            let delay = backoff.failed();
            assert!(delay >= least && delay <= least * 3 / 2, "{delay:?} after {least:?}");
            least = (least * 2).min(DELAY.1);
        }
        tokio::time::advance(DELAY.1 + RECOVERED_AFTER + Duration::from_secs(1)).await;
        assert!(backoff.failed() < DELAY.0 * 2);
        backoff.failed();
        backoff.works();
        assert!(backoff.failed() < DELAY.0 * 2);
    }
}

//! What time it is in another cluster, at most.
//!
//! Each answer says what the other cluster's clock showed at some moment before the answer came. So at any later moment that clock shows at
//! least as much as then, plus what has passed here since. A moment there that is reckoned from this comes no later than it should: what is on
//! the way for long makes an attempt there shorter, never longer.

use std::time::Duration;

use tarn_proto::v1::TransferAnswer;
use tokio::time::Instant;

/// An attempt there ends this much before the lease does here: both clusters' state is a little behind.
const MARGIN: Duration = Duration::from_millis(500);

/// One part in so many is taken off for the same reason.
const DRIFT: u32 = 100;

/// The latest reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clock {
    theirs_ms: u64,
    ours: Instant,
}

impl Clock {
    /// The clock as an answer says that has just come.
    pub fn read(answer: &TransferAnswer) -> Self {
        Self { theirs_ms: answer.now_ms, ours: Instant::now() }
    }

    /// Takes the latest reading: one that shows less than was reckoned makes what is reckoned next come earlier, and a clock may have stood
    /// still, with nobody to drive it.
    pub fn learn(&mut self, answer: &TransferAnswer) {
        *self = Self::read(answer);
    }

    /// A moment of the other cluster's that comes before this one does here; what is past already is a moment from now.
    pub fn until(&self, end: Instant) -> u64 {
        let ahead = end.saturating_duration_since(self.ours);
        self.theirs_ms.saturating_add(millis((ahead - ahead / DRIFT).saturating_sub(MARGIN)).max(1))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(now_ms: u64) -> TransferAnswer {
        TransferAnswer { now_ms, ..TransferAnswer::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reckoned_comes_early_never_late() {
        let mut clock = Clock::read(&says(1_000_000));
        let read = Instant::now();
        assert_eq!(clock.until(read + Duration::from_secs(10)), 1_000_000 + 9_900 - 500);
        assert_eq!(clock.until(read), 1_000_001);
        tokio::time::advance(Duration::from_secs(10)).await;
        // It was under way for five seconds, or that clock stood still.
        clock.learn(&says(1_005_000));
        assert_eq!(clock.until(Instant::now() + Duration::from_secs(1)), 1_005_000 + 990 - 500);
        clock.learn(&says(u64::MAX));
        assert_eq!(clock.until(Instant::now() + Duration::from_secs(1)), u64::MAX, "no reading makes it panic");
    }
}

//! Times and durations as the contract writes them: whole milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Longer than anybody waits, and short enough that every clock can count it.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The moment this long from now, for waits that a caller bounds, however large the bound.
pub(crate) fn from_now(duration: Duration) -> Instant {
    Instant::now() + duration.min(FOREVER)
}

/// A duration in milliseconds. A part of a millisecond counts whole, so that no wait becomes none.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A time in milliseconds since the Unix epoch; earlier times are the epoch.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

//! What an idle link costs.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{BenchArgs, bytes};
use crate::side::Side;

/// How long the link is left alone first: what is owed after the last change is said by then.
const SETTLE: Duration = Duration::from_secs(5);

/// What was carried.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// For how long was looked.
    pub seconds: f64,
    /// Bytes a second, both ways together.
    pub bytes_per_second: f64,
}

impl Idle {
    pub fn text(&self) -> String {
        format!("idle for {:.0} s: {:.0} bytes/s, both ways together", self.seconds, self.bytes_per_second)
    }
}

/// Counts what goes over the wires while nobody writes.
///
/// # Errors
/// None.
pub async fn measure(args: &BenchArgs, sides: &[Side; 2]) -> Result<Idle> {
    sleep(SETTLE).await;
    let (before, began) = (bytes(sides), Instant::now());
    sleep(Duration::from_secs(args.idle)).await;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Idle { seconds, bytes_per_second: (bytes(sides) - before) as f64 / seconds.max(1e-9) })
}

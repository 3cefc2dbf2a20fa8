//! How soon two clusters agree after a cut during which both went on.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{BenchArgs, bytes, payload};
use crate::side::{PLAN, Side, cut, wait_until_equal, wait_until_signed};

/// Changes that a cluster takes at once.
const AT_ONCE: u64 = 32;

/// How soon they agreed.
#[derive(Debug, Clone, Serialize)]
pub struct Agreed {
    /// How long the cut was, and how many changes each took meanwhile.
    pub cut_s: f64,
    pub changes: u64,
    /// From the healing to the moment in which both say that they have the same document, in seconds.
    pub seconds: f64,
    /// Of these until the clusters were connected again.
    pub connected_s: f64,
    /// Bytes that went between them meanwhile.
    pub bytes: u64,
}

impl Agreed {
    pub fn text(&self) -> String {
        format!(
            "{:.0} s of cut with {} changes on each side: equal {:.2} s after it, {:.2} s of them until connected; {} kB",
            self.cut_s,
            self.changes,
            self.seconds,
            self.connected_s,
            self.bytes / 1_000
        )
    }
}

/// Cuts, has both write, heals and waits.
///
/// # Errors
/// If a change is refused or they do not come to agree.
pub async fn measure(args: &BenchArgs, sides: &[Side; 2]) -> Result<Agreed> {
    let [west, east] = sides;
    let began = Instant::now();
    cut(west, east, false);
    let mut writing = JoinSet::new();
    for side in sides {
        for lane in 0..AT_ONCE {
            let (args, client, name) = (args.clone(), side.client.clone(), side.name);
            writing.spawn(async move {
                for number in (lane..args.changes).step_by(AT_ONCE as usize) {
                    let due = Duration::from_secs(args.cut).mul_f64(number as f64 / args.changes as f64);
                    sleep_until(began + due).await;
                    client.context(PLAN).put(format!("{name}/cut/{number}"), payload(&args, number), None).await?;
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(ended) = writing.join_next().await {
        ended??;
    }
    wait_until_signed(sides).await?;
    sleep_until(began + Duration::from_secs(args.cut)).await;
    let cut_s = began.elapsed().as_secs_f64();
    let (before, healed) = (bytes(sides), Instant::now());
    cut(west, east, true);
    // The first bytes of a new connection are the beginning of its handshake.
    while bytes(sides) == before {
        sleep(Duration::from_millis(1)).await;
    }
    let connected_s = healed.elapsed().as_secs_f64();
    wait_until_equal(west, east).await?;
    Ok(Agreed { cut_s, changes: args.changes, seconds: healed.elapsed().as_secs_f64(), connected_s, bytes: bytes(sides) - before })
}

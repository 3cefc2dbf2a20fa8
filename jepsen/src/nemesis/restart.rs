//! Nodes are restarted in good order, one after the other, as for a new configuration.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::target::active;
use super::{Injected, Nemesis, Rhythm};
use crate::cluster::{Build, Cluster};

/// How long the next node waits for the one before it to be back. With other faults at work it may never be.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Ends each node with SIGTERM and starts it again.
pub struct Rolling;

#[async_trait]
impl Nemesis for Rolling {
    fn name(&self) -> &'static str {
        "restart"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let mut nodes = active(cluster);
        nodes.shuffle(rng);
        let mut restarts = Vec::new();
        for id in nodes {
            let build = cluster.build(id)?;
            restarts.push(roll(cluster, id, build).await?);
        }
        Ok(Injected::steps("restarts", restarts))
    }

    async fn heal(&mut self, _cluster: &Cluster) -> Result<Value> {
        Ok(Value::Null)
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(1, 8)
    }
}

/// Restarts one node with this build if it runs and is not paused, and waits a while until it follows a leader again.
pub(super) async fn roll(cluster: &Cluster, id: u64, build: Build) -> Result<Injected> {
    if !active(cluster).contains(&id) {
        return Ok(untouched(id, "it does not run"));
    }
    let start = Instant::now();
    if !cluster.restart_as(id, build).await? {
        return Ok(untouched(id, "another fault ended or started it meanwhile"));
    }
    let down = start.elapsed();
    let mut back = false;
    while !back && start.elapsed() < down + BACK_WITHIN && cluster.running().contains(&id) {
        tokio::time::sleep(LOOK_AGAIN).await;
        back = cluster.status(id).await.is_ok_and(|status| status.leader_id != 0);
    }
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let what = json!({
        "node": id,
        "build": build,
        "ended_after_ms": milliseconds(down),
        "back_after_ms": back.then(|| milliseconds(start.elapsed())),
    });
    Ok(Injected::when(true, what))
}

fn untouched(id: u64, reason: &str) -> Injected {
    Injected::when(false, json!({ "node": id, "skipped": reason }))
}

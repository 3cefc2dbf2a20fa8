//! A node was away for so long that what it lacks is no longer in the log: it needs a snapshot.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::target::active;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::Cluster;

/// How long a follower is kept dead in wait for a snapshot beyond its log. Without load there is none.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Entries that the cluster keeps after a snapshot unless the run's settings say otherwise; see `raft.keep_entries`.
const KEPT: u64 = 5_000;

/// Kills a follower and starts it again when it needs a snapshot.
#[derive(Default)]
pub struct Snapshot {
    /// The follower, and the last entry of its log when it was last seen.
    away: Option<(u64, u64)>,
}

#[async_trait]
impl Nemesis for Snapshot {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let leader = cluster.leader().await;
        let followers: Vec<u64> = active(cluster).into_iter().filter(|id| Some(*id) != leader).collect();
        let Some(id) = followers.choose(rng).copied() else {
            return Ok(Injected::nothing("no follower runs"));
        };
        let log = cluster.status(id).await.map_or(0, |status| status.last_log_index);
        self.away = Some((id, log));
        let killed = cluster.kill(&[id]).await?;
        let what = json!({ "killed": id, "last_log_index": log });
        Ok(Injected::when(!killed.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let Some((id, log)) = self.away.take() else {
            return Ok(Value::Null);
        };
        let kept = kept(&cluster.options().settings);
        let end = Instant::now() + SNAPSHOT_WITHIN;
        let mut snapshot = 0;
        while snapshot <= log + kept && Instant::now() < end {
            let statuses = cluster.statuses().await;
            snapshot = statuses.values().map(|status| status.snapshot_index).max().unwrap_or(0);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let started = cluster.start_idle(&[id])?;
        Ok(json!({ "started": started, "snapshot_index": snapshot, "needs_it": snapshot > log + kept }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(8, 6)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Nodes(2)]
    }
}

/// How many entries behind a snapshot the log keeps.
fn kept(settings: &[(String, String)]) -> u64 {
    let set = settings.iter().rev().find(|(key, _)| key == "raft.keep_entries");
    set.and_then(|(_, value)| value.replace('_', "").parse().ok())
        .unwrap_or(KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_keeps_is_read_from_the_settings() {
        assert_eq!(kept(&[]), KEPT);
        let set = |value: &str| vec![("raft.keep_entries".to_owned(), value.to_owned())];
        assert_eq!(kept(&set("1_00")), 100);
    }
}

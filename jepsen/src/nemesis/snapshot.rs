//! A node was away for so long that what it lacks is no longer in the leader's log: it needs a snapshot.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::target::active;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::{Cluster, leader_of};

/// How long a follower is kept dead in wait for a leader without what it lacks. Without load there is none.
const PURGED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Limit on one transfer of leadership.
const TRANSFER_WITHIN: Duration = Duration::from_secs(5);

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
        let end = Instant::now() + PURGED_WITHIN;
        let mut needs_it = press_for_purged_leader(cluster, log).await;
        while !needs_it && Instant::now() < end {
            tokio::time::sleep(LOOK_AGAIN).await;
            needs_it = press_for_purged_leader(cluster, log).await;
        }
        let started = cluster.start_idle(&[id])?;
        Ok(json!({ "started": started, "needs_it": needs_it }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(8, 6)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Nodes(2)]
    }
}

/// Whether the leader's log lacks what comes after the entry `log`; where it does not, a follower whose log does is asked to lead, as a leader
/// may keep what a dead follower lacks.
async fn press_for_purged_leader(cluster: &Cluster, log: u64) -> bool {
    let statuses = cluster.statuses().await;
    let mut purged = statuses.iter().filter(|(_, status)| status.purged_index > log);
    match leader_of(&statuses) {
        Some(leader) if statuses[&leader].purged_index > log => true,
        Some(leader) => {
            if let (Some((to, _)), Ok(client)) = (purged.next(), cluster.client(&[leader])) {
                // Refused or too late: the next look tells.
                let _ = client.with_deadline(TRANSFER_WITHIN).transfer_leader(Some(*to)).await;
            }
            false
        }
        None => false,
    }
}

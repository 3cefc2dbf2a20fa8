//! Nodes come and go.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::target::active;
use super::{Injected, Need, Nemesis, Rhythm, told};
use crate::cluster::Cluster;

/// The most voters that a cluster has, and the most nodes that this nemesis adds beyond those that it began with.
const VOTERS_MAX: usize = 7;
const MORE: usize = 2;
/// How long healing tries to bring the cluster back to its size. Under other faults it may not get there; the next healing goes on.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Adds, removes and replaces nodes, and brings the cluster back to the size that it had.
#[derive(Default)]
pub struct Membership {
    changed: bool,
}

#[async_trait]
impl Nemesis for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        self.changed = true;
        let (base, now) = (cluster.options().nodes, cluster.ids().len());
        let room = now < (base + MORE).min(VOTERS_MAX);
        let done = match rng.random_range(0..4) {
            0 if room => add(cluster).await,
            1 if now > base => remove(cluster, any(cluster, rng)).await,
            2 => replace(cluster, rng).await,
            _ if room => {
                let added = add(cluster).await;
                let removed = remove(cluster, any(cluster, rng)).await;
                Injected::steps("swap", vec![added, removed])
            }
            _ => remove(cluster, any(cluster, rng)).await,
        };
        Ok(done)
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        if !self.changed {
            return Ok(Value::Null);
        }
        let end = Instant::now() + BACK_WITHIN;
        let mut steps = Vec::new();
        loop {
            cluster.start_idle(&cluster.ids())?;
            let step = step_back(cluster).await;
            let settled = matches!(&step, Ok(Value::Null));
            if !settled {
                steps.push(told(step));
            }
            if settled || Instant::now() >= end {
                self.changed = !settled;
                return Ok(json!({ "steps": steps, "nodes": cluster.ids(), "settled": settled }));
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(3, 5)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Nodes(2)]
    }
}

/// One step towards the membership that the cluster began with, in number; nothing if it is there.
async fn step_back(cluster: &Cluster) -> Result<Value> {
    let gone = cluster.retire_removed().await?;
    if !gone.is_empty() {
        return Ok(json!({ "retired": gone }));
    }
    let (base, ids) = (cluster.options().nodes, cluster.ids());
    match ids.len().cmp(&base) {
        std::cmp::Ordering::Less => Ok(json!({ "added": cluster.add().await? })),
        std::cmp::Ordering::Greater => {
            let Some(last) = ids.last() else { return Ok(Value::Null) };
            cluster.remove(*last).await?;
            Ok(json!({ "removed": last }))
        }
        std::cmp::Ordering::Equal => {
            let voters = cluster.voters().await;
            anyhow::ensure!(voters.is_some_and(|voters| ids.iter().eq(&voters)), "not every node votes yet");
            Ok(Value::Null)
        }
    }
}

async fn add(cluster: &Cluster) -> Injected {
    let added = cluster.add().await;
    Injected::when(added.is_ok(), json!({ "add": told(added.map(|id| json!(id))) }))
}

async fn remove(cluster: &Cluster, id: Option<u64>) -> Injected {
    let Some(id) = id else {
        return Injected::nothing("no node runs");
    };
    let removed = cluster.remove(id).await;
    let what = |removed| json!({ "remove": id, "result": removed });
    Injected::when(removed.is_ok(), what(told(removed.map(|()| json!("removed")))))
}

/// Kills a node for good, and puts another in its place.
async fn replace(cluster: &Cluster, rng: &mut StdRng) -> Injected {
    let Some(id) = any(cluster, rng) else {
        return Injected::nothing("no node runs");
    };
    let (made, replaced) = match cluster.kill(&[id]).await {
        // A death is a fault, whoever comes afterwards.
        Ok(killed) => (!killed.is_empty(), cluster.replace(id).await.map(|new| json!(new))),
        Err(error) => (false, Err(error)),
    };
    let made = made || replaced.is_ok();
    Injected::when(made, json!({ "replace": id, "by": told(replaced) }))
}

/// A node that runs, the leader as likely as any.
fn any(cluster: &Cluster, rng: &mut StdRng) -> Option<u64> {
    active(cluster).choose(rng).copied()
}

//! Disks that return something else than was written.
//!
//! On a minority, so that a healthy majority has every acknowledged byte. A node that finds the damage has to refuse to go on, and one that does
//! not find it may run but must not lead others astray: the workload's checks and the comparison of digests at the end tell. Healing does what
//! the documentation tells operators to do with such a node: end it and put a new one in its place. It does so too where the node still runs,
//! because what lies damaged in a file that nobody has read yet would come up later.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{judged, on_disk};
use crate::cluster::Cluster;
use crate::disk::{Damage, FaultyDisk, Wound};
use crate::nemesis::target::{Size, drawn};
use crate::nemesis::{Need, Nemesis, Rhythm, told};

/// What can be damaged: a name, and the files.
const PARTS: [(&str, &str); 4] = [
    ("log", "raft/log/*"),
    ("state", "raft/state/*/*"),
    ("snapshot", "raft/snapshots/**"),
    ("metadata", "raft/**/[CM]*"),
];
/// Wounds per node.
const WOUNDS_MAX: u32 = 4;
/// How a node that refuses damaged data may put it.
const WORDS: &[&str] = &[
    "corrupt",
    "checksum",
    "damaged",
    "storage engine",
    "not a data directory",
    "digest",
    "which is no generation",
    "snapshot",
];
/// How long healing tries to replace the nodes. Under other faults it may not get there; the next healing goes on.
const REPLACED_WITHIN: Duration = Duration::from_secs(90);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Kills a minority, damages their disks, starts them, and replaces them later.
#[derive(Default)]
pub struct Corruption {
    /// Damaged and not replaced yet.
    damaged: BTreeSet<u64>,
}

#[async_trait]
impl Nemesis for Corruption {
    fn name(&self) -> &'static str {
        "disk-damage"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Value> {
        if !self.damaged.is_empty() {
            return Ok(json!({ "skipped": format!("nodes {:?} wait to be replaced", self.damaged) }));
        }
        let mut what = Vec::new();
        for node in drawn(Size::Minority, cluster, rng).await {
            // As they are now, old chunks of them can come back after some more writes.
            on_disk(cluster, node, |disk| disk.remember("raft/**")).await?;
            self.damaged.insert(node);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let killed = cluster
            .kill(&self.damaged.iter().copied().collect::<Vec<u64>>())
            .await?;
        for node in &killed {
            let mut luck = StdRng::seed_from_u64(rng.random());
            let wounds = on_disk(cluster, *node, move |disk| wounds(disk, &mut luck)).await?;
            what.push(json!({ "node": node, "wounds": wounds }));
        }
        let started = cluster.start_idle(&killed)?;
        Ok(json!({ "damaged": what, "started": started }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let mut steps = Vec::new();
        let end = Instant::now() + REPLACED_WITHIN;
        while let Some(node) = self.damaged.first().copied() {
            let took = judged(cluster, node, 0, WORDS);
            let replaced = replace(cluster, node).await;
            let done = replaced.is_ok();
            steps.push(json!({ "took": took, "replaced": told(replaced.map(|by| json!(by))) }));
            if done {
                self.damaged.remove(&node);
            } else if Instant::now() >= end {
                break;
            } else {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        Ok(if steps.is_empty() {
            Value::Null
        } else {
            json!({ "steps": steps, "left": self.damaged })
        })
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(6, 9)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Disks, Need::SeveralNodes]
    }
}

/// Damages one disk in some places.
fn wounds(disk: &FaultyDisk, rng: &mut StdRng) -> Result<Vec<Wound>> {
    let mut wounds = Vec::new();
    let (_, files) = PARTS.choose(rng).expect("there are parts");
    for _ in 0..rng.random_range(1..=WOUNDS_MAX) {
        let ways = [
            Damage::BitFlip,
            Damage::BitFlip,
            Damage::Truncation,
            Damage::OldChunk,
            Damage::ZeroChunk,
        ];
        let damage = *ways.choose(rng).expect("there are ways");
        let wound = match disk.corrupt(files, damage, rng)? {
            // There is no snapshot yet, or nothing that changed: a bit can always be flipped in the log.
            None => disk.corrupt("raft/log/*", Damage::BitFlip, rng)?,
            wound => wound,
        };
        wounds.extend(wound);
    }
    disk.forget();
    Ok(wounds)
}

/// Ends a node for good and puts a new one in its place.
async fn replace(cluster: &Cluster, node: u64) -> Result<Option<u64>> {
    if !cluster.ids().contains(&node) {
        // The membership changed meanwhile, and it is not in it.
        return Ok(None);
    }
    cluster.kill(&[node]).await?;
    cluster.replace(node).await.map(Some)
}

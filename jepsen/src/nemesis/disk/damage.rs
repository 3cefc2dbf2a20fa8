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
use crate::disk::{Damage, FaultyDisk, Survival, Wound};
use crate::nemesis::target::{Size, drawn};
use crate::nemesis::{Injected, Need, Nemesis, Rhythm, told};

/// What can be damaged: one of these parts, in any of its files. Files that only people read are none of them.
const PARTS: [&[&str]; 4] = [
    &[LOG],
    &["raft/state/*/*.log", "raft/state/*/*.sst"],
    &["raft/snapshots/s*/**"],
    &["raft/**/CURRENT", "raft/**/FORMAT", "raft/state/*/MANIFEST*", "raft/log/SYNCED"],
];
/// What there always is.
const LOG: &str = "raft/log/*.log";
/// Wounds per node.
const WOUNDS_MAX: u32 = 4;
/// How a node that refuses damaged data may put it; a pointer that is damaged points to a file that is not there.
const WORDS: &[&str] = &[
    "corrupt",
    "checksum",
    "damaged",
    "storage engine",
    "not a data directory",
    "digest",
    "which is no generation",
    "snapshot",
    "no such file",
];
/// How long healing tries to replace the nodes. Under other faults it may not get there; the next healing goes on.
const REPLACED_WITHIN: Duration = Duration::from_secs(90);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Anything that is found for certain.
    Anywhere,
    /// The end of the log that was synced last is missing. No checksum tells this from a crash in the middle of a write, so the log has a mark
    /// beside it that says how far it was synced, and a node whose log ends before its mark refuses to start. A power cut takes what was marked
    /// in the last milliseconds: a node that lost no more than that votes as if it had never had what it acknowledged, and a second failure at
    /// the wrong moment loses it. By name only, because a mixed run that met this could not be told from one that found something new.
    LogEnd,
}

/// Kills a minority, damages their disks, starts them, and replaces them later.
pub struct Corruption {
    aim: Aim,
    /// Damaged and not replaced yet.
    damaged: BTreeSet<u64>,
}

impl Corruption {
    /// One that damages this.
    pub fn of(aim: Aim) -> Self {
        Self { aim, damaged: BTreeSet::new() }
    }
}

#[async_trait]
impl Nemesis for Corruption {
    fn name(&self) -> &'static str {
        match self.aim {
            Aim::Anywhere => "disk-damage",
            Aim::LogEnd => "disk-log-end",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        if !self.damaged.is_empty() {
            return Ok(Injected::nothing(&format!("nodes {:?} wait to be replaced", self.damaged)));
        }
        // Damage is for good, so it must stay with a minority of those that vote, whoever else still runs.
        let Some(voters) = cluster.voters().await else {
            return Ok(Injected::nothing("nobody can say who votes"));
        };
        let most = voters.len().saturating_sub(1) / 2;
        let mut what = Vec::new();
        let hit = drawn(Size::Minority, cluster, rng).await.into_iter();
        for node in hit.filter(|node| voters.contains(node)).take(most) {
            // As they are now, old chunks of them can come back after some more writes.
            on_disk(cluster, node, |disk| disk.remember("raft/**")).await?;
            self.damaged.insert(node);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let killed = cluster.kill(&self.damaged.iter().copied().collect::<Vec<u64>>()).await?;
        for node in &killed {
            let (aim, mut luck) = (self.aim, StdRng::seed_from_u64(rng.random()));
            let hurt = on_disk(cluster, *node, move |disk| hurt(disk, aim, &mut luck)).await;
            what.push(match hurt {
                Ok(hurt) => Injected::when(hurt.made, json!({ "node": node, "hurt": hurt.what })),
                // Another fault's healing has started it already: then it was only killed.
                Err(error) if cluster.running().contains(node) => {
                    Injected::when(false, json!({ "node": node, "skipped": format!("{error:#}") }))
                }
                Err(error) => return Err(error),
            });
        }
        let started = cluster.start_idle(&killed)?;
        let mut done = Injected::steps("damaged", what);
        done.what["started"] = json!(started);
        Ok(done)
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
                // Another nemesis may have started it meanwhile, and its damage ended it once more.
                judged(cluster, node, 0, WORDS);
            } else if Instant::now() >= end {
                break;
            } else {
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        Ok(if steps.is_empty() { Value::Null } else { json!({ "steps": steps, "left": self.damaged }) })
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(6, 9)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Disks, Need::Nodes(2)]
    }
}

/// Damages one disk, with or without a power cut before, that takes from the state what could make up for the log.
fn hurt(disk: &FaultyDisk, aim: Aim, rng: &mut StdRng) -> Result<Injected> {
    let lost = match aim == Aim::LogEnd || rng.random() {
        true => Some(disk.lose_unsynced(Survival::Nothing, rng)?),
        false => None,
    };
    let wounds = match aim {
        Aim::Anywhere => wounds(disk, rng)?,
        Aim::LogEnd => disk.corrupt(LOG, Damage::Truncation, rng)?.into_iter().collect(),
    };
    disk.forget();
    Ok(Injected::when(!wounds.is_empty(), json!({ "lost": lost, "wounds": wounds })))
}

/// Damages some places of one part.
fn wounds(disk: &FaultyDisk, rng: &mut StdRng) -> Result<Vec<Wound>> {
    let part = PARTS.choose(rng).expect("there are parts");
    let ways = [Damage::BitFlip, Damage::BitFlip, Damage::Truncation, Damage::OldChunk, Damage::ZeroChunk];
    let mut damages: Vec<Damage> = (0..rng.random_range(1..=WOUNDS_MAX)).filter_map(|_| ways.choose(rng).copied()).collect();
    // What is old comes first, or it could heal what comes before it.
    damages.sort_by_key(|damage| *damage != Damage::OldChunk);
    let mut wounds = Vec::new();
    for damage in damages {
        let files = part.choose(rng).expect("parts have files");
        let damage = if findable(files, damage) { damage } else { Damage::BitFlip };
        let wound = match disk.corrupt(files, damage, rng)? {
            // There is no such file yet, or nothing that changed.
            None => disk.corrupt(LOG, Damage::BitFlip, rng)?,
            wound => wound,
        };
        wounds.extend(wound);
    }
    Ok(wounds)
}

/// Whether it is found for certain, whatever else fails; see [`Aim::LogEnd`].
fn findable(files: &str, damage: Damage) -> bool {
    damage != Damage::Truncation || files != LOG
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

//! The cluster is upgraded node by node, and goes back.

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::restart::roll;
use super::target::active;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::{Build, Cluster};

/// Starts nodes with the second build one after the other, all of them or some, and later with the first one again. The machine version is not
/// raised: until then the way back is open, which is what is tried here.
#[derive(Default)]
pub struct Upgrade {
    upgraded: Vec<u64>,
}

#[async_trait]
impl Nemesis for Upgrade {
    fn name(&self) -> &'static str {
        "upgrade"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let mut nodes = active(cluster);
        nodes.shuffle(rng);
        // Half the time it stops midway: old and new nodes have to live together.
        if rng.random_bool(0.5) {
            nodes.truncate(rng.random_range(1..=nodes.len().max(1)));
        }
        let mut upgrades = Vec::new();
        for id in nodes {
            self.upgraded.push(id);
            upgrades.push(roll(cluster, id, Build::Next).await?);
        }
        Ok(Injected::steps("upgrades", upgrades))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let mut back = Vec::new();
        while let Some(id) = self.upgraded.pop() {
            // One that does not run now has to start with the first build when it starts.
            match cluster.build(id)? {
                Build::Current => {}
                Build::Next if active(cluster).contains(&id) => {
                    back.push(roll(cluster, id, Build::Current).await?.what);
                }
                Build::Next => cluster.set_build(id, Build::Current)?,
            }
        }
        Ok(json!({ "back": back }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(5, 6)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::NextBuild]
    }
}

//! Machines lose their power.

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::on_disk;
use crate::cluster::Cluster;
use crate::disk::Survival;
use crate::nemesis::target::{Size, drawn};
use crate::nemesis::{Injected, Need, Nemesis, Rhythm};

/// Kills nodes with SIGKILL, takes from their disks what they had not synced, and starts them again.
pub struct PowerLoss {
    size: Option<Size>,
    out: Vec<u64>,
}

impl PowerLoss {
    /// One whose size is drawn each time.
    pub fn any() -> Self {
        Self { size: None, out: Vec::new() }
    }

    /// One that hits all nodes at once.
    pub fn all() -> Self {
        Self { size: Some(Size::All), out: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for PowerLoss {
    fn name(&self) -> &'static str {
        match self.size {
            Some(Size::All) => "power-loss-all",
            _ => "power-loss",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let size = self.size.unwrap_or_else(|| Size::drawn(rng));
        let targets = drawn(size, cluster, rng).await;
        self.out.extend(&targets);
        let killed = cluster.kill(&targets).await?;
        let mut lost = Vec::new();
        for node in killed {
            let survival = *[Survival::Nothing, Survival::Torn, Survival::Scattered].choose(rng).expect("there are three");
            let mut luck = StdRng::seed_from_u64(rng.random());
            let loss = on_disk(cluster, node, move |disk| disk.lose_unsynced(survival, &mut luck)).await;
            lost.push(match loss {
                Ok(loss) => {
                    let survival = format!("{survival:?}").to_lowercase();
                    let what = json!({ "node": node, "survival": survival, "lost": loss });
                    Injected::when(true, what)
                }
                // Another fault's healing has started it already: then only its process was lost.
                Err(error) if cluster.running().contains(&node) => {
                    Injected::when(false, json!({ "node": node, "skipped": format!("{error:#}") }))
                }
                Err(error) => return Err(error),
            });
        }
        let mut done = Injected::steps("power", lost);
        done.what["size"] = json!(size);
        Ok(done)
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let started = cluster.start_idle(&self.out)?;
        self.out.clear();
        Ok(json!({ "started": started }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(4, 8)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Disks]
    }
}

//! Processes end without warning.

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::target::{Size, drawn};
use super::{Injected, Nemesis, Rhythm};
use crate::cluster::Cluster;

/// Kills nodes with SIGKILL, and starts them again.
pub struct Kill {
    size: Option<Size>,
    killed: Vec<u64>,
}

impl Kill {
    /// One whose size is drawn each time.
    pub fn any() -> Self {
        Self { size: None, killed: Vec::new() }
    }

    /// One of this size.
    pub(super) fn always(size: Size) -> Self {
        Self { size: Some(size), killed: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for Kill {
    fn name(&self) -> &'static str {
        match self.size {
            None | Some(Size::One | Size::Minority) => "kill",
            Some(Size::Leader) => "kill-leader",
            Some(Size::Majority) => "kill-majority",
            Some(Size::All) => "kill-all",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let size = self.size.unwrap_or_else(|| Size::drawn(rng));
        let targets = drawn(size, cluster, rng).await;
        self.killed.extend(&targets);
        let killed = cluster.kill(&targets).await?;
        let what = json!({ "size": size, "killed": killed });
        Ok(Injected::when(!killed.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let started = cluster.start_idle(&self.killed)?;
        self.killed.clear();
        Ok(json!({ "started": started }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(4, 7)
    }
}

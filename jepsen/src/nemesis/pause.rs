//! Processes stop for a while and do not know it.

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::target::{Size, drawn};
use super::{Injected, Nemesis, Rhythm};
use crate::cluster::Cluster;

/// Pauses nodes with SIGSTOP, and lets them go on.
pub struct Pause {
    size: Option<Size>,
    paused: Vec<u64>,
}

impl Pause {
    /// One whose size is drawn each time.
    pub fn any() -> Self {
        Self { size: None, paused: Vec::new() }
    }

    /// One of this size.
    pub(super) fn always(size: Size) -> Self {
        Self { size: Some(size), paused: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for Pause {
    fn name(&self) -> &'static str {
        match self.size {
            Some(Size::Leader) => "pause-leader",
            _ => "pause",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let size = self.size.unwrap_or_else(|| Size::drawn(rng));
        let targets = drawn(size, cluster, rng).await;
        let paused = cluster.pause(&targets)?;
        self.paused.extend(&paused);
        let what = json!({ "size": size, "paused": paused });
        Ok(Injected::when(!paused.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let resumed = cluster.resume(&self.paused)?;
        self.paused.clear();
        Ok(json!({ "resumed": resumed }))
    }

    /// Longer than the workloads' leases, and than elections.
    fn plan(&self) -> Rhythm {
        Rhythm::seconds(10, 6)
    }
}

//! Leadership is handed over.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::target::active;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::Cluster;

/// Limit on one transfer.
const WITHIN: Duration = Duration::from_secs(5);

/// Hands leadership to a voter, once or several times.
pub struct Transfer;

#[async_trait]
impl Nemesis for Transfer {
    fn name(&self) -> &'static str {
        "transfer"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let mut transfers = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            let nodes = active(cluster);
            // Sometimes to whoever the leader likes best, and now and then to a node that is not there.
            let target = match rng.random_range(0..10) {
                0..3 => None,
                3 => cluster.ids().choose(rng).copied(),
                _ => nodes.choose(rng).copied(),
            };
            let asked = match nodes.is_empty() {
                true => Err(anyhow::anyhow!("no node runs")),
                false => cluster.client(&nodes)?.with_deadline(WITHIN).transfer_leader(target).await.map_err(Into::into),
            };
            let made = asked.is_ok();
            let result = super::told(asked.map(|leader| json!(leader)));
            transfers.push(Injected::when(made, json!({ "to": target, "leader": result })));
        }
        Ok(Injected::steps("transfers", transfers))
    }

    async fn heal(&mut self, _cluster: &Cluster) -> Result<Value> {
        Ok(Value::Null)
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(1, 4)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Nodes(2)]
    }
}

//! Links are late and lossy.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::target::{Size, drawn};
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::Cluster;
use crate::cluster::net::{Link, Slowness, between};

/// Slows links, and makes fast what it has slowed.
#[derive(Default)]
pub struct SlowLinks {
    slowed: Vec<Link>,
}

#[async_trait]
impl Nemesis for SlowLinks {
    fn name(&self) -> &'static str {
        "slow"
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let size = [Size::Leader, Size::One, Size::Minority, Size::All].choose(rng).copied().unwrap_or(Size::All);
        let targets = drawn(size, cluster, rng).await;
        let (kind, slowness) = slowness(rng);
        let mut links = between(&targets, &cluster.ids());
        links.sort_unstable();
        links.dedup();
        // Sometimes only what these nodes send is slow, and what they receive is not.
        let both_ways = rng.random_bool(0.7);
        links.retain(|(from, _)| both_ways || targets.contains(from));
        self.slowed.extend(&links);
        cluster.net().slow(&links, slowness)?;
        let what = json!({ "size": size, "nodes": targets, "both_ways": both_ways, "kind": kind, "slowness": slowness });
        Ok(Injected::when(!links.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        cluster.net().unslow(&self.slowed)?;
        let links = std::mem::take(&mut self.slowed);
        Ok(json!({ "fast": super::partition::told(&links) }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(10, 5)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Nodes(2)]
    }
}

/// How slow: another continent, a bad radio link, a full line, a middlebox that forgets connections.
pub(super) fn slowness(rng: &mut StdRng) -> (&'static str, Slowness) {
    let ms = Duration::from_millis;
    let whole = Slowness::late(Duration::ZERO, Duration::ZERO);
    match rng.random_range(0..5) {
        0 => ("late", Slowness::late(ms(rng.random_range(20..200)), ms(10))),
        1 => ("uneven", Slowness::late(ms(100), ms(100))),
        2 => ("lossy", Slowness { loss: rng.random_range(0.01..0.15), ..Slowness::late(ms(5), ms(5)) }),
        3 => ("narrow", Slowness { bytes_per_second: Some(rng.random_range(50_000..500_000)), ..whole }),
        _ => ("breaking", Slowness { reset: rng.random_range(0.001..0.02), ..Slowness::late(ms(2), ms(2)) }),
    }
}

//! Links between the clusters of a federation are cut and slowed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::partition::told;
use super::slow::slowness;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::net::Link;
use crate::cluster::{Cluster, Wires};

/// A flapping link is whole, and cut, for a time between these.
const FLAP_MS: std::ops::Range<u64> = 50..1_500;

/// What is done to links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Harm {
    /// Nothing gets through, either way.
    Cut,
    /// Nothing gets through one way.
    OneWay,
    /// Cut and whole by turns, faster than anybody notices that a connection is dead.
    Flap,
    /// What gets through is late, lossy, narrow, or breaks.
    Slow,
}

const HARMS: [Harm; 4] = [Harm::Cut, Harm::OneWay, Harm::Flap, Harm::Slow];

/// Harms links between clusters, and makes them whole again.
pub struct Links {
    harm: Option<Harm>,
    cut: Vec<Link>,
    slowed: Vec<Link>,
    /// Stops the flapping, and its task.
    flapping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Links {
    /// One whose harm is drawn each time.
    pub fn any() -> Self {
        Self { harm: None, cut: Vec::new(), slowed: Vec::new(), flapping: None }
    }

    /// One that always does this.
    pub fn always(harm: Harm) -> Self {
        Self { harm: Some(harm), ..Self::any() }
    }
}

#[async_trait]
impl Nemesis for Links {
    fn name(&self) -> &'static str {
        match self.harm {
            None => "links",
            Some(Harm::Cut) => "links-cut",
            Some(Harm::OneWay) => "links-one-way",
            Some(Harm::Flap) => "links-flap",
            Some(Harm::Slow) => "links-slow",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let wires = wires(cluster)?;
        let harm = self.harm.or_else(|| HARMS.choose(rng).copied()).unwrap_or(Harm::Cut);
        let links = drawn(harm, &wires.links(), rng);
        let mut what = json!({ "harm": harm, "links": told(&links) });
        match harm {
            Harm::Cut | Harm::OneWay => wires.cut(&links),
            Harm::Flap => {
                let stop = CancellationToken::new();
                let rng = StdRng::seed_from_u64(rng.random());
                let flapping = tokio::spawn(flap(wires.clone(), links.clone(), rng, stop.clone()));
                self.flapping = Some((stop, flapping));
            }
            Harm::Slow => {
                let (kind, slowness) = slowness(rng);
                wires.slow(&links, Some(slowness));
                what["kind"] = json!(kind);
                what["slowness"] = json!(slowness);
            }
        }
        match harm {
            Harm::Slow => self.slowed.extend(&links),
            Harm::Cut | Harm::OneWay | Harm::Flap => self.cut.extend(&links),
        }
        Ok(Injected::when(!links.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let wires = wires(cluster)?;
        if let Some((stop, flapping)) = self.flapping.take() {
            stop.cancel();
            flapping.await?;
        }
        wires.uncut(&self.cut);
        wires.slow(&self.slowed, None);
        let links: Vec<Link> = std::mem::take(&mut self.cut).into_iter().chain(std::mem::take(&mut self.slowed)).collect();
        Ok(json!({ "whole": told(&links) }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(14, 6)
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Federation]
    }
}

fn wires(cluster: &Cluster) -> Result<Arc<Wires>> {
    cluster.part().map(|part| part.wires.clone()).context("the cluster is in no federation")
}

/// Cuts links and makes them whole by turns, until it is stopped.
async fn flap(wires: Arc<Wires>, links: Vec<Link>, mut rng: StdRng, stop: CancellationToken) {
    for cut in [true, false].into_iter().cycle() {
        if stop.is_cancelled() {
            wires.uncut(&links);
            return;
        }
        match cut {
            true => wires.cut(&links),
            false => wires.uncut(&links),
        }
        let pause = Duration::from_millis(rng.random_range(FLAP_MS));
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
}

/// Mostly the links of one cluster, sometimes all, sometimes one link.
fn drawn(harm: Harm, all: &[Link], rng: &mut StdRng) -> Vec<Link> {
    let Some(one) = all.choose(rng).copied() else { return Vec::new() };
    let both = |link: &Link| *link == one || *link == (one.1, one.0);
    let of_one = |link: &Link| link.0 == one.0 || link.1 == one.0;
    let both_ways = harm != Harm::OneWay;
    let hit: Vec<Link> = match rng.random_range(0..4) {
        0 => all.iter().copied().filter(both).collect(),
        1 => all.to_vec(),
        _ => all.iter().copied().filter(of_one).collect(),
    };
    // One way: what the drawn cluster says is not heard, or it hears nothing; of all links, those that lead away from smaller numbers.
    let deaf = rng.random_bool(0.5);
    let away = |link: &Link| if both(link) || of_one(link) { (link.0 == one.0) != deaf } else { link.0 < link.1 };
    hit.into_iter().filter(|link| both_ways || away(link)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Vec<Link> {
        Wires::create(3, crate::cluster::Shape::Full, 1).unwrap().links()
    }

    #[test]
    fn every_harm_hits_something_and_one_way_is_one_way() {
        for seed in 0..50 {
            for harm in HARMS {
                let hit = drawn(harm, &full(), &mut StdRng::seed_from_u64(seed));
                assert!(!hit.is_empty(), "{harm:?} {seed}");
                let back = hit.iter().filter(|(from, to)| hit.contains(&(*to, *from))).count();
                assert_eq!(back, if harm == Harm::OneWay { 0 } else { hit.len() }, "{harm:?} {seed}: {hit:?}");
            }
        }
        assert!(drawn(Harm::Cut, &[], &mut StdRng::seed_from_u64(1)).is_empty());
    }

    #[tokio::test]
    async fn a_flapping_link_is_whole_when_it_is_over() {
        let wires = Arc::new(Wires::create(2, crate::cluster::Shape::Full, 1).unwrap());
        let stop = CancellationToken::new();
        let flapping = tokio::spawn(flap(wires.clone(), wires.links(), StdRng::seed_from_u64(1), stop.clone()));
        while wires.cuts().is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        flapping.await.unwrap();
        assert!(wires.cuts().is_empty());
    }
}

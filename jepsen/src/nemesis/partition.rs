//! The network is cut.

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use serde::Serialize;
use serde_json::{Value, json};

use super::target::halves;
use super::{Injected, Need, Nemesis, Rhythm};
use crate::cluster::Cluster;
use crate::cluster::net::{Link, between};

/// Where the network is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// A minority from the majority.
    Halves,
    /// Each node sees a majority, and no two see the same one.
    Ring,
    /// Two halves with one node in both.
    Bridge,
    /// One node from the others, in one direction.
    OneWay,
    /// The leader from the others.
    Leader,
    /// A node from the others.
    One,
}

const SHAPES: [Shape; 6] = [Shape::Halves, Shape::Ring, Shape::Bridge, Shape::OneWay, Shape::Leader, Shape::One];

impl Shape {
    /// The fewest nodes with which it differs from the others, and from nothing.
    fn least(self) -> usize {
        match self {
            Self::Ring => 5,
            Self::Bridge => 3,
            Self::Halves | Self::OneWay | Self::Leader | Self::One => 2,
        }
    }
}

/// Cuts links, and makes whole what it has cut.
pub struct Partition {
    shape: Option<Shape>,
    cut: Vec<Link>,
}

impl Partition {
    /// One whose shape is drawn each time.
    pub fn any() -> Self {
        Self { shape: None, cut: Vec::new() }
    }

    /// One of this shape.
    pub fn always(shape: Shape) -> Self {
        Self { shape: Some(shape), cut: Vec::new() }
    }
}

#[async_trait]
impl Nemesis for Partition {
    fn name(&self) -> &'static str {
        match self.shape {
            None | Some(Shape::One) => "partition",
            Some(Shape::Halves) => "partition-halves",
            Some(Shape::Ring) => "partition-ring",
            Some(Shape::Bridge) => "partition-bridge",
            Some(Shape::OneWay) => "partition-one-way",
            Some(Shape::Leader) => "partition-leader",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let ids = cluster.ids();
        let shapes: Vec<Shape> = SHAPES.into_iter().filter(|shape| ids.len() >= shape.least()).collect();
        let shape = self.shape.or_else(|| shapes.choose(rng).copied()).unwrap_or(Shape::Halves);
        if shape == Shape::Ring && !shapes.contains(&shape) {
            return Ok(Injected::nothing("a ring needs five nodes, and some were removed meanwhile"));
        }
        let leader = cluster.leader().await;
        let links = links(shape, ids, leader, rng);
        // Noted first: what is cut only in part is made whole too.
        self.cut.extend(&links);
        cluster.net().cut(&links)?;
        let what = json!({ "shape": shape, "leader": leader, "cut": told(&links) });
        Ok(Injected::when(!links.is_empty(), what))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        cluster.net().uncut(&self.cut)?;
        let links = std::mem::take(&mut self.cut);
        Ok(json!({ "whole": told(&links) }))
    }

    fn plan(&self) -> Rhythm {
        Rhythm::seconds(8, 6)
    }

    fn needs(&self) -> &'static [Need] {
        match self.shape {
            Some(Shape::Ring) => &[Need::Nodes(5)],
            _ => &[Need::Nodes(2)],
        }
    }
}

/// Links as people write them: `1>2`.
pub(super) fn told(links: &[Link]) -> Vec<String> {
    links.iter().map(|(from, to)| format!("{from}>{to}")).collect()
}

/// The links that a cut of this shape goes through.
fn links(shape: Shape, mut ids: Vec<u64>, leader: Option<u64>, rng: &mut StdRng) -> Vec<Link> {
    let leader = leader.filter(|leader| ids.contains(leader));
    match shape {
        Shape::Halves => {
            let (minority, majority) = halves(ids, leader, rng);
            between(&minority, &majority)
        }
        Shape::Ring => {
            ids.shuffle(rng);
            ring(&ids)
        }
        Shape::Bridge => {
            ids.shuffle(rng);
            let bridge = ids.pop();
            let (one, other) = ids.split_at(ids.len() / 2);
            // Two nodes have no bridge between them: they are simply parted.
            match (one, bridge) {
                ([], Some(bridge)) => between(other, &[bridge]),
                _ => between(one, other),
            }
        }
        Shape::OneWay => {
            let Some(deaf) = alone(&ids, leader, rng) else {
                return Vec::new();
            };
            let deaf_hears = rng.random_bool(0.5);
            between(&[deaf], &ids).into_iter().filter(|(from, _)| (*from == deaf) == deaf_hears).collect()
        }
        Shape::Leader => leader.or_else(|| ids.choose(rng).copied()).map_or_else(Vec::new, |one| between(&[one], &ids)),
        Shape::One => ids.choose(rng).map_or_else(Vec::new, |one| between(&[*one], &ids)),
    }
}

/// A node, rather the leader than another.
fn alone(ids: &[u64], leader: Option<u64>, rng: &mut StdRng) -> Option<u64> {
    leader.filter(|_| rng.random_bool(0.6)).or_else(|| ids.choose(rng).copied())
}

/// Cuts so that each node keeps its nearest neighbours on a ring, and with them and itself just a majority.
fn ring(ids: &[u64]) -> Vec<Link> {
    let count = ids.len();
    let neighbours = count / 2;
    let reach = neighbours.div_ceil(2);
    let mut links = Vec::new();
    for (at, one) in ids.iter().enumerate() {
        for (place, other) in ids.iter().enumerate().skip(at + 1) {
            let apart = (place - at).min(count - (place - at));
            if apart > reach {
                links.extend(between(&[*one], &[*other]));
            }
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    fn cut(shape: Shape, nodes: u64, seed: u64) -> BTreeSet<Link> {
        let rng = &mut StdRng::seed_from_u64(seed);
        links(shape, (1..=nodes).collect(), Some(1), rng).into_iter().collect()
    }

    /// Whom a node can talk to both ways, itself included.
    fn sees(id: u64, nodes: u64, cut: &BTreeSet<Link>) -> BTreeSet<u64> {
        (1..=nodes).filter(|other| !cut.contains(&(id, *other)) && !cut.contains(&(*other, id))).collect()
    }

    #[test]
    fn in_a_ring_each_node_sees_a_majority_and_no_two_the_same() {
        for nodes in [5, 7] {
            let cut = cut(Shape::Ring, nodes, 1);
            let views: BTreeSet<BTreeSet<u64>> = (1..=nodes).map(|id| sees(id, nodes, &cut)).collect();
            assert_eq!(views.len() as u64, nodes);
            assert!(views.iter().all(|view| view.len() as u64 > nodes / 2), "{views:?}");
            assert!(views.iter().all(|view| (view.len() as u64) < nodes));
        }
    }

    #[test]
    fn a_bridge_is_seen_by_all_and_joins_two_sides_that_do_not_see_each_other() {
        for seed in 0..20 {
            let cut = cut(Shape::Bridge, 5, seed);
            let views: Vec<usize> = (1..=5).map(|id| sees(id, 5, &cut).len()).collect();
            assert_eq!(views.iter().filter(|seen| **seen == 5).count(), 1, "{views:?}");
            assert_eq!(views.iter().filter(|seen| **seen == 3).count(), 4, "{views:?}");
        }
        assert_eq!(cut(Shape::Bridge, 2, 1), BTreeSet::from([(1, 2), (2, 1)]));
    }

    #[test]
    fn with_enough_nodes_every_shape_cuts_something() {
        for shape in SHAPES {
            for seed in 0..10 {
                assert!(!cut(shape, shape.least() as u64, seed).is_empty(), "{shape:?}");
            }
        }
        assert!(cut(Shape::Ring, 3, 1).is_empty());
    }

    #[test]
    fn one_way_is_one_way() {
        for seed in 0..20 {
            let cut = cut(Shape::OneWay, 3, seed);
            assert_eq!(cut.len(), 2);
            assert!(cut.iter().all(|(from, to)| !cut.contains(&(*to, *from))));
            let (froms, tos): (BTreeSet<u64>, BTreeSet<u64>) = cut.into_iter().unzip();
            assert_eq!(froms.len().min(tos.len()), 1);
        }
    }

    #[test]
    fn a_leader_alone_sees_itself_and_halves_leave_a_majority() {
        assert_eq!(sees(1, 5, &cut(Shape::Leader, 5, 1)), BTreeSet::from([1]));
        for seed in 0..20 {
            let cut = cut(Shape::Halves, 5, seed);
            let views: BTreeSet<usize> = (1..=5).map(|id| sees(id, 5, &cut).len()).collect();
            assert_eq!(views, BTreeSet::from([2, 3]));
        }
    }
}

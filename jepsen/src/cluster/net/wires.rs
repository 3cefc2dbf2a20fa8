//! The links between the clusters of a federation, which can be cut and slowed one by one.
//!
//! Here a [`Link`] is one direction between two *clusters*, by their numbers from 1. Each node's gateway has a front of its own, as its other
//! port has in [`super::loopback`], and nodes dial from an address of their own: the proxy knows by it which cluster calls which.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Harm, Harms, Link, Place, Proxy, Slowness, Way, between};

/// The gateways' port.
const PORT: u16 = 7613;

/// Which clusters can reach each other at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Each reaches each.
    #[default]
    Full,
    /// Each reaches its neighbours: what the first writes comes to the last through all others.
    Line,
}

/// The links between the clusters of a federation.
pub struct Wires {
    proxy: Proxy,
    clusters: u64,
    shape: Shape,
    harms: Mutex<Harms>,
}

impl fmt::Debug for Wires {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} between {} clusters", self.shape, self.clusters)
    }
}

impl Wires {
    /// Links between so many clusters. `seed` decides what slow ones lose.
    ///
    /// # Errors
    /// If the proxy cannot be started.
    pub fn create(clusters: u64, shape: Shape, seed: u64) -> Result<Self> {
        let wires = Self { proxy: Proxy::start(None, seed)?, clusters, shape, harms: Mutex::default() };
        wires.change(|_| {});
        Ok(wires)
    }

    /// The links that there are, both ways.
    pub fn links(&self) -> Vec<Link> {
        let pairs = (1..=self.clusters).flat_map(|one| (one + 1..=self.clusters).map(move |other| (one, other)));
        pairs.filter(|(one, other)| self.joined(*one, *other)).flat_map(|(one, other)| between(&[one], &[other])).collect()
    }

    fn joined(&self, one: u64, other: u64) -> bool {
        self.shape == Shape::Full || one.abs_diff(other) <= 1
    }

    /// Makes the front of a gateway of this cluster. Returns what the node binds, and what other clusters dial.
    ///
    /// # Errors
    /// If the place is not on loopback, or its front's port is taken.
    pub fn gateway(&self, place: &Place, cluster: u64) -> Result<(SocketAddr, SocketAddr)> {
        let source = place.source.context("clusters that federate are on loopback: say --network loopback")?;
        let (own, front) = (SocketAddr::new(place.bind.ip(), PORT), SocketAddr::new(place.advertise.ip(), PORT));
        self.proxy.name(source, cluster);
        self.proxy.name(front.ip(), cluster);
        let way = Way { meant: front.ip(), target: own };
        let front = self.proxy.listen(front, Arc::new(move |_: &_| Some(way))).context("a gateway's front cannot be made")?;
        Ok((own, front))
    }

    /// Cuts these links: what is on its way stays there until they are whole again.
    pub fn cut(&self, links: &[Link]) {
        self.each(links, |harm| harm.cut = true);
    }

    /// Makes links whole that were cut; slow ones stay slow.
    pub fn uncut(&self, links: &[Link]) {
        self.each(links, |harm| harm.cut = false);
    }

    /// Makes these links slow, or fast.
    pub fn slow(&self, links: &[Link], slowness: Option<Slowness>) {
        self.each(links, |harm| harm.slow = slowness);
    }

    /// Makes every link whole and fast.
    pub fn heal(&self) {
        self.change(Harms::clear);
    }

    /// The links that are cut now, without those that there never were.
    pub fn cuts(&self) -> Vec<Link> {
        self.harms().iter().filter(|(_, harm)| harm.cut).map(|(link, _)| *link).collect()
    }

    fn each(&self, links: &[Link], change: impl Fn(&mut Harm)) {
        self.change(|harms| links.iter().for_each(|link| change(harms.entry(*link).or_default())));
    }

    fn change(&self, change: impl FnOnce(&mut Harms)) {
        let mut harms = self.harms();
        change(&mut harms);
        harms.retain(|_, harm| *harm != Harm::default());
        let mut all = harms.clone();
        let strangers = (1..=self.clusters).flat_map(|one| (1..=self.clusters).map(move |other| (one, other)));
        for link in strangers.filter(|(one, other)| !self.joined(*one, *other)) {
            all.insert(link, Harm { cut: true, slow: None });
        }
        self.proxy.set(&all);
    }

    fn harms(&self) -> MutexGuard<'_, Harms> {
        self.harms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_links_between_neighbours_only() {
        let line = Wires::create(3, Shape::Line, 1).unwrap();
        assert_eq!(line.links(), [(1, 2), (2, 1), (2, 3), (3, 2)]);
        assert_eq!(Wires::create(3, Shape::Full, 1).unwrap().links().len(), 6);
    }

    #[test]
    fn what_was_done_to_a_link_is_taken_back_alone() {
        let wires = Wires::create(3, Shape::Line, 1).unwrap();
        wires.cut(&[(1, 2), (2, 1)]);
        wires.slow(&[(2, 3)], Some(Slowness::late(std::time::Duration::from_millis(5), std::time::Duration::ZERO)));
        wires.uncut(&[(1, 2)]);
        assert_eq!(wires.cuts(), [(2, 1)]);
        wires.slow(&[(2, 3)], None);
        wires.heal();
        assert!(wires.cuts().is_empty() && wires.harms().is_empty());
    }
}

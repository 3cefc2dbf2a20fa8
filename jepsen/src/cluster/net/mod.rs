//! The network between the nodes, which can be cut and slowed link by link.
//!
//! A *link* is one direction between two nodes, or between a node and everything outside ([`OUTSIDE`]): clients, and the harness's own
//! questions. Cutting it holds up everything that goes that way, as a network that drops every packet
//! would: nothing is answered, no connection is refused. Two networks offer the same:
//!
//! ```text
//!  loopback     node A ──► front of B (127.x+120.y.B) ──► node B (127.x.y.B)      proxy tells A by its source address
//!  namespaces   node A ══ veth ══ bridge in the hub's namespace ══ veth ══ node B    nftables in the hub drop A → B;
//!                                     └► proxy, only while a link between A and B is slow
//! ```
//! The membership has one address for each node, so on loopback that address is the node's front, a listener of the [`Proxy`], and nodes
//! dial from an address of their own (`network.source_address`). In namespaces nodes speak to each other directly, and the hub turns new
//! connections over to the proxy while a link is slow.

mod command;
mod gate;
mod loopback;
mod namespaces;
mod proxy;
mod pump;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

pub use namespaces::available as namespaces_available;
pub use proxy::{OUTSIDE, Proxy, Route, Way};
pub use wires::{Shape, Wires};

use loopback::Loopback;
use namespaces::Namespaces;

use super::Network;

/// One direction between two nodes, or a node and [`OUTSIDE`]: from, to.
pub type Link = (u64, u64);

/// How slow and lossy a link is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Slowness {
    /// How much later everything arrives.
    #[serde(rename = "delay_ms", serialize_with = "as_milliseconds")]
    pub delay: Duration,
    /// Each piece is late by up to this much more or less. Order is kept, as TCP keeps it.
    #[serde(rename = "jitter_ms", serialize_with = "as_milliseconds")]
    pub jitter: Duration,
    /// The chance that a piece is lost, from 0 to 1. TCP sends it again, so it arrives late by a retransmission time-out, which doubles
    /// when the repeat is lost too, and all that follows waits for it.
    pub loss: f64,
    /// The chance that a piece breaks its connection, from 0 to 1.
    pub reset: f64,
    /// Bytes per second, if the link is narrow.
    pub bytes_per_second: Option<u64>,
}

fn as_milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl Slowness {
    /// A link that is late by so much, give or take the jitter, and otherwise whole.
    pub fn late(delay: Duration, jitter: Duration) -> Self {
        Self { delay, jitter, loss: 0.0, reset: 0.0, bytes_per_second: None }
    }
}

/// What was done to a link.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Harm {
    /// Nothing gets through.
    pub cut: bool,
    /// What gets through is late.
    pub slow: Option<Slowness>,
}

/// What was done to which links. A link that is not named is whole.
pub type Harms = BTreeMap<Link, Harm>;

/// Addresses of nodes that are gone, and who is reached there instead.
type Moves = BTreeMap<IpAddr, Place>;

/// Where a node is on the network.
#[derive(Debug, Clone)]
pub struct Place {
    /// What the node binds for peers and clients.
    pub bind: SocketAddr,
    /// What others dial, at first for this node alone.
    pub advertise: SocketAddr,
    /// What the node binds for health checks and metrics.
    pub ops: SocketAddr,
    /// The address from which the node dials, where it has to be told.
    pub source: Option<IpAddr>,
    /// The network namespace in which it runs, if it has one.
    pub namespace: Option<String>,
}

/// The network of one cluster. Dropping it takes back what was done to the machine.
pub struct Net {
    kind: Kind,
    proxy: Proxy,
    harms: Mutex<Harms>,
    moves: Mutex<Moves>,
}

enum Kind {
    Loopback(Loopback),
    Namespaces(Namespaces),
}

impl Net {
    /// An empty network. `seed` decides which pieces a lossy link loses.
    ///
    /// # Errors
    /// If the machine does not allow it.
    pub fn create(network: Network, seed: u64) -> Result<Self> {
        let (kind, proxy) = match network {
            Network::Loopback => (Kind::Loopback(Loopback::create()?), Proxy::start(None, seed)?),
            Network::Namespaces => {
                let namespaces = Namespaces::create()?;
                let proxy = Proxy::start(Some(namespaces.hub_file()?), seed)?;
                namespaces.listen(&proxy)?;
                (Kind::Namespaces(namespaces), proxy)
            }
        };
        Ok(Self { kind, proxy, harms: Mutex::default(), moves: Mutex::default() })
    }

    /// Makes the next place for a node. Until it is named nothing can be done to its links.
    ///
    /// # Errors
    /// If the machine does not allow it, or all places are taken.
    pub fn place(&self) -> Result<Place> {
        match &self.kind {
            Kind::Loopback(loopback) => loopback.place(&self.proxy),
            Kind::Namespaces(namespaces) => namespaces.place(),
        }
    }

    /// Says which node is at a place.
    pub fn name(&self, place: &Place, id: u64) {
        if let Some(source) = place.source {
            self.proxy.name(source, id);
        }
        self.proxy.name(place.advertise.ip(), id);
        self.proxy.name(place.bind.ip(), id);
    }

    /// Has those who dial a node that is gone for good reach its heir, as operators have with a name or a virtual address: a client that
    /// knows one node only is not lost with it. Nodes that still dial the old one notice by the certificate that it is another.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn inherit(&self, gone: &Place, heir: &Place) -> Result<()> {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        for place in moves.values_mut().filter(|place| place.advertise == gone.advertise) {
            *place = heir.clone();
        }
        moves.insert(gone.advertise.ip(), heir.clone());
        match &self.kind {
            Kind::Loopback(loopback) => loopback.redirect(&moves),
            Kind::Namespaces(namespaces) => namespaces.redirect(&moves)?,
        }
        Ok(())
    }

    /// Cuts these links: what is on its way stays there until they are whole again.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn cut(&self, links: &[Link]) -> Result<()> {
        self.change(|harms| {
            for link in links {
                harms.entry(*link).or_default().cut = true;
            }
        })
    }

    /// Cuts all links between two groups, both ways.
    ///
    /// # Errors
    /// As [`Net::cut`].
    pub fn part(&self, one: &[u64], other: &[u64]) -> Result<()> {
        self.cut(&between(one, other))
    }

    /// Makes these links slow.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn slow(&self, links: &[Link], slowness: Slowness) -> Result<()> {
        self.change(|harms| {
            for link in links {
                harms.entry(*link).or_default().slow = Some(slowness);
            }
        })
    }

    /// Makes links whole that were cut; slow ones stay slow.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn uncut(&self, links: &[Link]) -> Result<()> {
        self.change(|harms| {
            for link in links {
                harms.entry(*link).or_default().cut = false;
            }
        })
    }

    /// Makes links fast that were slowed; cut ones stay cut.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn unslow(&self, links: &[Link]) -> Result<()> {
        self.change(|harms| {
            for link in links {
                harms.entry(*link).or_default().slow = None;
            }
        })
    }

    /// Makes every link whole and fast.
    ///
    /// # Errors
    /// If the packet filter cannot be changed.
    pub fn heal(&self) -> Result<()> {
        self.change(BTreeMap::clear)
    }

    /// The links that are cut now.
    pub fn cuts(&self) -> BTreeSet<Link> {
        let harms = self.harms.lock().unwrap_or_else(PoisonError::into_inner);
        harms.iter().filter(|(_, harm)| harm.cut).map(|(link, _)| *link).collect()
    }

    /// The links that are slow now.
    pub fn slows(&self) -> BTreeSet<Link> {
        let harms = self.harms.lock().unwrap_or_else(PoisonError::into_inner);
        harms.iter().filter(|(_, harm)| harm.slow.is_some()).map(|(link, _)| *link).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Harms)) -> Result<()> {
        let mut harms = self.harms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = harms.clone();
        change(&mut wanted);
        wanted.retain(|_, harm| *harm != Harm::default());
        if wanted == *harms {
            return Ok(());
        }
        self.proxy.set(&wanted);
        if let Kind::Namespaces(namespaces) = &self.kind {
            let address = |id| match id {
                OUTSIDE => Some(namespaces.harness()),
                node => self.proxy.address_of(node),
            };
            namespaces.filter(&wanted, address).context("the packet filter did not take the links")?;
        }
        *harms = wanted;
        Ok(())
    }
}

/// All links between two groups, both ways.
pub fn between(one: &[u64], other: &[u64]) -> Vec<Link> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_parted_both_ways_and_no_node_from_itself() {
        assert_eq!(between(&[1], &[2, 3]), [(1, 2), (2, 1), (1, 3), (3, 1)]);
        assert_eq!(between(&[1, 2], &[2]), [(1, 2), (2, 1)]);
        assert!(between(&[1], &[1]).is_empty());
    }

    #[tokio::test]
    async fn what_was_done_to_a_link_is_taken_back_alone() {
        let net = Net::create(Network::Loopback, 1).unwrap();
        net.part(&[1], &[2]).unwrap();
        net.slow(&[(1, 2), (2, 3)], Slowness::late(Duration::from_millis(1), Duration::ZERO)).unwrap();
        assert_eq!(net.cuts(), BTreeSet::from([(1, 2), (2, 1)]));
        net.uncut(&[(1, 2)]).unwrap();
        assert_eq!(net.cuts(), BTreeSet::from([(2, 1)]));
        assert_eq!(net.slows(), BTreeSet::from([(1, 2), (2, 3)]));
        net.unslow(&[(2, 3)]).unwrap();
        assert_eq!(net.slows(), BTreeSet::from([(1, 2)]));
        net.heal().unwrap();
        net.heal().unwrap();
        assert!(net.cuts().is_empty() && net.slows().is_empty());
    }
}

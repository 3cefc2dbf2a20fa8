//! Nodes on the loopback interface, each behind a front of the proxy.
//!
//! All of `127.0.0.0/8` is this machine's, so each node has addresses of its own and the usual port: no other program takes a port while a
//! node is down, and an address in a log says which node it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::{Moves, Place, Proxy, Way};

/// The port of nodes and fronts, below those that the system gives to outgoing connections.
const PORT: u16 = 7610;
/// The port for health checks and metrics.
const OPS_PORT: u16 = 7612;
/// The front of the node at `127.x.y.z` is at `127.x+120.y.z`.
const FRONT: u8 = 120;
/// Places of one cluster.
const PLACES_MAX: u8 = 250;
/// How many networks are tried before giving up: two that meet by chance are one in thirty thousand.
const TRIES: usize = 32;

/// A block of addresses that no other cluster uses.
pub(super) struct Loopback {
    block: [u8; 2],
    /// Holds the block: whoever wants it too cannot bind this.
    _claim: TcpListener,
    next: AtomicU8,
    /// Fronts that stand for other nodes than they did at first.
    moved: Arc<Mutex<BTreeMap<IpAddr, Way>>>,
}

impl Loopback {
    /// Claims a block.
    pub(super) fn create() -> Result<Self> {
        for _ in 0..TRIES {
            let block = [rand::rng().random_range(10..120), rand::rng().random_range(0..=255)];
            if let Ok(claim) = TcpListener::bind((address(block, 254), PORT)) {
                return Ok(Self { block, _claim: claim, next: AtomicU8::new(1), moved: Arc::default() });
            }
        }
        anyhow::bail!("no block of loopback addresses is free")
    }

    /// The next place, with its front.
    pub(super) fn place(&self, proxy: &Proxy) -> Result<Place> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(number <= PLACES_MAX, "a cluster on loopback has at most {PLACES_MAX} places");
        let own = IpAddr::V4(address(self.block, number));
        let front = IpAddr::V4(address([self.block[0] + FRONT, self.block[1]], number));
        let first = Way { meant: front, target: SocketAddr::new(own, PORT) };
        let moved = self.moved.clone();
        let route = Arc::new(move |_: &_| {
            let moved = moved.lock().unwrap_or_else(PoisonError::into_inner);
            Some(moved.get(&front).copied().unwrap_or(first))
        });
        let advertise = proxy.listen(SocketAddr::new(front, PORT), route).context("a node's front cannot be made")?;
        Ok(Place { bind: first.target, advertise, ops: SocketAddr::new(own, OPS_PORT), source: Some(own), namespace: None })
    }

    /// Has fronts stand for other nodes.
    pub(super) fn redirect(&self, moves: &Moves) {
        let way = |place: &Place| Way { meant: place.advertise.ip(), target: place.bind };
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = moves.iter().map(|(from, to)| (*from, way(to))).collect();
    }
}

fn address(block: [u8; 2], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, block[0], block[1], last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_differ_and_say_which_they_are() {
        let proxy = Proxy::start(None, 0).unwrap();
        let (one, two) = (Loopback::create().unwrap(), Loopback::create().unwrap());
        assert_ne!(one.block, two.block);
        let (first, second) = (one.place(&proxy).unwrap(), one.place(&proxy).unwrap());
        let [a, b] = one.block;
        assert_eq!(first.bind.to_string(), format!("127.{a}.{b}.1:7610"));
        assert_eq!(second.advertise.to_string(), format!("127.{}.{b}.2:7610", a + 120));
        assert_eq!(second.source, Some(second.bind.ip()));
    }
}

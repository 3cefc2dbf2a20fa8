//! Nodes on the loopback interface, each behind a front of the proxy.
//!
//! All of `127.0.0.0/8` is this machine's, so each node has addresses of its own and the usual port: no other program takes a port while a
//! node is down, and an address in a log says which node it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::{Place, Proxy, Way};

/// The port of nodes and fronts, below those that the system gives to outgoing connections.
const PORT: u16 = 7610;
/// The port for health checks and metrics.
const OPS_PORT: u16 = 7612;
/// A node's front is at its own address plus this.
const FRONT: u8 = 100;
/// Places of one cluster.
const PLACES_MAX: u8 = 99;
/// How many networks are tried before giving up: two that meet by chance are one in twenty thousand.
const TRIES: usize = 32;

/// A block of addresses that no other cluster uses.
pub(super) struct Loopback {
    block: [u8; 2],
    /// Holds the block: whoever wants it too cannot bind this.
    _claim: TcpListener,
    next: AtomicU8,
}

impl Loopback {
    /// Claims a block.
    pub(super) fn create() -> Result<Self> {
        for _ in 0..TRIES {
            let block = [rand::rng().random_range(16..=254), rand::rng().random_range(0..=255)];
            if let Ok(claim) = TcpListener::bind((address(block, 254), PORT)) {
                return Ok(Self {
                    block,
                    _claim: claim,
                    next: AtomicU8::new(1),
                });
            }
        }
        anyhow::bail!("no block of loopback addresses is free")
    }

    /// The next place, with its front.
    pub(super) fn place(&self, proxy: &Proxy) -> Result<Place> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        ensure!(
            number <= PLACES_MAX,
            "a cluster on loopback has at most {PLACES_MAX} places"
        );
        let own = IpAddr::V4(address(self.block, number));
        let front = IpAddr::V4(address(self.block, FRONT + number));
        let target = SocketAddr::new(own, PORT);
        let route = Arc::new(move |_: &_| Some(Way { meant: front, target }));
        let advertise = proxy
            .listen(SocketAddr::new(front, PORT), route)
            .context("a node's front cannot be made")?;
        Ok(Place {
            bind: target,
            advertise,
            ops: SocketAddr::new(own, OPS_PORT),
            source: Some(own),
            namespace: None,
        })
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
        assert_eq!(
            first.bind.to_string(),
            format!("127.{}.{}.1:7610", one.block[0], one.block[1])
        );
        assert_eq!(
            second.advertise.to_string(),
            format!("127.{}.{}.102:7610", one.block[0], one.block[1])
        );
        assert_eq!(second.source, Some(second.bind.ip()));
    }
}

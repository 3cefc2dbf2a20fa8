//! The nodes that a client knows, and the one that it speaks to now.
//!
//! Any node takes any request, so a client stays with one node while it serves and goes on to the next when it fails. A follower says where
//! the leader is, and a client that knows that address turns to it. Connections are made when first used and kept; a broken one is made
//! again by its next use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::error::Error;
use crate::pipeline::Pipeline;
use crate::tls;

/// How many nodes a client remembers: more than any cluster's voters, and a bound on what a confused node can tell.
const NODES_MAX: usize = 64;
/// A node that failed is not turned to for this long, whoever recommends it: this client may not reach what the followers reach.
const SHUN: Duration = Duration::from_secs(15);
/// Makes the channel to a node's address.
pub(crate) type Dial = Arc<dyn Fn(&tls::Address) -> Channel + Send + Sync>;

/// A node: its address and the connection to it.
#[derive(Clone)]
pub(crate) struct Node {
    index: usize,
    address: tls::Address,
    /// The connection, made when first used.
    pub(crate) channel: Channel,
    /// The stream of commands over it.
    pub(crate) pipeline: Arc<Pipeline>,
}

/// The nodes in the order in which they are tried.
pub(crate) struct Nodes {
    dial: Dial,
    known: RwLock<Vec<Node>>,
    current: AtomicUsize,
    /// The node that failed last, and when.
    failed: Mutex<Option<(usize, Instant)>>,
}

impl Nodes {
    /// Starts with some address of the list, so that many clients with one list do not all choose the same node.
    pub(crate) fn new(addresses: &[String], dial: Dial) -> Result<Nodes, Error> {
        let nodes = Nodes { dial, known: RwLock::new(Vec::new()), current: AtomicUsize::new(0), failed: Mutex::new(None) };
        nodes.add(addresses)?;
        let count = nodes.len();
        if count == 0 {
            return Err(Error::Config("give at least one node's address".into()));
        }
        nodes.current.store(rand::rng().random_range(0..count), Ordering::Relaxed);
        Ok(nodes)
    }

    /// Adds the addresses that are not yet known.
    pub(crate) fn add(&self, addresses: &[String]) -> Result<(), Error> {
        for address in addresses {
            let address: tls::Address = address.trim().parse().map_err(|error: tls::AddressError| Error::Config(error.to_string()))?;
            let mut known = self.known.write().expect("no code panics while it holds this lock");
            let index = known.len();
            if index < NODES_MAX && known.iter().all(|node| node.address != address) {
                let channel = (self.dial)(&address);
                known.push(Node { index, address, channel, pipeline: Arc::default() });
            }
        }
        Ok(())
    }

    /// How many nodes are known.
    pub(crate) fn len(&self) -> usize {
        self.known.read().expect("no code panics while it holds this lock").len()
    }

    /// The node to speak to now.
    pub(crate) fn pick(&self) -> Node {
        let known = self.known.read().expect("no code panics while it holds this lock");
        known[self.current.load(Ordering::Relaxed) % known.len()].clone()
    }

    /// Whether this is still the node to speak to.
    pub(crate) fn is_current(&self, node: &Node) -> bool {
        self.current.load(Ordering::Relaxed) == node.index
    }

    /// Turns to the node at this address, if it is known and has not just failed.
    pub(crate) fn prefer(&self, address: &str) {
        let known = self.known.read().expect("no code panics while it holds this lock");
        let Some(node) = known.iter().find(|node| node.address.to_string() == address) else {
            return;
        };
        let failed = *self.failed.lock().expect("no code panics while it holds this lock");
        if failed.is_none_or(|(index, at)| index != node.index || at.elapsed() > SHUN) {
            self.current.store(node.index, Ordering::Relaxed);
        }
    }

    /// Goes on to the next node, unless another call that met the same failure has done so.
    pub(crate) fn failed(&self, node: &Node) {
        *self.failed.lock().expect("no code panics while it holds this lock") = Some((node.index, Instant::now()));
        let next = (node.index + 1) % self.len();
        if self.current.compare_exchange(node.index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != node.index {
            tracing::debug!(node = %node.address, "left a node that failed");
        }
    }
}

/// The one way to dial outside of this crate's own tests: mutual post-quantum TLS.
pub(crate) fn dial_tls(config: Arc<rustls::ClientConfig>) -> Dial {
    let options = tls::ConnectOptions {
        // An idle client leaves the nodes alone; calls and streams in flight are watched over.
        keep_alive_while_idle: false,
        ..tls::ConnectOptions::default()
    };
    Arc::new(move |address: &tls::Address| tls::connect_lazy(address, config.clone(), &options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_failure_moves_on_once() {
        let addresses: Vec<String> = (1..=3).map(|node| format!("node-{node}")).collect();
        let dial: Dial = Arc::new(|address| tls::endpoint(address, &tls::ConnectOptions::default()).connect_lazy());
        let nodes = Nodes::new(&addresses, dial).expect("three nodes");
        nodes.add(&addresses).expect("known already");
        assert_eq!(nodes.len(), 3);
        assert!(matches!(nodes.add(&["http://node-4".to_owned()]), Err(Error::Config(_))));
        let first = nodes.pick();
        nodes.failed(&first);
        nodes.failed(&first);
        assert_eq!(nodes.pick().index, (first.index + 1) % 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_turned_to_unless_it_has_just_failed() {
        let addresses: Vec<String> = (1..=3).map(|node| format!("node-{node}:7610")).collect();
        let dial: Dial = Arc::new(|address| tls::endpoint(address, &tls::ConnectOptions::default()).connect_lazy());
        let nodes = Nodes::new(&addresses, dial).expect("three nodes");
        nodes.prefer("node-3:7610");
        assert_eq!(nodes.pick().index, 2);
        nodes.prefer("elsewhere:7610");
        assert_eq!(nodes.pick().index, 2);

        nodes.failed(&nodes.pick());
        assert_eq!(nodes.pick().index, 0);
        nodes.prefer("node-3:7610");
        assert_eq!(nodes.pick().index, 0, "it has just failed");
        tokio::time::advance(SHUN + Duration::from_secs(1)).await;
        nodes.prefer("node-3:7610");
        assert_eq!(nodes.pick().index, 2);
    }
}

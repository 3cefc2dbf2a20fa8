//! A cluster of real `tarn` processes that can be harmed: killed, paused, cut off, given wrong clocks and failing disks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tarn_client::{Client, Credentials};

/// How the nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Each node in a network namespace of its own, with its own address; needs root.
    Namespaces,
    /// All nodes on the loopback interface, each connection through a proxy that can be cut.
    Loopback,
}

/// What the nodes' data directories are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The machine's file system.
    Plain,
    /// The file system that fails on command.
    Fuse,
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The `tarn` binary.
    pub tarn: PathBuf,
    /// A second build of it, for rolling upgrades.
    pub tarn_next: Option<PathBuf>,
    /// An empty directory for keys, configuration, data and logs.
    pub dir: PathBuf,
    /// How many voters it starts with.
    pub nodes: usize,
    /// How the nodes reach each other.
    pub network: Network,
    /// What their data is on.
    pub disk: Disk,
    /// Keys and values of TOML for every node, such as `("raft.snapshot_entries", "500")`.
    pub settings: Vec<(String, String)>,
}

/// A cluster of real processes. Dropping it ends those that run and takes back what was done to the machine.
pub struct Cluster {
    addresses: BTreeMap<u64, String>,
    credentials: [PathBuf; 3],
}

impl Cluster {
    /// The ids of its nodes.
    pub fn ids(&self) -> Vec<u64> {
        self.addresses.keys().copied().collect()
    }

    /// A client that knows these nodes.
    ///
    /// # Errors
    /// If a node does not exist or the credentials cannot be read.
    pub fn client(&self, ids: &[u64]) -> Result<Client> {
        let addresses: Vec<&String> = ids
            .iter()
            .map(|id| self.addresses.get(id).with_context(|| format!("there is no node {id}")))
            .collect::<Result<_>>()?;
        let [ca, certificate, key] = &self.credentials;
        Ok(Client::builder()
            .addresses(addresses)
            .credentials(Credentials::from_files(ca, certificate, key)?)
            .connect_lazy()?)
    }
}

//! A cluster of real `tarn` processes that can be harmed: killed, paused, cut off, given wrong clocks and failing disks.
//!
//! ```text
//! DIR/ca             the authority; every node can sign for machines that join
//! DIR/user           the user's certificate and key
//! DIR/node-N.toml    configuration
//! DIR/node-N         data; with failing disks the place where its disk is mounted
//! DIR/disk-N         what is behind such a disk
//! DIR/node-N.log     what the node wrote to standard error, over all its starts
//! DIR/node-N.clock   how wrong its clock is
//! ```
//! - [`net`]: the network between them; [`clock`]: their clocks.
//! - `lifecycle`: starts, kills, pauses, ends and restarts nodes; `keeper` and `process` are the processes themselves.
//! - `setup`: keys and configuration. `members`: adds, removes and replaces nodes; `view`: what the nodes say about the cluster, and whether they agree.
//! - `machine`: what this machine does to a cluster although no fault was meant to.
//!
//! Only processes that were started here are ever signalled, by their process id, and only until their end has been taken note of. Nothing
//! outlives the [`Cluster`]: its processes ask the kernel to die with it, and what it makes on the machine (namespaces, mounts) goes when it
//! is dropped, or with the next harness if this one is killed.

pub mod clock;
mod keeper;
mod lifecycle;
mod machine;
mod members;
pub mod net;
mod process;
mod setup;
mod view;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tarn_client::{Client, Credentials};

pub use clock::{Clock, ClockFaults};
pub use lifecycle::{Build, Ending};
pub use net::{Net, Shape, Wires};
pub use view::{Agreement, leader_of};

use clock::Clocks;
use keeper::Keeper;
use net::Place;
use process::Process;

use crate::disk::FaultyDisk;

/// How the nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Each node in a network namespace of its own, with its own address; needs root.
    Namespaces,
    /// All nodes on the loopback interface, each connection through a proxy that can be cut.
    Loopback,
}

impl Network {
    /// Namespaces where this machine allows them, else loopback, with the reason why not.
    pub fn best() -> (Self, Option<String>) {
        match net::namespaces_available() {
            Ok(()) => (Self::Namespaces, None),
            Err(reason) => (Self::Loopback, Some(reason)),
        }
    }
}

/// What the nodes' data directories are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Which clocks can be made wrong.
    pub clocks: ClockFaults,
    /// Keys and values of TOML for every node, such as `("raft.snapshot_entries", "500")`.
    pub settings: Vec<(String, String)>,
    /// Decides what lossy links lose.
    pub seed: u64,
    /// Its part in a federation, if it has one.
    pub part: Option<Part>,
}

/// A cluster's part in a federation.
#[derive(Debug, Clone)]
pub struct Part {
    /// What its authority is called.
    pub name: String,
    /// Its number among the clusters, from 1.
    pub number: u64,
    /// The links between them.
    pub wires: Arc<Wires>,
}

impl ClusterOptions {
    /// Three nodes on loopback with plain disks, right clocks and default settings.
    pub fn new(tarn: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            tarn: tarn.into(),
            tarn_next: None,
            dir: dir.into(),
            nodes: 3,
            network: Network::Loopback,
            disk: Disk::Plain,
            clocks: ClockFaults::None,
            settings: Vec::new(),
            seed: 0,
            part: None,
        }
    }
}

/// A cluster of real processes. Dropping it ends those that run and takes back what was done to the machine.
pub struct Cluster {
    options: ClusterOptions,
    nodes: Mutex<BTreeMap<u64, Node>>,
    /// Ends that nobody asked for.
    endings: Mutex<Vec<Ending>>,
    /// Connections for questions about the cluster, by node.
    clients: Mutex<BTreeMap<u64, Client>>,
    /// Held while the membership changes: one change at a time, as an operator would.
    changing: tokio::sync::Mutex<()>,
    clocks: Clocks,
    keeper: Keeper,
    net: Net,
}

/// One node: where it is, and its process if it runs.
struct Node {
    place: Place,
    process: Option<Process>,
    /// Its disk, if that can fail. Behind the process: it is unmounted when nobody uses it any more.
    disk: Option<Arc<FaultyDisk>>,
    build: Build,
    /// Whether its process was told to end and has not ended yet.
    leaving: bool,
    /// Whether it was removed from the cluster, for good.
    removed: bool,
}

impl Cluster {
    /// Makes keys, places and configuration for the nodes. None runs yet.
    ///
    /// # Errors
    /// If `tarn` cannot be run or refuses, the directory cannot be written, or the machine does not allow the network, disks or clocks that
    /// were asked for.
    pub fn create(options: ClusterOptions) -> Result<Self> {
        fs::create_dir_all(&options.dir).with_context(|| format!("{} cannot be made", options.dir.display()))?;
        let dir = options.dir.canonicalize()?;
        let cluster = Self {
            nodes: Mutex::default(),
            endings: Mutex::default(),
            clients: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            clocks: Clocks::create(options.clocks, &dir)?,
            keeper: Keeper::start()?,
            net: Net::create(options.network, options.seed)?,
            options: ClusterOptions { dir, ..options },
        };
        let ca = text(&cluster.ca_dir());
        match cluster.part() {
            None => cluster.tarn(&["ca", "init", "--dir", &ca])?,
            Some(part) => cluster.tarn(&["ca", "init", "--dir", &ca, "--cluster-id", &part.name])?,
        };
        let user = text(&cluster.dir().join("user"));
        cluster.tarn(&["ca", "issue", "--ca", &ca, "--user", "admin", "--out", &user])?;
        cluster.found()?;
        Ok(cluster)
    }

    /// What the cluster was made of.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// Its part in a federation, if it has one.
    pub fn part(&self) -> Option<&Part> {
        self.options.part.as_ref()
    }

    /// What a federation calls it; empty outside of one.
    pub fn name(&self) -> &str {
        self.part().map_or("", |part| &part.name)
    }

    /// The network between the nodes.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// A node's clock.
    ///
    /// # Errors
    /// If the nodes were not started with clocks that can be made wrong, or this one never was.
    pub fn clock(&self, id: u64) -> Result<Clock<'_>> {
        self.clocks.clock(id)
    }

    /// A node's disk, if its disk can fail.
    ///
    /// # Errors
    /// If there is no such node, or its disk is plain.
    pub fn disk(&self, id: u64) -> Result<Arc<FaultyDisk>> {
        self.with(id, |node| node.disk.clone().context("the nodes were not started with disks that can fail"))
    }

    /// The ids of all nodes that belong to the cluster, whether they run or not.
    pub fn ids(&self) -> Vec<u64> {
        self.ids_of(|node| !node.removed)
    }

    /// The ids of all nodes that ever were, those that were removed included.
    pub fn all_ids(&self) -> Vec<u64> {
        self.ids_of(|_| true)
    }

    fn ids_of(&self, wanted: impl Fn(&Node) -> bool) -> Vec<u64> {
        let nodes = self.nodes();
        nodes.iter().filter(|(_, node)| wanted(node)).map(|(id, _)| *id).collect()
    }

    /// What clients dial to reach a node.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn address(&self, id: u64) -> Result<String> {
        self.with(id, |node| Ok(node.place.advertise.to_string()))
    }

    /// Where a node answers health checks and metrics, in plain HTTP.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn ops_address(&self, id: u64) -> Result<String> {
        self.with(id, |node| Ok(node.place.ops.to_string()))
    }

    /// A client that knows these nodes.
    ///
    /// # Errors
    /// If a node does not exist or the credentials cannot be read.
    pub fn client(&self, ids: &[u64]) -> Result<Client> {
        let addresses = ids.iter().map(|id| self.address(*id)).collect::<Result<Vec<_>>>()?;
        let [ca, certificate, key] = self.credential_files();
        Ok(Client::builder().addresses(addresses).credentials(Credentials::from_files(&ca, &certificate, &key)?).connect_lazy()?)
    }

    /// Where the CA certificate, the user's certificate and the user's key are.
    pub fn credential_files(&self) -> [PathBuf; 3] {
        let user = self.dir().join("user");
        [user.join("ca.pem"), user.join("admin.pem"), user.join("admin.key")]
    }

    /// The directory of everything that belongs to this cluster.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// A node's data directory.
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.dir().join(format!("node-{id}"))
    }

    /// Where a node's log is.
    pub fn log(&self, id: u64) -> PathBuf {
        self.dir().join(format!("node-{id}.log"))
    }

    /// The last lines of a node's log.
    pub fn log_end(&self, id: u64) -> String {
        let text = fs::read_to_string(self.log(id)).unwrap_or_default();
        // Without the frames of backtraces, which would hide what was said before.
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Runs a `tarn` command to its end and returns what it printed.
    ///
    /// # Errors
    /// With what it wrote to standard error, if it fails.
    pub fn tarn(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.options.tarn).args(args).output().with_context(|| {
            let path = self.options.tarn.display();
            format!("{path} cannot be run; build it with `cargo build -p tarn`")
        })?;
        ensure!(
            output.status.success(),
            "tarn {} failed: {}",
            args.iter().take(2).copied().collect::<Vec<_>>().join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u64, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: u64, look: impl FnOnce(&mut Node) -> Result<T>) -> Result<T> {
        look(self.nodes().get_mut(&id).with_context(|| format!("there is no node {id}"))?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once: none should have the time to write about the others' end.
        for node in self.nodes().values_mut() {
            if let Some(process) = &mut node.process
                && matches!(process.ended(), Ok(None))
            {
                let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        self.nodes().clear();
    }
}

/// How a process ended, in words.
fn described(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;

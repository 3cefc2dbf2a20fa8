//! tarn: a cluster of real nodes on loopback, and the loads on it by its SDK.

mod call;
mod fill;
mod keys;
mod streams;
mod work;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tarn_client::Client;
use tarn_local::LocalCluster;

use crate::peers::servers::output;

pub use keys::Contexts;
pub use work::{Consumer, Lane};

/// How long ended tasks of a load are kept: long enough to look at, short enough that loads do not fill the disk.
const RETENTION: Duration = Duration::from_secs(60);

/// A running cluster; dropping it ends its processes.
pub struct Tarn {
    cluster: LocalCluster,
    version: String,
    /// Names of queues and contexts are used once.
    names: AtomicU64,
}

impl Tarn {
    /// Starts so many nodes with their data below `dir`, and waits until they have a leader.
    ///
    /// # Errors
    /// If the binary cannot be run, or there is no leader in time.
    pub async fn start(binary: &Path, dir: &Path, nodes: usize) -> Result<Tarn> {
        let mut tarn = Tarn::create(binary, dir, nodes)?;
        tarn.cluster.start().await?;
        Ok(tarn)
    }

    /// The same without starting the nodes.
    ///
    /// # Errors
    /// If the binary cannot be run.
    pub fn create(binary: &Path, dir: &Path, nodes: usize) -> Result<Tarn> {
        // The nodes' own executors have nothing to do here and would only be more waiting workers.
        let cluster = LocalCluster::create(binary, dir, nodes, &[("executors.wasm", "false")])?;
        let version = output(Command::new(binary).arg("--version"))?.trim().to_owned();
        Ok(Tarn { cluster, version, names: AtomicU64::new(0) })
    }

    /// The cluster, to stop and start its nodes.
    pub fn cluster(&mut self) -> &mut LocalCluster {
        &mut self.cluster
    }

    /// The processes of the nodes.
    ///
    /// # Errors
    /// If one does not run.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.cluster.ids().into_iter().map(|id| self.cluster.pid(id)).collect()
    }

    /// What tarn promises here.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let nodes = self.cluster.ids().len();
        vec![
            ("version", self.version.clone()),
            ("replication", format!("{nodes} nodes, majority")),
            ("fsync", "on a majority before each acknowledgement".to_owned()),
            ("transport", "gRPC in mutual TLS 1.3 with ML-DSA-65 and X25519MLKEM768".to_owned()),
        ]
    }

    /// Clients with a connection each.
    ///
    /// # Errors
    /// If the keys cannot be read.
    pub fn clients(&self, connections: usize) -> Result<Vec<Client>> {
        (0..connections.max(1)).map(|_| self.cluster.client()).collect()
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.names.fetch_add(1, Ordering::Relaxed))
    }
}

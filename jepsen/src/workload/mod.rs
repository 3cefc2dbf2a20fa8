//! What clients do in a run, and what of it must hold.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use tarn_client::Client;
use tokio_util::sync::CancellationToken;

use crate::checker::Verdict;
use crate::cluster::Cluster;
use crate::history::{Event, Recorder};

/// One kind of work.
#[async_trait]
pub trait Workload: Send + Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Prepares the cluster, before any fault.
    ///
    /// # Errors
    /// If the cluster does not take it: a failure of the run, not a verdict.
    async fn setup(&self, scene: &Scene) -> Result<()>;

    /// What one client does until the scene stops. Every operation is recorded; what the cluster refuses or does not answer is part of the
    /// history, no error.
    ///
    /// # Errors
    /// Only if the harness itself fails.
    async fn work(&self, process: u32, scene: &Scene) -> Result<()>;

    /// After everything was healed: waits until accepted work has ended, and records the final state.
    ///
    /// # Errors
    /// If the cluster does not get there: the run's verdict is unknown then, never valid.
    async fn drain(&self, scene: &Scene) -> Result<()>;

    /// Judges a history of this workload.
    fn check(&self, history: &[Event]) -> Verdict;
}

/// What a workload's clients have in a run.
pub struct Scene {
    /// Clients of the cluster.
    pub clients: Clients,
    /// Where operations are recorded.
    pub recorder: Recorder,
    /// The run's seed.
    pub seed: u64,
    /// Cancelled when clients should finish their present operation and return.
    pub stop: CancellationToken,
    /// The cluster.
    pub cluster: Arc<Cluster>,
}

/// Makes clients of a cluster.
pub struct Clients {
    cluster: Arc<Cluster>,
}

impl Clients {
    /// Makes clients of this cluster.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// A client for a process. Every fourth knows all nodes; each of the others is bound to one node, in turns, so that some are always on
    /// the wrong side of a partition. The second part says which node, if it is bound.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn client(&self, process: u32) -> Result<(Client, Option<u64>)> {
        let ids = self.cluster.ids();
        if process % 4 == 3 || ids.is_empty() {
            return Ok((self.all()?, None));
        }
        let id = ids[process as usize % ids.len()];
        Ok((self.cluster.client(&[id])?, Some(id)))
    }

    /// A client that knows all nodes.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn all(&self) -> Result<Client> {
        self.cluster.client(&self.cluster.ids())
    }
}

/// A workload by its name.
pub fn named(_name: &str) -> Option<Box<dyn Workload>> {
    None
}

/// The names of all workloads, each with one line on what it does.
pub fn names() -> &'static [(&'static str, &'static str)] {
    &[]
}

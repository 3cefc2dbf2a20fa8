//! The faults: each nemesis does one kind of harm to a cluster and takes it back.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::cluster::Cluster;

/// How long a fault lasts and how long the cluster is left alone afterwards, before chance changes each by up to a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// From injection to healing.
    pub on: Duration,
    /// From healing to the next injection.
    pub off: Duration,
}

/// One kind of fault.
#[async_trait]
pub trait Nemesis: Send {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Does the harm, with targets drawn from `rng`, and says what was done.
    ///
    /// # Errors
    /// If it could not be done: a failure of the harness.
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Value>;

    /// Takes the harm back, and says what was done. Called after every [`Nemesis::inject`], also after one that failed; does nothing if there
    /// is nothing to take back.
    ///
    /// # Errors
    /// If it could not be done: a failure of the harness.
    async fn heal(&mut self, cluster: &Cluster) -> Result<Value>;

    /// How long the fault lasts.
    fn plan(&self) -> Rhythm;
}

/// A nemesis by its name.
pub fn named(_name: &str) -> Option<Box<dyn Nemesis>> {
    None
}

/// The names of all nemeses, each with one line on what it does.
pub fn names() -> &'static [(&'static str, &'static str)] {
    &[]
}

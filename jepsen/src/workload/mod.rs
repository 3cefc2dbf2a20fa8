//! What clients do in a run, and what of it must hold.
//!
//! ```text
//!   register, lock           named leases                    queue, priorities, dependencies, session    tasks
//!   timers                   timers                          watch                                       events
//!   membership               nodes that join and leave     federation                                   keys of a context that clusters share
//!
//!   pace      how fast a client goes                         outcome   how a call ended, in the three words of a history
//!   submit    items as tasks                                 hands     workers, good and misbehaving
//!   watcher   watchers that write everything down            closing   waiting for the end, and reading what became of everything
//! ```
//!
//! Clients use the SDK as users do, each with a bounded rate, so that a cluster on two cores keeps up. What chance decides for a client comes
//! from the run's seed and the client's number.

mod closing;
mod dependencies;
mod federation;
mod hands;
mod lock;
mod membership;
pub mod moving;
mod outcome;
mod pace;
mod priorities;
mod queue;
mod register;
mod session;
mod submit;
mod timers;
#[cfg(test)]
mod trial;
mod watch;
mod watcher;

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
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
    /// The cluster; the first of those that federate.
    pub cluster: Arc<Cluster>,
    /// The other clusters of its federation.
    pub others: Vec<Arc<Cluster>>,
}

impl Scene {
    /// All clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        std::iter::once(&self.cluster).chain(&self.others)
    }

    /// A cluster that a fault hits. Chance is asked only where there are several.
    pub fn struck(&self, rng: &mut StdRng) -> Arc<Cluster> {
        let at = if self.others.is_empty() { 0 } else { rng.random_range(0..=self.others.len()) };
        self.clusters().nth(at).unwrap_or(&self.cluster).clone()
    }
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

    /// A client for a process. Of four, two are bound to one node each, in turns, so that some are always on the wrong side of a partition;
    /// one knows two nodes, and may go from one that hangs to another without ever finding the leader; one knows all. The second part says
    /// which node, if it is bound.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn client(&self, process: u32) -> Result<(Client, Option<u64>)> {
        let ids = self.cluster.ids();
        let nth = |at: usize| ids[at % ids.len()];
        let at = process as usize;
        match process % 4 {
            3 => Ok((self.all()?, None)),
            2 if ids.len() > 1 => Ok((self.cluster.client(&[nth(at / 4), nth(at / 4 + 1)])?, None)),
            _ => Ok((self.cluster.client(&[nth(at)])?, Some(nth(at)))),
        }
    }

    /// A client that knows all nodes.
    ///
    /// # Errors
    /// If the credentials cannot be read.
    pub fn all(&self) -> Result<Client> {
        self.cluster.client(&self.cluster.ids())
    }
}

/// The workload that has several clusters.
pub const FEDERATION: &str = "federation";

/// A workload by its name.
pub fn named(name: &str) -> Option<Box<dyn Workload>> {
    Some(match name {
        "register" => Box::new(register::Registers),
        "lock" => Box::new(lock::Locks::default()),
        "queue" => Box::new(queue::Queue::default()),
        "priorities" => Box::new(priorities::Priorities::default()),
        "dependencies" => Box::new(dependencies::Dependencies::default()),
        "session" => Box::new(session::Sessions::default()),
        "timers" => Box::new(timers::Timers::default()),
        "watch" => Box::new(watch::Watches::default()),
        "membership" => Box::new(membership::Membership),
        FEDERATION => Box::new(federation::Federated),
        _ => return None,
    })
}

/// The names of all workloads, each with one line on what it does.
pub fn names() -> &'static [(&'static str, &'static str)] {
    &[
        ("register", "reads, compares and sets registers (named leases of a day) at all nodes: linearizable per key"),
        ("lock", "writes to a store under locks with fencing tokens: holders never interleave"),
        ("queue", "submits items and works them off, with retries and dead letters: each ends exactly once"),
        ("priorities", "submits more than can be done in five priorities: strict order at assignment"),
        ("dependencies", "submits chains, diamonds and fans: nothing runs before what it waits for"),
        ("session", "clients and workers bound to one node each: none stays stuck, nothing is swallowed"),
        ("timers", "schedules and cancels timers: never early, once, never after a cancellation"),
        ("watch", "watches events at all nodes: no gap, no repeat, no reorder"),
        ("membership", "nodes join and leave: no node goes back to an earlier leader, equal digests, acknowledged members"),
        (
            FEDERATION,
            "writes keys that several clusters share, each at its own, and submits tasks that any may run: the clusters agree, nothing acknowledged is lost, and each task ends once",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_workload_with_that_name() {
        for (name, _) in names() {
            assert_eq!(named(name).expect("it is listed").name(), *name);
        }
        assert!(named("nonsense").is_none());
    }

    #[test]
    fn no_workload_takes_an_empty_history_for_a_proof() {
        for (name, _) in names() {
            let verdict = named(name).expect("it is listed").check(&[]);
            assert_eq!(verdict.outcome, crate::checker::Outcome::Unknown, "{name}: {verdict:?}");
        }
    }
}

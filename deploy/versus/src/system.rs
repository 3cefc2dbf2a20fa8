//! The systems, and a running cluster of any of them.

use std::path::Path;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::args::Args;
use crate::measure::{Load, Samples};
use crate::peers::etcd::Etcd;
use crate::peers::nats::{Acks, Nats, Sync};
use crate::peers::rabbitmq::RabbitMq;
use crate::peers::restate::Restate;
use crate::scenario::Scenario;
use crate::tarn::{Consumer, Contexts, Tarn};

/// The release of Restate that is compared with.
const RESTATE_VERSION: &str = "1.7.12";

/// How often a cluster is started at most: another program may take a port between its choice and its use.
const STARTS: u32 = 3;

/// A system in one of its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// tarn. In work queues a task counts when its completion was acknowledged.
    Tarn,
    /// tarn with the SDK's own worker, whose handlers do not learn when a completion was acknowledged.
    TarnHandlers,
    /// tarn at single replicated writes: the floor of what takes two of them.
    TarnWrites,
    /// tarn with a context for each client, which is a row more for each put.
    TarnContexts,
    /// etcd.
    Etcd,
    /// NATS JetStream that syncs before it acknowledges.
    NatsSynced,
    /// NATS JetStream as it comes: it syncs every two minutes.
    Nats,
    /// The same with acknowledgements of which workers learn nothing.
    NatsPlainAcks,
    /// RabbitMQ's quorum queues.
    RabbitMq,
    /// Restate.
    Restate,
    /// Restate with a key for each call, under which it can be repeated, as every call of tarn's can.
    RestateWithKeys,
}

/// What is installed for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    /// etcd, Debian's etcd-server
    Etcd,
    /// NATS JetStream, Debian's nats-server
    Nats,
    /// RabbitMQ, Debian's rabbitmq-server
    Rabbitmq,
    /// Restate, npm's @restatedev/restate-server
    Restate,
}

/// Starts something with its data in a new folder, and again where a port that was free is taken by then.
///
/// # Errors
/// What starting it met.
pub async fn started<T>(args: &Args, start: impl AsyncFn(&Path) -> Result<T>) -> Result<(TempDir, T)> {
    let mut tries = 1;
    loop {
        let dir = args.data_dir()?;
        match start(dir.path()).await {
            Ok(running) => return Ok((dir, running)),
            Err(error) if tries < STARTS && format!("{error:#}").to_lowercase().contains("address already in use") => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Peer {
    /// Where it comes from, for `deploy/bench`: `debian PACKAGE` or `npm PACKAGE VERSION`.
    pub fn package(self) -> String {
        match self {
            Peer::Etcd => "debian etcd-server".to_owned(),
            Peer::Nats => "debian nats-server".to_owned(),
            Peer::Rabbitmq => "debian rabbitmq-server".to_owned(),
            // The program itself, without the package around it that chooses among processors.
            Peer::Restate => {
                let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
                format!("npm @restatedev/restate-server-linux-{processor} {RESTATE_VERSION}")
            }
        }
    }
}

impl System {
    /// Its name in tables and results.
    pub fn name(self) -> &'static str {
        match self {
            System::Tarn => "tarn",
            System::TarnHandlers => "tarn, SDK handlers",
            System::TarnWrites => "tarn, single writes",
            System::TarnContexts => "tarn, a context each",
            System::Etcd => "etcd",
            System::NatsSynced => "NATS, synced",
            System::Nats => "NATS, not synced",
            System::NatsPlainAcks => "NATS, not synced, plain acks",
            System::RabbitMq => "RabbitMQ",
            System::Restate => "Restate",
            System::RestateWithKeys => "Restate, with keys",
        }
    }

    /// The peer that has to be installed for it; none for tarn.
    pub fn peer(self) -> Option<Peer> {
        match self {
            System::Tarn | System::TarnHandlers | System::TarnWrites | System::TarnContexts => None,
            System::Etcd => Some(Peer::Etcd),
            System::NatsSynced | System::Nats | System::NatsPlainAcks => Some(Peer::Nats),
            System::RabbitMq => Some(Peer::Rabbitmq),
            System::Restate | System::RestateWithKeys => Some(Peer::Restate),
        }
    }

    /// Starts a cluster of three nodes with its data in a new folder, and again where a port that was free is taken by then.
    ///
    /// # Errors
    /// [`Unavailable`](crate::peers::Unavailable) where it cannot take part; or if it is not installed, or does not serve in time.
    pub async fn start(self, args: &Args) -> Result<(TempDir, Running)> {
        started(args, async |dir| self.start_in(&args.tarn, dir).await).await
    }

    async fn start_in(self, tarn: &Path, dir: &Path) -> Result<Running> {
        Ok(match self {
            System::Tarn => Running::Tarn(Tarn::start(tarn, dir, 3).await?, Consumer::Stream),
            System::TarnHandlers => Running::Tarn(Tarn::start(tarn, dir, 3).await?, Consumer::Handler),
            System::TarnWrites => Running::TarnWrites(Tarn::start(tarn, dir, 3).await?, Contexts::One),
            System::TarnContexts => Running::TarnWrites(Tarn::start(tarn, dir, 3).await?, Contexts::OfEachClient),
            System::Etcd => Running::Etcd(Etcd::start(dir).await?),
            System::NatsSynced => Running::Nats(Nats::start(dir, Sync::Always).await?, Acks::Confirmed),
            System::Nats => Running::Nats(Nats::start(dir, Sync::Never).await?, Acks::Confirmed),
            System::NatsPlainAcks => Running::Nats(Nats::start(dir, Sync::Never).await?, Acks::Sent),
            System::RabbitMq => Running::RabbitMq(RabbitMq::start(dir).await?),
            System::Restate => Running::Restate(Restate::start(dir).await?, false),
            System::RestateWithKeys => Running::Restate(Restate::start(dir).await?, true),
        })
    }
}

/// A running cluster; dropping it ends its processes.
pub enum Running {
    /// tarn, and what takes its tasks.
    Tarn(Tarn, Consumer),
    /// tarn, for single writes.
    TarnWrites(Tarn, Contexts),
    /// etcd.
    Etcd(Etcd),
    /// NATS JetStream, and whether its workers wait for the answer to an acknowledgement.
    Nats(Nats, Acks),
    /// RabbitMQ.
    RabbitMq(RabbitMq),
    /// Restate, and whether each call has a key.
    Restate(Restate, bool),
}

impl Running {
    /// What the system promises as it runs here: version, replication, fsync.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        match self {
            Running::Tarn(tarn, _) | Running::TarnWrites(tarn, _) => tarn.facts(),
            Running::Etcd(etcd) => etcd.facts(),
            Running::Nats(nats, _) => nats.facts(),
            Running::RabbitMq(rabbit) => rabbit.facts(),
            Running::Restate(restate, _) => restate.facts(),
        }
    }

    /// The processes of its nodes.
    ///
    /// # Errors
    /// If one has ended.
    pub fn pids(&self) -> Result<Vec<u32>> {
        Ok(match self {
            Running::Tarn(tarn, _) | Running::TarnWrites(tarn, _) => tarn.pids()?,
            Running::Etcd(etcd) => etcd.pids(),
            Running::Nats(nats, _) => nats.pids(),
            Running::RabbitMq(rabbit) => rabbit.pids(),
            Running::Restate(restate, _) => restate.pids(),
        })
    }

    /// Runs one load.
    ///
    /// # Errors
    /// If an operation fails or something is lost; or if the system cannot do this at all.
    pub async fn run(&self, scenario: Scenario, load: &Load) -> Result<Samples> {
        match (self, scenario) {
            (Running::Tarn(tarn, _), Scenario::Put) => tarn.puts(load, Contexts::One).await,
            (Running::Tarn(tarn, _), Scenario::Get) => tarn.gets(load).await,
            (Running::Tarn(tarn, _), Scenario::Call) => tarn.calls(load).await,
            (Running::Tarn(tarn, consumer), Scenario::Queue | Scenario::Latency) => tarn.work(load, *consumer).await,
            (Running::TarnWrites(tarn, contexts), Scenario::Put | Scenario::Latency) => tarn.puts(load, *contexts).await,
            (Running::Etcd(etcd), Scenario::Put) => etcd.puts(load).await,
            (Running::Etcd(etcd), Scenario::Get) => etcd.gets(load).await,
            (Running::Nats(nats, acks), Scenario::Queue | Scenario::Latency) => nats.work(load, *acks).await,
            (Running::RabbitMq(rabbit), Scenario::Queue | Scenario::Latency) => rabbit.work(load).await,
            (Running::Restate(restate, with_keys), Scenario::Call) => restate.call(load, *with_keys).await,
            (_, scenario) => bail!("this system has no {}", scenario.name()),
        }
    }
}

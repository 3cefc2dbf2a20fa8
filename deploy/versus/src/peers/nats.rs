//! A three-node NATS JetStream cluster on loopback, and a work queue on it.
//!
//! The queue is a stream in files with three replicas and work-queue retention, and a durable pull consumer with three replicas and
//! explicit acknowledgement. A submission is accepted when the stream's Raft group has it. Workers wait for the answer to each
//! acknowledgement, which comes when the consumer's Raft group has it, so that an acknowledged task means what tarn's completed task means;
//! plain acknowledgements, of which the sender learns nothing, are measured besides.
//!
//! How it is tuned: one stream, as one queue is one stream; submissions without waiting for one another; workers pull in batches ahead of
//! need, and acknowledge without waiting for one another; answers come through each connection's one inbox instead of a subscription per
//! acknowledgement, which is what the client's `double_ack` would make; no limit of unacknowledged messages below what is outstanding.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, Request};
use futures::TryStreamExt;
use tokio::task::JoinSet;

use super::Unavailable;
use super::queue::Tasks;
use super::servers::{Servers, free_ports, output};
use crate::measure::{Load, Samples};

/// How long the cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// The most messages that a worker asks for at once.
const BATCH_MAX: usize = 256;
/// Connections that the workers share, and the submitters likewise: two to each node.
const CONNECTIONS: usize = 6;
const SUBJECT: &str = "tasks";
const NODES: usize = 3;

/// When the servers sync what they write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Before they acknowledge.
    Always,
    /// Every two minutes, as they do unless told otherwise: an acknowledged message is in the page cache of a majority.
    Never,
}

/// Whether workers wait for the answer to an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// They do: an acknowledged task is so on a majority.
    Confirmed,
    /// They do not, and learn nothing of what became of it.
    Sent,
}

/// A running cluster; dropping it ends its processes.
pub struct Nats {
    servers: Servers,
    urls: Vec<String>,
    version: String,
    sync: Sync,
}

impl Nats {
    /// Starts three nodes with their data below `dir`, and waits until a stream with three replicas can be made. The program is the one
    /// that the environment variable `NATS_SERVER` names, else `nats-server`.
    ///
    /// # Errors
    /// If there is no such program, it is older than 2.10 and shall always sync ([`Unavailable`]), or the cluster does not serve in time.
    pub async fn start(dir: &Path, sync: Sync) -> Result<Self> {
        let program = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let said = output(Command::new(&program).arg("--version"))?;
        let version = said.trim().trim_start_matches("nats-server: v").to_owned();
        let (major, minor) = version.split_once('.').and_then(|(major, rest)| Some((major, rest.split_once('.')?.0))).context(said)?;
        let can_sync = (major.parse::<u32>()?, minor.parse::<u32>()?) >= (2, 10);
        if sync == Sync::Always && !can_sync {
            bail!(Unavailable(format!(
                "nats-server {version} cannot sync before it acknowledges; 2.10 and later can: name one with NATS_SERVER=PATH"
            )));
        }

        let ports = free_ports(2 * NODES)?;
        let (clients, routes) = ports.split_at(NODES);
        let mut nats = Self {
            servers: Servers::default(),
            urls: clients.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect(),
            version,
            sync,
        };
        let peers: Vec<String> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        for (at, (client, route)) in clients.iter().zip(routes).enumerate() {
            let (name, config) = (format!("n{at}"), dir.join(format!("n{at}.conf")));
            // JSON is a subset of the configuration's language.
            let mut store = serde_json::json!({ "store_dir": dir.join(&name) });
            if sync == Sync::Always {
                store["sync_interval"] = "always".into();
            }
            let cluster = serde_json::json!({ "name": "versus", "listen": format!("127.0.0.1:{route}"), "routes": peers });
            let settings = serde_json::json!({
                "server_name": name, "listen": format!("127.0.0.1:{client}"), "jetstream": store, "cluster": cluster,
            });
            fs::write(&config, settings.to_string())?;
            let log = dir.join(format!("{name}.log"));
            nats.servers.start(&format!("nats-server {name}"), Command::new(&program).arg("--config").arg(&config), &log)?;
        }
        let url = nats.urls[0].clone();
        nats.servers
            .ready(READY_WITHIN, async || {
                let mut context = jetstream::new(async_nats::connect(&url).await?);
                // While there is no leader nobody answers.
                context.set_timeout(Duration::from_millis(500));
                context.create_stream(replicated("ready")).await?;
                context.delete_stream("ready").await?;
                Ok(())
            })
            .await?;
        Ok(nats)
    }

    /// The servers' process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.pids()
    }

    /// Version, replication and what is synced when.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let fsync = match self.sync {
            Sync::Always => "sync_interval: always",
            Sync::Never => "none before acknowledgement (default: every 2 minutes)",
        };
        vec![
            ("version", format!("nats-server {}", self.version)),
            ("replication", "3, Raft majority, stream and consumer".to_owned()),
            ("fsync", fsync.to_owned()),
        ]
    }

    /// Submits, works and acknowledges tasks on a new queue; a task counts when its acknowledgement has been confirmed, or, with plain
    /// ones, sent.
    ///
    /// # Errors
    /// If a task is refused or lost, or the queue is not empty in the end.
    pub async fn work(&self, load: &Load, acks: Acks) -> Result<Samples> {
        let context = jetstream::new(self.connect(0).await?);
        let mut stream = context.create_stream(replicated(SUBJECT)).await?;
        let config = pull::Config {
            durable_name: Some("workers".to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: -1,
            max_waiting: i64::try_from(load.workers * 4)?.max(512),
            num_replicas: NODES,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await?;

        let tasks = Tasks::new(load)?;
        let batch = load.outstanding.div_ceil(load.workers).clamp(1, BATCH_MAX);
        let mut workers = JoinSet::new();
        let mut shared = Vec::new();
        for worker in 0..load.workers {
            if worker < CONNECTIONS {
                shared.push(self.connect(worker).await?);
            }
            let client = shared[worker % CONNECTIONS].clone();
            let consumer = jetstream::new(client.clone()).get_consumer_from_stream("workers", SUBJECT).await?;
            workers.spawn(work(consumer, client, tasks.clone(), batch, acks));
        }
        let mut submitters = Vec::new();
        for submitter in 0..load.clients.min(CONNECTIONS) {
            submitters.push(jetstream::new(self.connect(submitter).await?));
        }
        let submit = move |generator: usize, payload| {
            let context = submitters[generator % submitters.len()].clone();
            async move {
                context.publish(SUBJECT, payload).await?.await?;
                Ok(())
            }
        };
        let samples = tasks.run(load, submit, workers).await?;
        let left = emptied(&mut stream).await?;
        ensure!(left == 0, "{left} acknowledged messages are still in the stream");
        context.delete_stream(SUBJECT).await?;
        Ok(samples)
    }

    /// A connection to the nodes in turn.
    async fn connect(&self, number: usize) -> Result<Client> {
        let url = &self.urls[number % self.urls.len()];
        // Else a connection may move to a node that the first one names.
        Ok(ConnectOptions::new().ignore_discovered_servers().connect(url).await?)
    }
}

/// Works until it fails.
async fn work(consumer: PullConsumer, client: Client, tasks: std::sync::Arc<Tasks>, batch: usize, acks: Acks) -> Result<()> {
    let messages = consumer.stream().max_messages_per_batch(batch).messages().await?;
    let messages = messages.map_err(Error::from);
    messages
        .try_for_each_concurrent(None, |message| {
            let (client, tasks) = (&client, &tasks);
            async move {
                match acks {
                    Acks::Confirmed => {
                        let reply = message.reply.clone().context("a message that cannot be acknowledged")?;
                        client.send_request(reply, Request::new().payload("+ACK".into())).await?;
                    }
                    Acks::Sent => message.ack().await.map_err(|error| anyhow!(error))?,
                }
                tasks.acknowledged(&message.payload)
            }
        })
        .await
}

/// Waits until the stream is empty, a second at most, and returns how many messages it has.
async fn emptied(stream: &mut stream::Stream) -> Result<u64> {
    for _ in 0..20 {
        if stream.info().await?.state.messages == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(stream.cached_info().state.messages)
}

fn replicated(name: &str) -> stream::Config {
    stream::Config {
        name: name.to_owned(),
        subjects: vec![name.to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        storage: stream::StorageType::File,
        num_replicas: NODES,
        ..stream::Config::default()
    }
}

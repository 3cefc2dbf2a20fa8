//! A three-node RabbitMQ cluster on loopback, and a quorum queue on it.
//!
//! A submission is accepted when the broker confirms it: a majority of the queue's members has it in its log, and each of these has synced
//! the log. A worker's acknowledgement is replicated likewise, but nobody tells the worker so: AMQP knows no answer to it. A task counts
//! here when its acknowledgement has been sent, which asks less than what counts as completed elsewhere.
//!
//! How it is tuned: submissions without waiting for one another, each worker and each submitter with a channel of its own, connections to
//! all nodes; workers take ahead of need what would otherwise lie in the queue, and acknowledge whatever has arrived in one step
//! (`multiple`); no plug-ins. The Erlang machines do not wait busily, which is RabbitMQ's own default.

use std::fs::{self, Permissions};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::task::JoinSet;

use super::queue::Tasks;
use super::servers::{Servers, free_ports, output};
use crate::measure::{Load, Samples};

/// How long the cluster may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// Debian's `rabbitmq-server` and `rabbitmqctl` in the search path start these as another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// Connections that the workers share, and the submitters likewise: two to each node.
const CONNECTIONS: usize = 6;
/// How long unacknowledged tasks take to be in the queue again.
const RETURNED_WITHIN: Duration = Duration::from_millis(500);
/// The most messages that a worker takes before it acknowledges.
const PREFETCH_MAX: usize = 256;
const QUEUE: &str = "tasks";
const NODES: usize = 3;

/// A running cluster; dropping it ends its processes.
pub struct RabbitMq {
    servers: Servers,
    nodes: Vec<Node>,
    version: String,
}

/// What one node is run with.
struct Node {
    name: String,
    dir: PathBuf,
    epmd: u16,
    amqp: u16,
    distribution: u16,
}

impl RabbitMq {
    /// Starts three nodes with their data below `dir`, with a port mapper (`epmd`) of their own, and waits until they are a cluster.
    ///
    /// # Errors
    /// If RabbitMQ is not installed or the cluster does not serve in time.
    pub async fn start(dir: &Path) -> Result<Self> {
        let ports = free_ports(1 + 2 * NODES)?;
        let cookie = dir.join(".erlang.cookie");
        fs::write(&cookie, "versus")?;
        fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
        let mut rabbit = Self { servers: Servers::default(), nodes: Vec::new(), version: String::new() };
        let mut epmd = Command::new("epmd");
        epmd.args(["-port", &ports[0].to_string(), "-address", "127.0.0.1"]);
        rabbit.servers.start("epmd", &mut epmd, &dir.join("epmd.log"))?;
        for (at, ports_of_node) in ports[1..].chunks_exact(2).enumerate() {
            let node = Node {
                name: format!("r{at}@localhost"),
                dir: dir.to_owned(),
                epmd: ports[0],
                amqp: ports_of_node[0],
                distribution: ports_of_node[1],
            };
            rabbit.nodes.push(node);
        }
        // The first alone: of nodes that all find no other, each would become a cluster of its own.
        rabbit.start_nodes(0..1).await?;
        rabbit.start_nodes(1..NODES).await?;
        let nodes = &rabbit.nodes;
        rabbit
            .servers
            .ready(READY_WITHIN, async || {
                let status = nodes[0].tell(&["cluster_status"])?;
                let running = status["running_nodes"].as_array().map_or(0, Vec::len);
                ensure!(running == NODES, "only {running} nodes are a cluster");
                Ok(())
            })
            .await?;
        rabbit.version = output(rabbit.nodes[0].command("rabbitmqctl").arg("version"))?.trim().to_owned();
        Ok(rabbit)
    }

    /// Starts these nodes and waits until they take connections.
    async fn start_nodes(&mut self, which: Range<usize>) -> Result<()> {
        for node in &self.nodes[which.clone()] {
            node.write_config(&self.nodes[0])?;
            self.servers.start(&node.name, &mut node.command("rabbitmq-server"), &node.file("log"))?;
        }
        let nodes = &self.nodes;
        self.servers
            .ready(READY_WITHIN, async || {
                for number in which.clone() {
                    connect(nodes, number).await?;
                }
                Ok(())
            })
            .await
    }

    /// The servers' process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.servers.pids()
    }

    /// Version, replication and what is synced when.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("version", format!("rabbitmq-server {}", self.version)),
            ("replication", "3, quorum queue, Raft majority".to_owned()),
            ("fsync", "fdatasync of a majority's logs before a submission is confirmed; acknowledgements are not confirmed".to_owned()),
        ]
    }

    /// Submits, works and acknowledges tasks on a new queue; a task counts when its acknowledgement has been sent.
    ///
    /// # Errors
    /// If a task is refused or lost, or the queue is not empty in the end.
    pub async fn work(&self, load: &Load) -> Result<Samples> {
        let control = connect(&self.nodes, 0).await?.create_channel().await?;
        declare(&control).await?;
        let queues = self.nodes[0].tell(&["list_queues", "name", "members"])?;
        let members = queues[0]["members"].as_array().map_or(0, Vec::len);
        ensure!(members == NODES, "the queue has {members} members instead of {NODES}");

        let tasks = Tasks::new(load)?;
        let prefetch = load.outstanding.div_ceil(load.workers).clamp(2, PREFETCH_MAX);
        let mut workers = JoinSet::new();
        let mut connections = Vec::new();
        for worker in 0..load.workers {
            if worker < CONNECTIONS {
                connections.push(connect(&self.nodes, worker).await?);
            }
            let channel = connections[worker % CONNECTIONS].create_channel().await?;
            channel.basic_qos(u16::try_from(prefetch)?, BasicQosOptions::default()).await?;
            let tag = format!("worker-{worker}");
            let consumer = channel.basic_consume(QUEUE.into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
            workers.spawn(work(channel, consumer, tasks.clone(), prefetch));
        }
        let mut submitters = Vec::new();
        for submitter in 0..load.clients {
            if submitter < CONNECTIONS {
                connections.push(connect(&self.nodes, submitter).await?);
            }
            let connection = &connections[load.workers.min(CONNECTIONS) + submitter % CONNECTIONS];
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            submitters.push(channel);
        }
        let submit = move |generator: usize, payload: bytes::Bytes| {
            let channel = submitters[generator % submitters.len()].clone();
            async move {
                // Two: persistent.
                let properties = BasicProperties::default().with_delivery_mode(2);
                let sent = channel.basic_publish("".into(), QUEUE.into(), Default::default(), &payload, properties).await?;
                ensure!(sent.await?.is_ack(), "the broker refused a task");
                Ok(())
            }
        };
        let samples = tasks.run(load, submit, workers).await?;
        // What a worker holds without having acknowledged it goes back into the queue when its connection ends.
        for connection in connections {
            connection.close(200, "done".into()).await?;
        }
        tokio::time::sleep(RETURNED_WITHIN).await;
        let left = emptied(&control).await?;
        ensure!(left == 0, "{left} acknowledged tasks are still in the queue");
        control.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
        Ok(samples)
    }
}

impl Node {
    fn file(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.name))
    }

    /// The node becomes a member of the first one's cluster.
    fn write_config(&self, first: &Self) -> Result<()> {
        let lines = [
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.amqp),
            "cluster_formation.peer_discovery_backend = classic_config".to_owned(),
            format!("cluster_formation.classic_config.nodes.1 = {}", first.name),
            "log.console.level = warning".to_owned(),
        ];
        fs::write(self.file("conf"), lines.join("\n") + "\n")?;
        fs::write(self.file("plugins"), "[].\n")?;
        Ok(fs::write(self.file("env"), "")?)
    }

    /// What `rabbitmqctl` says of the node, as JSON.
    fn tell(&self, command: &[&str]) -> Result<serde_json::Value> {
        let said = output(self.command("rabbitmqctl").args(["--quiet", "--formatter", "json"]).args(command))?;
        serde_json::from_str(&said).with_context(|| format!("rabbitmqctl said: {said}"))
    }

    /// One of RabbitMQ's programs, with this node's environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            .current_dir(&self.dir)
            .env("HOME", &self.dir)
            .env("ERL_EPMD_PORT", self.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", self.file("env"))
            .env("RABBITMQ_CONFIG_FILE", self.file("conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.file("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.dir.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.dir.join("logs"))
            .env("RABBITMQ_LOGS", "-")
            // Else a shell stays between this process and the server's.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}");
        command
    }
}

/// Works until it fails.
async fn work(channel: Channel, consumer: Consumer, tasks: Arc<Tasks>, prefetch: usize) -> Result<()> {
    // All that has arrived is acknowledged by its last.
    let mut arrived = consumer.ready_chunks(prefetch);
    while let Some(chunk) = arrived.next().await {
        let deliveries = chunk.into_iter().collect::<Result<Vec<_>, _>>()?;
        let last = deliveries.last().context("nothing has arrived")?;
        channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await?;
        for delivery in &deliveries {
            tasks.acknowledged(&delivery.data)?;
        }
    }
    Ok(())
}

async fn connect(nodes: &[Node], number: usize) -> Result<Connection> {
    let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", nodes[number % nodes.len()].amqp);
    Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
}

/// Makes the queue, or returns how many messages are ready in it. It has a member on every node.
async fn declare(channel: &Channel) -> Result<u32> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-quorum-initial-group-size".into(), AMQPValue::LongInt(NODES as i32));
    let queue = channel.queue_declare(QUEUE.into(), QueueDeclareOptions { durable: true, ..Default::default() }, arguments).await?;
    Ok(queue.message_count())
}

/// Waits until the queue is empty, two seconds at most, and returns how many messages it has.
async fn emptied(channel: &Channel) -> Result<u32> {
    for _ in 0..20 {
        if declare(channel).await? == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    declare(channel).await
}

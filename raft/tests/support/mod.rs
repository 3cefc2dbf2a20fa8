//! Clusters in one process: real logs and states on disk, and a network in memory whose links can be cut.

// Each test binary uses another part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tarn_proto::v1::{self, command, outcome};
use tarn_raft::{
    ByteStream, Consensus, Instant, Leadership, Limits, Method, NodeId, Options, Peer, ReplyStream, Status, Timings, Transport,
    TransportError, Versions,
};
use tokio::sync::watch;

pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// Generous: a busy machine must not fail a test, and a test that passes does not wait this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// The nodes that run, and the links that are cut.
#[derive(Default)]
pub struct Net {
    nodes: Mutex<BTreeMap<NodeId, Consensus>>,
    cut: watch::Sender<BTreeSet<(NodeId, NodeId)>>,
}

impl Net {
    fn transport(self: &Arc<Self>, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(Link { net: self.clone(), from })
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.borrow().contains(&(from, to))
    }

    fn node(&self, from: NodeId, to: NodeId) -> Result<Consensus, TransportError> {
        let node = self.nodes.lock().unwrap().get(&to).cloned();
        node.filter(|_| !self.is_cut(from, to)).ok_or_else(|| TransportError::Unreachable(format!("no way from {from} to {to}")))
    }

    /// Resolves when one direction between two nodes is cut.
    fn cutting(&self, a: NodeId, b: NodeId) -> impl Future<Output = ()> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            let _ = cut.wait_for(|cut| cut.contains(&(a, b)) || cut.contains(&(b, a))).await;
        }
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, id: NodeId) {
        self.cut.send_modify(|cut| {
            for other in 0..16 {
                cut.insert((id, other));
                cut.insert((other, id));
            }
        });
    }

    pub fn heal(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

struct Link {
    net: Arc<Net>,
    from: NodeId,
}

#[async_trait]
impl Transport for Link {
    async fn call(&self, target: &Peer, method: Method, body: Bytes, timeout: Duration) -> Result<Bytes, TransportError> {
        let (from, to) = (self.from, target.id);
        if self.net.is_cut(from, to) {
            // Nobody says that a link is cut: the caller hears nothing.
            tokio::time::sleep(timeout).await;
            return Err(TransportError::Timeout);
        }
        let node = self.net.node(from, to)?;
        // In a task of its own: a caller that gives up does not stop what it asked for.
        let handled = tokio::spawn(async move { node.handle_call(from, method.number(), body).await });
        let answer = tokio::select! {
            answer = tokio::time::timeout(timeout, handled) => answer.map_err(|_| TransportError::Timeout)?,
            () = self.net.cutting(from, to) => return Err(TransportError::Broken("cut".into())),
        };
        let answer = answer.map_err(|error| TransportError::Broken(error.to_string()))?;
        answer.map_err(|error| TransportError::Remote(error.to_string()))
    }

    async fn replicate(&self, target: &Peer, requests: ByteStream) -> Result<ReplyStream, TransportError> {
        let (from, to) = (self.from, target.id);
        let node = self.net.node(from, to)?;
        let requests = requests.map(Ok).take_until(self.net.cutting(from, to));
        let replies = node.handle_replicate(from, requests).map(|reply| reply.map_err(|error| TransportError::Remote(error.to_string())));
        Ok(Box::pin(replies.take_until(self.net.cutting(from, to))))
    }

    async fn send_snapshot(&self, target: &Peer, chunks: ByteStream) -> Result<Bytes, TransportError> {
        let (from, to) = (self.from, target.id);
        let node = self.net.node(from, to)?;
        let chunks = chunks.map(Ok).take_until(self.net.cutting(from, to));
        let answer = node.handle_snapshot(from, chunks).await;
        answer.map_err(|error| TransportError::Remote(error.to_string()))
    }
}

/// Nodes with their directories.
pub struct Cluster {
    pub net: Arc<Net>,
    dir: PathBuf,
    /// Removed at the end.
    _temp: Option<tempfile::TempDir>,
    nodes: BTreeMap<NodeId, Consensus>,
    pub limits: Limits,
}

impl Cluster {
    /// No node yet, in a temporary directory.
    pub fn empty() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Self { dir: temp.path().to_path_buf(), _temp: Some(temp), ..Self::at(PathBuf::new()) }
    }

    /// No node yet, in a directory that stays.
    pub fn at(dir: PathBuf) -> Self {
        Self { net: Arc::default(), dir, _temp: None, nodes: BTreeMap::new(), limits: Limits::default() }
    }

    /// A founded cluster of voters 1 to `voters`, with a leader.
    pub async fn founded(voters: NodeId) -> Self {
        Self::founded_with(voters, VERSIONS, Limits::default()).await
    }

    pub async fn founded_with(voters: NodeId, versions: Versions, limits: Limits) -> Self {
        let mut cluster = Self { limits, ..Self::empty() };
        for id in 1..=voters {
            cluster.start(id, versions).await;
        }
        cluster.found(voters).await;
        cluster
    }

    pub async fn found(&self, voters: NodeId) {
        let members = (1..=voters).map(|id| (id, address(id))).collect();
        self.node(1).bootstrap(members).await.unwrap();
        self.leader().await;
    }

    pub fn options(&self, id: NodeId, versions: Versions) -> Options {
        Options {
            limits: self.limits,
            timings: Timings {
                heartbeat: Duration::from_millis(100),
                election_min: Duration::from_millis(300),
                election_max: Duration::from_millis(600),
                audit: Duration::from_millis(200),
            },
            ..Options::new(id, self.node_dir(id), versions, self.net.transport(id))
        }
    }

    pub fn node_dir(&self, id: NodeId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    pub async fn start(&mut self, id: NodeId, versions: Versions) -> Consensus {
        self.start_with(self.options(id, versions)).await
    }

    pub async fn start_with(&mut self, options: Options) -> Consensus {
        let id = options.node_id;
        let node = Consensus::start(options).await.unwrap();
        self.adopt(id, node.clone());
        node
    }

    /// Connects a node that was started elsewhere.
    pub fn adopt(&mut self, id: NodeId, node: Consensus) {
        self.net.nodes.lock().unwrap().insert(id, node.clone());
        self.nodes.insert(id, node);
    }

    /// Stops a node without warning to the others.
    pub async fn kill(&mut self, id: NodeId) {
        self.net.nodes.lock().unwrap().remove(&id);
        self.nodes.remove(&id).unwrap().stop().await;
    }

    /// Stops a node gracefully.
    pub async fn shut_down(&mut self, id: NodeId) {
        self.nodes.remove(&id).unwrap().shutdown().await;
        self.net.nodes.lock().unwrap().remove(&id);
    }

    pub fn node(&self, id: NodeId) -> &Consensus {
        &self.nodes[&id]
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// A running node that leads, and that a majority follows.
    pub async fn leader(&self) -> NodeId {
        self.leader_other_than(0).await
    }

    pub async fn leader_other_than(&self, not: NodeId) -> NodeId {
        let deadline = soon();
        loop {
            for (id, node) in self.nodes.iter().filter(|(id, _)| **id != not) {
                let leads = node.leadership().borrow().is_this_node;
                if leads && node.read_barrier(Instant::now() + Duration::from_secs(1)).await.is_ok() {
                    return *id;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        self.ids().into_iter().find(|id| *id != leader).unwrap()
    }

    /// Waits until all running nodes have applied the same entries, and compares their states.
    pub async fn converged(&self) -> Status {
        self.converged_without(0).await
    }

    pub async fn converged_without(&self, not: NodeId) -> Status {
        let deadline = soon();
        loop {
            let running = self.nodes.iter().filter(|(id, _)| **id != not);
            let all: Vec<Status> = running.map(|(_, node)| node.status().unwrap()).collect();
            let last = all.iter().map(|status| status.last_log_index).max().unwrap();
            if all.iter().all(|status| status.applied.index == last) {
                for status in &all[1..] {
                    assert_eq!(status.digest, all[0].digest, "at {last}: {all:?}");
                }
                return all[0].clone();
            }
            assert!(Instant::now() < deadline, "the nodes did not converge: {all:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn address(id: NodeId) -> String {
    format!("node-{id}:7610")
}

/// Waits until a node's belief about who leads has a property.
pub async fn leadership(node: &Consensus, wanted: impl FnMut(&Leadership) -> bool) {
    let mut leadership = node.leadership();
    tokio::time::timeout(PATIENCE, leadership.wait_for(wanted)).await.expect("in time").unwrap();
}

/// Waits until a node's status has a property.
pub async fn status(node: &Consensus, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = soon();
    loop {
        let status = node.status().unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Enqueues one task. The request id makes it safe to repeat: the same id gives the same task.
pub fn enqueue(request_id: &str) -> v1::Command {
    let task = v1::TaskSpec { queue: "q".into(), payload: Bytes::from(vec![7; 64]), ..v1::TaskSpec::default() };
    v1::Command {
        principal: "test".into(),
        gate: None,
        body: Some(command::Body::Enqueue(v1::EnqueueRequest {
            request_id: request_id.into(),
            namespace: "default".into(),
            tasks: vec![task],
        })),
    }
}

pub fn task_id(outcome: v1::Outcome) -> String {
    match outcome.body {
        Some(outcome::Body::Enqueue(response)) => response.task_ids[0].clone(),
        other => panic!("not the outcome of an enqueue: {other:?}"),
    }
}

pub async fn enqueued(node: &Consensus, request_id: &str) -> String {
    task_id(node.propose(enqueue(request_id), soon()).await.unwrap())
}

//! Nodes for tests of what lies between nodes: real listeners, real certificates, port 0, and no consensus.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tarn::artifacts::Artifacts;
use tarn::gate::{Reason, Refusal};
use tarn::identity::{CertificateAuthority, IssueOptions, ListenerOptions, listen};
use tarn::peer::{
    Admissions, ClusterMember, DriversHere, FederationHere, Here, Links, Members, PeerApi, PeerHandler, PeerTransport, Replies, Requests,
};
use tarn_client::tls::{Credentials, NoJoins, PrincipalKind, server_config};
use tarn_executor::ArtifactStore;
use tarn_proto::v1::{
    JoinResponse, PeerAdmission, PeerDriversAnswer, PeerDriversQuestion, PeerFederationAnswer, PeerFederationQuestion, PeerMembership,
    PeerMembershipRequest, PeerRenewal, PeerRenewed,
};
use tarn_raft::{NodeId, Peer, PeerError};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Credentials of a node or user, by this authority.
pub fn credentials(authority: &CertificateAuthority, kind: &PrincipalKind) -> Credentials {
    let identity = authority.issue(kind, &IssueOptions::default()).unwrap();
    Credentials::new(authority.certificate().clone(), identity)
}

pub fn node_credentials(authority: &CertificateAuthority, id: NodeId) -> Credentials {
    credentials(authority, &PrincipalKind::Node { id })
}

/// A membership that tests write down.
#[derive(Clone)]
pub struct WrittenMembers {
    pub own_id: NodeId,
    pub members: Arc<Mutex<Vec<ClusterMember>>>,
}

impl Members for WrittenMembers {
    fn own_id(&self) -> NodeId {
        self.own_id
    }

    fn members(&self) -> Vec<ClusterMember> {
        self.members.lock().unwrap().clone()
    }

    fn was_removed(&self, _: NodeId) -> bool {
        false
    }
}

/// Answers with what it got, and who it came from, unless it is told to be busy or never to answer.
pub struct Echo;

#[async_trait]
impl PeerHandler for Echo {
    async fn call(&self, from: NodeId, method: u32, body: Bytes) -> Result<Bytes, PeerError> {
        match body.as_ref() {
            b"never" => std::future::pending().await,
            b"busy" => Err(PeerError::Busy("with this".into())),
            _ => Ok([format!("{from}:{method}:").as_bytes(), &body].concat().into()),
        }
    }

    fn replicate(&self, from: NodeId, requests: Requests) -> Replies {
        Box::pin(requests.map(move |request| match request {
            Ok(body) if body == "bad" => Err(PeerError::Malformed("bad".into())),
            Ok(body) => Ok([format!("{from}:").as_bytes(), &body].concat().into()),
            Err(error) => Err(PeerError::Malformed(error.to_string())),
        }))
    }

    async fn snapshot(&self, from: NodeId, mut chunks: Requests) -> Result<Bytes, PeerError> {
        let mut length = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| PeerError::Damaged(error.to_string()))?;
            if chunk == "stall" {
                std::future::pending::<()>().await;
            }
            length += chunk.len();
        }
        Ok(format!("{from}:{length}").into())
    }
}

/// Lets nobody in.
pub struct Closed;

#[async_trait]
impl Admissions for Closed {
    async fn request_membership(&self, from: NodeId, _: PeerMembershipRequest) -> Result<PeerMembership, Refusal> {
        Err(Reason::InvalidArgument.refusal(format!("no place for node {from}")))
    }

    async fn admit(&self, _: PeerAdmission) -> Result<JoinResponse, Refusal> {
        Err(Reason::InvalidArgument.refusal("closed"))
    }

    async fn renew(&self, _: NodeId, _: PeerRenewal) -> Result<PeerRenewed, Refusal> {
        Err(Reason::InvalidArgument.refusal("closed"))
    }
}

#[async_trait]
impl DriversHere for Closed {
    async fn answer(&self, _: PeerDriversQuestion) -> Result<PeerDriversAnswer, Refusal> {
        Err(Reason::InvalidArgument.refusal("closed"))
    }
}

#[async_trait]
impl FederationHere for Closed {
    async fn answer(&self, _: PeerFederationQuestion) -> Result<PeerFederationAnswer, Refusal> {
        Err(Reason::InvalidArgument.refusal("closed"))
    }
}

/// A node without consensus.
pub struct TestNode {
    pub id: NodeId,
    pub address: SocketAddr,
    pub links: Arc<Links>,
    pub artifacts: Artifacts,
    pub members: WrittenMembers,
    /// Pulls that peers began at this node.
    pub pulls: Arc<AtomicUsize>,
    /// Times that peers asked this node for a page of its list.
    pub lists: Arc<AtomicUsize>,
    pub dir: Arc<TempDir>,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestNode {
    pub async fn start(authority: &CertificateAuthority, id: NodeId) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start_at(authority, id, "127.0.0.1:0".parse().unwrap(), dir).await
    }

    /// At a known address, with what an earlier one left on disk.
    pub async fn start_at(authority: &CertificateAuthority, id: NodeId, bind: SocketAddr, dir: Arc<TempDir>) -> Self {
        let credentials = node_credentials(authority, id);
        let links = Links::new(credentials.clone());
        let members = WrittenMembers { own_id: id, members: Arc::default() };
        let store = ArtifactStore::open(dir.path().join("artifacts")).unwrap();
        let artifacts = Artifacts::new(store, links.clone(), Arc::new(members.clone()));
        let stop = CancellationToken::new();
        let contacts = links.contacts().clone();
        let service = PeerApi::server(
            Arc::new(Echo),
            Arc::new(members.clone()),
            contacts,
            artifacts.clone(),
            Here { admissions: Arc::new(Closed), drivers: Arc::new(Closed), federation: Arc::new(Closed) },
            stop.clone(),
        );
        let config = server_config(&credentials, Arc::new(NoJoins));
        let (pulls, lists) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let counted = [("/PullArtifact", pulls.clone()), ("/ListPeerArtifacts", lists.clone())];
        let count = tower::util::MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
            for (method, count) in &counted {
                if request.uri().path().ends_with(method) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            request
        });
        // A runtime of its own: when it ends, everything ends that the server has begun, as in a process that is killed.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let incoming = listen(TcpListener::bind(bind).await.unwrap(), config, ListenerOptions::default()).unwrap();
            tell.send(incoming.local_addr()).unwrap();
            let server = tonic::transport::Server::builder().layer(count).add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let address = told.await.unwrap();
        Self { id, address, links, artifacts, members, pulls, lists, dir, stop, runtime: Some(runtime) }
    }

    pub fn peer(&self) -> Peer {
        Peer { id: self.id, address: self.address.to_string() }
    }

    pub fn transport(&self) -> PeerTransport {
        PeerTransport::new(self.links.clone())
    }

    /// Begins to fetch what this node misses, until the node is killed.
    pub fn reconcile(&self) {
        tokio::spawn(self.artifacts.clone().reconcile(self.stop.clone()));
    }

    /// Stops at once, like a process that is killed: connections break, the port closes.
    pub async fn kill(mut self) -> (NodeId, SocketAddr, Arc<TempDir>) {
        self.stop.cancel();
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
        (self.id, self.address, self.dir.clone())
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Three voters that know each other.
pub async fn three(authority: &CertificateAuthority) -> [TestNode; 3] {
    let nodes = [TestNode::start(authority, 1).await, TestNode::start(authority, 2).await, TestNode::start(authority, 3).await];
    introduce(&nodes.iter().collect::<Vec<_>>());
    nodes
}

/// Makes them one cluster of voters.
pub fn introduce(nodes: &[&TestNode]) {
    let all: Vec<_> = nodes.iter().map(|node| ClusterMember { peer: node.peer(), voter: true }).collect();
    for node in nodes {
        *node.members.members.lock().unwrap() = all.clone();
    }
}

/// Waits for what happens in the background; fails loudly if it never does.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

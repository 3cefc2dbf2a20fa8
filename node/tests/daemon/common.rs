//! A node in this process, on free ports, with real certificates.
#![allow(dead_code)]

use std::time::Duration;

use tarn::config::{Config, Switch};
use tarn::daemon::{self, Running, prepare_dev};
use tarn::identity::{CertificateAuthority, IdentityStore, IssueOptions};
use tarn_client::tls::{Address, ConnectOptions, Credentials, Expect, PrincipalKind, client_config, connect};
use tarn_proto::v1;
use tarn_proto::v1::artifact_service_client::ArtifactServiceClient;
use tarn_proto::v1::cluster_service_client::ClusterServiceClient;
use tarn_proto::v1::event_service_client::EventServiceClient;
use tarn_proto::v1::lease_service_client::LeaseServiceClient;
use tarn_proto::v1::namespace_service_client::NamespaceServiceClient;
use tarn_proto::v1::queue_service_client::QueueServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tarn_proto::v1::timer_service_client::TimerServiceClient;
use tarn_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

/// Longer than anything here takes on a busy machine; only a broken test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A node and a user's connection to it.
pub struct Node {
    pub running: Running,
    pub channel: Channel,
    pub dir: tempfile::TempDir,
}

/// A cluster of one, without executors.
pub async fn node() -> Node {
    node_with(|config| config.executors.wasm = false).await
}

/// A cluster of one with a changed configuration.
pub async fn node_with(change: impl FnOnce(&mut Config)) -> Node {
    logs();
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let dev = prepare_dev(dir.path(), any, any).unwrap();
    let mut config = dev.config;
    // This process is no tarn binary, which could become a launcher.
    config.executors.native = Switch::Off;
    config.executors.microvm = Switch::Off;
    config.executors.cuda = Switch::Off;
    change(&mut config);
    let running = daemon::start(config).await.unwrap();
    until(|| running.is_ready()).await;
    let credentials = Credentials::from_files(&dev.ca, &dev.certificate, &dev.key).unwrap();
    let channel = dial(&running, &credentials).await;
    Node { running, channel, dir }
}

/// A node that belongs to no cluster yet.
pub async fn unfounded_node() -> Node {
    logs();
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let dev = prepare_dev(dir.path(), any, any).unwrap();
    let mut config = dev.config;
    // This process is no tarn binary, which could become a launcher.
    config.executors.native = Switch::Off;
    config.executors.microvm = Switch::Off;
    config.executors.cuda = Switch::Off;
    config.executors.wasm = false;
    config.cluster.bootstrap.clear();
    let running = daemon::start(config).await.unwrap();
    let credentials = Credentials::from_files(&dev.ca, &dev.certificate, &dev.key).unwrap();
    let channel = dial(&running, &credentials).await;
    Node { running, channel, dir }
}

/// Several nodes of one cluster, in the order of their ids, and a user's connection to each.
pub async fn cluster(size: u64) -> Vec<Node> {
    let authority = CertificateAuthority::ephemeral("test").unwrap();
    cluster_of(&authority, size).await
}

/// The same, of an authority that the test has.
pub async fn cluster_of(authority: &CertificateAuthority, size: u64) -> Vec<Node> {
    cluster_with(authority, size, |_| {}).await
}

/// The same, each node with a changed configuration.
pub async fn cluster_with(authority: &CertificateAuthority, size: u64, change: impl Fn(&mut Config)) -> Vec<Node> {
    logs();
    let user = issue(authority, PrincipalKind::User { name: "admin".into() });
    let mut nodes = Vec::new();
    for id in 1..=size {
        nodes.push(started(authority, id, &change).await);
    }
    let started = nodes;
    // The ports are known only now, so the cluster is founded by hand.
    let members = started.iter().map(|(running, _)| (running.node_id(), running.addresses().advertise.clone())).collect();
    started[0].0.consensus().bootstrap(members).await.unwrap();
    let mut nodes = Vec::new();
    for (running, dir) in started {
        until(|| running.is_ready()).await;
        let channel = dial(&running, &user).await;
        nodes.push(Node { running, channel, dir });
    }
    nodes
}

/// A node in this process, with a changed configuration and nothing that executes; and its directory.
pub async fn started(authority: &CertificateAuthority, id: u64, change: impl Fn(&mut Config)) -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let node = authority.issue(&PrincipalKind::Node { id }, &IssueOptions::default()).unwrap();
    IdentityStore::new(dir.path()).create(authority.certificate(), &node).unwrap();
    let mut config = Config::in_dir(dir.path());
    config.executors.native = Switch::Off;
    config.executors.microvm = Switch::Off;
    config.executors.cuda = Switch::Off;
    config.listen.bind = "127.0.0.1:0".parse().unwrap();
    config.listen.ops_bind = "127.0.0.1:0".parse().unwrap();
    config.listen.https_bind = "127.0.0.1:0".parse().unwrap();
    config.executors.wasm = false;
    change(&mut config);
    (daemon::start(config).await.unwrap(), dir)
}

fn issue(authority: &CertificateAuthority, kind: PrincipalKind) -> Credentials {
    let identity = authority.issue(&kind, &IssueOptions::default()).unwrap();
    Credentials::new(authority.certificate().clone(), identity)
}

/// Connects to a node with these credentials.
pub async fn dial(running: &Running, credentials: &Credentials) -> Channel {
    let address: Address = running.addresses().advertise.parse().unwrap();
    let expect = Expect::Node(running.node_id());
    connect(&address, client_config(credentials, expect), &ConnectOptions::default()).await.unwrap()
}

impl Node {
    /// Connects as somebody else of the same cluster.
    pub async fn dial_as(&self, kind: PrincipalKind) -> Channel {
        let authority = CertificateAuthority::load(&self.dir.path().join("ca")).unwrap();
        dial(&self.running, &issue(&authority, kind)).await
    }

    /// The same, with the serial number of the certificate.
    pub async fn dial_with_serial(&self, kind: PrincipalKind) -> (Channel, String) {
        let authority = CertificateAuthority::load(&self.dir.path().join("ca")).unwrap();
        let credentials = issue(&authority, kind);
        let serial = credentials.info().serial.clone();
        (dial(&self.running, &credentials).await, serial)
    }

    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20)
    }

    pub fn queues(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel.clone())
    }

    pub fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }

    pub fn leases(&self) -> LeaseServiceClient<Channel> {
        LeaseServiceClient::new(self.channel.clone())
    }

    pub fn timers(&self) -> TimerServiceClient<Channel> {
        TimerServiceClient::new(self.channel.clone())
    }

    pub fn namespaces(&self) -> NamespaceServiceClient<Channel> {
        NamespaceServiceClient::new(self.channel.clone())
    }

    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel.clone())
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    /// Submits one task and returns its id.
    pub async fn submit(&self, spec: v1::TaskSpec) -> String {
        let request = v1::EnqueueRequest { tasks: vec![spec], ..v1::EnqueueRequest::default() };
        self.tasks().enqueue(request).await.unwrap().into_inner().task_ids.remove(0)
    }

    pub async fn register(&self) -> String {
        let request = v1::RegisterWorkerRequest { name: "test".into(), ..v1::RegisterWorkerRequest::default() };
        self.workers().register_worker(request).await.unwrap().into_inner().worker_id
    }

    /// Leases up to `max` tasks, waiting for the first.
    pub async fn lease(&self, worker: &str, max: u32) -> Vec<v1::LeasedTask> {
        let request =
            v1::LeaseTasksRequest { worker_id: worker.into(), max_tasks: max, wait_ms: 20_000, ..v1::LeaseTasksRequest::default() };
        self.workers().lease_tasks(request).await.unwrap().into_inner().tasks
    }

    pub async fn complete(&self, task: &v1::LeasedTask, result: &'static [u8]) {
        let request = v1::CompleteTaskRequest {
            namespace: task.namespace.clone(),
            task_id: task.task_id.clone(),
            token: task.token,
            result: result.into(),
            ..v1::CompleteTaskRequest::default()
        };
        self.workers().complete_task(request).await.unwrap();
    }

    /// Waits for a task's end.
    pub async fn ended(&self, task_id: &str) -> v1::Task {
        let request = v1::GetTaskRequest { task_id: task_id.into(), wait_ms: 25_000, ..v1::GetTaskRequest::default() };
        self.tasks().get_task(request).await.unwrap().into_inner().task.unwrap()
    }

    /// Fetches a path of the plain HTTP listener: the status line's code and the body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(self.running.addresses().ops).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The value of a metric, by its whole name with labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.http("/metrics").await;
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A task for SDK workers.
pub fn task(queue: &str, payload: &[u8]) -> v1::TaskSpec {
    v1::TaskSpec { queue: queue.into(), payload: payload.to_vec().into(), ..v1::TaskSpec::default() }
}

/// The reason in a status, which every refusal must have, together with a sentence and a request id.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "tarn");
    assert!(!status.message().is_empty());
    assert!(!details.request_info().unwrap_or_else(|| panic!("no RequestInfo in {status:?}")).request_id.is_empty());
    info.reason.clone()
}

/// The reason in a status of the peers' service, whose requests have no id.
pub fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map_or_else(String::new, |info| info.reason.clone())
}

/// A fact in the metadata of a status.
pub fn fact(status: &Status, name: &str) -> String {
    status.get_error_details().error_info().and_then(|info| info.metadata.get(name).cloned()).unwrap_or_default()
}

/// Waits until something holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came true");
}

/// Waits until something that takes a request holds.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came true");
}

/// `RUST_LOG=tarn=debug cargo test` shows what the nodes say.
fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    if let Ok(filter) = filter {
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}

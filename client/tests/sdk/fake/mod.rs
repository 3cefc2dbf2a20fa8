//! A cluster of one process: enough of the contract in memory to test the SDK against, over real connections, with faults on demand.

pub mod identity;
mod pipeline;
mod questions;
mod services;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tarn_client::tls::{NoJoins, server_config};
use tarn_client::{Client, ClientBuilder, proto};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use identity::Authority;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong with the next call of a method.
pub enum Fault {
    /// Nothing is done.
    Fail(Status),
    /// The call is carried out, and its answer lost.
    DoThenFail(Status),
    /// Nothing is done, and no answer comes.
    Hang,
}

/// One task and what became of it.
#[derive(Clone, Default)]
pub struct Record {
    pub task: proto::Task,
    /// The stream that leased it has been told of the cancellation.
    pub told: bool,
    /// How many outcomes were taken.
    pub outcomes: u32,
    pub failures: Vec<proto::FailTaskRequest>,
    pub logs: Bytes,
}

/// All that the cluster knows.
#[derive(Default)]
pub struct State {
    pub calls: Vec<(&'static str, String)>,
    pub faults: BTreeMap<&'static str, VecDeque<Fault>>,
    /// Whether the nodes take commands over streams.
    pub streams: bool,
    /// Whether they take questions there as well.
    pub questions: bool,
    /// How many questions each message had that came over a stream, whether the nodes take them or not.
    pub asked: Vec<usize>,
    /// The values of all contexts' keys.
    pub keys: BTreeMap<String, Bytes>,
    /// The commands that came over streams, in the order in which they came.
    pub messages: Vec<proto::command::Body>,
    answers: BTreeMap<String, Vec<u8>>,
    pub tasks: BTreeMap<u64, Record>,
    /// The log's end: ids, tokens and revisions come from it.
    pub last: u64,
    pub events: Vec<proto::Event>,
    pub compacted: u64,
    /// Registered workers, and whether they drain.
    pub workers: BTreeMap<String, (proto::RegisterWorkerRequest, bool)>,
    pub leases: BTreeMap<String, proto::NamedLease>,
    pub artifacts: BTreeMap<String, Bytes>,
    pub members: Vec<String>,
}

impl State {
    pub fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub fn count(&self, method: &str) -> usize {
        self.calls.iter().filter(|(called, _)| *called == method).count()
    }

    /// How many batches came.
    pub fn batches(&self) -> usize {
        self.messages.iter().filter(|message| matches!(message, proto::command::Body::Batch(_))).count()
    }

    pub fn record(&mut self, id: &str) -> Result<&mut Record, Status> {
        let key = id.parse::<u64>().ok().filter(|key| self.tasks.contains_key(key));
        let key = key.ok_or_else(|| refuse(Code::NotFound, "TASK_NOT_FOUND", "no such task"))?;
        Ok(self.tasks.get_mut(&key).expect("looked up above"))
    }

    pub fn event(&mut self, subject: &str) {
        let revision = self.next();
        self.events.push(proto::Event { revision, subject: subject.to_owned(), ..Default::default() });
    }
}

/// The cluster. Its nodes share the state.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// Grows with each change of the state.
    changed: Arc<watch::Sender<u64>>,
    /// Grows with each wish to cut all streams.
    cuts: Arc<watch::Sender<u64>>,
    authority: Arc<Authority>,
}

/// A node that listens. Dropping it closes its connections, as a crash would.
pub struct Node {
    pub address: String,
    _serving: AbortOnDropHandle<()>,
    _accepting: AbortOnDropHandle<()>,
}

/// A refusal as a node sends it.
pub fn refuse(code: Code, reason: &str, message: &str) -> Status {
    let facts = [("field".to_owned(), "tasks[0].queue".to_owned()), ("limit".to_owned(), "64".to_owned())];
    let mut details = ErrorDetails::with_error_info(reason, "tarn", facts);
    details.set_request_info("trace-1", "");
    Status::with_error_details(code, message, details)
}

impl Fake {
    pub fn new() -> Fake {
        Fake {
            state: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            cuts: Arc::new(watch::Sender::new(0)),
            authority: Arc::new(Authority::new()),
        }
    }

    /// Reads or changes the state.
    pub fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let result = action(&mut self.state.lock().unwrap());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    pub fn fault(&self, method: &'static str, fault: Fault) {
        self.with(|state| state.faults.entry(method).or_default().push_back(fault));
    }

    /// Ends all streams that are open.
    pub fn cut_streams(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Waits until the state is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !wanted(&self.state.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }

    pub fn credentials(&self) -> tarn_client::Credentials {
        self.authority.user()
    }

    /// Options for a client of these nodes.
    pub fn builder(&self, nodes: &[&Node]) -> ClientBuilder {
        Client::builder()
            .addresses(nodes.iter().map(|node| node.address.clone()))
            .credentials(self.credentials())
            .deadline(Duration::from_secs(10))
    }

    pub async fn client(&self, nodes: &[&Node]) -> Client {
        self.builder(nodes).connect().await.unwrap()
    }

    /// One node and a client of it.
    pub async fn alone() -> (Fake, Node, Client) {
        let fake = Fake::new();
        let node = fake.node().await;
        let client = fake.client(&[&node]).await;
        (fake, node, client)
    }

    /// One node that takes commands over streams, and a client of it.
    pub async fn streaming() -> (Fake, Node, Client) {
        let alone = Fake::alone().await;
        alone.0.with(|state| state.streams = true);
        alone
    }

    /// Starts a node on a port of its own.
    pub async fn node(&self) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(server_config(&self.authority.node(), Arc::new(NoJoins)));
        let (connections, incoming) = tokio::sync::mpsc::channel(16);
        let accepting = async move {
            // Each connection is carried by a task in this set, so that dropping the node breaks them all.
            let mut carried = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (acceptor, connections) = (acceptor.clone(), connections.clone());
                carried.spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let (mut near, far) = tokio::io::duplex(64 << 10);
                    connections.send(Ok::<_, std::io::Error>(far)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut tls, &mut near).await;
                });
            }
        };
        let fake = self.clone();
        let serving = async move {
            let router = services::router(Server::builder(), fake);
            router.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
        };
        Node {
            address,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
            _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)),
        }
    }

    /// Carries a call out: once per request id, with the faults that were ordered.
    async fn carry_out<R: Message + Default>(
        &self,
        method: &'static str,
        request_id: &str,
        apply: impl FnOnce(&mut State) -> Result<R, Status>,
    ) -> Result<Response<R>, Status> {
        let fault = self.with(|state| {
            state.calls.push((method, request_id.to_owned()));
            state.faults.get_mut(method).and_then(VecDeque::pop_front)
        });
        match fault {
            Some(Fault::Fail(status)) => return Err(status),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::DoThenFail(_)) | None => {}
        }
        let answer = self.with(|state| {
            if let Some(answer) = state.answers.get(request_id) {
                return Ok(R::decode(answer.as_slice()).unwrap());
            }
            let answer = apply(state)?;
            if !request_id.is_empty() {
                state.answers.insert(request_id.to_owned(), answer.encode_to_vec());
            }
            Ok(answer)
        });
        match fault {
            Some(Fault::DoThenFail(status)) => Err(status),
            _ => answer.map(Response::new),
        }
    }
}

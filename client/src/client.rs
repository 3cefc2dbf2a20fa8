//! The client: how it is made, and how a call is made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;
use tarn_proto::{CommandBody, LEADER_HEADER};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::error::{Error, Refusal};
use crate::gather::{Gather, Sent};
use crate::nodes::{self, Node, Nodes};
use crate::proto;
use crate::proto::command;
use crate::questions::Question;
use crate::retry::{Failure, Tries};
use crate::time::from_now;
use crate::tls::{self, Credentials, Expect, Identity};
use crate::together::{self, Told};

/// How long a call may take, all its tries together, unless the client says otherwise: several times what electing a leader takes.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one try may take before another node is tried: longer than an election, shorter than the deadline.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call that changes something may be repeated. The cluster remembers request ids for ten minutes; later a repeat would be taken
/// for a call of its own.
const REPEATABLE_FOR: Duration = Duration::from_secs(9 * 60);
/// The largest answer that is read: a full page of leased tasks with large payloads.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Makes the closure with which [`Client::call`] sends a request: `rpc!(TaskServiceClient.enqueue)`.
macro_rules! rpc {
    ($service:ident.$method:ident) => {
        |channel, request| {
            Box::pin(
                async move { $service::new(channel).max_decoding_message_size(crate::client::MESSAGE_BYTES_MAX).$method(request).await },
            )
        }
    };
}
pub(crate) use rpc;

/// A connection to a cluster: every call goes through one. Cloning is cheap, and clones share their connections.
///
/// Each call is repeated by itself, at other nodes too, until it is answered or the client's [deadline](Client::with_deadline) has passed.
/// A call that changes something carries a random request id, the same in each repeat, so that it takes effect once.
///
/// Small calls of the frequent kinds that clones with the same deadline make at the same time share messages, and commands the request id. Each is
/// carried out or refused by itself all the same. A call waits for others 25 milliseconds at most, and not at all where it is alone.
///
/// A client may be used from several runtimes, as long as the one is there in which it was made: that one carries the connections.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    together: Arc<Gather<command::Body>>,
    questions: Arc<Gather<Question>>,
    namespace: Arc<str>,
    deadline: Duration,
}

/// Options of a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    addresses: Vec<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
    namespace: String,
    deadline: Duration,
    discover: bool,
}

/// What a call does, which decides how long a try may take and what is known after a failure.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    changes: bool,
    divisible: bool,
    try_timeout: Duration,
}

impl Kind {
    /// Changes nothing.
    pub(crate) const READ: Kind = Kind { changes: false, divisible: false, try_timeout: TRY_TIMEOUT };
    /// Changes something, and may be repeated.
    pub(crate) const WRITE: Kind = Kind { changes: true, ..Kind::READ };
    /// The same of a batch, whose parts are sent again by themselves, under other ids, once it is refused.
    pub(crate) const BATCH: Kind = Kind { divisible: true, ..Kind::WRITE };

    /// When a call of this kind ends that begins now and may take this long.
    pub(crate) fn end(self, deadline: Duration) -> Instant {
        from_now(if self.changes { deadline.min(REPEATABLE_FOR) } else { deadline })
    }

    /// How long one try may take of a call that ends then.
    pub(crate) fn try_within(self, end: Instant) -> Duration {
        self.try_timeout.min(end.saturating_duration_since(Instant::now()))
    }

    /// A call at whose node it is normal to wait this long for the answer.
    pub(crate) fn waiting(self, wait: Duration) -> Kind {
        Kind { try_timeout: TRY_TIMEOUT.saturating_add(wait), ..self }
    }
}

impl ClientBuilder {
    /// The addresses of one or more nodes, as `host:port`; the port is 7610 where it is left out. Any node will do, but a client that
    /// knows several goes on when one fails.
    pub fn addresses<A: Into<String>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.addresses = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// The user's certificate and key, and the certificate of the cluster's authority.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.tls = Some(tls::client_config(&credentials, Expect::AnyNode));
        self
    }

    /// The key inside a one-time join token, with the fingerprint of the cluster's CA certificate, in place of a user's certificate. Such a
    /// client can only [join](Client::join).
    pub fn joiner(mut self, identity: &Identity, fingerprint: [u8; 32]) -> Self {
        self.tls = Some(tls::joiner_config(identity, fingerprint));
        self
    }

    /// The namespace that calls refer to. `default` unless given.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long each call may take, all its tries together. 30 seconds unless given. Calls that change something take at most nine
    /// minutes, because the cluster remembers request ids for ten.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Adds the addresses of all the cluster's members, as the cluster knows them, when connecting. Useful where clients can reach the
    /// addresses that the nodes advertise; off unless asked for.
    pub fn discover(mut self, discover: bool) -> Self {
        self.discover = discover;
        self
    }

    /// Makes the client and checks that a node answers.
    ///
    /// # Errors
    /// [`Error::Config`] for unusable options, [`Error::Transport`] where the certificates are refused, [`Error::Unavailable`] where no
    /// node answers within the deadline.
    pub async fn connect(self) -> Result<Client, Error> {
        let discover = self.discover;
        let client = self.connect_lazy()?;
        match client.cluster().await {
            Ok(cluster) if discover => client.learn(&cluster),
            // A node that refuses to describe the cluster to this user has answered, which is what was asked here.
            Ok(_) | Err(Error::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(client)
    }

    /// Makes the client without speaking to any node: the first call does.
    ///
    /// # Errors
    /// [`Error::Config`] for unusable options.
    pub fn connect_lazy(mut self) -> Result<Client, Error> {
        let config = self.tls.take().ok_or_else(|| {
            Error::Config("a client needs a certificate, its key and the cluster's CA certificate: tarn has no insecure mode".into())
        })?;
        Ok(Client {
            nodes: Arc::new(Nodes::new(&self.addresses, nodes::dial_tls(config))?),
            together: Arc::default(),
            questions: Arc::default(),
            namespace: self.namespace.into(),
            deadline: self.deadline,
        })
    }

    /// Takes what the environment says: `TARN_ADDRESS` (addresses, separated by commas), `TARN_NAMESPACE`, and the paths of PEM files
    /// `TARN_CACERT`, `TARN_CERT` and `TARN_KEY`. A variable that is not set changes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] where a file cannot be used, or where only some of the three files are named.
    pub fn env(self) -> Result<Self, Error> {
        self.read_env(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read_env(mut self, var: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        if let Some(addresses) = var("TARN_ADDRESS") {
            self.addresses = addresses.split(',').map(|address| address.trim().to_owned()).collect();
        }
        if let Some(namespace) = var("TARN_NAMESPACE") {
            self.namespace = namespace;
        }
        let [ca, certificate, key] = ["TARN_CACERT", "TARN_CERT", "TARN_KEY"].map(|name| var(name).map(PathBuf::from));
        match (ca, certificate, key) {
            (None, None, None) => {}
            (Some(ca), Some(certificate), Some(key)) => {
                let credentials = Credentials::from_files(&ca, &certificate, &key).map_err(|error| Error::Config(error.to_string()))?;
                self = self.credentials(credentials);
            }
            _ => {
                return Err(Error::Config("set all of TARN_CACERT, TARN_CERT and TARN_KEY, or none".into()));
            }
        }
        Ok(self)
    }
}

impl Client {
    /// Options for a client, to be finished with [`ClientBuilder::connect`].
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            addresses: vec!["127.0.0.1:7610".to_owned()],
            tls: None,
            namespace: "default".to_owned(),
            deadline: DEADLINE,
            discover: false,
        }
    }

    /// Connects as the environment says; see [`ClientBuilder::env`].
    ///
    /// # Errors
    /// Those of [`ClientBuilder::env`] and [`ClientBuilder::connect`].
    pub async fn from_env() -> Result<Client, Error> {
        Client::builder().env()?.connect().await
    }

    /// The namespace that calls refer to.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same connections, with calls that refer to another namespace.
    pub fn in_namespace(&self, namespace: impl AsRef<str>) -> Client {
        Client { namespace: namespace.as_ref().into(), ..self.clone() }
    }

    /// How long each call may take, all its tries together.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The same connections, with calls that may take this long, all tries together.
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        // What goes together has as much time as each other, or nearly: a group has the time of the one that has least.
        if deadline == self.deadline {
            return self.clone();
        }
        Client { deadline, together: Arc::default(), questions: Arc::default(), ..self.clone() }
    }

    /// Learns the addresses of all the cluster's members from the cluster, in addition to those known, and returns how many nodes the
    /// client knows now.
    ///
    /// # Errors
    /// Those of [`Client::cluster`].
    pub async fn discover(&self) -> Result<usize, Error> {
        let cluster = self.cluster().await?;
        self.learn(&cluster);
        Ok(self.nodes.len())
    }

    fn learn(&self, cluster: &proto::GetClusterResponse) {
        for member in &cluster.members {
            // A node that has not said yet where it is reached is no reason to do without the others.
            if let Err(error) = self.nodes.add(std::slice::from_ref(&member.address)) {
                tracing::debug!(node = member.node_id, %error, "a member's address is of no use");
            }
        }
    }

    /// Turns to the leader, if a node that is not it says where it is: what a follower is asked takes one hop more.
    fn heed(&self, answer: &tonic::metadata::MetadataMap) {
        if let Some(leader) = answer.get(LEADER_HEADER).and_then(|value| value.to_str().ok()) {
            self.nodes.prefer(leader);
        }
    }

    /// The same, of an answer that came over a stream: empty where the node that answered is the leader.
    pub(crate) fn turn_to(&self, leader: &str) {
        if !leader.is_empty() {
            self.nodes.prefer(leader);
        }
    }

    /// The nodes, for those that keep a stream open.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// The namespace, as requests carry it.
    pub(crate) fn ns(&self) -> String {
        self.namespace.to_string()
    }

    /// The commands of callers that wait at the same time.
    pub(crate) fn together(&self) -> &Gather<command::Body> {
        &self.together
    }

    /// The questions of callers that wait at the same time.
    pub(crate) fn questions(&self) -> &Gather<Question> {
        &self.questions
    }

    /// Sends a request that changes something: once as far as the cluster is concerned, however often it is repeated. What several callers
    /// send at the same time goes together.
    pub(crate) async fn command<C, F>(&self, command: C, rpc: F) -> Result<C::Response, Error>
    where
        C: CommandBody,
        F: Fn(Channel, tonic::Request<C>) -> BoxFuture<'static, Result<tonic::Response<C::Response>, tonic::Status>>,
    {
        let end = Kind::WRITE.end(self.deadline);
        let bytes = command.encoded_len();
        let _under_way = match C::FITS_BATCHES && command.request_id().is_empty() && bytes <= together::COMMAND_BYTES_MAX {
            false => None,
            true => match self.together.send(self, bytes, end, || command.clone().into_body()).await {
                Sent::Done(Told { outcome, request_id }) => {
                    return Self::response::<C>(outcome, &request_id).map_err(|failure| Tries::new(true).end(failure));
                }
                Sent::Failed(error) => return Err(error),
                Sent::Alone(under_way) => under_way,
            },
        };
        self.command_alone(Kind::WRITE, end, command, rpc).await
    }

    /// The same in a message of its own, until `end`. It goes over the node's stream of commands; `rpc` is for nodes that have none.
    pub(crate) async fn command_alone<C, F>(&self, kind: Kind, end: Instant, mut command: C, rpc: F) -> Result<C::Response, Error>
    where
        C: CommandBody,
        F: Fn(Channel, tonic::Request<C>) -> BoxFuture<'static, Result<tonic::Response<C::Response>, tonic::Status>>,
    {
        if command.request_id().is_empty() && !C::REPEATABLE {
            command.set_request_id(request_id());
        }
        let named = command.request_id().to_owned();
        let mut effort = Effort::begin(kind, end);
        loop {
            let (node, limit) = effort.next(self);
            let attempt = async {
                let body = proto::Command { body: Some(command.clone().into_body()), ..proto::Command::default() };
                let message = proto::PipelineRequest { command: Some(body), ..proto::PipelineRequest::default() };
                let sent = node.pipeline.call(&node.channel, message, limit);
                match sent.await? {
                    Some(answer) => self.answered::<C>(answer, &named),
                    None => self.unary(&node, command.clone(), limit, &rpc).await,
                }
            };
            match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => effort.failed(self, &node, failure).await?,
                Err(_) => effort.failed(self, &node, Failure::TimedOut).await?,
            }
        }
    }

    /// The answer to a command that went over a stream.
    fn answered<C: CommandBody>(&self, answer: proto::PipelineResponse, request_id: &str) -> Result<C::Response, Failure> {
        self.turn_to(&answer.leader);
        let body = answer.outcome.and_then(|outcome| outcome.body);
        Self::response::<C>(body.ok_or_else(misanswered)?, request_id)
    }

    fn response<C: CommandBody>(body: proto::outcome::Body, request_id: &str) -> Result<C::Response, Failure> {
        if let proto::outcome::Body::Rejected(rejection) = body {
            let refusal =
                Refusal { request_id: Some(request_id.to_owned()).filter(|id| !id.is_empty()), ..Refusal::from_rejection(rejection) };
            return Err(Failure::of_refusal(refusal));
        }
        C::response(body).ok_or_else(misanswered)
    }

    /// Sends a request that only reads.
    pub(crate) async fn read<Q, R, F>(&self, request: Q, rpc: F) -> Result<R, Error>
    where
        Q: Clone,
        F: Fn(Channel, tonic::Request<Q>) -> BoxFuture<'static, Result<tonic::Response<R>, tonic::Status>>,
    {
        self.call(Kind::READ, request, rpc).await
    }

    /// Sends a request, and repeats it after failures that a repeat may heal, until it is answered or the deadline has passed.
    pub(crate) async fn call<Q, R, F>(&self, kind: Kind, request: Q, rpc: F) -> Result<R, Error>
    where
        Q: Clone,
        F: Fn(Channel, tonic::Request<Q>) -> BoxFuture<'static, Result<tonic::Response<R>, tonic::Status>>,
    {
        self.call_until(kind, kind.end(self.deadline), request, rpc).await
    }

    /// The same, until `end`.
    pub(crate) async fn call_until<Q, R, F>(&self, kind: Kind, end: Instant, request: Q, rpc: F) -> Result<R, Error>
    where
        Q: Clone,
        F: Fn(Channel, tonic::Request<Q>) -> BoxFuture<'static, Result<tonic::Response<R>, tonic::Status>>,
    {
        let mut effort = Effort::begin(kind, end);
        loop {
            let (node, limit) = effort.next(self);
            let attempt = self.unary(&node, request.clone(), limit, &rpc);
            match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => effort.failed(self, &node, failure).await?,
                Err(_) => effort.failed(self, &node, Failure::TimedOut).await?,
            }
        }
    }

    /// One try, as a call of its own.
    pub(crate) async fn unary<Q, R, F>(&self, node: &Node, request: Q, limit: Duration, rpc: &F) -> Result<R, Failure>
    where
        F: Fn(Channel, tonic::Request<Q>) -> BoxFuture<'static, Result<tonic::Response<R>, tonic::Status>>,
    {
        let mut message = tonic::Request::new(request);
        // Tells the node how long its answer is of use.
        message.set_timeout(limit);
        match rpc(node.channel.clone(), message).await {
            Ok(answer) => {
                self.heed(answer.metadata());
                Ok(answer.into_inner())
            }
            Err(status) => Err(Failure::of(&status)),
        }
    }
}

fn misanswered() -> Failure {
    Failure::Barred("the node answered a command with the answer to another".into())
}

/// The tries of one call, at other nodes too, until there is an answer, a failure that no repeat can heal, or no time left.
pub(crate) struct Effort {
    tries: Tries,
    end: Instant,
    kind: Kind,
}

impl Effort {
    pub(crate) fn begin(kind: Kind, end: Instant) -> Effort {
        let tries = Tries::new(kind.changes);
        Effort { tries: if kind.divisible { tries.divisible() } else { tries }, end, kind }
    }

    /// The node to try, and how long.
    pub(crate) fn next(&self, client: &Client) -> (Node, Duration) {
        (client.nodes.pick(), self.kind.try_within(self.end))
    }

    /// Waits until it is time for the next try, or says why there is none.
    pub(crate) async fn failed(&mut self, client: &Client, node: &Node, failure: Failure) -> Result<(), Error> {
        tracing::debug!(?failure, "a try gave no answer");
        let pause = self.tries.failed(failure, client.nodes.len())?;
        client.nodes.failed(node);
        if Instant::now() + pause >= self.end {
            return Err(self.tries.give_up());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// 128 random bits in base32: unique without asking anybody.
pub(crate) fn request_id() -> String {
    let bits: [u8; 16] = rand::rng().random();
    data_encoding::BASE32_NOPAD.encode(&bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_and_half_an_identity_refused() {
        let builder = Client::builder()
            .read_env(|name| match name {
                "TARN_ADDRESS" => Some("a:1, b:2".into()),
                "TARN_NAMESPACE" => Some("team".into()),
                _ => None,
            })
            .expect("usable");
        assert_eq!(builder.addresses, ["a:1", "b:2"]);
        assert_eq!(builder.namespace, "team");
        assert!(builder.tls.is_none());

        let half = Client::builder().read_env(|name| (name == "TARN_CERT").then(|| "/nowhere".into()));
        assert!(matches!(half, Err(Error::Config(_))));
    }

    #[test]
    fn no_client_without_credentials_or_addresses() {
        assert!(matches!(Client::builder().connect_lazy(), Err(Error::Config(_))));
    }

    #[test]
    fn request_ids_are_long_and_differ() {
        let (one, two) = (request_id(), request_id());
        assert_eq!(one.len(), 26);
        assert_ne!(one, two);
    }
}

//! A server with everything that the node's has, and clients that break one rule each.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tarn::identity::{CertificateAuthority, Incoming, IssueOptions, ListenerOptions, Refusals, listen};
use tarn_client::tls::{
    Address, ConnectOptions, Credentials, Expect, Identity, JoinGate, NoJoins, PrincipalKind, Refusal, RefusalKind, client_config,
    provider, server_config,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// Long enough for any machine; only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn node(id: u64) -> PrincipalKind {
    PrincipalKind::Node { id }
}

pub fn user(name: &str) -> PrincipalKind {
    PrincipalKind::User { name: name.to_owned() }
}

/// The log lines of the current thread, as long as this lives.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub fn capture() -> (Self, DefaultGuard) {
        let logs = Self::default();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(logs.clone()).finish();
        (logs, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    #[track_caller]
    pub fn assert_line(&self, parts: &[&str]) {
        let text = self.text();
        assert!(text.lines().any(|line| parts.iter().all(|part| line.contains(part))), "no line with {parts:?} in:\n{text}");
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Logs;

    fn make_writer(&'a self) -> Logs {
        self.clone()
    }
}

/// An interceptor: which callers the server's one service is for.
pub type Door = fn(Request<()>) -> Result<Request<()>, Status>;

pub fn open_door(request: Request<()>) -> Result<Request<()>, Status> {
    Ok(request)
}

/// A server on a free port of loopback, with a health service behind `door`.
pub struct TestServer {
    pub authority: CertificateAuthority,
    pub credentials: Credentials,
    pub address: SocketAddr,
    pub logs: Logs,
    pub refusals: Arc<Refusals>,
    refused: mpsc::UnboundedReceiver<Refusal>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    _capture: DefaultGuard,
}

pub struct Setup {
    pub door: Door,
    pub gate: Arc<dyn JoinGate>,
    pub handshake_timeout: Duration,
    pub connections_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let usual = ListenerOptions::default();
        Self {
            door: open_door,
            gate: Arc::new(NoJoins),
            handshake_timeout: usual.handshake_timeout,
            connections_max: usual.connections_max,
        }
    }
}

impl TestServer {
    /// Node 1 of cluster "prod".
    pub async fn start(setup: Setup) -> Self {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let identity = authority.issue(&node(1), &IssueOptions::default()).unwrap();
        Self::start_as(authority, identity, setup).await
    }

    pub async fn start_as(authority: CertificateAuthority, identity: Identity, setup: Setup) -> Self {
        let (logs, capture) = Logs::capture();
        let (tell, refused) = mpsc::unbounded_channel();
        let refusals = Arc::new(Refusals::with_observer(move |_, refusal| {
            tell.send(refusal.clone()).ok();
        }));
        let credentials = Credentials::new(authority.certificate().clone(), identity);
        let incoming = listen(
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            server_config(&credentials, setup.gate),
            ListenerOptions {
                connections_max: setup.connections_max,
                handshake_timeout: setup.handshake_timeout,
                refusals: refusals.clone(),
                ..ListenerOptions::default()
            },
        )
        .unwrap();
        let address = incoming.local_addr();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(incoming, setup.door, stopped));
        Self { authority, credentials, address, logs, refusals, refused, stop, serving, _capture: capture }
    }

    /// Credentials that this cluster issued.
    pub fn issue(&self, kind: &PrincipalKind) -> Credentials {
        self.issue_with(kind, &IssueOptions::default())
    }

    pub fn issue_with(&self, kind: &PrincipalKind, options: &IssueOptions) -> Credentials {
        let identity = self.authority.issue(kind, options).unwrap();
        Credentials::new(self.authority.certificate().clone(), identity)
    }

    pub fn issued_at(now: SystemTime) -> IssueOptions {
        IssueOptions { validity: Some(Duration::from_secs(3600)), now, ..IssueOptions::default() }
    }

    /// Asks for health with these credentials.
    pub async fn call(&self, credentials: &Credentials) -> Result<(), Status> {
        self.call_with(client_config(credentials, Expect::AnyNode)).await
    }

    pub async fn call_with(&self, config: Arc<ClientConfig>) -> Result<(), Status> {
        let channel = self.channel(config).await.map_err(Status::unavailable)?;
        check(&channel).await
    }

    pub async fn channel(&self, config: Arc<ClientConfig>) -> Result<Channel, String> {
        tarn_client::tls::connect(&self.dial_address(), config, &ConnectOptions::default()).await.map_err(|error| error.to_string())
    }

    pub fn dial_address(&self) -> Address {
        self.address.to_string().parse().unwrap()
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The next refusal; it must be of this kind, and the log must say so in words.
    pub async fn expect_refusal(&mut self, kind: RefusalKind) -> Refusal {
        let refusal = tokio::time::timeout(PATIENCE, self.refused.recv())
            .await
            .unwrap_or_else(|_| panic!("nothing was refused; log:\n{}", self.logs.text()))
            .unwrap();
        assert_eq!(refusal.kind, kind, "{refusal}");
        let level = if kind == RefusalKind::Closed { "DEBUG" } else { "WARN" };
        self.logs.assert_line(&[level, "refused a connection", kind.label(), kind.sentence(), "127.0.0.1"]);
        refusal
    }

    /// That the server still serves those whom it should.
    pub async fn assert_alive(&self) {
        let credentials = self.issue(&user("ada"));
        self.call(&credentials).await.unwrap();
    }

    /// Graceful shutdown, to the end.
    pub async fn shut_down(self) -> SocketAddr {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        self.address
    }
}

async fn serve(incoming: Incoming, door: Door, stopped: oneshot::Receiver<()>) {
    let health = HealthService::from_health_reporter(HealthReporter::new());
    Server::builder()
        .add_service(HealthServer::with_interceptor(health, door))
        .serve_with_incoming_shutdown(incoming, async {
            stopped.await.ok();
        })
        .await
        .unwrap();
}

/// One request over a channel.
pub async fn check(channel: &Channel) -> Result<(), Status> {
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.map(|_| ())
}

/// A client that takes any server, so that it gets as far as the server lets it.
#[derive(Debug)]
pub struct TrustEverybody;

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ML_DSA_65]
    }
}

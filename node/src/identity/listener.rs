//! The listeners of ports 7610 and 7611: TCP, then a TLS handshake, then a connection for tonic. They differ in whom they let in after the
//! handshake, which a [`Door`] decides: [`Members`] lets in who has proven an identity, [`Web`](super::web::Web) everybody, because there
//! each request must prove one.
//!
//! ```text
//!   accept ──► lobby ──► handshake (a task each, timed) ──► queue ──► tonic
//!      │         │            │
//!      │         └────────────┴── refused: counted, logged, closed
//!      └── waits while too many connections stand
//! ```
//!
//! Nothing a peer does ends the loop. It ends when the stream of connections is dropped, which is what tonic does on shutdown; then the
//! port closes at once and unfinished handshakes are given up.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use tarn_client::tls::{ForeignRoots, LeafInfo, LiveConnections, PrincipalKind, Refusal, RefusalKind, foreign_issuer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lobby::Lobby;
use super::peer::{PeerIdentity, PeerStream};
use super::refusals::Refusals;

/// Most connections at a time. A client needs one, a peer a few; each costs some 100 kB with its HTTP/2 buffers, so this many stay
/// below half a gigabyte. When full, further ones wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 4096;

/// Most handshakes at a time. One takes about a millisecond of a core, so fifty thousand a minute pass per core; the limit bounds what
/// peers can occupy who begin one and do not go on. When full, further ones wait in the [lobby](super::lobby), as do those who say nothing.
pub const HANDSHAKES_MAX: usize = 256;

/// How long a handshake may take. Two round trips around the world and a busy machine fit ten times over.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a joiner's connection may stand. It is for one request.
const JOINER_LIFE: Duration = Duration::from_secs(5 * 60);

/// Finished handshakes that tonic has not picked up yet. It picks up at once; when it does not, handshakes wait.
const READY_MAX: usize = 64;

/// Pause after an error of accept, which is the process's (out of file descriptors) and not the peer's: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What may be chosen about a listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most handshakes at a time.
    pub handshakes_max: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Where refusals are counted.
    pub refusals: Arc<Refusals>,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            handshakes_max: HANDSHAKES_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            refusals: Arc::new(Refusals::new()),
        }
    }
}

/// Decides about connections whose handshake has succeeded.
pub trait Door: Clone + Send + Sync + 'static {
    /// A connection as tonic gets it.
    type Connection: Send + 'static;

    /// Lets the peer in, or says why not. The permit is given back when the connection is dropped.
    ///
    /// # Errors
    /// Why the peer is refused.
    fn admit(&self, tls: TlsStream<TcpStream>, remote: SocketAddr, permit: OwnedSemaphorePermit) -> Result<Self::Connection, Refusal>;
}

/// The door of port 7610: lets in who has a certificate that the handshake has verified.
#[derive(Clone, Debug, Default)]
pub struct Members {
    live: LiveConnections,
}

impl Members {
    /// A door that enters the connections it lets in here, so that those of a revoked certificate can be ended.
    #[must_use]
    pub fn new(live: LiveConnections) -> Self {
        Self { live }
    }
}

impl Door for Members {
    type Connection = PeerStream<TlsStream<TcpStream>>;

    fn admit(&self, tls: TlsStream<TcpStream>, remote: SocketAddr, permit: OwnedSemaphorePermit) -> Result<Self::Connection, Refusal> {
        let leaf =
            tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).ok_or_else(|| Refusal::of(RefusalKind::NoCertificate))?;
        let leaf = LeafInfo::from_der("the peer's certificate", leaf)
            .map_err(|error| Refusal { kind: RefusalKind::BadCertificate, detail: error.to_string() })?;
        let identity = PeerIdentity::new(leaf, remote);
        tracing::debug!(peer = %identity, "accepted a connection");
        let life = life_of(&identity);
        let live = self.live.enter(identity.serial());
        Ok(PeerStream::new(tls, identity, life, live, Some(permit)))
    }
}

/// The door between clusters: notes which of the trusted roots has issued the certificate, because two clusters may bear one name.
#[derive(Clone)]
pub struct Foreigners {
    roots: Arc<dyn ForeignRoots>,
    live: LiveConnections,
}

impl Foreigners {
    /// A door for nodes of the clusters whose roots these are, and for holders of an invitation.
    #[must_use]
    pub fn new(roots: Arc<dyn ForeignRoots>) -> Self {
        Self { roots, live: LiveConnections::default() }
    }
}

impl Door for Foreigners {
    type Connection = PeerStream<TlsStream<TcpStream>>;

    fn admit(&self, tls: TlsStream<TcpStream>, remote: SocketAddr, permit: OwnedSemaphorePermit) -> Result<Self::Connection, Refusal> {
        let bad = |detail: String| Refusal { kind: RefusalKind::BadCertificate, detail };
        let chain = tls.get_ref().1.peer_certificates().and_then(|chain| chain.split_first());
        let (first, rest) = chain.ok_or_else(|| Refusal::of(RefusalKind::NoCertificate))?;
        let leaf = LeafInfo::from_der("the peer's certificate", first).map_err(|error| bad(error.to_string()))?;
        let mut identity = PeerIdentity::new(leaf, remote);
        if !matches!(identity.principal().kind, PrincipalKind::Join { .. }) {
            // As the handshake did a moment ago.
            let issuer = foreign_issuer(self.roots.as_ref(), first, rest, UnixTime::now()).map_err(|error| bad(error.to_string()))?;
            identity = identity.issued_by(*issuer.fingerprint());
        }
        tracing::debug!(peer = %identity, "accepted a connection of another cluster");
        let life = life_of(&identity);
        let live = self.live.enter(identity.serial());
        Ok(PeerStream::new(tls, identity, life, live, Some(permit)))
    }
}

/// Connections that were let in, for `serve_with_incoming_shutdown`. Dropping it closes the port.
#[derive(Debug)]
pub struct Incoming<C = PeerStream<TlsStream<TcpStream>>> {
    ready: mpsc::Receiver<C>,
    local_addr: SocketAddr,
    _stop: DropGuard,
}

impl<C> Incoming<C> {
    /// The address that is listened on; tells the port where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

impl<C> Stream for Incoming<C> {
    type Item = io::Result<C>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|next| next.map(Ok))
    }
}

/// Starts accepting members on a bound socket. Must be called within a tokio runtime.
///
/// # Errors
/// When the socket does not know its own address.
pub fn listen(listener: TcpListener, config: Arc<ServerConfig>, options: ListenerOptions) -> io::Result<Incoming> {
    listen_through(listener, config, options, Members::default())
}

/// Starts accepting on a bound socket whom `door` lets in. Must be called within a tokio runtime.
///
/// # Errors
/// When the socket does not know its own address.
pub fn listen_through<D: Door>(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    options: ListenerOptions,
    door: D,
) -> io::Result<Incoming<D::Connection>> {
    let local_addr = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    let stop = CancellationToken::new();
    let loop_ = AcceptLoop {
        listener,
        doorman: Doorman {
            acceptor: TlsAcceptor::from(config),
            timeout: options.handshake_timeout,
            lobby: Arc::new(Lobby::new(options.connections_max, options.handshakes_max, options.handshake_timeout)),
            refusals: options.refusals,
            ready: sender,
            door,
        },
        connections: Arc::new(Semaphore::new(options.connections_max)),
    };
    let until = stop.clone();
    tokio::spawn(async move {
        // Dropping the loop closes the port and gives up the handshakes that run.
        until.run_until_cancelled_owned(loop_.run()).await;
    });
    Ok(Incoming { ready, local_addr, _stop: stop.drop_guard() })
}

struct AcceptLoop<D: Door> {
    listener: TcpListener,
    doorman: Doorman<D>,
    connections: Arc<Semaphore>,
}

impl<D: Door> AcceptLoop<D> {
    async fn run(self) {
        let mut running = JoinSet::new();
        loop {
            let connection = self.connection_permit().await;
            let (tcp, remote) = self.accept().await;
            while running.try_join_next().is_some() {}
            let doorman = self.doorman.clone();
            running.spawn(doorman.receive(tcp, remote, connection));
        }
    }

    /// Waits for one of the limited connections, and says so when there is none.
    async fn connection_permit(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            return permit;
        }
        tracing::warn!("all connections are taken: new ones wait until others end");
        let permit = self.connections.clone().acquire_owned().await;
        let permit = permit.expect("the listener's semaphore is never closed");
        tracing::info!("a connection has become free");
        permit
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Lets peers in or refuses them.
struct Doorman<D: Door> {
    acceptor: TlsAcceptor,
    timeout: Duration,
    lobby: Arc<Lobby>,
    refusals: Arc<Refusals>,
    ready: mpsc::Sender<D::Connection>,
    door: D,
}

impl<D: Door> Clone for Doorman<D> {
    fn clone(&self) -> Self {
        Self {
            acceptor: self.acceptor.clone(),
            timeout: self.timeout,
            lobby: self.lobby.clone(),
            refusals: self.refusals.clone(),
            ready: self.ready.clone(),
            door: self.door.clone(),
        }
    }
}

impl<D: Door> Doorman<D> {
    async fn receive(self, tcp: TcpStream, remote: SocketAddr, permit: OwnedSemaphorePermit) {
        let shaken = self.shake_hands(tcp, remote).await;
        match shaken.and_then(|tls| self.door.admit(tls, remote, permit)) {
            // Nobody receives any more: the listener is shutting down, and the connection with it.
            Ok(connection) => drop(self.ready.send(connection).await),
            Err(refusal) => self.refusals.record(remote, &refusal),
        }
    }

    async fn shake_hands(&self, tcp: TcpStream, remote: SocketAddr) -> Result<TlsStream<TcpStream>, Refusal> {
        let _slot = self.lobby.turn(&tcp, remote.ip()).await?;
        // tonic's own setting does not reach sockets that it did not accept itself; without it answers wait for delayed acknowledgements.
        tcp.set_nodelay(true).map_err(|error| Refusal::of_handshake(&error))?;
        tokio::time::timeout(self.timeout, self.acceptor.accept(tcp))
            .await
            .map_err(|_elapsed| Refusal::of(RefusalKind::TimedOut))?
            .map_err(|error| Refusal::of_handshake(&error))
    }
}

/// How long the connection may stand: until the certificate expires. A joiner's dates are its own claim and count for nothing.
fn life_of(identity: &PeerIdentity) -> Duration {
    match identity.principal().kind {
        PrincipalKind::Node { .. } | PrincipalKind::User { .. } => {
            identity.not_after().duration_since(SystemTime::now()).unwrap_or_default()
        }
        PrincipalKind::Join { .. } => JOINER_LIFE,
    }
}

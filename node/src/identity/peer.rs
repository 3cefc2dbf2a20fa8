//! One accepted connection, and who is at its other end.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tarn_client::tls::{LeafInfo, LiveConnection, Principal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::opening::Opening;

/// Who is at the other end of a connection. Every request carries it as an extension; cloning is cheap.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    leaf: Arc<LeafInfo>,
    remote_addr: SocketAddr,
    root: Option<[u8; 32]>,
}

impl PeerIdentity {
    /// The identity that a verified certificate gives. Made by the listener; elsewhere useful in tests only.
    pub fn new(leaf: LeafInfo, remote_addr: SocketAddr) -> Self {
        Self { leaf: Arc::new(leaf), remote_addr, root: None }
    }

    /// The same, of another cluster's node, whose certificate the root with this fingerprint has issued.
    #[must_use]
    pub fn issued_by(self, root: [u8; 32]) -> Self {
        Self { root: Some(root), ..self }
    }

    /// The fingerprint of the root that has issued its certificate, if that is another cluster's.
    pub fn root(&self) -> Option<&[u8; 32]> {
        self.root.as_ref()
    }

    /// Who it is.
    pub fn principal(&self) -> &Principal {
        &self.leaf.principal
    }

    /// Where it connected from.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// BLAKE3 of its public key (SPKI, DER); for a joiner, what the cluster knows its token by.
    pub fn spki_hash(&self) -> &[u8; 32] {
        &self.leaf.spki_hash
    }

    /// When its certificate expires, and the connection with it.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Its certificate's serial number, hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.leaf.principal, self.remote_addr)
    }
}

/// An accepted connection. It ends by itself when the peer's certificate does, and at once when that is revoked, because a standing
/// connection would otherwise keep a right that has lapsed; the peer connects again with the certificate it has by then.
pub struct PeerStream<S> {
    stream: S,
    identity: PeerIdentity,
    end: Pin<Box<Sleep>>,
    opening: Opening,
    live: LiveConnection,
    /// Given back when the connection is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> PeerStream<S> {
    /// Wraps a stream that lasts for `life` at most.
    pub(super) fn new(
        stream: S,
        identity: PeerIdentity,
        life: Duration,
        live: LiveConnection,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { stream, identity, end: Box::pin(tokio::time::sleep(life)), opening: Opening::new(), live, _permit: permit }
    }

    /// Who is at the other end.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }
}

impl<S> fmt::Debug for PeerStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerStream").field(&self.identity).finish()
    }
}

impl<S> Connected for PeerStream<S> {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.identity.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeerStream<S> {
    /// End of file when the connection's life is over: what serves the connection always waits in a read, so it notices at once.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.end.as_mut().poll(cx).is_ready() || this.live.poll_cut(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        this.opening.poll_read(Pin::new(&mut this.stream), cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.live.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.live.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::super::opening::{OPENING_BYTES, OPENING_TIMEOUT};
    use super::*;
    use tarn_client::tls::LiveConnections;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn stream(near: tokio::io::DuplexStream, life: Duration, live: &LiveConnections) -> PeerStream<tokio::io::DuplexStream> {
        let leaf = LeafInfo {
            principal: Principal::user("prod", "ada"),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: "01".to_owned(),
            spki_hash: [0; 32],
        };
        let identity = PeerIdentity::new(leaf, "127.0.0.1:1".parse().unwrap());
        let live = live.enter(identity.serial());
        PeerStream::new(near, identity, life, live, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_with_its_certificate() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = stream(near, Duration::from_secs(60), &LiveConnections::default());

        far.write_all(&[b'x'; OPENING_BYTES]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), OPENING_BYTES);

        let before = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        assert!(before.elapsed() >= Duration::from_secs(60));
        // What arrives afterwards is not looked at any more.
        far.write_all(b"more").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_cut_with_its_certificate() {
        let live = LiveConnections::default();
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = stream(near, Duration::from_secs(3_600), &live);
        far.write_all(&[b'x'; OPENING_BYTES]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), OPENING_BYTES);
        assert_eq!(live.cut(|serial| serial == "02"), 0);
        stream.write_all(b"still here").await.unwrap();

        // It waits in a read, and is woken.
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 16];
            let read = stream.read(&mut buffer).await.unwrap();
            (read, stream)
        });
        tokio::task::yield_now().await;
        assert_eq!(live.cut(|serial| serial == "01"), 1);
        let (read, mut stream) = reading.await.unwrap();
        assert_eq!(read, 0);
        let error = stream.write_all(b"too late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        drop(stream);
        assert_eq!(live.cut(|_| true), 0, "a dropped connection is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_begin_to_speak_ends() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut stream = stream(near, Duration::from_secs(3_600), &LiveConnections::default());
        let before = tokio::time::Instant::now();
        // A byte now and then does not help.
        let dribbling = tokio::spawn(async move {
            while far.write_all(b"P").await.is_ok() {
                tokio::time::sleep(OPENING_TIMEOUT / 4).await;
            }
        });
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        assert!(before.elapsed() >= OPENING_TIMEOUT && before.elapsed() < OPENING_TIMEOUT * 2);
        assert!(text.len() < OPENING_BYTES);
        dribbling.abort();
    }
}

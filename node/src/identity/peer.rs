//! One accepted connection, and who is at its other end.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tarn_client::tls::{LeafInfo, Principal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Who is at the other end of a connection. Every request carries it as an extension; cloning is cheap.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    leaf: Arc<LeafInfo>,
    remote_addr: SocketAddr,
}

impl PeerIdentity {
    /// The identity that a verified certificate gives. Made by the listener; elsewhere useful in tests only.
    pub fn new(leaf: LeafInfo, remote_addr: SocketAddr) -> Self {
        Self {
            leaf: Arc::new(leaf),
            remote_addr,
        }
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

/// An accepted connection. It ends by itself when the peer's certificate does, because a standing connection would otherwise keep a right
/// that has lapsed; the peer connects again with the certificate it has by then.
pub struct PeerStream<S> {
    stream: S,
    identity: PeerIdentity,
    end: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> PeerStream<S> {
    /// Wraps a stream that lasts for `life` at most.
    pub(super) fn new(stream: S, identity: PeerIdentity, life: Duration, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            stream,
            identity,
            end: Box::pin(tokio::time::sleep(life)),
            _permit: permit,
        }
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
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_with_its_certificate() {
        let (near, mut far) = tokio::io::duplex(64);
        let leaf = LeafInfo {
            principal: Principal::user("prod", "ada"),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: "01".to_owned(),
            spki_hash: [0; 32],
        };
        let identity = PeerIdentity::new(leaf, "127.0.0.1:1".parse().unwrap());
        let mut stream = PeerStream::new(near, identity, Duration::from_secs(60), None);

        far.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);

        let before = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
        assert!(before.elapsed() >= Duration::from_secs(60));
        // What arrives afterwards is not looked at any more.
        far.write_all(b"more").await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    }
}

//! The door of the second listener, and the connections that it lets in.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tarn_client::tls::{Refusal, RefusalKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::super::listener::Door;
use super::super::opening::Opening;

/// Where a connection came from. Nothing is known about who it is: that, each request has to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebPeer {
    /// The other end's address.
    pub remote_addr: SocketAddr,
}

/// Lets everybody in, up to a number of connections from one address: one caller must not take the places of all others.
#[derive(Clone, Debug)]
pub struct Web {
    per_address_max: usize,
    from: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Web {
    /// At most so many connections from one address.
    #[must_use]
    pub fn new(per_address_max: usize) -> Self {
        Self { per_address_max, from: Arc::default() }
    }

    fn take_place(&self, address: IpAddr) -> Option<Place> {
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let count = from.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        drop(from);
        Some(Place { address, from: self.from.clone() })
    }
}

impl Door for Web {
    type Connection = WebStream<TlsStream<TcpStream>>;

    fn admit(&self, tls: TlsStream<TcpStream>, remote: SocketAddr, permit: OwnedSemaphorePermit) -> Result<Self::Connection, Refusal> {
        let place = self.take_place(remote.ip()).ok_or_else(|| Refusal {
            kind: RefusalKind::TooMany,
            detail: format!("{} at a time are allowed from one address", self.per_address_max),
        })?;
        Ok(WebStream { stream: tls, peer: WebPeer { remote_addr: remote }, opening: Opening::new(), _place: place, _permit: permit })
    }
}

/// One of an address's connections; given back when dropped.
struct Place {
    address: IpAddr,
    from: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = from.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                from.remove(&self.address);
            }
        }
    }
}

/// An accepted connection of the second listener.
pub struct WebStream<S> {
    stream: S,
    peer: WebPeer,
    opening: Opening,
    /// Given back when the connection is dropped.
    _place: Place,
    _permit: OwnedSemaphorePermit,
}

impl<S> Connected for WebStream<S> {
    type ConnectInfo = WebPeer;

    fn connect_info(&self) -> WebPeer {
        self.peer
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WebStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.opening.poll_read(Pin::new(&mut this.stream), cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WebStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let web = Web::new(2);
        let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let first = web.take_place(a).unwrap();
        let _second = web.take_place(a).unwrap();
        assert!(web.take_place(a).is_none());
        assert!(web.take_place(b).is_some());
        drop(first);
        assert!(web.take_place(a).is_some());
        assert!(!web.from.lock().unwrap().contains_key(&b), "nothing is kept of who has gone");
    }
}

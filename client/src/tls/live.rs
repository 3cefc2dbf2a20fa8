//! Which connections stand on which certificate, so that those of a revoked one can be cut at once.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::verify::Revocations;

/// The connections that stand. Clones share them.
#[derive(Clone, Default)]
pub struct LiveConnections {
    table: Arc<Mutex<Table>>,
    revocations: Option<Arc<dyn Revocations>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    standing: HashMap<u64, Entry>,
}

struct Entry {
    serial: String,
    cut: CancellationToken,
}

impl LiveConnections {
    /// Connections that are also judged when they are entered: a certificate may be revoked between its handshake and then, when
    /// [`LiveConnections::cut`] does not know the connection yet.
    #[must_use]
    pub fn asking(revocations: Arc<dyn Revocations>) -> Self {
        Self { table: Arc::default(), revocations: Some(revocations) }
    }

    /// Enters a connection whose peer has the certificate with this serial number. It is forgotten when what this returns is dropped.
    #[must_use]
    pub fn enter(&self, serial: &str) -> LiveConnection {
        let cut = CancellationToken::new();
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        let entry = Entry { serial: serial.to_owned(), cut: cut.clone() };
        table.standing.insert(id, entry);
        drop(table);
        if self.revocations.as_ref().is_some_and(|revocations| revocations.is_revoked(serial)) {
            cut.cancel();
        }
        LiveConnection { id, all: self.clone(), waiting: Box::pin(cut.clone().cancelled_owned()), cut }
    }

    /// Cuts the connections that stand on such a certificate. Returns how many.
    pub fn cut(&self, revoked: impl Fn(&str) -> bool) -> usize {
        let table = self.lock();
        let concerned = table.standing.values().filter(|entry| revoked(&entry.serial));
        concerned.map(|entry| entry.cut.cancel()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LiveConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveConnections({})", self.lock().standing.len())
    }
}

/// One connection's entry.
pub struct LiveConnection {
    id: u64,
    all: LiveConnections,
    cut: CancellationToken,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl LiveConnection {
    /// Whether the connection has been cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Ready once the connection has been cut; wakes the task when it is.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.is_cut() {
            true => Poll::Ready(()),
            false => self.waiting.as_mut().poll(cx),
        }
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        self.all.lock().standing.remove(&self.id);
    }
}

/// A stream that can be cut, if it was entered anywhere: then it reads end of file, and writes fail.
pub(super) struct LiveStream<S> {
    stream: S,
    live: Option<LiveConnection>,
}

impl<S> LiveStream<S> {
    pub fn new(stream: S, live: Option<LiveConnection>) -> Self {
        Self { stream, live }
    }

    fn check(&self) -> io::Result<()> {
        match &self.live {
            Some(live) if live.is_cut() => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LiveStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.live.as_mut().is_some_and(|live| live.poll_cut(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LiveStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! A connection must begin to speak soon. The handshake is timed by the listener, and HTTP/2 asks a silent connection for signs of life once
//! it has been opened; between the two lies the client's preface, for which nothing else sets a time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// How long a connection may take to open HTTP/2 after the handshake. Clients send the preface together with the handshake's last message.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// What opens HTTP/2: the preface and the head of the first frame, the settings. From then on HTTP/2's own rules and keep-alive hold.
pub(super) const OPENING_BYTES: usize = 24 + 9;

/// Reads through until the connection is open, and then costs nothing.
pub(super) struct Opening {
    waiting: Option<Waiting>,
}

struct Waiting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

impl Opening {
    /// The time runs from now. Must be called within a tokio runtime.
    pub fn new() -> Self {
        Self { waiting: Some(Waiting { missing: OPENING_BYTES, until: Box::pin(tokio::time::sleep(OPENING_TIMEOUT)) }) }
    }

    /// Reads from the stream; end of file where it took too long to open.
    pub fn poll_read<S: AsyncRead>(&mut self, stream: Pin<&mut S>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(waiting) = &mut self.waiting else {
            return stream.poll_read(cx, buf);
        };
        if waiting.until.as_mut().poll(cx).is_ready() {
            tracing::debug!("closed a connection that did not begin to speak HTTP/2 in time");
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = stream.poll_read(cx, buf);
        waiting.missing = waiting.missing.saturating_sub(buf.filled().len() - before);
        if waiting.missing == 0 {
            self.waiting = None;
        }
        polled
    }
}

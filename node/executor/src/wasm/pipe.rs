//! Where a guest's output goes: a buffer with a limit.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

use crate::output::Bounded;

/// How much a guest may write in one go. It only has to be more than the 4 KiB pieces that WASI cuts writes into.
const PERMIT_BYTES: usize = 1 << 16;

/// What happens to what does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// The guest is stopped: half a result is worth nothing.
    Stop,
    /// It is dropped, and a marker at the end says how much: the beginning of a log is worth a lot.
    Drop,
}

/// One end is the guest's standard output or error, the other is [`take`](Pipe::take). Clones share the buffer.
#[derive(Clone)]
pub(super) struct Pipe {
    buffer: Arc<Mutex<Buffer>>,
}

struct Buffer {
    written: Bounded,
    overflow: Overflow,
}

impl Pipe {
    pub(super) fn new(limit_bytes: u64, overflow: Overflow) -> Self {
        let buffer = Buffer { written: Bounded::new(limit_bytes), overflow };
        Self { buffer: Arc::new(Mutex::new(buffer)) }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest tried to write more than fits.
    pub(super) fn overflowed(&self) -> bool {
        self.lock().written.overflowed()
    }

    /// What was written, which is taken out; where the rest is dropped, with the marker if there was any.
    pub(super) fn take(&self) -> Bytes {
        let mut buffer = self.lock();
        let written = std::mem::replace(&mut buffer.written, Bounded::new(0));
        match buffer.overflow {
            Overflow::Stop => written.output(),
            Overflow::Drop => written.logs(),
        }
    }

    /// Takes what fits. Fails when something does not and the guest has to stop.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), PipeFull> {
        let mut buffer = self.lock();
        if buffer.written.append(bytes) || buffer.overflow == Overflow::Drop { Ok(()) } else { Err(PipeFull) }
    }
}

/// The guest wrote more than it may.
#[derive(Debug, thiserror::Error)]
#[error("the output limit is reached")]
pub(super) struct PipeFull;

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.append(&bytes).map_err(|full| StreamError::Trap(full.into()))
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(PERMIT_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.append(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_up_to_the_limit_is_whole_and_beyond_it_stops() {
        let pipe = Pipe::new(5, Overflow::Stop);
        pipe.append(b"12345").unwrap();
        assert!(!pipe.overflowed());
        pipe.append(b"6").unwrap_err();
        assert!(pipe.overflowed());
    }
}

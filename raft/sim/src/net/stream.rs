//! Connections that stay: messages in order in both directions, until something is lost.
//!
//! A connection knows no gaps. When one of its messages is lost, nothing that follows arrives either; each side notices by itself after a
//! while, or does not, and must give up on its own.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tarn_raft::{ByteStream, PeerError, ReplyStream, TransportError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{Door, Fate, Lost, Net, Party};
use crate::dice::hash;

type Item = Result<Bytes, TransportError>;
type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, PeerError>> + Send>>;

/// One direction of a connection.
#[derive(Clone)]
struct Pipe {
    net: Net,
    from: Party,
    to: Party,
    what: &'static str,
    out: UnboundedSender<Item>,
    state: Arc<Mutex<PipeState>>,
}

#[derive(Default)]
struct PipeState {
    /// Nothing may overtake what was sent before.
    last_arrival_ms: u64,
    broken: bool,
}

impl Pipe {
    fn new(net: &Net, from: Party, to: Party, what: &'static str) -> (Self, UnboundedReceiver<Item>) {
        let (out, arrived) = unbounded_channel();
        let pipe = Self { net: net.clone(), from, to, what, out, state: Arc::default() };
        (pipe, arrived)
    }

    /// Sends one message. False: the connection is broken, whether or not anybody was told.
    fn send(&self, item: Item) -> bool {
        if self.lock().broken || self.out.is_closed() {
            return false;
        }
        let what = match &item {
            Ok(bytes) => format!("{} {} {:016x}", self.what, bytes.len(), hash(bytes)),
            Err(error) => format!("{} ends: {error}", self.what),
        };
        match self.net.fate(self.from, self.to, &what) {
            Fate::Arrives(at_ms) => {
                self.arrive(at_ms, Some(item));
                true
            }
            Fate::Lost(told) => {
                self.lock().broken = true;
                if let Some(at_ms) = told {
                    self.arrive(at_ms, Some(Err(TransportError::Broken("the connection broke".into()))));
                }
                false
            }
        }
    }

    /// The sender has finished: the stream ends after what was sent.
    fn finish(&self) {
        let broken = self.lock().broken;
        if !broken && let Fate::Arrives(at_ms) = self.net.fate(self.from, self.to, &format!("{} end", self.what)) {
            self.arrive(at_ms, None);
        }
    }

    /// What is not lost comes in order. `None` ends the stream: the last sender goes with the delivery.
    fn arrive(&self, at_ms: u64, item: Option<Item>) {
        let at_ms = {
            let mut state = self.lock();
            state.last_arrival_ms = at_ms.max(state.last_arrival_ms);
            state.last_arrival_ms
        };
        let out = self.out.clone();
        self.net.schedule(
            at_ms,
            self.to,
            Box::new(move |_| {
                if let Some(item) = item {
                    // The process that listened may be gone.
                    let _ = out.send(item);
                }
            }),
        );
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PipeState> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// Ends a task with whoever waits for it.
struct Pump(tokio::task::JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Net {
    /// Opens a connection to a node, where `serve` turns the messages into answers.
    pub(super) async fn connect(
        &self,
        from: Party,
        to: Party,
        what: &'static str,
        mut messages: ByteStream,
        serve: impl FnOnce(Door, UnboundedReceiverStream<Item>) -> Answers + Send + 'static,
    ) -> Result<ReplyStream, TransportError> {
        let (there, arrived) = Pipe::new(self, from, to, what);
        let (back, answered) = Pipe::new(self, to, from, what);
        let opened = self.request(from, to, &format!("{what} opens"), move |door| {
            let handle = door.handle.clone();
            let mut answers = serve(door, UnboundedReceiverStream::new(arrived));
            handle.spawn(async move {
                while let Some(answer) = answers.next().await {
                    let failed = answer.is_err();
                    if !back.send(answer.map_err(|error| TransportError::Remote(error.to_string()))) {
                        // The other side must not learn of it by the end of this task.
                        std::future::pending::<()>().await;
                    }
                    if failed {
                        return;
                    }
                }
                back.finish();
            });
            Box::pin(std::future::ready(()))
        });
        match opened.await {
            Ok(Ok(())) => {}
            Ok(Err(Lost::Refused)) => return Err(TransportError::Unreachable("nobody is there".into())),
            Ok(Err(Lost::Broken)) | Err(_) => return Err(TransportError::Broken("the connection broke".into())),
        }
        let pump = Pump(tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if !there.send(Ok(message)) {
                    // Nobody may notice: then whoever waits for the answers gives up by itself, and this ends with it.
                    std::future::pending::<()>().await;
                }
            }
            there.finish();
        }));
        let answers = UnboundedReceiverStream::new(answered).map(move |answer| {
            let _ends_with_this = &pump;
            answer
        });
        Ok(Box::pin(answers))
    }
}

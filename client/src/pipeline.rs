//! A standing stream of commands to one node, made when first used.
//!
//! Calls that are under way at the same time share it, each waiting for the answer with its own correlation. When the stream breaks, all
//! of them are told, and the next call makes another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::client::MESSAGE_BYTES_MAX;
use crate::proto::command_service_client::CommandServiceClient;
use crate::proto::{PipelineRequest, PipelineResponse};
use crate::retry::Failure;
use crate::time::millis;

/// Commands that may wait to be sent. When as many do, further calls wait.
const OUTGOING: usize = 256;

/// The stream to one node, if there is one.
#[derive(Default)]
pub(crate) struct Pipeline {
    line: tokio::sync::Mutex<Line>,
}

#[derive(Default)]
enum Line {
    /// Not made yet, or broken: the next call makes it.
    #[default]
    Down,
    Up(Arc<Stream>),
    /// The node does not know this service: it is older than this client.
    Unknown,
}

struct Stream {
    outgoing: mpsc::Sender<PipelineRequest>,
    waiting: Mutex<Waiting>,
    correlation: AtomicU64,
}

/// Who waits for which answer.
#[derive(Default)]
struct Waiting {
    calls: HashMap<u64, oneshot::Sender<PipelineResponse>>,
    /// Why there will be no more answers.
    ended: Option<String>,
}

/// A call's place among those that wait. Gone with the call, whether it was answered or given up.
struct Place<'a> {
    stream: &'a Stream,
    correlation: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.stream.waiting().calls.remove(&self.correlation);
    }
}

impl Pipeline {
    /// One message, which is given its number here, and its answer, which is of use for as long as `limit`; the caller stops waiting by itself.
    /// `None`: the node takes only calls.
    pub(crate) async fn call(
        &self,
        channel: &Channel,
        request: PipelineRequest,
        limit: Duration,
    ) -> Result<Option<PipelineResponse>, Failure> {
        let Some(stream) = self.stream(channel).await? else {
            return Ok(None);
        };
        let correlation = stream.correlation.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let _place = stream.wait(correlation, answer).map_err(Failure::NotSent)?;
        let request = PipelineRequest { correlation, timeout_ms: millis(limit), ..request };
        if stream.outgoing.send(request).await.is_err() {
            return Err(Failure::NotSent(stream.end()));
        }
        match answered.await {
            Ok(answer) => Ok(Some(answer)),
            Err(_) => Err(Failure::Lost(stream.end())),
        }
    }

    /// The stream, made if there is none.
    async fn stream(&self, channel: &Channel) -> Result<Option<Arc<Stream>>, Failure> {
        let mut line = self.line.lock().await;
        match &*line {
            Line::Unknown => return Ok(None),
            Line::Up(stream) if stream.waiting().ended.is_none() => return Ok(Some(stream.clone())),
            Line::Up(_) | Line::Down => *line = Line::Down,
        }
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let mut service = CommandServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = match service.pipeline(ReceiverStream::new(requests)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                *line = Line::Unknown;
                return Ok(None);
            }
            // Nothing was sent over it.
            Err(status) => {
                return Err(match Failure::of(&status) {
                    Failure::Lost(text) => Failure::NotSent(text),
                    failure => failure,
                });
            }
        };
        let stream = Arc::new(Stream { outgoing, waiting: Mutex::default(), correlation: AtomicU64::new(0) });
        tokio::spawn(stream.clone().receive(answers));
        *line = Line::Up(stream.clone());
        Ok(Some(stream))
    }
}

impl Stream {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }

    /// Takes a place among those that wait, unless there will be no more answers.
    fn wait(&self, correlation: u64, answer: oneshot::Sender<PipelineResponse>) -> Result<Place<'_>, String> {
        let mut waiting = self.waiting();
        if let Some(ended) = &waiting.ended {
            return Err(ended.clone());
        }
        waiting.calls.insert(correlation, answer);
        drop(waiting);
        Ok(Place { stream: self, correlation })
    }

    /// Why the stream ended.
    fn end(&self) -> String {
        let ended = self.waiting().ended.clone();
        ended.unwrap_or_else(|| "the stream of commands broke".to_owned())
    }

    /// Hands answers to those who wait, until the stream ends.
    async fn receive(self: Arc<Self>, mut answers: Streaming<PipelineResponse>) {
        let mut ending = Ending { stream: &self, why: "the runtime that read the stream of commands has stopped".to_owned() };
        ending.why = loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(call) = self.waiting().calls.remove(&answer.correlation) {
                        // Whoever gave up meanwhile does not want it.
                        let _ = call.send(answer);
                    }
                }
                Ok(None) => break "the node ended the stream of commands".to_owned(),
                Err(status) => break format!("the stream of commands broke: {}", status.message()),
            }
        };
    }
}

/// Ends a stream when nobody reads its answers any more, however that came about: a client outlives the runtime that made the stream.
struct Ending<'a> {
    stream: &'a Stream,
    why: String,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let calls = {
            let mut waiting = self.stream.waiting();
            waiting.ended = Some(std::mem::take(&mut self.why));
            std::mem::take(&mut waiting.calls)
        };
        // Dropped with their places, the calls learn of the end.
        drop(calls);
    }
}

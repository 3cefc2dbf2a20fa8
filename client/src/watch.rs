//! Events as they happen, without gap or repeat.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::Instant;
use tonic::Streaming;

use crate::client::{Client, MESSAGE_BYTES_MAX};
use crate::error::{COMPACTED, Error};
use crate::nodes::Node;
use crate::proto::{self, event_service_client::EventServiceClient};
use crate::retry::{Failure, Tries};

/// How long a node may take to begin the stream before another is tried.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What to watch; made by [`Client::watch`]. Without more, all of the client's namespace, from now on.
#[derive(Clone)]
pub struct Watch {
    client: Client,
    request: proto::WatchRequest,
}

impl Watch {
    /// Events of all namespaces.
    pub fn all_namespaces(mut self) -> Self {
        self.request.namespace.clear();
        self
    }

    /// Events of this queue only.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.request.queue = queue.into();
        self
    }

    /// Events of this task, timer, worker or named lease only.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.request.subject = subject.into();
        self
    }

    /// Events after this revision, as an answer to a list or an earlier [`Watcher::revision`] told it, instead of those from now on.
    pub fn after(mut self, revision: u64) -> Self {
        self.request.after_revision = revision;
        self.request.from_now = false;
        self
    }

    /// Begins with the first call of [`Watcher::next`].
    pub fn start(self) -> Watcher {
        Watcher { client: self.client, request: self.request, open: None, at_hand: VecDeque::new(), trouble: None }
    }
}

/// A stream of events that resumes by itself, at another node if need be, after the last event that it has seen.
pub struct Watcher {
    client: Client,
    /// Where to resume: brought up to date with each message.
    request: proto::WatchRequest,
    open: Option<(Node, Streaming<proto::WatchResponse>)>,
    /// Events of one message, so that its size is bounded by the message's.
    at_hand: VecDeque<proto::Event>,
    /// Since when no message could be had, and what was tried.
    trouble: Option<(Instant, Tries)>,
}

impl Watcher {
    /// Waits for the next event. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// [`Error::Compacted`] where the events to be shown next are gone; [`Error::Unavailable`] where no node could be watched for longer
    /// than the client's deadline, after which calling again tries further; [`Error::Refused`] where watching is refused.
    pub async fn next(&mut self) -> Result<proto::Event, Error> {
        loop {
            if let Some(event) = self.at_hand.pop_front() {
                return Ok(event);
            }
            match self.receive().await {
                Ok(message) => self.take(message),
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    /// The revision to resume after, once the events returned so far have been dealt with. 0 before the first message.
    pub fn revision(&self) -> u64 {
        match self.at_hand.front() {
            Some(event) => event.revision.saturating_sub(1),
            None => self.request.after_revision,
        }
    }

    /// The events as a [`Stream`], which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<proto::Event, Error>> + Send {
        stream::unfold(Some(self), |watcher| async move {
            let mut watcher = watcher?;
            let event = watcher.next().await;
            let rest = event.is_ok().then_some(watcher);
            Some((event, rest))
        })
    }

    async fn receive(&mut self) -> Result<proto::WatchResponse, Failure> {
        if self.open.is_none() {
            let node = self.client.nodes().pick();
            let mut service = EventServiceClient::new(node.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let opened = tokio::time::timeout(OPEN_TIMEOUT, service.watch(self.request.clone())).await;
            let stream = match opened {
                Ok(Ok(answer)) => answer.into_inner(),
                Ok(Err(status)) => return Err(self.left(&node, Failure::of(&status))),
                Err(_) => return Err(self.left(&node, Failure::TimedOut)),
            };
            self.open = Some((node, stream));
        }
        let (node, stream) = self.open.as_mut().expect("opened above");
        let failure = match stream.message().await {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => Failure::Lost("the node ended the stream".into()),
            Err(status) => Failure::of(&status),
        };
        let node = node.clone();
        Err(self.left(&node, failure))
    }

    fn left(&mut self, node: &Node, failure: Failure) -> Failure {
        self.open = None;
        self.client.nodes().failed(node);
        failure
    }

    fn take(&mut self, message: proto::WatchResponse) {
        self.trouble = None;
        let seen = if self.request.from_now { 0 } else { self.request.after_revision };
        let last = message.events.last().map_or(0, |event| event.revision);
        // A message holds whole revisions, so what a resumed stream might repeat is told by the revision alone.
        self.at_hand.extend(message.events.into_iter().filter(|event| event.revision > seen));
        self.request.after_revision = seen.max(message.revision).max(last);
        self.request.from_now = false;
    }

    async fn recover(&mut self, failure: Failure) -> Result<(), Error> {
        if let Failure::Refused(refusal) = &failure
            && refusal.reason == COMPACTED
        {
            return Err(Error::Compacted { after_revision: self.request.after_revision });
        }
        tracing::debug!(?failure, "a watch was interrupted");
        let (since, tries) = self.trouble.get_or_insert_with(|| (Instant::now(), Tries::new(false)));
        let pause = match tries.failed(failure, self.client.nodes().len()) {
            Ok(pause) => pause,
            Err(error) => {
                self.trouble = None;
                return Err(error);
            }
        };
        if since.elapsed() + pause >= self.client.deadline() {
            let (_, mut tries) = self.trouble.take().expect("noted above");
            return Err(tries.give_up());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Client {
    /// Watches events, to be begun with [`Watch::start`].
    pub fn watch(&self) -> Watch {
        let request = proto::WatchRequest { namespace: self.ns(), from_now: true, ..Default::default() };
        Watch { client: self.clone(), request }
    }
}

//! `EventService`: events after a revision, without gap or repeat.
//!
//! A watch reads events from the state, by revision, and uses what was just applied only as a bell. So a slow client, a client that comes
//! back after an hour and a state that came by snapshot are all the same case, and none needs a queue.

use std::pin::Pin;
use std::time::Duration;

use tarn_proto::v1;
use tarn_proto::v1::event_service_server::EventService;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, Call};
use crate::gate::{Question, Reason, Refusal};

/// Without events, a sign of life goes out this often.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Revisions in one response at most. A revision is never split, and those of a busy cluster have thousands of events.
const PAGE_REVISIONS: usize = 16;

/// Responses that wait for the client to read. When full, the watch reads no further: it will catch up from the state.
const OUTGOING_MAX: usize = 4;

/// Looks at the state are at least this far apart, so that many watchers of a busy cluster do not read it at every entry.
const LOOK_APART: Duration = Duration::from_millis(5);

#[tonic::async_trait]
impl EventService for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = self.enter(&request)?;
        let filter = request.into_inner();
        let start = self.first_revision(&call, &filter).await.map_err(|refusal| call.status(refusal))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let watch = Watch { api: self.clone(), call, filter, revision: start, sender };
        tokio::spawn(watch.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Api {
    /// After which revision to begin. Refuses what can never be answered, so that the caller learns it at once.
    async fn first_revision(&self, call: &Call, filter: &v1::WatchRequest) -> Result<u64, Refusal> {
        self.way
            .read(&call.caller, filter.wish(), call.deadline, |machine| {
                if !filter.namespace.is_empty() {
                    machine.list_queues(&v1::ListQueuesRequest { namespace: filter.namespace.clone() })?;
                }
                let present = machine.applied_index();
                let start = if filter.from_now { present } else { filter.after_revision };
                machine.events_after(start, 1)?;
                Ok(start)
            })
            .await
    }
}

struct Watch {
    api: Api,
    call: Call,
    filter: v1::WatchRequest,
    /// Everything up to it was sent.
    revision: u64,
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
}

impl Watch {
    async fn run(mut self) {
        let metrics = self.api.way.metrics().clone();
        metrics.watch_streams.inc();
        let stopping = self.api.stopping.clone();
        let ended = tokio::select! {
            refusal = self.send_all() => refusal,
            () = stopping.cancelled() => Some(Reason::NodeStopping.refusal("this node is stopping: watch at another one, after the last revision")),
        };
        if let Some(refusal) = ended {
            let _ = self.sender.send(Err(self.call.status(refusal))).await;
        }
        metrics.watch_streams.dec();
    }

    /// Sends until the client is gone, or until there is a reason to stop.
    async fn send_all(&mut self) -> Option<Refusal> {
        let mut applied = self.api.way.consensus().applied();
        // Tells the client at once where the watch begins.
        let mut alive_at = Instant::now();
        loop {
            applied.mark_unchanged();
            // Whoever may not watch any more sees nothing more.
            if let Err(refusal) = self.api.way.still_may(&self.call.caller, self.filter.wish()) {
                return Some(refusal);
            }
            loop {
                let (events, revision, more) = match self.page() {
                    Ok(page) => page,
                    Err(refusal) => return Some(refusal),
                };
                self.revision = revision;
                if !events.is_empty() || Instant::now() >= alive_at {
                    alive_at = Instant::now() + HEARTBEAT;
                    self.sender.send(Ok(v1::WatchResponse { events, revision })).await.ok()?;
                }
                if !more {
                    break;
                }
            }
            tokio::select! {
                () = self.sender.closed() => return None,
                () = tokio::time::sleep_until(alive_at) => {}
                changed = applied.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(LOOK_APART).await;
                }
            }
        }
    }

    /// The next events that the filter lets through, the revision up to which that is all of them, and whether there are more.
    fn page(&self) -> Result<(Vec<v1::Event>, u64, bool), Refusal> {
        let (events, present) = self.api.way.look(|machine| {
            let events = machine.events_after(self.revision, PAGE_REVISIONS)?;
            Ok((events, machine.applied_index()))
        })?;
        // A page that is not empty may have been cut, by revisions or by bytes: only an empty one says that there are no more.
        let more = !events.is_empty();
        let last = events.last().map_or(self.revision, |event| event.revision);
        let revision = if more { last } else { present.max(self.revision) };
        Ok((events.into_iter().filter(|event| matches(&self.filter, event)).collect(), revision, more))
    }
}

fn matches(filter: &v1::WatchRequest, event: &v1::Event) -> bool {
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    fits(&filter.namespace, &event.namespace) && fits(&filter.queue, &event.queue) && fits(&filter.subject, &event.subject)
}

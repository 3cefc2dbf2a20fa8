//! Watchers that write down every event that they see.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use serde_json::json;
use tarn_client::{Client, Error, Watcher, proto};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use crate::checker::watch::{REACHED, Reached, SIGHT, STRETCH, Sight, Stretch};
use crate::history::{Process, Recorder};

/// How long to wait for an event before looking how far the stream has come: longer than opening a stream and than a sign of life may take,
/// because giving a wait up gives up the opening too.
const LOOK: Duration = Duration::from_secs(7);
/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// A watcher with a name, and where it stands.
pub struct Recording {
    /// Its name, which no other has.
    name: String,
    client: Client,
    recorder: Recorder,
    process: u32,
    /// The queue to which it is limited; empty: all.
    queue: String,
    after: u64,
    watcher: Option<Watcher>,
}

impl Recording {
    /// A watcher of the client's namespace that begins after this revision. Of one queue only, if that is not empty.
    pub fn new(name: &str, client: Client, recorder: Recorder, process: u32, queue: &str, after: u64) -> Self {
        Self { name: name.to_owned(), client, recorder, process, queue: queue.to_owned(), after, watcher: None }
    }

    fn note(&self, op: &str, value: serde_json::Value) {
        self.recorder.info_by(Process::Client(self.process), op, Some(&self.name), value);
    }

    /// Begins a stretch where the last one stopped.
    fn begin(&mut self, compacted: bool) -> Watcher {
        self.note(STRETCH, json!(Stretch { after: self.after, queue: self.queue.clone(), compacted }));
        let watch = self.client.watch().after(self.after);
        match self.queue.as_str() {
            "" => watch.start(),
            queue => watch.queue(queue).start(),
        }
    }

    /// Writes down what a wait for the next event brought.
    async fn take(&mut self, watcher: &mut Watcher, seen: Result<proto::Event, Error>) {
        match seen {
            Ok(event) => self.note(SIGHT, json!(sight(event))),
            Err(error) => match self.stumbled(error).await {
                Some(compacted) => *watcher = self.begin(compacted),
                None => tokio::time::sleep(PAUSE).await,
            },
        }
        self.after = self.after.max(watcher.revision());
    }

    /// What to do after an error: begin a new stretch, after a gap that the cluster has told or without one; or go on.
    async fn stumbled(&mut self, error: Error) -> Option<bool> {
        match error {
            Error::Compacted { .. } => {
                // Whatever happened up to the present is in the lists; it is not watched again.
                if let Ok(revision) = present(&self.client).await {
                    self.after = self.after.max(revision);
                }
                Some(true)
            }
            Error::Refused(_) | Error::Transport(_) | Error::Config(_) => {
                tokio::time::sleep(PAUSE).await;
                Some(false)
            }
            Error::Unavailable { .. } | Error::DeadlineExceeded { .. } => None,
        }
    }

    /// Watches until `stop`. With a pace, it lets go of its stream at random and begins anew where it stopped, as a program does that is
    /// started again.
    pub async fn run(&mut self, stop: &CancellationToken, mut restarts: Option<Pace>) {
        while !stop.is_cancelled() {
            let seconds = restarts.as_mut().map(|pace| pace.rng.random_range(1.0..8.0));
            let over = async {
                match seconds {
                    Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(over);
            let mut watcher = match self.watcher.take() {
                Some(watcher) => watcher,
                None => self.begin(false),
            };
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        self.watcher = Some(watcher);
                        return;
                    }
                    () = &mut over => break,
                    seen = watcher.next() => self.take(&mut watcher, seen).await,
                }
            }
        }
    }

    /// Watches until everything up to this revision was seen, and says so in the history.
    ///
    /// # Errors
    /// If that is not the case within the time.
    pub async fn finish(&mut self, revision: u64, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let mut watcher = match self.watcher.take() {
            Some(watcher) => watcher,
            None => self.begin(false),
        };
        while self.after < revision && Instant::now() < end {
            match tokio::time::timeout(LOOK, watcher.next()).await {
                Ok(seen) => self.take(&mut watcher, seen).await,
                Err(_) => self.after = self.after.max(watcher.revision()),
            }
        }
        ensure!(self.after >= revision, "{} saw events up to {} of {revision} within {within:?}", self.name, self.after);
        self.note(REACHED, json!(Reached { revision: self.after }));
        Ok(())
    }
}

/// The revision of the cluster's present state.
///
/// # Errors
/// What the call meets.
pub async fn present(client: &Client) -> Result<u64, Error> {
    let request = proto::ListTasksRequest { namespace: client.namespace().to_owned(), page_size: 1, ..Default::default() };
    Ok(client.list_tasks_page(request).await?.revision)
}

fn sight(event: proto::Event) -> Sight {
    Sight {
        kind: event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_owned(),
        revision: event.revision,
        ordinal: event.ordinal,
        at_ms: event.at_ms,
        queue: event.queue,
        subject: event.subject,
        attempt: event.attempt,
        detail: event.detail,
    }
}

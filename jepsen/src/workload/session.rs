//! Sessions that get stuck: long-lived clients and workers, each bound to one node, which may be on the wrong side of a partition for long.
//!
//! While it is cut off, a client gets an unknown outcome or a clear error. After healing each session is tried over the same connections: it
//! must be served again, and nothing that it sends then may be swallowed; a worker must get the tasks that only it can do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use serde_json::json;
use tarn_client::{BatchOptions, Batcher, Client, Error, Task};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hands::{Book, Hand};
use super::outcome::settle;
use super::pace::Pace;
use super::queue::{begin_watching, drain_tasks, finish_watching, keep_watching};
use super::submit::{Submitter, plain_item, task_of};
use super::watcher::Recording;
use super::{Scene, Workload};
use crate::checker::facts::Item;
use crate::checker::session::{TRIED, Tried, served_again};
use crate::checker::{Verdict, tasks};
use crate::history::{Event, Recorder};

/// Submissions a second of each session.
const RATE: f64 = 5.0;
/// Each call gives up soon, so that a session that is cut off collects many unknown outcomes.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long after healing a session may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// How many calls in a row must be answered then.
const IN_A_ROW: u32 = 5;

/// The workload.
#[derive(Default)]
pub struct Sessions {
    book: Arc<Book>,
    clients: Mutex<BTreeMap<u32, Session>>,
    workers: Mutex<BTreeMap<u64, Running>>,
    watcher: Mutex<Option<Recording>>,
}

/// A worker that runs, and what ends it.
type Running = (CancellationToken, JoinHandle<Result<()>>);

/// A client's session with one node.
struct Session {
    node: u64,
    producer: u32,
    place: u64,
    submitter: Submitter,
    /// Every second session sends through the SDK's batcher, which keeps a queue of its own.
    batcher: Option<Batcher>,
}

impl Session {
    fn new(client: Client, recorder: &Recorder, producer: u32, node: u64, batched: bool) -> Self {
        let client = client.with_deadline(DEADLINE);
        Self {
            node,
            producer,
            place: 0,
            batcher: batched.then(|| Batcher::new(client.clone(), BatchOptions::default())),
            submitter: Submitter::new(client, recorder.clone(), producer, Some(node)),
        }
    }

    fn item(&mut self) -> Item {
        self.place += 1;
        plain_item(self.producer, self.place)
    }

    /// Submits one item; false unless it was acknowledged.
    async fn send(&mut self) -> bool {
        let item = self.item();
        let task = task_of(&item);
        self.send_task(item, task).await
    }

    async fn send_task(&self, item: Item, task: Task) -> bool {
        let items = [item];
        match &self.batcher {
            None => self.submitter.submit(&items, vec![task]).await.is_ok(),
            Some(batcher) => {
                let pending = self.submitter.invoke(&items);
                let result: Result<String, Error> = batcher.enqueue(task).await;
                settle(pending, &result, |id| json!([id]));
                result.is_ok()
            }
        }
    }

    /// Sends until one is served and then several in a row; says whether that was within the time, and how long it took.
    async fn is_served(&mut self) -> (bool, u64) {
        let begun = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < IN_A_ROW && begun.elapsed() < SERVED_WITHIN {
            if self.send().await {
                in_a_row += 1;
            } else {
                in_a_row = 0;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (in_a_row == IN_A_ROW, took_ms)
    }
}

#[async_trait]
impl Workload for Sessions {
    fn name(&self) -> &'static str {
        "session"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        begin_watching(scene, &self.watcher).await?;
        let mut workers = self.workers.lock().await;
        for node in scene.cluster.ids() {
            let stop = CancellationToken::new();
            let process = 500 + u32::try_from(node).context("nodes count from 1")?;
            let mut hand = Hand::new(scene.cluster.client(&[node])?, scene.recorder.clone(), process, self.book.clone());
            hand.label = Some(label(node));
            let stopped = stop.clone();
            let worker = tokio::spawn(async move { hand.run_sdk(&stopped).await });
            workers.insert(node, (stop, worker));
        }
        Ok(())
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        let ids = scene.cluster.ids();
        let node = ids[process as usize % ids.len()];
        let batched = (process as usize / ids.len()) % 2 == 1;
        let mut session = Session::new(scene.cluster.client(&[node])?, &scene.recorder, process, node, batched);
        let mut pace = Pace::new(scene, process, RATE);
        let send = async {
            while pace.next().await {
                session.send().await;
            }
        };
        match process {
            0 => tokio::join!(send, keep_watching(scene, &self.watcher)).0,
            _ => send.await,
        }
        self.clients.lock().await.insert(process, session);
        Ok(())
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        self.try_clients(scene).await?;
        self.try_workers(scene).await?;
        for (_, (stop, worker)) in std::mem::take(&mut *self.workers.lock().await) {
            stop.cancel();
            worker.await.context("a worker panicked")??;
        }
        drain_tasks(scene, &self.book).await?;
        finish_watching(scene, &self.watcher).await
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = vec![served_again(history)];
        checks.extend(tasks::exactly_once(history));
        Verdict::of(checks)
    }
}

fn label(node: u64) -> String {
    format!("at-node-{node}")
}

impl Sessions {
    /// Tries each client's session, and beside it a new one with the same node.
    async fn try_clients(&self, scene: &Scene) -> Result<()> {
        let present = scene.cluster.ids();
        let mut clients = self.clients.lock().await;
        for (process, session) in clients.iter_mut().filter(|(_, session)| present.contains(&session.node)) {
            let (served, took_ms) = session.is_served().await;
            let client = scene.cluster.client(&[session.node])?;
            let mut fresh = Session::new(client, &scene.recorder, 2_000 + process, session.node, false);
            let tried =
                Tried { session: format!("client {process} at node {}", session.node), served, fresh: fresh.is_served().await.0, took_ms };
            scene.recorder.info(TRIED, json!(tried));
        }
        Ok(())
    }

    /// Gives each worker a task that only it can do. That others get theirs from a new worker is shown by the drain.
    async fn try_workers(&self, scene: &Scene) -> Result<()> {
        let present = scene.cluster.ids();
        let mut sender = Session::new(scene.clients.all()?, &scene.recorder, 3_000, 0, false);
        for node in self.workers.lock().await.keys().filter(|node| present.contains(node)) {
            let item = sender.item();
            let task = task_of(&item).requires(label(*node));
            let begun = Instant::now();
            let result = sender.submitter.submit(std::slice::from_ref(&item), vec![task]).await;
            let Ok(mut ids) = result else {
                continue;
            };
            let id = ids.pop().context("one task has one id")?;
            let waited = sender.submitter.client.wait_task(&id, SERVED_WITHIN).await;
            // A task that nobody else can do would keep the queue from draining.
            let mut fresh = true;
            if waited.is_err() {
                fresh = done_by_another(scene, *node, &id, &self.book).await?;
            }
            let tried = Tried {
                session: format!("worker at node {node}"),
                served: waited.is_ok(),
                fresh,
                took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            scene.recorder.info(TRIED, json!(tried));
        }
        Ok(())
    }
}

/// Whether a new worker at the same node gets the task that a worker there did not get.
async fn done_by_another(scene: &Scene, node: u64, task: &str, book: &Arc<Book>) -> Result<bool> {
    let stop = CancellationToken::new();
    let mut hand = Hand::new(scene.cluster.client(&[node])?, scene.recorder.clone(), 4_000, book.clone());
    hand.label = Some(label(node));
    let stopped = stop.clone();
    let worker = tokio::spawn(async move { hand.run_sdk(&stopped).await });
    let done = scene.clients.all()?.wait_task(task, SERVED_WITHIN).await.is_ok();
    stop.cancel();
    worker.await.context("a worker panicked")??;
    Ok(done)
}

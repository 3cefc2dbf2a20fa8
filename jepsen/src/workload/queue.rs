//! A queue: producers submit unique items, workers of both kinds do them, a caretaker puts dead letters back, and one watcher writes down the
//! order of assignment.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::Rng;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::closing::{read_all, wait_until_ended};
use super::hands::{Book, Hand};
use super::pace::{Pace, deadline};
use super::submit::{QUEUE, Submitter, plain_item, task_of};
use super::watcher::{Recording, present};
use super::{Scene, Workload};
use crate::checker::facts::{Facts, Fate, Item};
use crate::checker::lives::Lives;
use crate::checker::{Verdict, limits, order, tasks};
use crate::history::Event;

/// Submissions a second of each producer.
const RATE: f64 = 4.0;
/// The most items of one submission.
const BATCH_MAX: u64 = 3;
/// How many of the items are large, so that writes of several blocks of a disk are under way when power is lost.
const LARGE: f64 = 0.02;
/// The smallest and the largest payload of those, in bytes.
const LARGE_BYTES: (f64, f64) = (16.0 * 1024.0, 200.0 * 1024.0);
/// How long the queue may take to drain, and reading it.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);
/// The number under which the drain works.
const DRAINER: u32 = 1_000;

/// The workload.
#[derive(Default)]
pub struct Queue {
    book: Arc<Book>,
    watcher: Mutex<Option<Recording>>,
}

#[async_trait]
impl Workload for Queue {
    fn name(&self) -> &'static str {
        "queue"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        begin_watching(scene, &self.watcher).await
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        if process == 0 {
            // The watcher is no client of its own, so that few clients are enough for a run.
            let (produced, ()) = tokio::join!(self.produce(process, scene), keep_watching(scene, &self.watcher));
            return produced;
        }
        let hand = hand(scene, process, &self.book)?;
        let mut pace = Pace::new(scene, process, 2.0);
        match process % 4 {
            0 => self.produce(process, scene).await,
            1 => hand.run_sdk(&scene.stop).await,
            2 => hand.run_calls(&scene.stop, &mut pace, true).await,
            _ => {
                let (produced, tended) = tokio::join!(self.produce(process, scene), tend(scene, process));
                produced.and(tended)
            }
        }
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        drain_tasks(scene, &self.book).await?;
        finish_watching(scene, &self.watcher).await
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = tasks::exactly_once(history);
        checks.push(limits::dead_at_the_limit(&Facts::of(history), Lives::of(history).as_ref()));
        checks.push(order::first_in_first_out(history));
        Verdict::of(checks)
    }
}

impl Queue {
    async fn produce(&self, process: u32, scene: &Scene) -> Result<()> {
        let (client, node) = scene.clients.client(process)?;
        let client = client.with_deadline(deadline(process));
        let submitter = Submitter::new(client, scene.recorder.clone(), process, node);
        let mut pace = Pace::new(scene, process, RATE);
        let mut place = 0;
        while pace.next().await {
            let count = pace.rng.random_range(1..=BATCH_MAX);
            let items: Vec<Item> = (0..count).map(|more| fated_item(&mut pace, process, place + more)).collect();
            place += count;
            let tasks = items.iter().map(task_of).collect();
            // What became of it is recorded.
            let _submitted = submitter.submit(&items, tasks).await;
        }
        Ok(())
    }
}

/// An item of a random priority, fate and size.
fn fated_item(pace: &mut Pace, process: u32, place: u64) -> Item {
    let plain = plain_item(process, place);
    let (fate, max_attempts) = match pace.rng.random_range(0..100) {
        0..80 => (Fate::Succeed, plain.max_attempts),
        80..89 => (Fate::Retry(pace.rng.random_range(1..4)), plain.max_attempts),
        // More failures than it has attempts.
        89..92 => (Fate::Retry(9), pace.rng.random_range(2..4)),
        92..96 => (Fate::Final, plain.max_attempts),
        _ => (Fate::FinalOnce, plain.max_attempts),
    };
    let large = pace.chance(LARGE);
    Item { fate, max_attempts, priority: pace.rng.random_range(2..5), padding: if large { large_size(pace) } else { 0 }, ..plain }
}

/// As many between the smallest and twice that as between half of the largest and the largest.
fn large_size(pace: &mut Pace) -> u32 {
    let (least, most) = LARGE_BYTES;
    (least * (most / least).powf(pace.rng.random_range(0.0..1.0))) as u32
}

/// A worker for this process.
pub(super) fn hand(scene: &Scene, process: u32, book: &Arc<Book>) -> Result<Hand> {
    let (client, _) = scene.clients.client(process)?;
    let client = client.with_deadline(deadline(process));
    Ok(Hand::new(client, scene.recorder.clone(), process, book.clone()))
}

/// Puts all dead letters back now and then: those that can never succeed will be back.
async fn tend(scene: &Scene, process: u32) -> Result<()> {
    let (client, _) = scene.clients.client(process)?;
    let client = client.with_deadline(deadline(process));
    let pace = Pace::new(scene, process, 1.0);
    while pace.wait(Duration::from_secs(5)).await {
        let _requeued = client.requeue_dead(QUEUE, Vec::<String>::new()).await;
    }
    Ok(())
}

/// Makes the watcher of the whole namespace, before anything happens.
pub(super) async fn begin_watching(scene: &Scene, watcher: &Mutex<Option<Recording>>) -> Result<()> {
    let client = scene.clients.all()?;
    let after = present(&client).await.context("the cluster does not answer")?;
    let recording = Recording::new("all", client, scene.recorder.clone(), 0, "", after);
    *watcher.lock().await = Some(recording);
    Ok(())
}

/// Watches until the scene stops.
pub(super) async fn keep_watching(scene: &Scene, watcher: &Mutex<Option<Recording>>) {
    if let Some(recording) = watcher.lock().await.as_mut() {
        recording.run(&scene.stop, None).await;
    }
}

/// Watches until everything was seen that has happened.
pub(super) async fn finish_watching(scene: &Scene, watcher: &Mutex<Option<Recording>>) -> Result<()> {
    let present = present(&scene.clients.all()?).await?;
    match watcher.lock().await.as_mut() {
        Some(recording) => recording.finish(present, DRAIN_WITHIN).await,
        None => Ok(()),
    }
}

/// Works until everything that was accepted has ended, and reads what became of it.
pub(super) async fn drain_tasks(scene: &Scene, book: &Arc<Book>) -> Result<()> {
    let client = scene.clients.all()?;
    let stop = CancellationToken::new();
    let mut workers = Vec::new();
    for number in 0..2 {
        let hand = Hand::new(scene.clients.all()?, scene.recorder.clone(), DRAINER + number, book.clone());
        let stop = stop.clone();
        workers.push(tokio::spawn(async move { hand.run_sdk(&stop).await }));
    }
    let ended = wait_until_ended(&client, DRAIN_WITHIN).await;
    stop.cancel();
    for worker in workers {
        worker.await.context("a worker of the drain panicked")??;
    }
    // Read in any case: what is left tells more than that something is.
    let read = read_all(&client, &scene.recorder, DRAIN_WITHIN).await;
    ended.and(read)
}

//! Priorities under overload: more is submitted than a few workers can do, in all five priorities, and a watcher writes down what was ready
//! and what was taken at each assignment.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use tokio::sync::Mutex;

use super::hands::Book;
use super::pace::{Pace, deadline};
use super::queue::{begin_watching, drain_tasks, finish_watching, hand, keep_watching};
use super::submit::{QUEUE, Submitter, plain_item, task_of};
use super::watcher::Recording;
use super::{Scene, Workload};
use crate::checker::facts::Item;
use crate::checker::{Verdict, order, tasks};
use crate::history::Event;

/// Bursts a second of each producer.
const RATE: f64 = 1.0;
/// The most items of a burst.
const BURST_MAX: u64 = 20;

/// The workload.
#[derive(Default)]
pub struct Priorities {
    book: Arc<Book>,
    watcher: Mutex<Option<Recording>>,
}

#[async_trait]
impl Workload for Priorities {
    fn name(&self) -> &'static str {
        "priorities"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        begin_watching(scene, &self.watcher).await
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        if process == 0 {
            let (produced, ()) = tokio::join!(produce(process, scene), keep_watching(scene, &self.watcher));
            return produced;
        }
        if process % 2 == 1 {
            let mut hand = hand(scene, process, &self.book)?;
            hand.concurrency = 1;
            hand.longest_ms = 150;
            return hand.run_sdk(&scene.stop).await;
        }
        produce(process, scene).await
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        drain_tasks(scene, &self.book).await?;
        finish_watching(scene, &self.watcher).await
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = tasks::exactly_once(history);
        checks.push(order::priorities(history, QUEUE));
        checks.push(order::first_in_first_out(history));
        Verdict::of(checks)
    }
}

/// Submits bursts, each item in a call of its own or all in one.
async fn produce(process: u32, scene: &Scene) -> Result<()> {
    let (client, node) = scene.clients.client(process)?;
    let submitter = Submitter::new(client.with_deadline(deadline(process)), scene.recorder.clone(), process, node);
    let mut pace = Pace::new(scene, process, RATE);
    let mut place = 0;
    while pace.next().await {
        let count = pace.rng.random_range(1..=BURST_MAX);
        let items: Vec<Item> =
            (0..count).map(|more| Item { priority: pace.rng.random_range(1..=5), ..plain_item(process, place + more) }).collect();
        place += count;
        let at_once = if pace.chance(0.5) { items.len() } else { 1 };
        for items in items.chunks(at_once) {
            let _recorded = submitter.submit(items, items.iter().map(task_of).collect()).await;
        }
    }
    Ok(())
}

//! Watches: writers make events of many kinds, and watchers at all nodes write down what they see, some of one queue only, some of which
//! begin anew now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rand::Rng;
use tokio::sync::Mutex;

use super::hands::Book;
use super::pace::{Pace, deadline};
use super::queue::{drain_tasks, hand};
use super::register::User;
use super::submit::{QUEUE, Submitter, plain_item, task_of};
use super::watcher::{Recording, present};
use super::{Scene, Workload};
use crate::checker::{Verdict, tasks, watch};
use crate::history::Event;

/// Changes a second of each writer.
const RATE: f64 = 8.0;
/// How long a watcher may take to catch up after healing.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// Watched leases are short enough to expire in a run.
const TTL: Duration = Duration::from_secs(3);

/// The workload.
#[derive(Default)]
pub struct Watches {
    book: Arc<Book>,
    /// Where the run began.
    start: Mutex<u64>,
    watchers: Mutex<BTreeMap<u32, Recording>>,
}

#[async_trait]
impl Workload for Watches {
    fn name(&self) -> &'static str {
        "watch"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        let start = present(&scene.clients.all()?).await.context("the cluster does not answer")?;
        *self.start.lock().await = start;
        Ok(())
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        match process % 4 {
            0 | 1 => self.look_on(process, scene).await,
            2 => write(process, scene).await,
            _ => hand(scene, process, &self.book)?.run_sdk(&scene.stop).await,
        }
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        drain_tasks(scene, &self.book).await?;
        // Something that all watchers get to see, so that none has to wait for a sign of life.
        let submitter = Submitter::new(scene.clients.all()?, scene.recorder.clone(), u32::MAX, None);
        let last = [plain_item(u32::MAX, 0)];
        submitter.submit(&last, last.iter().map(task_of).collect()).await?;
        drain_tasks(scene, &self.book).await?;
        let end = present(&scene.clients.all()?).await?;
        let mut watchers = self.watchers.lock().await;
        let finished = watchers.values_mut().map(|watcher| watcher.finish(end, DRAIN_WITHIN));
        futures::future::join_all(finished).await.into_iter().collect()
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = watch::continuous(history);
        checks.extend(tasks::ended_once(history));
        Verdict::of(checks)
    }
}

impl Watches {
    /// The first watcher knows all nodes and keeps its stream; of the others every second begins anew now and then, and every third sees one
    /// queue only.
    async fn look_on(&self, process: u32, scene: &Scene) -> Result<()> {
        let client = match process {
            0 => scene.clients.all()?,
            _ => scene.clients.client(process)?.0,
        };
        let (name, queue) = match process % 3 {
            1 => (format!("watcher-{process}-queue"), QUEUE),
            _ => (format!("watcher-{process}"), ""),
        };
        let start = *self.start.lock().await;
        let mut recording = Recording::new(&name, client, scene.recorder.clone(), process, queue, start);
        let restarts = (process % 2 == 1).then(|| Pace::new(scene, process, 1.0));
        recording.run(&scene.stop, restarts).await;
        self.watchers.lock().await.insert(process, recording);
        Ok(())
    }
}

async fn write(process: u32, scene: &Scene) -> Result<()> {
    let (client, node) = scene.clients.client(process)?;
    let client = client.with_deadline(deadline(process));
    let submitter = Submitter::new(client.clone(), scene.recorder.clone(), process, node);
    let mut user = User::new(client, scene.recorder.clone(), process, node);
    let mut pace = Pace::new(scene, process, RATE);
    let mut place = 0;
    while pace.next().await {
        let lease = format!("watched-{process}-{}", pace.rng.random_range(0..2));
        match pace.rng.random_range(0..4) {
            0 | 1 => {
                let item = plain_item(process, place);
                place += 1;
                let _recorded = submitter.submit(std::slice::from_ref(&item), vec![task_of(&item)]).await;
            }
            2 => user.acquire(&lease, TTL).await,
            _ => user.release(&lease).await,
        }
    }
    Ok(())
}

//! The work queue: tasks are submitted one by one, leased by workers and completed at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tarn_client::{Client, Job, JobError, Task, Worker};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RETENTION, Tarn, streams};
use crate::measure::{Load, Samples};
use crate::peers::queue::Tasks;

/// What takes the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// Streams of work as SDK workers have them, spoken directly. A task counts when the cluster has acknowledged its completion.
    Stream,
    /// The SDK's own worker, with handlers. It does not tell them when a completion was acknowledged, so a task counts when its handler
    /// ran; that all was completed is found at the end.
    Handler,
}

/// Where a load's tasks go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// The namespaces, used in turn; none: the default one.
    pub namespaces: Vec<String>,
    /// The queue, in each of them; `None`: one that is new.
    pub queue: Option<String>,
}

/// How many tasks each worker may hold, so that all together can hold what may be outstanding; at most 1,024.
pub(super) fn held_by_each(load: &Load) -> usize {
    (load.outstanding / load.workers.max(1)).clamp(1, 1_024)
}

impl Tarn {
    /// Submits, works and acknowledges in a queue of its own.
    ///
    /// # Errors
    /// If a call fails, or something accepted is not completed.
    pub async fn work(&self, load: &Load, consumer: Consumer) -> Result<Samples> {
        self.work_in(load, consumer, Lane::default()).await
    }

    /// The same in a lane.
    ///
    /// # Errors
    /// As [`Tarn::work`].
    pub async fn work_in(&self, load: &Load, consumer: Consumer, lane: Lane) -> Result<Samples> {
        let queue = lane.queue.clone().unwrap_or_else(|| self.name("work"));
        let clients = self.clients(load.connections)?;
        // Each client has answered once, and so knows who leads, before anything is measured.
        for client in &clients {
            client.cluster().await?;
        }
        let tasks = Tasks::new(load)?;
        let (workers, crew) = match consumer {
            Consumer::Stream => (streams::start(self, load, &lane, &queue, &tasks).await?, None),
            Consumer::Handler => {
                let (watch, crew) = handlers(self, load, &lane, &queue, &tasks)?;
                (watch, Some(crew))
            }
        };
        let submitters: Arc<[Vec<Client>]> = clients.iter().map(|client| in_namespaces(client, &lane)).collect();
        let template = Task::new(&queue).retention(RETENTION);
        let turn = Arc::new(AtomicUsize::new(0));
        let submit = move |number: usize, payload: Bytes| {
            let namespaces = &submitters[number % submitters.len()];
            let client = namespaces[turn.fetch_add(1, Ordering::Relaxed) % namespaces.len()].clone();
            let task = template.clone().payload(payload);
            async move { Ok(client.enqueue(task).await.map(drop)?) }
        };
        let samples = tasks.run(load, submit, workers).await?;
        if let Some(crew) = crew {
            crew.end().await?;
        }
        if lane == Lane::default() {
            emptied(&clients[0], &queue).await?;
        }
        Ok(samples)
    }
}

/// Checks that nothing is left of a load that had a queue to itself.
async fn emptied(client: &Client, queue: &str) -> Result<()> {
    // A queue in which nothing is left may be gone.
    let left = client.get_queue(queue).await.map_or(0, |stats| stats.ready + stats.running + stats.delayed + stats.dead);
    ensure!(left == 0, "{left} tasks are left in the queue after all were completed");
    Ok(())
}

/// The SDK's workers of one load. They outlive its clients, so that each completion is reported; dropping this stops them.
struct Crew {
    stop: DropGuard,
    running: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Stops the workers and waits until the cluster has taken all that they have to report.
    async fn end(self) -> Result<()> {
        self.stop.disarm().cancel();
        for worker in self.running {
            worker.await?;
        }
        Ok(())
    }
}

/// Starts the SDK's workers, with a handler that has nothing to do; and what ends where one of them ends early.
fn handlers(tarn: &Tarn, load: &Load, lane: &Lane, queue: &str, tasks: &Arc<Tasks>) -> Result<(JoinSet<Result<()>>, Crew)> {
    let clients = tarn.clients(load.connections.min(load.workers))?;
    let stop = CancellationToken::new();
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut running = Vec::new();
    for number in 0..load.workers {
        let (tasks, ended) = (tasks.clone(), ended.clone());
        let handler = move |job: Job| {
            let noted = tasks.acknowledged(job.payload());
            async move { noted.map(|()| Bytes::new()).map_err(|error| JobError::permanent(error.to_string())) }
        };
        let worker = Worker::builder(clients[number % clients.len()].clone()).queue(queue).default_handler(handler);
        let worker = lane.namespaces.iter().fold(worker, |worker, namespace| worker.namespace(namespace));
        let work = worker.concurrency(held_by_each(load)).run(stop.clone().cancelled_owned());
        running.push(tokio::spawn(async move { drop(ended.send(work.await)) }));
    }
    let mut watch = JoinSet::new();
    watch.spawn(async move { endings.recv().await.context("all workers ended")?.map_err(Into::into) });
    Ok((watch, Crew { stop: stop.drop_guard(), running }))
}

/// The client once for each of the lane's namespaces.
fn in_namespaces(client: &Client, lane: &Lane) -> Vec<Client> {
    match lane.namespaces.len() {
        0 => vec![client.clone()],
        _ => lane.namespaces.iter().map(|namespace| client.in_namespace(namespace)).collect(),
    }
}

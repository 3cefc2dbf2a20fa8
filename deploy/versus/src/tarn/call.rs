//! The durable call: a task is submitted and its result waited for.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tarn_client::{Job, JobError, Task, Worker};
use tokio_util::sync::CancellationToken;

use super::{RETENTION, Tarn};
use crate::drive;
use crate::measure::{Load, Samples};

/// How long a call may take.
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// Calls that the workers of one connection run at once, at most: more than any load has clients.
const CONCURRENCY: usize = 1_024;

impl Tarn {
    /// Calls: each client submits a task and waits for its result, which is the payload. The SDK's workers run the tasks, each over a
    /// connection of its own.
    ///
    /// # Errors
    /// If a call fails, or gives another result.
    pub async fn calls(&self, load: &Load) -> Result<Samples> {
        let (clients, queue) = (self.clients(load.connections)?, self.name("call"));
        let stop = CancellationToken::new();
        let _stopped_in_any_case = stop.clone().drop_guard();
        let mut workers = tokio::task::JoinSet::new();
        for client in self.clients(load.workers)? {
            let echo = |job: Job| async move { Ok::<_, JobError>(job.payload().clone()) };
            let worker = Worker::builder(client).queue(&queue).default_handler(echo).concurrency(CONCURRENCY);
            workers.spawn(worker.run(stop.clone().cancelled_owned()));
        }
        let (template, payload) = (Task::new(&queue).retention(RETENTION), Bytes::from(vec![b'x'; load.payload]));
        let samples = drive::clients(load, move |number, _| {
            let (client, payload) = (clients[number % clients.len()].clone(), payload.clone());
            let task = template.clone().payload(payload.clone());
            async move {
                let id = client.enqueue(task).await?;
                let ended = client.wait_task(id, CALL_WITHIN).await?;
                ensure!(ended.result == payload, "a call gave another result: {:?}", ended.state());
                Ok(())
            }
        });
        let samples = tokio::select! {
            samples = samples => samples?,
            Some(worker) = workers.join_next() => { worker??; anyhow::bail!("a worker ended before the calls") }
        };
        stop.cancel();
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(samples)
    }
}

//! A backlog: tasks that are queued and that nobody takes.

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tarn_client::Task;

use super::Tarn;

/// Tasks in one request: as many as the cluster takes.
const BATCH: usize = 1_000;
/// What a backlog's payloads are made of.
const FILLING: u8 = b'-';
/// A label that no worker here carries.
const NOBODYS: &str = "nobodys";
/// Requests at once.
const AT_ONCE: usize = 8;

impl Tarn {
    /// Queues so many tasks that are ready, and that none of the load's workers can run.
    ///
    /// # Errors
    /// If the cluster refuses them.
    pub async fn fill(&self, queue: &str, tasks: usize, payload: usize) -> Result<()> {
        let client = self.cluster.client()?;
        let task = Task::new(queue).requires(NOBODYS).payload(Bytes::from(vec![FILLING; payload]));
        let batches = (0..tasks).step_by(BATCH).map(|begin| vec![task.clone(); BATCH.min(tasks - begin)]);
        let sent = stream::iter(batches).map(|batch| client.enqueue_batch(batch)).buffer_unordered(AT_ONCE);
        Ok(sent.try_for_each(|_| async { Ok(()) }).await?)
    }
}

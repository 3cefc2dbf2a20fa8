//! A leased task on its way to its worker. Dropped before it was delivered, it goes back to its queue.

use std::time::Duration;

use tarn_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gate::Caller;
use crate::way::Way;

/// Tasks that may wait to be returned. When full, further ones are left to the end of their leases, which returns them too, only later.
const RETURNS_MAX: usize = 4_096;

/// Returns under way at once: they share log entries, so more would gain little.
const RETURNS_AT_ONCE: usize = 64;

/// Limit on one return. A lease that cannot be returned in this time has nearly ended by itself.
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// A leased task that its worker does not have yet.
pub struct Granted {
    task: Option<Box<v1::LeasedTask>>,
    returner: Returner,
}

impl Granted {
    pub(super) fn new(task: v1::LeasedTask, returner: Returner) -> Self {
        Self { task: Some(Box::new(task)), returner }
    }

    /// What was leased.
    #[must_use]
    pub fn task(&self) -> &v1::LeasedTask {
        self.task.as_ref().expect("only deliver and drop take it")
    }

    /// The worker has it from now on.
    #[must_use]
    pub fn deliver(mut self) -> Box<v1::LeasedTask> {
        self.task.take().expect("only deliver and drop take it")
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.returner.give_back(*task);
        }
    }
}

/// Gives tasks back that nobody will run.
#[derive(Clone)]
pub(super) struct Returner {
    queue: mpsc::Sender<v1::LeasedTask>,
}

impl Returner {
    /// Returns tasks until `stop`, and then those that are queued.
    pub fn start(way: Way, node: Caller, stop: CancellationToken) -> Self {
        let (queue, tasks) = mpsc::channel(RETURNS_MAX);
        tokio::spawn(run(way, node, tasks, stop));
        Self { queue }
    }

    fn give_back(&self, task: v1::LeasedTask) {
        // Full: the lease's end returns it.
        let _ = self.queue.try_send(task);
    }
}

async fn run(way: Way, node: Caller, mut tasks: mpsc::Receiver<v1::LeasedTask>, stop: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = tasks.recv_many(&mut batch, RETURNS_AT_ONCE) => received,
            () = stop.cancelled() => {
                tasks.close();
                tasks.recv_many(&mut batch, RETURNS_AT_ONCE).await
            }
        };
        if received == 0 {
            return;
        }
        way.metrics().leases_returned.inc_by(received as u64);
        futures::future::join_all(batch.drain(..).map(|task| give_back(&way, &node, task))).await;
    }
}

async fn give_back(way: &Way, node: &Caller, task: v1::LeasedTask) {
    let request = v1::FailTaskRequest {
        namespace: task.namespace,
        task_id: task.task_id.clone(),
        token: task.token,
        kind: v1::FailureKind::Returned.into(),
        error: Some(v1::TaskError { reason: "NOT_DELIVERED".into(), message: "the worker went away before it got the task".into() }),
        ..v1::FailTaskRequest::default()
    };
    if let Err(refusal) = way.command(node, request, Instant::now() + RETURN_DEADLINE).await {
        // The end of its lease will do the same.
        tracing::debug!(task = task.task_id, reason = refusal.reason(), "an undelivered task was not returned");
    }
}

//! Numbered tasks, submitted and worked on through the SDK until told to stop, and the proof that each was done once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tarn_client::{Client, Task, TaskState, Worker, proto};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::scene::{LIMIT, until};

const QUEUE: &str = "load";
/// Programs that submit: enough for several entries of the log to be under way at any instant.
const CLIENTS: usize = 8;
const WORKERS: usize = 2;
/// Every so many submissions, one is repeated under its request id although it was answered.
const REPEAT_EVERY: u64 = 5;

/// Clients and workers at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<Result<(), tarn_client::Error>>>,
    stop_workers: CancellationToken,
}

struct Shared {
    client: Client,
    stop: CancellationToken,
    next: AtomicU64,
    finished: AtomicU64,
    /// What was acknowledged: task ids by number.
    accepted: Mutex<BTreeMap<u64, String>>,
}

impl Load {
    /// Begins. No call may fail: each has this long, nodes that die included.
    pub fn start(client: &Client, deadline: Duration) -> Load {
        let shared = Arc::new(Shared {
            client: client.with_deadline(deadline),
            stop: CancellationToken::new(),
            next: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            accepted: Mutex::default(),
        });
        let stop_workers = CancellationToken::new();
        let workers = (0..WORKERS).map(|_| tokio::spawn(work(shared.client.clone(), stop_workers.clone()))).collect();
        let clients = (0..CLIENTS).map(|_| tokio::spawn(submit(shared.clone()))).collect();
        Load { shared, clients, workers, stop_workers }
    }

    /// Waits until so many more tasks have ended.
    pub async fn progress(&self, tasks: u64) {
        let finished = || self.shared.finished.load(Ordering::Relaxed);
        let goal = finished() + tasks;
        until("the load goes on", async || {
            // One that has ended has failed: the join below says why, sooner than the limit.
            (finished() >= goal || self.clients.iter().any(JoinHandle::is_finished)).then_some(())
        })
        .await;
    }

    /// Ends it and checks that what was acknowledged, and nothing else, was done exactly once. Returns how many tasks that were.
    pub async fn finish(self) -> usize {
        self.shared.stop.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        self.stop_workers.cancel();
        for worker in self.workers {
            worker.await.unwrap().unwrap();
        }
        let accepted = self.shared.accepted.lock().unwrap().clone();
        let known: BTreeSet<&String> = accepted.values().collect();
        assert_eq!(known.len(), accepted.len(), "two tasks have one id");
        let client = &self.shared.client;
        let request = proto::ListTasksRequest { queue: QUEUE.into(), page_size: 1_000, ..Default::default() };
        let listed: Vec<proto::Task> = client.list_tasks(request).try_collect().await.unwrap();
        let listed: BTreeSet<&String> = listed.iter().map(|task| &task.task_id).collect();
        assert_eq!(listed, known, "the cluster has other tasks than it acknowledged");
        futures::stream::iter(&accepted)
            .for_each_concurrent(CLIENTS, async |(number, id)| check(*number, &client.get_task(id).await.unwrap()))
            .await;
        accepted.len()
    }
}

/// Submits one task after another, each when the last has ended.
async fn submit(shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("load-{number}");
        let task = || Task::new(QUEUE).handler("count").payload(number.to_string()).max_attempts(50);
        let ids = shared.client.enqueue_once(&request_id, [task()]).await.unwrap();
        if number.is_multiple_of(REPEAT_EVERY) {
            assert_eq!(shared.client.enqueue_once(&request_id, [task()]).await.unwrap(), ids, "a repeat is not known again");
        }
        shared.accepted.lock().unwrap().insert(number, ids[0].clone());
        check(number, &shared.client.wait_task(&ids[0], LIMIT).await.unwrap());
        shared.finished.fetch_add(1, Ordering::Relaxed);
    }
}

async fn work(client: Client, stop: CancellationToken) -> Result<(), tarn_client::Error> {
    Worker::builder(client)
        .queue(QUEUE)
        .handler("count", async |job: tarn_client::Job| Ok(format!("{} by {}", String::from_utf8_lossy(job.payload()), job.token())))
        .concurrency(8)
        .lease(Duration::from_secs(5))
        .run(async move { stop.cancelled().await })
        .await
}

/// A task that succeeded once: its result is that of its one attempt that did.
fn check(number: u64, task: &proto::Task) {
    assert_eq!(task.state(), TaskState::Succeeded, "task {number}: {task:?}");
    let succeeded: Vec<&proto::Attempt> =
        task.attempts.iter().filter(|attempt| attempt.ended_at_ms > 0 && attempt.error.is_none()).collect();
    assert_eq!(succeeded.len(), 1, "task {number}: {task:?}");
    assert_eq!(task.result, format!("{number} by {}", succeeded[0].token), "task {number}: {task:?}");
}

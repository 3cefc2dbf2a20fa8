//! Many small submissions as few large ones.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Code;

use crate::client::Client;
use crate::error::Error;
use crate::proto;
use crate::time::from_now;

/// How many tasks may wait to be sent. When it is full, [`Batcher::enqueue`] waits.
const BACKLOG: usize = 4096;
/// How many bytes of tasks may wait or be under way, in KiB, so that large payloads bound the backlog before its count does.
const BACKLOG_KIB: usize = 64 << 10;
/// How many batches may be under way at once: enough to fill the time of a round trip, few enough that batches grow under load.
const IN_FLIGHT: usize = 8;
/// The most tasks that the cluster takes at once.
const TASKS_MAX: usize = 1000;

/// How a [`Batcher`] groups tasks.
#[derive(Debug, Clone, Copy)]
pub struct BatchOptions {
    /// The most tasks in a batch: from 1 to 1,000.
    pub max_tasks: usize,
    /// A batch that has grown to this many bytes is sent.
    pub max_bytes: usize,
    /// How long the first task of a batch waits for others. Zero sends what is at hand.
    pub linger: Duration,
}

impl Default for BatchOptions {
    /// 256 tasks, one MiB, one millisecond.
    fn default() -> Self {
        BatchOptions { max_tasks: 256, max_bytes: 1 << 20, linger: Duration::from_millis(1) }
    }
}

/// Submits single tasks of many concurrent callers in batches, so that a call's cost is shared. Clones share one batcher.
///
/// Each caller gets its own task's id, or its own error. The cluster accepts a batch as a whole or not at all; so a batch that is refused
/// because of what is in it is halved until the unacceptable tasks stand alone, and one bad task does not fail its neighbours. A task that
/// has dependencies by position in a batch cannot be submitted this way.
#[derive(Clone)]
pub struct Batcher {
    submissions: mpsc::Sender<Submission>,
    bytes: Arc<Semaphore>,
}

/// A task on its way, and who waits for its id.
struct Submission {
    task: proto::TaskSpec,
    bytes: usize,
    answer: oneshot::Sender<Result<String, Error>>,
    /// Its share of the backlog's bytes, given back when the task has its answer.
    _share: OwnedSemaphorePermit,
}

impl Batcher {
    /// A batcher that submits to the client's namespace. It runs until its last clone is dropped and what was given to it is answered.
    pub fn new(client: Client, options: BatchOptions) -> Batcher {
        let (submissions, inbox) = mpsc::channel(BACKLOG);
        let options = BatchOptions { max_tasks: options.max_tasks.clamp(1, TASKS_MAX), ..options };
        tokio::spawn(collect(client, options, inbox));
        Batcher { submissions, bytes: Arc::new(Semaphore::new(BACKLOG_KIB)) }
    }

    /// Submits one task with others and returns its id. Once this has returned, the task survives any crash.
    ///
    /// # Errors
    /// As [`Client::enqueue`]; [`Error::Config`] for a task with dependencies by position in a batch.
    pub async fn enqueue(&self, task: impl Into<proto::TaskSpec>) -> Result<String, Error> {
        let task = task.into();
        if !task.after_in_batch.is_empty() {
            return Err(Error::Config("a task that depends on positions of a batch must be submitted in that batch".into()));
        }
        let bytes = task.encoded_len();
        let kib = u32::try_from(bytes.div_ceil(1024).clamp(1, BACKLOG_KIB)).expect("the backlog's bound fits");
        let share = self.bytes.clone().acquire_many_owned(kib).await.expect("the semaphore is never closed");
        let (answer, answered) = oneshot::channel();
        let submission = Submission { task, bytes, answer, _share: share };
        let stopped = || Error::Config("the runtime that carried the batcher has stopped".into());
        self.submissions.send(submission).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// Groups submissions and sends each group on a task of its own.
async fn collect(client: Client, options: BatchOptions, mut inbox: mpsc::Receiver<Submission>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(first) = inbox.recv().await {
        // Waiting for a slot before the linger lets batches grow while the cluster is busy.
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let group = gather(&options, first, &mut inbox).await;
        let client = client.clone();
        tokio::spawn(async move {
            submit(&client, group).await;
            drop(slot);
        });
    }
}

async fn gather(options: &BatchOptions, first: Submission, inbox: &mut mpsc::Receiver<Submission>) -> Vec<Submission> {
    let end = from_now(options.linger);
    let mut bytes = first.bytes;
    let mut group = vec![first];
    while group.len() < options.max_tasks && bytes < options.max_bytes {
        let next = match inbox.try_recv() {
            Ok(next) => next,
            Err(mpsc::error::TryRecvError::Disconnected) => break,
            Err(mpsc::error::TryRecvError::Empty) => match tokio::time::timeout_at(end, inbox.recv()).await {
                Ok(Some(next)) => next,
                Ok(None) | Err(_) => break,
            },
        };
        bytes += next.bytes;
        group.push(next);
    }
    group
}

/// Sends a group as one batch and answers everybody in it; a refused group is sent again by halves.
fn submit(client: &Client, mut group: Vec<Submission>) -> BoxFuture<'_, ()> {
    Box::pin(async move {
        match client.enqueue_batch(group.iter().map(|submission| submission.task.clone())).await {
            Ok(ids) => {
                for (submission, id) in group.into_iter().zip(ids) {
                    // Nobody waits where the caller has gone away.
                    let _ = submission.answer.send(Ok(id));
                }
            }
            Err(error) if group.len() > 1 && may_be_one_tasks_fault(&error) => {
                let second = group.split_off(group.len() / 2);
                submit(client, group).await;
                submit(client, second).await;
            }
            Err(error) => {
                for submission in group {
                    let _ = submission.answer.send(Err(error.clone()));
                }
            }
        }
    })
}

/// Whether a smaller batch may fare better. Who may not submit at all may not submit less.
fn may_be_one_tasks_fault(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| {
        !matches!(refusal.code, Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented | Code::Internal)
    })
}

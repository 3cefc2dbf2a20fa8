//! One attempt at a task, as its handler sees it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::context::Context;
use crate::error::Error;
use crate::proto;

/// How much of a handler's log the cluster keeps.
const LOG_BYTES_MAX: usize = 64 << 10;

/// One attempt at a task. Clones are the same job.
#[derive(Clone)]
pub struct Job {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    leased: proto::LeasedTask,
    client: Client,
    /// Ends when the handler should stop.
    pub(super) cancelled: CancellationToken,
    /// Ends when the worker will not wait for the handler much longer.
    pub(super) abandoned: CancellationToken,
    log: Mutex<Vec<u8>>,
}

impl Job {
    pub(super) fn new(leased: proto::LeasedTask, client: &Client) -> Job {
        let client = client.in_namespace(&leased.namespace);
        let shared =
            Shared { leased, client, cancelled: CancellationToken::new(), abandoned: CancellationToken::new(), log: Mutex::default() };
        Job { shared: Arc::new(shared) }
    }

    /// The task's id.
    pub fn task_id(&self) -> &str {
        &self.shared.leased.task_id
    }

    /// The task's namespace.
    pub fn namespace(&self) -> &str {
        &self.shared.leased.namespace
    }

    /// The task's input.
    pub fn payload(&self) -> &Bytes {
        &self.spec().payload
    }

    /// All that the submitter said about the task.
    pub fn spec(&self) -> &proto::TaskSpec {
        // The worker refuses tasks without one before it makes a job.
        self.shared.leased.spec.as_ref().expect("a job has a spec")
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.shared.leased.attempt
    }

    /// The fencing token of this attempt, greater than that of every earlier one. Hand it to every store that the task writes to, and have
    /// that store refuse what is older: then an attempt that was given up and did not notice can do no harm.
    pub fn token(&self) -> u64 {
        self.shared.leased.token
    }

    /// When the attempt is over at the latest, by the cluster's clock.
    pub fn ends_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.shared.leased.attempt_ends_at_ms)
    }

    /// Waits until the job should stop: somebody asked to cancel the task, its lease was lost, or the worker is being stopped and its time
    /// of grace is over. A handler that returns an error then has stopped as asked; one that goes on is dropped some seconds later, unless
    /// it was only asked to cancel.
    pub async fn cancelled(&self) {
        self.shared.cancelled.cancelled().await;
    }

    /// Whether the job should stop; see [`Job::cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.is_cancelled()
    }

    /// The ids of the tasks that this one waited for, in the order in which its submitter named them.
    pub fn dependencies(&self) -> &[String] {
        &self.shared.leased.dependencies
    }

    /// Reads the result of the task at this position of [`Job::dependencies`]. Empty where that one died and this one runs anyway.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no such position; otherwise as [`Client::get_task`].
    pub async fn dependency_result(&self, position: usize) -> Result<Bytes, Error> {
        let count = self.dependencies().len();
        let id = self
            .dependencies()
            .get(position)
            .ok_or_else(|| Error::Config(format!("the task has {count} dependencies and none at position {position}")))?;
        Ok(self.shared.client.get_task(id).await?.result)
    }

    /// A context of the task's namespace, written to only as long as this attempt holds its lease.
    pub fn context(&self, name: impl Into<String>) -> Context {
        self.client().context(name).fenced(self.task_id(), self.token())
    }

    /// A client for the task's namespace.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Adds a line to the attempt's log, which the cluster keeps beside the task. What exceeds 64 KiB is left out.
    pub fn log(&self, line: impl AsRef<str>) {
        let mut log = self.shared.log.lock().expect("no code panics while it holds this lock");
        let line = line.as_ref().as_bytes();
        if log.len() + line.len() < LOG_BYTES_MAX {
            log.extend_from_slice(line);
            log.push(b'\n');
        }
    }

    /// Takes the log out.
    pub(super) fn take_log(&self) -> Bytes {
        std::mem::take(&mut *self.shared.log.lock().expect("no code panics while it holds this lock")).into()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("namespace", &self.namespace())
            .field("task_id", &self.task_id())
            .field("attempt", &self.attempt())
            .field("token", &self.token())
            .finish_non_exhaustive()
    }
}

/// Why a handler did not succeed.
///
/// Every `std::error::Error` turns into a retryable one, so `?` works in handlers. It is no `std::error::Error` itself, for that reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    pub(super) kind: proto::FailureKind,
    pub(super) reason: String,
    pub(super) message: String,
}

impl JobError {
    /// The attempt failed, and another may succeed: the task is tried again while it has attempts left.
    pub fn retryable(message: impl Into<String>) -> JobError {
        JobError { kind: proto::FailureKind::Retryable, reason: "HANDLER_FAILED".into(), message: message.into() }
    }

    /// This input can never succeed: the task goes to the dead letters at once.
    pub fn permanent(message: impl Into<String>) -> JobError {
        JobError { kind: proto::FailureKind::Final, ..JobError::retryable(message) }
    }

    /// The same with a machine-readable reason in UPPER_SNAKE, in place of `HANDLER_FAILED`.
    pub fn with_reason(mut self, reason: impl Into<String>) -> JobError {
        self.reason = reason.into();
        self
    }
}

impl<E: std::error::Error> From<E> for JobError {
    fn from(error: E) -> JobError {
        let mut message = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            next = cause.source();
        }
        JobError::retryable(message)
    }
}

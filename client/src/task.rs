//! Tasks: what to submit, and how to follow it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

use crate::client::{Client, Kind, rpc};
use crate::error::{Error, Fate};
use crate::page;
use crate::proto::{self, task_service_client::TaskServiceClient};
use crate::time::{from_now, millis, unix_millis};

/// How long one poll for a task's end waits at a node. Short enough that a node that hangs is left soon.
const WAIT_POLL: Duration = Duration::from_secs(20);

/// How long after a wait's end its answer may come.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A task to be submitted: a queue, an input, and what the cluster should know about running it.
///
/// Only the queue is needed. The cluster checks names and limits when the task is submitted.
///
/// ```
/// use std::time::Duration;
/// use tarn_client::{Priority, Task};
///
/// let task = Task::new("thumbnails")
///     .handler("resize")
///     .payload("photo-17.png")
///     .priority(Priority::High)
///     .max_attempts(3)
///     .attempt_timeout(Duration::from_secs(60))
///     .annotation("owner", "ada");
/// # let _ = task;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    spec: proto::TaskSpec,
}

impl Task {
    /// A task for this queue. A queue comes into being with its first task.
    pub fn new(queue: impl Into<String>) -> Task {
        Task { spec: proto::TaskSpec { queue: queue.into(), ..Default::default() } }
    }

    /// The name of the handler that is to run it, for workers built with an SDK.
    pub fn handler(mut self, handler: impl Into<String>) -> Task {
        self.spec.handler = handler.into();
        self
    }

    /// The input, up to 1 MiB.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Task {
        self.spec.payload = payload.into();
        self
    }

    /// How urgent it is. Normal unless given; tasks that wait long rise by themselves.
    pub fn priority(mut self, priority: proto::Priority) -> Task {
        self.spec.priority = priority.into();
        self
    }

    /// Waits for another task of the same namespace to end. May be called several times.
    pub fn after(mut self, task_id: impl Into<String>) -> Task {
        self.spec.after.push(task_id.into());
        self
    }

    /// Waits for the task at this position, from 0, of the batch that it is submitted in. May be called several times.
    pub fn after_in_batch(mut self, position: u32) -> Task {
        self.spec.after_in_batch.push(position);
        self
    }

    /// Runs even if a task that it waits for dies or is cancelled, as if that one had succeeded with an empty result. Otherwise it would
    /// go to the dead letters.
    pub fn run_anyway(mut self) -> Task {
        self.spec.on_dependency_failure = proto::DependencyFailure::Run.into();
        self
    }

    /// Does not start before this time, by the cluster's clock.
    pub fn not_before(mut self, time: SystemTime) -> Task {
        self.spec.not_before_at_ms = unix_millis(time);
        self
    }

    /// Goes to the dead letters if it has not finished by this time, by the cluster's clock.
    pub fn deadline(mut self, time: SystemTime) -> Task {
        self.spec.deadline_at_ms = unix_millis(time);
        self
    }

    /// The longest time that one attempt may take. One hour unless given.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Task {
        self.spec.attempt_timeout_ms = millis(timeout);
        self
    }

    /// How many attempts it gets in all, the first included. 5 unless given, at most 100.
    pub fn max_attempts(mut self, attempts: u32) -> Task {
        self.spec.retry.get_or_insert_default().max_attempts = attempts;
        self
    }

    /// The pause after the first failed attempt and the longest pause; pauses double in between. One second and one minute unless given.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Task {
        let retry = self.spec.retry.get_or_insert_default();
        retry.initial_backoff_ms = millis(first);
        retry.max_backoff_ms = millis(longest);
        self
    }

    /// The whole retry policy, in place of what was said about retries before.
    pub fn retry(mut self, policy: proto::RetryPolicy) -> Task {
        self.spec.retry = Some(policy);
        self
    }

    /// Only workers that carry this label get it. May be called several times.
    pub fn requires(mut self, label: impl Into<String>) -> Task {
        self.spec.requires.push(label.into());
        self
    }

    /// How long the ended task and its result are kept. 24 hours unless given.
    pub fn retention(mut self, retention: Duration) -> Task {
        self.spec.retention_ms = millis(retention);
        self
    }

    /// Runs this WebAssembly module, on a node, instead of a handler of a worker.
    pub fn wasm(mut self, wasm: proto::WasmSpec) -> Task {
        self.spec.runtime = "wasm".to_owned();
        self.spec.wasm = Some(wasm);
        self
    }

    /// Runs a WASM module in a micro-VM on any node that has them.
    #[must_use]
    pub fn microvm(mut self, wasm: proto::WasmSpec) -> Task {
        self.spec.runtime = "microvm".to_owned();
        self.spec.wasm = Some(wasm);
        self
    }

    /// Runs a program as a process on any node that runs some.
    #[must_use]
    pub fn native(mut self, native: proto::NativeSpec) -> Task {
        self.spec.runtime = "native".to_owned();
        self.spec.native = Some(native);
        self
    }

    /// Launches a kernel on any node that has CUDA devices.
    #[must_use]
    pub fn cuda(mut self, cuda: proto::CudaSpec) -> Task {
        self.spec.runtime = "cuda".to_owned();
        self.spec.cuda = Some(cuda);
        self
    }

    /// Computes a built-in transform of the payload, on a CUDA device or on a processor.
    #[must_use]
    pub fn transform(mut self, transform: proto::TransformSpec, on_device: bool) -> Task {
        self.spec.runtime = if on_device { "cuda" } else { "native" }.to_owned();
        self.spec.transform = Some(transform);
        self
    }

    /// Leaves it to the cluster where the task runs, among the runtimes that it has been given a part for, whatever runtime those asked for.
    #[must_use]
    pub fn placed(mut self, placement: proto::Placement) -> Task {
        self.spec.runtime = "auto".to_owned();
        self.spec.placement = Some(placement);
        self
    }

    /// What the executor lets the task reach beyond its own memory.
    #[must_use]
    pub fn grants(mut self, grants: proto::Grants) -> Task {
        self.spec.grants = Some(grants);
        self
    }

    /// A note of the submitter's own; tarn only keeps it.
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Task {
        self.spec.annotations.insert(key.into(), value.into());
        self
    }

    /// The task as the contract writes it.
    pub fn spec(&self) -> &proto::TaskSpec {
        &self.spec
    }
}

impl From<Task> for proto::TaskSpec {
    fn from(task: Task) -> proto::TaskSpec {
        task.spec
    }
}

impl From<proto::TaskSpec> for Task {
    fn from(spec: proto::TaskSpec) -> Task {
        Task { spec }
    }
}

/// Whether a task in this state will change no more by itself: it succeeded, died or was cancelled.
pub fn has_ended(state: proto::TaskState) -> bool {
    matches!(state, proto::TaskState::Succeeded | proto::TaskState::Dead | proto::TaskState::Cancelled)
}

impl Client {
    /// Submits one task and returns its id. Once this has returned, the task survives any crash and will end.
    ///
    /// # Errors
    /// [`Error::Refused`] where the cluster finds the task unacceptable, and what every call can meet; see [`Error`].
    pub async fn enqueue(&self, task: impl Into<proto::TaskSpec>) -> Result<String, Error> {
        let mut ids = self.enqueue_batch([task]).await?;
        ids.pop().ok_or_else(|| Error::Transport("the node answered without a task id".into()))
    }

    /// Submits 1 to 1,000 tasks, all or none, and returns their ids in order.
    ///
    /// # Errors
    /// As [`Client::enqueue`]; one unacceptable task has the whole batch refused.
    pub async fn enqueue_batch<T: Into<proto::TaskSpec>>(&self, tasks: impl IntoIterator<Item = T>) -> Result<Vec<String>, Error> {
        self.enqueue_once("", tasks).await
    }

    /// Submits tasks under a request id of the caller's own. A program that may be killed between submitting and noting that it did
    /// repeats the call with the same id and the same tasks within ten minutes, and gets the first answer.
    ///
    /// # Errors
    /// As [`Client::enqueue_batch`], and [`Error::Refused`] where the id was used with other tasks.
    pub async fn enqueue_once<T: Into<proto::TaskSpec>>(
        &self,
        request_id: impl Into<String>,
        tasks: impl IntoIterator<Item = T>,
    ) -> Result<Vec<String>, Error> {
        let tasks: Vec<proto::TaskSpec> = tasks.into_iter().map(Into::into).collect();
        let count = tasks.len();
        let request = proto::EnqueueRequest { request_id: request_id.into(), namespace: self.ns(), tasks };
        let ids = self.command(request, rpc!(TaskServiceClient.enqueue)).await?.task_ids;
        if ids.len() == count { Ok(ids) } else { Err(Error::Transport(format!("the node answered {count} tasks with {} ids", ids.len()))) }
    }

    /// Reads a task, with its payload and result.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such task, or no more; see [`Error`].
    pub async fn get_task(&self, task_id: impl Into<String>) -> Result<proto::Task, Error> {
        let request = proto::GetTaskRequest { namespace: self.ns(), task_id: task_id.into(), ..Default::default() };
        found(self.ask_for_task(Kind::READ, request, rpc!(TaskServiceClient.get_task)).await?)
    }

    /// Waits up to this long for a task to end and returns it: succeeded, dead or cancelled, as its state says.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] if it has not ended by then; otherwise as [`Client::get_task`].
    pub async fn wait_task(&self, task_id: impl Into<String>, within: Duration) -> Result<proto::Task, Error> {
        let task_id = task_id.into();
        let end = from_now(within);
        let mut polls = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let wait = left.min(WAIT_POLL);
            let request =
                proto::GetTaskRequest { namespace: self.ns(), task_id: task_id.clone(), wait_ms: millis(wait), omit_bytes: false };
            // The deadline of the whole wait replaces the client's own: until then a failed poll is repeated.
            let patient = self.with_deadline(left + ANSWER_TIME);
            let task = found(patient.ask_for_task(Kind::READ.waiting(wait), request, rpc!(TaskServiceClient.get_task)).await?)?;
            if has_ended(task.state()) {
                return Ok(task);
            }
            polls += 1;
            if Instant::now() >= end {
                return Err(Error::DeadlineExceeded { tries: polls, fate: Fate::NotDone });
            }
        }
    }

    /// Lists tasks in the order of their ids, oldest first, without payloads and results; pages are fetched as the stream is read. The
    /// request's namespace is the client's where it is empty.
    pub fn list_tasks(&self, mut request: proto::ListTasksRequest) -> impl Stream<Item = Result<proto::Task, Error>> + Send + use<> {
        let client = self.clone();
        if request.namespace.is_empty() {
            request.namespace = self.ns();
        }
        page::items(move |page_token| {
            let (client, request) = (client.clone(), proto::ListTasksRequest { page_token, ..request.clone() });
            async move {
                let page = client.list_tasks_page(request).await?;
                Ok((page.tasks, page.next_page_token))
            }
        })
    }

    /// Lists one page of tasks, with the revision to watch from for what comes later.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_tasks_page(&self, request: proto::ListTasksRequest) -> Result<proto::ListTasksResponse, Error> {
        self.read(request, rpc!(TaskServiceClient.list_tasks)).await
    }

    /// Asks for a task's cancellation: a waiting task ends at once; a running one is told and may still finish. Returns its state now.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such task or it has ended; see [`Error`].
    pub async fn cancel_task(&self, task_id: impl Into<String>) -> Result<proto::TaskState, Error> {
        self.end_task(task_id.into(), false).await
    }

    /// Ends a task now, even while it runs: whatever its worker reports later is not taken.
    ///
    /// # Errors
    /// As [`Client::cancel_task`].
    pub async fn terminate_task(&self, task_id: impl Into<String>) -> Result<proto::TaskState, Error> {
        self.end_task(task_id.into(), true).await
    }

    async fn end_task(&self, task_id: String, force: bool) -> Result<proto::TaskState, Error> {
        let request = proto::CancelTaskRequest { request_id: String::new(), namespace: self.ns(), task_id, force };
        Ok(self.command(request, rpc!(TaskServiceClient.cancel_task)).await?.state())
    }

    /// Reads what a task's attempts wrote to their logs.
    ///
    /// # Errors
    /// As [`Client::get_task`].
    pub async fn task_logs(&self, task_id: impl Into<String>) -> Result<Vec<proto::AttemptLog>, Error> {
        let request = proto::GetTaskLogsRequest { namespace: self.ns(), task_id: task_id.into() };
        Ok(self.read(request, rpc!(TaskServiceClient.get_task_logs)).await?.logs)
    }
}

fn found(answer: proto::GetTaskResponse) -> Result<proto::Task, Error> {
    answer.task.ok_or_else(|| Error::Transport("the node answered without a task".into()))
}

//! Workers: the SDK's, and ones made of single calls that misbehave.
//!
//! Both do what an item's fate says and record each attempt before they begin it and after they are through with it. The SDK's worker is what
//! users run. The other leases, renews, completes and fails by single calls, so that each report is an operation of the history with an
//! outcome; and now and then it walks away from a task, stalls for longer than its lease, or reports twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use serde_json::{Value, json};
use tarn_client::{Client, Error, Job, JobError, Worker, proto};
use tokio_util::sync::CancellationToken;

use super::outcome::settle;
use super::pace::Pace;
use super::submit::{HANDLER, QUEUE, item_of, state_name};
use crate::checker::facts::{ATTEMPT, Attempt, COMPLETE, FAIL, Fate, HANDLED, Item, Report, result_of};
use crate::history::{Process, Recorder};

/// Leases are short, so that faults outlast them.
const LEASE: Duration = Duration::from_secs(3);
/// How long a worker that stalls does, in leases.
const STALL: f64 = 1.4;
/// How long some attempts after the first take, in leases: long enough that the late report of one that stalled meets them while they run.
const LONG: f64 = 0.6;
/// How many of the attempts after the first take that long.
const LONG_AGAIN: f64 = 0.3;
/// How long jobs may go on after the wish to stop.
const GRACE: Duration = Duration::from_secs(3);
/// The pause after a call that failed, so that an outage is no busy loop.
const PAUSE: Duration = Duration::from_millis(300);
/// How many tasks one call leases.
const AT_ONCE: u32 = 3;

/// What all workers of a run know together.
#[derive(Default)]
pub struct Book {
    died_once: Mutex<HashSet<String>>,
}

impl Book {
    /// Whether this attempt at the item should succeed; otherwise whether its failure is for good.
    fn judge(&self, item: &Item, attempt: u32) -> Result<(), bool> {
        match item.fate {
            Fate::Succeed => Ok(()),
            Fate::Retry(times) if attempt <= times => Err(false),
            Fate::Retry(_) => Ok(()),
            Fate::Final => Err(true),
            Fate::FinalOnce => {
                let mut died = self.died_once.lock().unwrap_or_else(PoisonError::into_inner);
                if died.insert(item.name.clone()) { Err(true) } else { Ok(()) }
            }
        }
    }
}

/// A worker's place in a run.
#[derive(Clone)]
pub struct Hand {
    /// The client that it works with.
    pub client: Client,
    /// Where it records.
    pub recorder: Recorder,
    /// Its number.
    pub process: u32,
    /// What all workers know.
    pub book: Arc<Book>,
    /// The longest time that most attempts take, in milliseconds.
    pub longest_ms: u64,
    /// How many jobs the SDK's worker runs at once.
    pub concurrency: usize,
    /// A label that it carries, if any.
    pub label: Option<String>,
}

impl Hand {
    /// A worker with this client that is as quick as most.
    pub fn new(client: Client, recorder: Recorder, process: u32, book: Arc<Book>) -> Self {
        Self { recorder: recorder.with_deadline(client.deadline()), client, process, book, longest_ms: 40, concurrency: 4, label: None }
    }

    fn note(&self, op: &str, attempt: &Attempt) {
        self.recorder.info_by(Process::Client(self.process), op, Some(QUEUE), json!(attempt));
    }

    /// Works through the SDK's worker until `stop`.
    ///
    /// # Errors
    /// Only if the worker cannot be made at all.
    pub async fn run_sdk(&self, stop: &CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let hand = self.clone();
            let mut worker = Worker::builder(self.client.clone())
                .name(format!("sdk-{}", self.process))
                .queue(QUEUE)
                .handler(HANDLER, move |job| {
                    let hand = hand.clone();
                    async move { hand.handle_job(&job).await }
                })
                .concurrency(self.concurrency)
                .lease(LEASE)
                .grace(GRACE);
            if let Some(label) = &self.label {
                worker = worker.label(label);
            }
            let ended = worker.build()?.run(stop.clone().cancelled_owned()).await;
            if let Err(error) = ended {
                // An outage while it registered: a service manager would start it again.
                tracing::debug!(%error, process = self.process, "a worker ended");
                pause(stop, PAUSE).await;
            }
        }
        Ok(())
    }

    async fn handle_job(&self, job: &Job) -> Result<Vec<u8>, JobError> {
        let item = item_of(job.payload()).ok_or_else(|| JobError::permanent("the payload is no item"))?;
        let attempt = Attempt {
            task: job.task_id().to_owned(),
            item: item.name.clone(),
            token: job.token(),
            number: job.attempt(),
            worker: format!("sdk-{}", self.process),
        };
        self.note(ATTEMPT, &attempt);
        self.take_time(job.attempt()).await;
        let mut inputs = Vec::new();
        for position in 0..item.after.len() {
            match job.dependency_result(position).await {
                Ok(input) => inputs.push(text(&input)),
                Err(error) => {
                    // It will be reported as a failure, and so the handler is through.
                    self.note(HANDLED, &attempt);
                    return Err(error.into());
                }
            }
        }
        let judged = self.book.judge(&item, job.attempt());
        self.note(HANDLED, &attempt);
        match judged {
            Ok(()) => Ok(result(&item, &inputs).into_bytes()),
            Err(true) => Err(JobError::permanent("it is its fate")),
            Err(false) => Err(JobError::retryable("not yet")),
        }
    }

    async fn take_time(&self, attempt: u32) {
        let time = Duration::from_millis(rand::rng().random_range(0..=self.longest_ms));
        let long = attempt > 1 && rand::rng().random_bool(LONG_AGAIN);
        tokio::time::sleep(if long { LEASE.mul_f64(LONG) } else { time }).await;
    }

    /// Works through single calls until `stop`. Misbehaves now and then if `wild`.
    ///
    /// # Errors
    /// Never; what calls meet is recorded or passed over.
    pub async fn run_calls(&self, stop: &CancellationToken, pace: &mut Pace, wild: bool) -> Result<()> {
        let mut worker: Option<String> = None;
        while !stop.is_cancelled() {
            let id = match &worker {
                Some(id) => id.clone(),
                None => match self.register().await {
                    Ok(id) => worker.insert(id).clone(),
                    Err(_) => {
                        pause(stop, PAUSE).await;
                        continue;
                    }
                },
            };
            let leased = tokio::select! {
                // What a lease that nobody waits for any more grants comes back when it ends.
                () = stop.cancelled() => break,
                leased = self.client.lease_tasks(&id, AT_ONCE, LEASE, Duration::from_secs(1)) => leased,
            };
            match leased {
                Ok(tasks) => {
                    for task in tasks {
                        self.handle_leased(&id, task, pace, wild).await;
                    }
                    let _kept_alive = self.client.heartbeat_worker(&id).await;
                }
                Err(Error::Refused(_)) => worker = None,
                Err(_) => pause(stop, PAUSE).await,
            }
        }
        Ok(())
    }

    async fn register(&self) -> Result<String, Error> {
        let request = proto::RegisterWorkerRequest {
            name: format!("calls-{}", self.process),
            capabilities: Some(proto::WorkerCapabilities {
                handlers: vec![HANDLER.to_owned()],
                namespaces: vec![self.client.namespace().to_owned()],
                queues: vec![QUEUE.to_owned()],
                ..Default::default()
            }),
            ttl_ms: 30_000,
            ..Default::default()
        };
        Ok(self.client.register_worker(request).await?.worker_id)
    }

    async fn handle_leased(&self, worker: &str, task: proto::LeasedTask, pace: &mut Pace, wild: bool) {
        let Some(item) = task.spec.as_ref().and_then(|spec| item_of(&spec.payload)) else {
            return;
        };
        let attempt = Attempt {
            task: task.task_id.clone(),
            item: item.name.clone(),
            token: task.token,
            number: task.attempt,
            worker: worker.to_owned(),
        };
        self.note(ATTEMPT, &attempt);
        if wild && pace.chance(0.03) {
            // It walks away: the lease ends by itself.
            return;
        }
        self.take_time(task.attempt).await;
        if wild && pace.chance(0.03) {
            // It stalls, and reports under a token that may be stale by then.
            tokio::time::sleep(LEASE.mul_f64(STALL)).await;
        } else if pace.chance(0.2) {
            self.renew(worker, &task).await;
        }
        let inputs = match self.inputs(&task).await {
            Ok(inputs) => inputs,
            Err(_) => return,
        };
        let judged = self.book.judge(&item, task.attempt);
        self.note(HANDLED, &attempt);
        let outcome = judged.map(|()| result(&item, &inputs));
        self.report(&task, &outcome).await;
        if wild && pace.chance(0.05) {
            self.report(&task, &outcome).await;
        }
    }

    async fn renew(&self, worker: &str, task: &proto::LeasedTask) {
        let request = proto::HeartbeatTasksRequest {
            worker_id: worker.to_owned(),
            leases: vec![proto::TaskLease {
                namespace: task.namespace.clone(),
                task_id: task.task_id.clone(),
                token: task.token,
                progress: None,
            }],
            lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
        };
        let _renewed = self.client.heartbeat_tasks(request).await;
    }

    async fn inputs(&self, task: &proto::LeasedTask) -> Result<Vec<String>, Error> {
        let mut inputs = Vec::new();
        for dependency in &task.dependencies {
            inputs.push(text(&self.client.get_task(dependency).await?.result));
        }
        Ok(inputs)
    }

    /// Reports a result, or a failure that is for good or not; the report and its outcome are an operation of the history.
    async fn report(&self, task: &proto::LeasedTask, outcome: &Result<String, bool>) {
        let process = Process::Client(self.process);
        let mut report = Report { task: task.task_id.clone(), token: task.token, ..Report::default() };
        match outcome {
            Ok(result) => {
                report.result = Some(result.clone());
                let pending = self.recorder.invoke(process, COMPLETE, Some(QUEUE), json!(report));
                let request = proto::CompleteTaskRequest {
                    namespace: task.namespace.clone(),
                    task_id: task.task_id.clone(),
                    token: task.token,
                    result: result.clone().into(),
                    ..Default::default()
                };
                settle(pending, &self.client.complete_task(request).await, |()| Value::Null);
            }
            Err(last) => {
                report.last = *last;
                let pending = self.recorder.invoke(process, FAIL, Some(QUEUE), json!(report));
                let kind = if *last { proto::FailureKind::Final } else { proto::FailureKind::Retryable };
                let request = proto::FailTaskRequest {
                    namespace: task.namespace.clone(),
                    task_id: task.task_id.clone(),
                    token: task.token,
                    kind: kind.into(),
                    error: Some(proto::TaskError { reason: "FATE".to_owned(), message: "it is its fate".to_owned() }),
                    ..Default::default()
                };
                let result = self.client.fail_task(request).await;
                settle(pending, &result, |state| json!(state_name(*state)));
            }
        }
    }
}

fn result(item: &Item, inputs: &[String]) -> String {
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    result_of(&item.name, &inputs)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn pause(stop: &CancellationToken, time: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}

//! The jobs that run and the reports that no node has taken yet. Both outlive the stream over which the tasks came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};

use super::job::{Job, JobError};
use crate::client::Client;
use crate::error::Refusal;
use crate::proto;

/// How long a handler whose work is of no use any more may take to notice before it is dropped.
pub(super) const ABANDON_AFTER: Duration = Duration::from_secs(5);

/// The largest result that the cluster takes. Checked here too, because a message far beyond it would break the stream each time it is sent.
const RESULT_BYTES_MAX: usize = 1 << 20;
/// The longest reason and message of a failure that the cluster takes; the rest is cut off rather than refused.
const REASON_BYTES_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// A handler, as the worker keeps it.
pub(super) type Handler = Arc<dyn Fn(Job) -> BoxFuture<'static, Result<Bytes, JobError>> + Send + Sync>;

/// The handlers by name, and the one for all other names.
#[derive(Clone, Default)]
pub(super) struct Handlers {
    pub(super) named: BTreeMap<String, Handler>,
    pub(super) other: Option<Handler>,
}

impl Handlers {
    fn find(&self, name: &str) -> Option<&Handler> {
        self.named.get(name).or(self.other.as_ref())
    }
}

/// Where a running job stands with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Held,
    /// Somebody asked to cancel the task.
    CancelRequested,
    /// The lease is gone: what the job reports will not be taken.
    Lost,
    /// The worker stops and waits no longer.
    Stopped,
}

struct Running {
    job: Job,
    standing: Standing,
}

/// What became of an attempt, until a node has taken it. The request id stays the same however often it is sent.
#[derive(Debug, Clone)]
pub(super) enum Report {
    Complete(proto::CompleteTaskRequest),
    Fail(proto::FailTaskRequest),
}

/// The jobs and the reports, by fencing token.
pub(super) struct Crew {
    client: Client,
    handlers: Handlers,
    concurrency: usize,
    running: BTreeMap<u64, Running>,
    reports: BTreeMap<u64, Report>,
    tasks: JoinSet<Result<Bytes, JobError>>,
    tokens: HashMap<Id, u64>,
}

impl Crew {
    pub(super) fn new(client: Client, handlers: Handlers, concurrency: usize) -> Crew {
        Crew {
            client,
            handlers,
            concurrency,
            running: BTreeMap::new(),
            reports: BTreeMap::new(),
            tasks: JoinSet::new(),
            tokens: HashMap::new(),
        }
    }

    /// How many more tasks can be taken. Reports that nobody takes hold tasks back too, so that results do not pile up in memory: with as
    /// many of them as there are places, the worker stops taking tasks.
    pub(super) fn room(&self) -> usize {
        let places = self.concurrency.saturating_sub(self.running.len());
        places.min((2 * self.concurrency).saturating_sub(self.running.len() + self.reports.len()))
    }

    /// Whether nothing runs and nothing is to be reported.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.reports.is_empty()
    }

    /// The leases of the running jobs.
    pub(super) fn leases(&self) -> Vec<proto::TaskLease> {
        let held = self.running.values().filter(|running| running.standing != Standing::Lost);
        held.map(|running| lease_of(&running.job)).collect()
    }

    /// What is to be reported, by token.
    pub(super) fn reports(&self) -> impl Iterator<Item = (u64, &Report)> {
        self.reports.iter().map(|(token, report)| (*token, report))
    }

    /// The report with this token.
    pub(super) fn report(&self, token: u64) -> Option<&Report> {
        self.reports.get(&token)
    }

    /// Starts a task's handler. Returns the task's token where there is a report at once instead, because nothing can run it.
    pub(super) fn accept(&mut self, leased: proto::LeasedTask) -> Option<u64> {
        let token = leased.token;
        if self.running.contains_key(&token) || self.reports.contains_key(&token) {
            return None;
        }
        let name = leased.spec.as_ref().map(|spec| spec.handler.clone());
        let handler = name.as_deref().and_then(|name| self.handlers.find(name)).cloned();
        let Some(handler) = handler else {
            let message = format!("this worker has no handler named {:?}", name.unwrap_or_default());
            let error = JobError::retryable(message).with_reason("HANDLER_UNKNOWN");
            self.file_failure(lease_of_task(&leased), error, Bytes::new());
            return Some(token);
        };
        let job = Job::new(leased, &self.client);
        let task = self.tasks.spawn(attend(handler, job.clone()));
        self.tokens.insert(task.id(), token);
        self.running.insert(token, Running { job, standing: Standing::Held });
        None
    }

    /// Gives a task back that came when the worker takes no more; the report waits under its token.
    pub(super) fn give_back(&mut self, leased: proto::LeasedTask) -> u64 {
        let token = leased.token;
        let error = JobError {
            kind: proto::FailureKind::Returned,
            reason: "WORKER_DRAINING".into(),
            message: "the worker stops and has not begun the task".into(),
        };
        self.file_failure(lease_of_task(&leased), error, Bytes::new());
        token
    }

    /// Waits for a job to end; for ever where none runs. Returns its token if there is something to report. Dropping the wait loses nothing.
    pub(super) async fn finished(&mut self) -> Option<u64> {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.settle(ended),
            None => std::future::pending().await,
        }
    }

    /// The same without waiting.
    pub(super) fn finished_already(&mut self) -> Option<Option<u64>> {
        let ended = self.tasks.try_join_next_with_id()?;
        Some(self.settle(ended))
    }

    fn settle(&mut self, ended: Result<(Id, Result<Bytes, JobError>), JoinError>) -> Option<u64> {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(panicked(error))),
        };
        let token = self.tokens.remove(&id).expect("each spawned job was noted");
        let Running { job, standing } = self.running.remove(&token).expect("each noted job runs");
        let log = job.take_log();
        let result = result.and_then(|result| match result.len() {
            0..=RESULT_BYTES_MAX => Ok(result),
            bytes => {
                let message = format!("the result has {bytes} bytes, of {RESULT_BYTES_MAX} that are possible: store it elsewhere");
                Err(JobError::permanent(message).with_reason("RESULT_TOO_LARGE"))
            }
        });
        match (result, standing) {
            (_, Standing::Lost) => return None,
            (Ok(result), _) => {
                let request = proto::CompleteTaskRequest {
                    request_id: String::new(),
                    namespace: job.namespace().to_owned(),
                    task_id: job.task_id().to_owned(),
                    token,
                    result,
                    logs: log,
                };
                self.reports.insert(token, Report::Complete(request));
            }
            (Err(error), Standing::Held) => self.file_failure(lease_of(&job), error, log),
            (Err(error), Standing::CancelRequested) => {
                let error = JobError { kind: proto::FailureKind::Cancelled, reason: "CANCELLED".into(), ..error };
                self.file_failure(lease_of(&job), error, log);
            }
            (Err(error), Standing::Stopped) => {
                let error = JobError { reason: "WORKER_STOPPED".into(), ..error };
                self.file_failure(lease_of(&job), error, log);
            }
        }
        Some(token)
    }

    fn file_failure(&mut self, lease: proto::TaskLease, error: JobError, logs: Bytes) {
        let request = proto::FailTaskRequest {
            request_id: String::new(),
            namespace: lease.namespace,
            task_id: lease.task_id,
            token: lease.token,
            kind: error.kind.into(),
            error: Some(proto::TaskError { reason: cut(error.reason, REASON_BYTES_MAX), message: cut(error.message, MESSAGE_BYTES_MAX) }),
            logs,
        };
        self.reports.insert(lease.token, Report::Fail(request));
    }

    /// Takes the cluster's word on a lease.
    pub(super) fn hear(&mut self, report: &proto::LeaseReport) {
        let Some(running) = self.running.get_mut(&report.token) else {
            return;
        };
        match report.status() {
            proto::LeaseStatus::CancelRequested if running.standing == Standing::Held => {
                running.standing = Standing::CancelRequested;
                running.job.shared.cancelled.cancel();
            }
            proto::LeaseStatus::Lost => {
                tracing::warn!(job = ?running.job, "a lease was lost");
                running.standing = Standing::Lost;
                running.job.shared.cancelled.cancel();
                running.job.shared.abandoned.cancel();
            }
            proto::LeaseStatus::CancelRequested | proto::LeaseStatus::Held | proto::LeaseStatus::Unspecified => {}
        }
    }

    /// A node has taken the report.
    pub(super) fn taken(&mut self, token: u64) {
        self.reports.remove(&token);
    }

    /// A node refused the report for good. A result that it would not take becomes a failure, which names the reason; what else is refused
    /// can only mean that the attempt is over. Returns whether there is something to report in its place.
    pub(super) fn refused(&mut self, token: u64, refusal: Refusal) -> bool {
        match self.reports.remove(&token) {
            Some(Report::Complete(request)) if refusal.code == tonic::Code::InvalidArgument => {
                let lease = proto::TaskLease { namespace: request.namespace, task_id: request.task_id, token, progress: None };
                let error = JobError::permanent(format!("the result was refused: {}", refusal.message));
                self.file_failure(lease, error.with_reason(refusal.reason), Bytes::new());
                true
            }
            Some(_) => {
                tracing::warn!(token, %refusal, "what became of an attempt was not taken");
                false
            }
            None => false,
        }
    }

    /// Has every job stop, because the worker waits no longer.
    pub(super) fn abandon(&mut self) {
        for running in self.running.values_mut() {
            if running.standing != Standing::Lost {
                running.standing = Standing::Stopped;
            }
            running.job.shared.cancelled.cancel();
            running.job.shared.abandoned.cancel();
        }
    }
}

/// Runs a handler until it ends, or has been abandoned for long enough.
async fn attend(handler: Handler, job: Job) -> Result<Bytes, JobError> {
    let abandoned = job.shared.abandoned.clone();
    let patience = async {
        abandoned.cancelled().await;
        tokio::time::sleep(ABANDON_AFTER).await;
    };
    tokio::select! {
        // Made inside, so that a handler that panics before its first wait ends this task only.
        result = async { handler(job).await } => result,
        () = patience => Err(JobError::retryable("the handler did not stop in time and was dropped")),
    }
}

fn panicked(error: JoinError) -> JobError {
    let message = match error.try_into_panic() {
        Ok(panic) => panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into()),
        Err(error) => error.to_string(),
    };
    JobError::retryable(format!("the handler panicked: {message}")).with_reason("HANDLER_PANICKED")
}

/// The text, or as much of it as fits.
fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

fn lease_of(job: &Job) -> proto::TaskLease {
    proto::TaskLease { namespace: job.namespace().into(), task_id: job.task_id().into(), token: job.token(), progress: None }
}

fn lease_of_task(leased: &proto::LeasedTask) -> proto::TaskLease {
    proto::TaskLease { namespace: leased.namespace.clone(), task_id: leased.task_id.clone(), token: leased.token, progress: None }
}

//! What came of an attempt, told to the cluster until it has heard it or the lease is over.

use std::time::Duration;

use bytes::Bytes;
use tarn_proto::CommandBody;
use tarn_proto::v1::{self, FailureKind};
use tokio::time::Instant;

use super::attempt::End;
use super::{PAUSE, Shared, redact};
use crate::dispatch::Session;
use crate::ops::Run;

/// A result is worth telling for this long: leases are renewed meanwhile, and a change of leader takes seconds.
const REPORT_FOR: Duration = Duration::from_secs(60);

/// Logs of one attempt that the kernel keeps.
const LOGS_BYTES_MAX: usize = tarn_machine::limits::LOGS_BYTES_MAX;

/// Longest sentence that the kernel keeps.
const MESSAGE_BYTES_MAX: usize = tarn_machine::limits::MESSAGE_BYTES_MAX;

/// Reports the end of an attempt.
pub(super) async fn send(shared: &Shared, session: &Session, task: &v1::LeasedTask, end: End) {
    count(shared, &end);
    if end.was_stopped() {
        if shared.kill.is_cancelled() && !shared.held.is_lost(task.token) {
            fail(shared, session, task, interrupted(task), "NODE_STOPPING", "the node stopped", Bytes::new()).await;
        } else {
            cancelled(shared, session, task).await;
        }
        return;
    }
    match end {
        End::Report(report) => {
            let request = v1::CompleteTaskRequest {
                namespace: task.namespace.clone(),
                task_id: task.task_id.clone(),
                token: task.token,
                result: report.output,
                logs: last(report.logs),
                request_id: request_id(task),
            };
            tell(shared, session, task, request).await;
        }
        End::Failure(failure) => {
            let kind = if failure.error.retryable() { FailureKind::Retryable } else { FailureKind::Final };
            let message = redact::message(task, &failure.error);
            fail(shared, session, task, kind, failure.error.reason(), &message, last(failure.logs)).await;
        }
        End::Unfit(unfit) => {
            let kind = if unfit.retryable { FailureKind::Retryable } else { FailureKind::Final };
            fail(shared, session, task, kind, unfit.reason, &unfit.message, Bytes::new()).await;
        }
    }
}

/// What becomes of an attempt that the node stopped. One that reaches nothing outside of its sandbox is as good as not begun; one that could
/// reach the world counts, because the world may have seen it.
fn interrupted(task: &v1::LeasedTask) -> FailureKind {
    let grants = task.spec.as_ref().and_then(|spec| spec.grants.as_ref());
    match grants.is_some_and(|grants| grants.network || !grants.http.is_empty()) {
        true => FailureKind::Retryable,
        false => FailureKind::Returned,
    }
}

/// Reports that a cancellation was obeyed. A lost lease is nobody's business any more.
pub(super) async fn cancelled(shared: &Shared, session: &Session, task: &v1::LeasedTask) {
    if !shared.held.is_lost(task.token) {
        fail(shared, session, task, FailureKind::Cancelled, "CANCELLED", "the task was cancelled", Bytes::new()).await;
    }
}

async fn fail(shared: &Shared, session: &Session, task: &v1::LeasedTask, kind: FailureKind, reason: &str, message: &str, logs: Bytes) {
    let message = message.chars().take(MESSAGE_BYTES_MAX / 4).collect();
    let request = v1::FailTaskRequest {
        namespace: task.namespace.clone(),
        task_id: task.task_id.clone(),
        token: task.token,
        kind: kind.into(),
        error: Some(v1::TaskError { reason: reason.into(), message }),
        logs,
        request_id: request_id(task),
    };
    tell(shared, session, task, request).await;
}

/// The same at every repeat of the report of one attempt.
fn request_id(task: &v1::LeasedTask) -> String {
    format!("{}/{}", task.task_id, task.token)
}

/// The end of the logs, which tells more than their beginning.
fn last(logs: Bytes) -> Bytes {
    logs.slice(logs.len().saturating_sub(LOGS_BYTES_MAX)..)
}

/// Repeats a report until it is taken or refused.
async fn tell<R: CommandBody>(shared: &Shared, session: &Session, task: &v1::LeasedTask, request: R) {
    session.settled(&task.task_id);
    let until = Instant::now() + REPORT_FOR;
    while Instant::now() < until && !shared.held.is_lost(task.token) {
        match shared.command(request.clone()).await {
            Ok(_) => return,
            Err(refusal) if refusal.passes() => tokio::time::sleep(PAUSE).await,
            Err(refusal) => {
                tracing::info!(
                    namespace = task.namespace,
                    task = task.task_id,
                    reason = refusal.reason(),
                    "an attempt's report was refused"
                );
                return;
            }
        }
    }
}

fn count(shared: &Shared, end: &End) {
    let metrics = shared.way.metrics();
    let runtime = shared.options.executor.runtime();
    metrics.executor_runs.get_or_create(&Run { runtime, result: end.name().to_owned() }).inc();
    let ran = match end {
        End::Report(report) => report.usage.ran,
        End::Failure(failure) => failure.usage.ran,
        End::Unfit(_) => return,
    };
    metrics.executor_seconds.observe(ran.as_secs_f64());
}

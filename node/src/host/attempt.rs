//! One attempt: from a granted task to its report.

use std::sync::Arc;

use tarn_executor::{Attempt, ExecutionError, Failure, Limits, Report, Source};
use tarn_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::services::Services;
use super::work::Work;
use super::{Shared, grants, report, work};
use crate::dispatch::{Granted, Session};

/// The guest must end this much before the attempt does, so that its own report arrives before the cluster's time-out, in milliseconds.
const REPORT_MS: u64 = 100;

/// Defaults of the contract, where a specification says nothing.
const ATTEMPT_TIMEOUT_MS: u64 = 3_600_000;
const MEMORY_BYTES: u64 = 64 << 20;
const OUTPUT_BYTES: u64 = 1 << 20;

/// A result of the kernel's largest size. More output could never be reported.
const RESULT_BYTES_MAX: u64 = tarn_machine::limits::PAYLOAD_BYTES_MAX as u64;

/// Why an attempt could not even be tried.
pub(super) struct Unfit {
    /// Stable, `UPPER_SNAKE`.
    pub reason: &'static str,
    pub message: String,
    /// Another attempt may do better.
    pub retryable: bool,
}

/// What came of an attempt.
pub(super) enum End {
    Report(Report),
    Failure(Failure),
    Unfit(Unfit),
}

/// Runs a task and reports what came of it. A task that was not begun goes back, as `granted` is dropped.
pub(super) async fn run(shared: &Shared, session: &Session, granted: Granted, cancel: CancellationToken) {
    let received = Instant::now();
    let slot = tokio::select! {
        biased;
        () = shared.drain.cancelled() => return,
        () = cancel.cancelled() => None,
        slot = shared.slots.clone().acquire_owned() => Some(slot.expect("the semaphore is never closed")),
    };
    let task = granted.deliver();
    let Some(slot) = slot else {
        report::cancelled(shared, session, &task).await;
        return;
    };
    shared.way.metrics().executor_running.inc();
    let end = execute(shared, &task, received, &cancel).await;
    shared.way.metrics().executor_running.dec();
    // The next attempt runs while this one's report is on its way.
    drop(slot);
    report::send(shared, session, &task, end).await;
}

async fn execute(shared: &Shared, task: &v1::LeasedTask, received: Instant, cancel: &CancellationToken) -> End {
    let attempt = match prepare(shared, task, received).await {
        Ok(attempt) => attempt,
        Err(unfit) => return End::Unfit(unfit),
    };
    let stop = cancel.child_token();
    let running = shared.options.executor.run(attempt, stop.clone());
    tokio::pin!(running);
    let result = tokio::select! {
        result = &mut running => result,
        () = shared.kill.cancelled() => {
            stop.cancel();
            running.await
        }
    };
    match result {
        Ok(report) => End::Report(report),
        Err(failure) => End::Failure(failure),
    }
}

/// What to run, out of the task's specification.
async fn prepare(shared: &Shared, task: &v1::LeasedTask, received: Instant) -> Result<Attempt, Unfit> {
    let spec = task.spec.as_ref().ok_or_else(|| unfit("BAD_SPEC", "the task has no specification"))?;
    let work = work::of(shared, task, spec).await?;
    let limits = limits(spec, &work, received);
    let (runtime, memory_bytes_max) = (&spec.runtime, shared.options.memory_bytes_max);
    if limits.memory_bytes > memory_bytes_max {
        let message = format!(
            "the task asks for {} bytes of memory and the nodes allow {memory_bytes_max} for the runtime {runtime:?}: ask for less, or raise executors.{runtime}_memory_bytes",
            limits.memory_bytes
        );
        return Err(unfit("MEMORY_NOT_ALLOWED", message));
    }
    Ok(Attempt {
        tenant: task.namespace.as_str().into(),
        artifact: work.artifact,
        source: Source::Provider(Arc::clone(&shared.options.artifacts)),
        kind: work.kind,
        limits,
        grants: grants::of(spec.grants.as_ref())?,
        services: Arc::new(Services::new(shared, task)),
    })
}

fn limits(spec: &v1::TaskSpec, work: &Work, received: Instant) -> Limits {
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let spent = u64::try_from(received.elapsed().as_millis()).unwrap_or(u64::MAX);
    let timeout = or(spec.attempt_timeout_ms, ATTEMPT_TIMEOUT_MS);
    // A very short time-out keeps half of its time for the report.
    let left = timeout.saturating_sub(spent).saturating_sub(REPORT_MS.min(timeout / 2));
    Limits {
        memory_bytes: or(work.memory_bytes, MEMORY_BYTES),
        time_ms: left.clamp(1, tarn_executor::TIME_MS_MAX),
        output_bytes: or(work.output_bytes, OUTPUT_BYTES).min(RESULT_BYTES_MAX),
        fuel: Some(work.fuel).filter(|fuel| *fuel > 0),
        ..Limits::default()
    }
}

pub(super) fn unfit(reason: &'static str, message: impl Into<String>) -> Unfit {
    Unfit { reason, message: message.into(), retryable: false }
}

impl End {
    /// The result, for metrics.
    pub fn name(&self) -> &str {
        match self {
            Self::Report(_) => "ok",
            Self::Failure(failure) => failure.error.reason(),
            Self::Unfit(unfit) => unfit.reason,
        }
    }

    /// Whether the attempt was stopped from outside.
    pub fn was_stopped(&self) -> bool {
        matches!(self, Self::Failure(failure) if failure.error == ExecutionError::Cancelled)
    }
}

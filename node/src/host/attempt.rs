//! One attempt: from a granted task to its report.

use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_executor::{Argument, Attempt, Command, ExecutionError, Failure, Hash, Kind, Limits, Report, Source};
use tarn_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::services::Services;
use super::{Shared, grants, input, report};
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
    let spec = task
        .spec
        .as_ref()
        .ok_or_else(|| unfit("BAD_SPEC", "the task has no specification"))?;
    let work = Work::of(spec)?;
    let limits = limits(spec, &work, received);
    let (runtime, memory_bytes_max) = (&spec.runtime, shared.options.memory_bytes_max);
    if limits.memory_bytes > memory_bytes_max {
        let message = format!(
            "the task asks for {} bytes of memory and the nodes allow {memory_bytes_max} for the runtime {runtime:?}: ask for less, or raise executors.{runtime}_memory_bytes",
            limits.memory_bytes
        );
        return Err(unfit("MEMORY_NOT_ALLOWED", message));
    }
    let artifact: Hash = work
        .artifact
        .parse()
        .map_err(|error| unfit("BAD_SPEC", format!("the artifact: {error}")))?;
    let kind = if work.export.is_empty() {
        Kind::Command(Command {
            args: work.args.to_vec(),
            env: work.env.clone(),
            input: input::of(shared, task, spec, work.feed_dependency_results).await?,
        })
    } else {
        let params = work.params.iter().map(|param| Argument::from(param.as_str())).collect();
        Kind::Export {
            name: work.export.to_owned(),
            params,
        }
    };
    Ok(Attempt {
        tenant: task.namespace.as_str().into(),
        artifact,
        source: Source::Provider(Arc::clone(&shared.options.artifacts)),
        kind,
        limits,
        grants: grants::of(spec.grants.as_ref())?,
        services: Arc::new(Services::new(Arc::clone(&shared.held), task.token)),
    })
}

/// The part of a specification that says what an executor runs.
struct Work<'a> {
    artifact: &'a str,
    args: &'a [String],
    env: &'a BTreeMap<String, String>,
    export: &'a str,
    params: &'a [String],
    memory_bytes: u64,
    output_bytes: u64,
    fuel: u64,
    feed_dependency_results: bool,
}

impl<'a> Work<'a> {
    fn of(spec: &'a v1::TaskSpec) -> Result<Self, Unfit> {
        match (&spec.wasm, &spec.native) {
            (Some(wasm), None) => Ok(Self {
                artifact: &wasm.artifact,
                args: &wasm.args,
                env: &wasm.env,
                export: &wasm.export,
                params: &wasm.params,
                memory_bytes: wasm.memory_bytes,
                output_bytes: wasm.output_bytes,
                fuel: wasm.fuel,
                feed_dependency_results: wasm.feed_dependency_results,
            }),
            (None, Some(native)) => Ok(Self {
                artifact: &native.artifact,
                args: &native.args,
                env: &native.env,
                export: "",
                params: &[],
                memory_bytes: native.memory_bytes,
                output_bytes: native.output_bytes,
                fuel: 0,
                feed_dependency_results: native.feed_dependency_results,
            }),
            (None, None) | (Some(_), Some(_)) => {
                let message = format!(
                    "a task of the runtime {:?} has one part that says what to run",
                    spec.runtime
                );
                Err(unfit("BAD_SPEC", message))
            }
        }
    }
}

fn limits(spec: &v1::TaskSpec, work: &Work<'_>, received: Instant) -> Limits {
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
    Unfit {
        reason,
        message: message.into(),
        retryable: false,
    }
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

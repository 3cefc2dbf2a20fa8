//! One guest calls another: it runs inside of the caller's attempt, in the caller's slot, within what the caller has left.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use super::cache::Cache;
use super::contract::{CALL, call};
use super::guest::Guest;
use super::host::Host;
use super::http::HttpClient;
use super::pipe::Pipe;
use super::run::{Job, start};
use crate::{Command, ExecutionError, Grants, Hash, HostServices, Kind, Limits, Source};

type Answer = Result<Vec<u8>, call::Failure>;

/// Offers `tarn:guest/call`.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(CALL)?.func_wrap_async(
        "run",
        |store: StoreContextMut<'_, Guest>, (artifact, args, input): (String, Vec<String>, Vec<u8>)| {
            Box::new(async move { Ok((run(store, artifact, args, input).await?,)) })
        },
    )
}

async fn run(mut store: StoreContextMut<'_, Guest>, artifact: String, args: Vec<String>, input: Vec<u8>) -> wasmtime::Result<Answer> {
    let Ok(artifact) = artifact.parse::<Hash>() else {
        let message = "an artifact is named by its hash in hexadecimal".to_owned();
        return Ok(Err(failure(&ExecutionError::bad_arguments(message))));
    };
    let guest = store.data_mut();
    if !guest.reach().grants.calls.artifacts.contains(&artifact) {
        let advice = format!("add {artifact} to `calls` in the task's grants, with a depth that suffices");
        return Err(guest.refuse("calls", format!("artifact {artifact}"), advice));
    }
    let command = Command { args, env: guest.reach().env.clone(), input: input.into() };
    let job = match prepare(inheritance(&store), artifact, Kind::Command(command)).await {
        Ok(job) => job,
        Err(error) => return Ok(Err(failure(&error))),
    };
    let metered = job.limits.fuel;
    let ended = start(job).await;
    if let (Some(had), Some(used)) = (metered, ended.usage.fuel) {
        store.set_fuel(had.saturating_sub(used))?;
    }
    let meter = &mut store.data_mut().meter;
    meter.peak_bytes = meter.peak_bytes.max(meter.bytes + ended.usage.memory_bytes_peak);
    Ok(match ended.result {
        Ok((output, _)) => Ok(output.into()),
        Err(error) => Err(failure(&error)),
    })
}

/// What the callee gets from the caller.
struct Inheritance {
    limits: Limits,
    grants: Grants,
    services: Arc<dyn HostServices>,
    scratch_dir: Arc<Path>,
    cancel: CancellationToken,
    logs: Pipe,
    source: Source,
    cache: Arc<Cache>,
    http: Arc<HttpClient>,
    host: Arc<Host>,
}

/// The limits that the caller has left, and its grants.
fn inheritance(store: &StoreContextMut<'_, Guest>) -> Inheritance {
    let guest = store.data();
    let reach = guest.reach_ref();
    let left = guest.watch.deadline().saturating_duration_since(Instant::now());
    let limits = Limits {
        memory_bytes: reach.limits.memory_bytes.saturating_sub(guest.meter.bytes),
        // A little more than is left, so that it is the caller whose time is over.
        time_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(2),
        // Fuel that is not limited is not handed on.
        fuel: reach.limits.fuel.and_then(|_| store.get_fuel().ok()),
        ..reach.limits
    };
    Inheritance {
        limits,
        grants: reach.grants.of_callee(),
        services: Arc::clone(&reach.services),
        scratch_dir: Arc::clone(&reach.scratch_dir),
        cancel: guest.watch.cancel().clone(),
        logs: reach.logs.clone(),
        source: reach.source.clone(),
        cache: Arc::clone(&reach.cache),
        http: Arc::clone(&reach.http),
        host: Arc::clone(&reach.host),
    }
}

async fn prepare(from: Inheritance, artifact: Hash, kind: Kind) -> Result<Job, ExecutionError> {
    let program = from.cache.program(&from.host, artifact, from.source.clone()).await?;
    let (call, command) = program.resolve(kind)?;
    Ok(Job {
        program,
        call,
        command,
        limits: from.limits,
        grants: from.grants,
        services: from.services,
        scratch_dir: from.scratch_dir,
        cancel: from.cancel,
        logs: Some(from.logs),
        source: from.source,
        cache: from.cache,
        http: from.http,
        host: from.host,
    })
}

fn failure(error: &ExecutionError) -> call::Failure {
    call::Failure { reason: error.reason().to_owned(), message: error.to_string(), retryable: error.retryable() }
}

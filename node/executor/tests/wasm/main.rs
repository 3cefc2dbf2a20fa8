//! The conformance suite of the `wasm` runtime. Each test runs on both ways to get memory, because what a task sees must
//! not depend on how a node is set up. Guests are WebAssembly text, so that nothing but this crate is needed.

mod cache;
mod commands;
mod components;
mod concurrency;
mod drivers;
mod functions;
mod grants;
mod guests;
mod http;
mod limits;
mod modules;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_executor::{
    Allocation, Argument, Attempt, Command, ExecutionError, Executor, Failure, Grants, Hash, Kind, Limits, NoServices,
    Report, Source, WasmConfig, WasmExecutor,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a machine that is busy with other things. Reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// One executor for each way to get memory.
fn executors() -> [WasmExecutor; 2] {
    [Allocation::Pooling, Allocation::OnDemand]
        .map(|allocation| WasmExecutor::new(WasmConfig { slots: 4, allocation, ..WasmConfig::default() }).unwrap())
}

fn attempt(module: &str, kind: Kind) -> Attempt {
    Attempt {
        tenant: "t".into(),
        artifact: Hash::of(module.as_bytes()),
        source: Source::Bytes(Bytes::copy_from_slice(module.as_bytes())),
        kind,
        limits: Limits::default(),
        grants: Grants::default(),
        services: Arc::new(NoServices),
    }
}

fn command(module: &str) -> Attempt {
    attempt(module, Kind::Command(Command::default()))
}

fn export(module: &str, name: &str, params: Vec<Argument>) -> Attempt {
    attempt(module, Kind::Export { name: name.into(), params })
}

async fn run(executor: &WasmExecutor, attempt: Attempt) -> Result<Report, Failure> {
    let running = executor.run(attempt, CancellationToken::new());
    tokio::time::timeout(PATIENCE, running).await.expect("the attempt does not end")
}

async fn succeed(executor: &WasmExecutor, attempt: Attempt) -> Report {
    run(executor, attempt).await.expect("the attempt should succeed")
}

async fn fail(executor: &WasmExecutor, attempt: Attempt) -> Failure {
    run(executor, attempt).await.expect_err("the attempt should fail")
}

/// Asserts what programs rely on: the name and the verdict.
fn assert_reason(error: &ExecutionError, reason: &str, retryable: bool) {
    assert_eq!(error.reason(), reason, "{error}");
    assert_eq!(error.retryable(), retryable, "{error}");
}

//! Attempts at guests, and how they have to end.

use std::time::Duration;

use bytes::Bytes;
use tarn_executor::{Argument, Attempt, Command, ExecutionError, Executor, Failure, Hash, Kind, Report, Source};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a machine that is busy with other things. Reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An attempt at a module, which may be given as text.
pub fn attempt(module: &str, kind: Kind) -> Attempt {
    let bytes = Bytes::copy_from_slice(module.as_bytes());
    let attempt = Attempt::new(Hash::of(&bytes), Source::Bytes(bytes), kind);
    Attempt { grants: crate::grants(), ..attempt }
}

pub fn command(module: &str) -> Attempt {
    attempt(module, Kind::Command(Command::default()))
}

pub fn with_args(module: &str, args: &[&str]) -> Attempt {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    attempt(module, Kind::Command(Command { args, ..Command::default() }))
}

pub fn with_env(module: &str, env: &[(&str, &str)]) -> Attempt {
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    attempt(module, Kind::Command(Command { env, ..Command::default() }))
}

pub fn with_input(module: &str, input: impl Into<Bytes>) -> Attempt {
    attempt(module, Kind::Command(Command { input: input.into(), ..Command::default() }))
}

pub fn export(module: &str, name: &str, params: Vec<Argument>) -> Attempt {
    attempt(module, Kind::Export { name: name.into(), params })
}

pub async fn run(executor: &impl Executor, attempt: Attempt) -> Result<Report, Failure> {
    let running = executor.run(attempt, CancellationToken::new());
    tokio::time::timeout(PATIENCE, running).await.expect("the attempt does not end")
}

pub async fn succeed(executor: &impl Executor, attempt: Attempt) -> Report {
    run(executor, attempt).await.expect("the attempt should succeed")
}

pub async fn fail(executor: &impl Executor, attempt: Attempt) -> Failure {
    run(executor, attempt).await.expect_err("the attempt should fail")
}

/// Asserts what programs rely on: the name and the verdict.
pub fn assert_reason(error: &ExecutionError, reason: &str, retryable: bool) {
    assert_eq!(error.reason(), reason, "{error}");
    assert_eq!(error.retryable(), retryable, "{error}");
}

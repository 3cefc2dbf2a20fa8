//! The tarn binary.

use std::process::ExitCode;

/// The system's allocator, with a ration for each evaluation of a policy.
#[global_allocator]
static ALLOCATOR: tarn_policy::Rationed = tarn_policy::Rationed;

fn main() -> ExitCode {
    // Before anything makes a thread: a child of an executor forks.
    match tarn::daemon::child_main() {
        None => tarn::cli::main(),
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("tarn: a child process of an executor failed: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The tarn binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use tarn_policy::Rationed;

/// With a ration for each evaluation of a policy. RocksDB keeps the system's: an allocator that stands in for `malloc` itself does not start
/// under the library that gives fault tests their wrong clocks.
#[global_allocator]
static ALLOCATOR: Rationed<MiMalloc> = Rationed(MiMalloc);

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

//! The tarn binary.

use std::process::ExitCode;

/// The system's allocator, with a ration for each evaluation of a policy.
#[global_allocator]
static ALLOCATOR: tarn_policy::Rationed = tarn_policy::Rationed;

fn main() -> ExitCode {
    tarn::cli::main()
}

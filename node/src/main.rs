//! The tarn binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tarn::cli::main()
}

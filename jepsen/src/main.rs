//! The `jepsen` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tarn_jepsen::cli::main()
}

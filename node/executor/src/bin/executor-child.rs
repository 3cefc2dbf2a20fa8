//! The processes that executors start, as a binary of their own, for the tests of this crate. A node's binary becomes the same with the
//! same arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let role = args.next().unwrap_or_default();
    match tarn_executor::child_main(&role, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

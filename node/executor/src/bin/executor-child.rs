//! The processes that executors start, as a binary of their own, for the tests of this crate. A node's binary becomes the same with the
//! same arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    let role = std::env::args().nth(1);
    let done = match role.as_deref() {
        Some("native") => tarn_executor::native::launcher_main(),
        other => Err(std::io::Error::other(format!(
            "no child process of an executor is called {other:?}"
        ))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

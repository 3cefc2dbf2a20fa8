//! Built-in transforms on the processor: this binary itself, as the program of an attempt, behind the same walls as any other.
//!
//! So a transform that takes too long or too much memory ends like any process, and nothing of it runs in the node.

use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tarn_transform::{Budget, TransformError};

use crate::{Command, ExecutionError, TransformCall};

/// The role of the program.
pub(super) const ROLE: &str = "transform";

/// The exit status after an error that the last line of standard error tells.
const EXIT_TOLD: i32 = 65;

/// What is told: one line of JSON.
#[derive(Serialize, Deserialize)]
struct Told {
    reason: String,
    message: String,
}

/// How the program is started: the arguments that lead to its role come first.
pub(super) fn command(call: TransformCall, prefix: &[String], memory_bytes: u64) -> Command {
    let own = [ROLE.to_owned(), memory_bytes.to_string(), call.name, call.params];
    Command { args: prefix.iter().cloned().chain(own).collect(), input: call.input, ..Command::default() }
}

/// The program: input on standard input, output on standard output.
pub(super) fn main(mut args: impl Iterator<Item = String>) -> io::Result<()> {
    let mut next = || args.next().ok_or_else(|| io::Error::other("an argument is missing"));
    let memory_bytes = next()?.parse().map_err(io::Error::other)?;
    let (name, params) = (next()?, next()?);
    let mut input = Vec::new();
    io::stdin().lock().read_to_end(&mut input)?;
    let budget = Budget { memory_bytes, ..Budget::default() };
    match tarn_transform::run(&name, &params, &input, &budget) {
        Ok(output) => io::stdout().lock().write_all(&output),
        Err(error) => {
            let told = Told { reason: error.reason().to_owned(), message: error.to_string() };
            eprintln!("{}", serde_json::to_string(&told)?);
            std::process::exit(EXIT_TOLD)
        }
    }
}

/// What the end of a transform means: what it told, if it did.
pub(super) fn explain(error: ExecutionError, logs: &Bytes) -> ExecutionError {
    match error {
        ExecutionError::ExitNonzero { status: EXIT_TOLD } => told(logs).unwrap_or(error),
        other => other,
    }
}

fn told(logs: &Bytes) -> Option<ExecutionError> {
    let text = std::str::from_utf8(logs).ok()?;
    let told: Told = serde_json::from_str(text.lines().last()?).ok()?;
    let reason = TransformError::REASONS.iter().find(|reason| **reason == told.reason)?;
    Some(ExecutionError::Transform { reason, message: told.message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_understood_and_nothing_else() {
        let exit = || ExecutionError::ExitNonzero { status: EXIT_TOLD };
        let logs = Bytes::from_static(b"noise\n{\"reason\":\"TRANSFORM_BAD_INPUT\",\"message\":\"too short\"}\n");
        let told = explain(exit(), &logs);
        assert_eq!((told.reason(), told.to_string().as_str()), ("TRANSFORM_BAD_INPUT", "too short"));
        for logs in ["", "noise", "{\"reason\":\"ANYTHING\",\"message\":\"\"}"] {
            assert_eq!(explain(exit(), &Bytes::from(logs)), exit());
        }
        let other = ExecutionError::ExitNonzero { status: 1 };
        assert_eq!(explain(other.clone(), &logs), other);
    }
}

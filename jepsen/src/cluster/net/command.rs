//! Programs of the machine, run to their end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a program with these arguments, separated by spaces.
///
/// # Errors
/// With what it wrote to standard error, if it cannot be run or fails.
pub(super) fn run(line: &str) -> Result<()> {
    fed(line, "")
}

/// As [`run`], with this on its standard input.
pub(super) fn fed(line: &str, input: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("a command line has a program")?;
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} cannot be run"))?;
    // Dropped at once, so that the program sees the end of its input.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    written.unwrap_or(Ok(())).with_context(|| format!("{program} did not take its input"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_says_why() {
        run("true").unwrap();
        let error = run("ls /there/is/no/such/folder").unwrap_err().to_string();
        assert!(error.contains("/there/is/no/such/folder: ") && error.contains("No such file"), "{error}");
        assert!(run("no-such-program-here").is_err());
    }
}

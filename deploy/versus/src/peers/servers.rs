//! Processes of servers: started with a log of their own, watched until they serve, ended by process id.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The lines of each log that an error shows.
const LOG_LINES: usize = 12;

/// Processes, each with a name and a log. Dropping them ends them with SIGKILL and waits until they have ended.
#[derive(Default)]
pub struct Servers {
    running: Vec<(String, PathBuf, Child)>,
}

impl Servers {
    /// Starts a process that writes what it says to `log`.
    ///
    /// # Errors
    /// If its program is not there, or the log cannot be written.
    pub fn start(&mut self, name: &str, command: &mut Command, log: &Path) -> Result<()> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("{name}: {} cannot be started", command.get_program().display()))?;
        self.running.push((name.to_owned(), log.to_owned(), child));
        Ok(())
    }

    /// The process ids, in the order of the starts.
    pub fn pids(&self) -> Vec<u32> {
        self.running.iter().map(|(_, _, child)| child.id()).collect()
    }

    /// Tries until it succeeds, every 100 milliseconds, and returns what it gave.
    ///
    /// # Errors
    /// If a process ends meanwhile, or nothing succeeds within this time; the message has the last failure and the end of each log.
    pub async fn ready<T>(&mut self, within: Duration, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            for (name, _, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    let name = name.clone();
                    bail!("{name} ended by itself ({status})\n{}", self.log_ends());
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, attempt()).await {
                Ok(Ok(given)) => return Ok(given),
                Ok(Err(error)) if left.is_zero() => bail!("not ready within {within:?}: {error:#}\n{}", self.log_ends()),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100).min(left)).await,
                Err(_) => bail!("not ready within {within:?}: no answer\n{}", self.log_ends()),
            }
        }
    }

    /// The last lines of every process's log.
    pub fn log_ends(&self) -> String {
        let end = |(name, log, _): &(String, PathBuf, Child)| {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name} ---\n{}\n", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        };
        self.running.iter().map(end).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, _, child) in &mut self.running {
            let _ = child.kill();
        }
        for (_, _, child) in &mut self.running {
            let _ = child.wait();
        }
    }
}

/// So many different ports of loopback on which nobody listens now.
///
/// # Errors
/// If there are none.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until all are found, so that they differ.
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// What a command prints.
///
/// # Errors
/// If it cannot be run or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("{program} cannot be run; is it installed?"))?;
    let said = || [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).join("");
    ensure!(output.status.success(), "{program} failed ({}): {}", output.status, said());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

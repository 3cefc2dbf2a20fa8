//! A node as a process: from the configuration to the exit code.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{StartError, start};
use crate::config::Config;

/// A second signal ends the process at once with this code: as a shell reports an interrupt.
const INTERRUPTED: i32 = 130;

/// How long a node that stops itself may take to close its files.
const FATAL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to, and lost nothing.
    Stopped,
    /// It could no longer keep its promises and stopped itself; its log says why. Starting it again may or may not help.
    Fatal,
}

impl Ending {
    /// The process's exit code: 0, or 70 (the BSD code for an internal error) where the node stopped itself.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Fatal => 70,
        }
    }
}

/// Runs a node until SIGTERM or SIGINT, then stops it gracefully; a second signal ends the process at once. Logging must be set up.
/// `started` is called once the node serves.
///
/// # Errors
/// The node did not start.
pub async fn run(config: Config, started: impl FnOnce()) -> Result<Ending, StartError> {
    let data_dir = config.node.data_dir.clone();
    let mut signals = Signals::new().map_err(|source| StartError::DataDir { path: data_dir, source })?;
    let running = tokio::select! {
        running = start(config) => running?,
        () = signals.next() => return Ok(Ending::Stopped),
    };
    started();
    let ending = tokio::select! {
        reason = running.fatal() => {
            tracing::error!(%reason, "the node can no longer keep its promises and stops itself");
            Ending::Fatal
        }
        () = signals.next() => Ending::Stopped,
    };
    if ending == Ending::Fatal {
        // Whatever is wrong, it must not spread: no hand-over, no drain. A disk that hangs must not keep the process.
        let _ = tokio::time::timeout(FATAL_TIMEOUT, running.consensus.stop()).await;
        return Ok(ending);
    }
    tokio::select! {
        () = running.shutdown() => {}
        () = signals.next() => {
            tracing::warn!("a second signal: the process ends at once");
            std::process::exit(INTERRUPTED);
        }
    }
    Ok(ending)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

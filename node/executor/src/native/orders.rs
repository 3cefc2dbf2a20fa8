//! What the executor tells the launcher of an attempt, and what the launcher tells back: one line of JSON either way.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::walls::Walls;

/// What to start, and within which walls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The program's file on this machine.
    pub program: PathBuf,
    /// Arguments without the program's name.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// An empty folder over which the process's own file system is laid, in its own view alone.
    pub mount_point: PathBuf,
    /// Folders and files of the machine that it may read besides the system's own.
    pub readable: Vec<PathBuf>,
    /// The user and group to become; the launcher's own if `None`.
    pub user: Option<u32>,
    /// What to put between the process and the machine.
    pub walls: Walls,
    /// Whether it may use the machine's network.
    pub network: bool,
    /// Bytes that all its files may have together.
    pub scratch_bytes: u64,
    /// Where its files go when it gets no file system of its own.
    pub scratch_dir: Option<PathBuf>,
    /// Address space of each process, where no cgroup limits memory.
    pub address_bytes: Option<u64>,
    /// Open files of each process.
    pub open_files: u64,
    /// Processes and threads, where no cgroup counts them.
    pub processes: Option<u64>,
    /// Processor time of each process, in seconds. Only a net: the executor's clock ends the attempt before.
    pub cpu_s: u64,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It could not be started: this is no program for this machine.
    NotAProgram(String),
    /// A wall could not be put up, so that it was not started at all.
    Unwalled {
        /// Which.
        step: String,
        /// What the system said.
        error: String,
    },
}

/// The launcher's last words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub ending: Ending,
    /// The largest resident set of any of its processes, in bytes.
    pub resident_bytes_peak: u64,
    /// Processor time of all its processes that were waited for, in microseconds.
    pub cpu_us: u64,
}

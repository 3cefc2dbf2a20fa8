//! What the figures were measured on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::measure::{median, micros};

/// How long the disk is tried.
const DISK_TIME: Duration = Duration::from_millis(500);
/// What is appended and synced each time: a page.
const DISK_BYTES: usize = 4096;

/// Facts that every figure rests on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Main memory, in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The file system of the data directories.
    pub file_system: String,
    /// The median time to append 4 KiB and have it on disk, in microseconds.
    pub fsync_micros: f64,
    /// The commit of the sources, if the binary is run in their clone; with `-dirty` where files differ from it.
    pub commit: Option<String>,
}

impl Machine {
    /// Looks around, and tries the disk below `data`.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn look(data: &Path) -> Result<Machine> {
        let line = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().find(|line| line.starts_with(name));
            found.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal");
        Ok(Machine {
            processor: line("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            file_system: file_system(data),
            fsync_micros: median(appends(data, DISK_TIME)?),
            commit: commit(),
        })
    }

    /// A warning where syncing to this file system means nothing.
    pub fn warning(&self) -> Option<String> {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs" | "overlay")
            .then(|| format!("the data is on {}, where fsync may cost nothing: choose a folder on a disk with --data", self.file_system))
    }
}

/// The type of the file system that holds this folder: that of the longest mount point above it.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    // Of two mounts on one point the later one is seen.
    above.max_by_key(|(length, _)| *length).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

/// How long each append of 4 KiB took to be on disk, in microseconds, for this long.
///
/// # Errors
/// If the disk cannot be written.
pub fn appends(folder: &Path, time: Duration) -> Result<Vec<f64>> {
    let path = folder.join("fsync-probe");
    let mut file = File::create(&path)?;
    let (end, page) = (Instant::now() + time, [0_u8; DISK_BYTES]);
    let mut took = Vec::new();
    while Instant::now() < end || took.is_empty() {
        let began = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        took.push(f64::from(micros(began.elapsed())));
    }
    fs::remove_file(&path)?;
    Ok(took)
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (commit, changes) = (git(&["rev-parse", "--short=12", "HEAD"])?, git(&["status", "--porcelain", "--untracked-files=no"])?);
    Some(if changes.is_empty() { commit } else { commit + "-dirty" })
}

//! Mounting: needs root and `/dev/fuse`, and no library or helper program.
//!
//! A mount dies with the process that serves it: the kernel notices that `/dev/fuse` was closed and fails whatever waits for it, so that no
//! process hangs. What stays is a dead entry in the table of mounts. Its source names the process by its id and the time of its start, so
//! that the next harness knows which entries are dead without touching any that lives.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

const DEVICE: &str = "/dev/fuse";
/// What such mounts are called in the table of mounts.
const KIND: &str = "fuse.tarn-disk";

/// Whether this machine can mount such a file system; if not, why.
///
/// # Errors
/// A sentence for people that says what is missing.
pub fn available() -> Result<(), String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("{DEVICE} is missing, and without it no disk can be made to fail"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("disks that can be made to fail need root, to mount them".to_owned());
    }
    // The rest depends on the kernel and on what a container may do: only a try tells.
    try_mount().map_err(|error| format!("no disk can be made to fail, because a file system cannot be mounted here: {error}"))
}

fn try_mount() -> io::Result<()> {
    let point = tempfile::tempdir()?;
    let device = mount(point.path())?;
    unmount(point.path())?;
    drop(device);
    Ok(())
}

/// Mounts at a folder, and returns the device on which the kernel's requests arrive.
pub(super) fn mount(point: &Path) -> io::Result<File> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    nix::mount::mount(Some(source()?.as_str()), point, Some(KIND), flags, Some(options.as_str()))?;
    Ok(device)
}

/// Takes a mount out of the tree of folders at once, even while files on it are open. Whoever waits for it gets an error, and its server is
/// told that it is over.
pub(super) fn unmount(point: &Path) -> io::Result<()> {
    // With force the kernel gives up all requests; it may then still refuse to unmount, because files are open.
    let _ = umount2(point, MntFlags::MNT_FORCE);
    match umount2(point, MntFlags::MNT_DETACH) {
        // The first call was enough.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the mounts of harnesses that were killed, and returns where they were.
///
/// # Errors
/// If the table of mounts cannot be read, or a dead mount cannot be removed.
pub fn sweep() -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for (point, source) in mounts()? {
        if !lives(&source) {
            unmount(&point)?;
            removed.push(point);
        }
    }
    Ok(removed)
}

/// Our mounts: where, and the source.
fn mounts() -> io::Result<Vec<(PathBuf, String)>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(parse).collect())
}

/// Reads a line such as `36 35 0:44 / /mnt rw - fuse.tarn-disk tarn-disk:17:4711 rw`, if it is about one of our mounts.
fn parse(line: &str) -> Option<(PathBuf, String)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    if kind.next()? != KIND {
        return None;
    }
    Some((unescape(place.split(' ').nth(4)?), kind.next()?.to_owned()))
}

/// Blanks and the like stand as `\040` in the table.
fn unescape(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Names this process for as long as the machine is up: its id, and when it started.
fn source() -> io::Result<String> {
    let pid = std::process::id();
    Ok(format!("tarn-disk:{pid}:{}", started(pid)?))
}

fn lives(source: &str) -> bool {
    let mut parts = source.split(':').skip(1);
    let (Some(pid), Some(start)) = (parts.next().and_then(|pid| pid.parse().ok()), parts.next()) else {
        return false;
    };
    started(pid).is_ok_and(|started| started == start)
}

/// When a process started, in the kernel's ticks since the machine did.
fn started(pid: u32) -> io::Result<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name, which may have blanks and parentheses in it.
    let fields = line.rsplit_once(')').map_or("", |(_, fields)| fields);
    let start = fields.split_whitespace().nth(19).map(str::to_owned);
    start.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no time of start")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read() {
        let line = r"36 35 0:44 / /mnt/a\040b rw,nosuid shared:7 - fuse.tarn-disk tarn-disk:17:4711 rw,user_id=0";
        assert_eq!(parse(line), Some((PathBuf::from("/mnt/a b"), "tarn-disk:17:4711".into())));
        assert_eq!(parse("22 27 0:21 / /proc rw,relatime - proc proc rw"), None);
    }

    #[test]
    fn only_processes_that_run_live() {
        assert!(lives(&source().unwrap()));
        assert!(!lives(&format!("tarn-disk:{}:1", std::process::id())));
        assert!(!lives("tarn-disk:4194399:1"));
        assert!(!lives("something else"));
    }
}

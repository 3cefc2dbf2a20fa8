//! A file system of its own for one attempt: the system's programs and libraries to read, a folder in memory to write, nothing else.
//!
//! ```text
//! /usr /bin /sbin /lib /lib64   the machine's, read-only
//! /etc                          what the dynamic linker, time zones and certificates need; with network, what names need
//! /dev                          null zero full random urandom
//! /proc                         of its own process namespace
//! /task/program                 the artifact
//! /tmp                          its files: in memory, limited, gone with the attempt; also its home and working directory
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::orders::Orders;

/// Where the program is found.
pub(super) const PROGRAM: &str = "/task/program";

/// Its home, working directory and folder for temporary files.
pub(super) const HOME: &str = "/tmp";

const SYSTEM: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];

const SETTINGS: [&str; 9] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/python3",
];

const NAMES: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services"];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// How many files it may have. Each costs the kernel about a kilobyte that no quota sees.
const FILES_MAX: u32 = 65_536;

/// Lays the file system out and makes it the root. Everything of the machine's that is not named above is out of reach afterwards.
pub(super) fn enter(orders: &Orders) -> io::Result<()> {
    let program = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&orders.program)?;
    // Nothing that is mounted here shows outside.
    mount_at(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let root = &orders.mount_point;
    // Folders and mount points alone go in here.
    tmpfs(root, "size=1m,nr_inodes=1024,mode=755")?;
    for path in SYSTEM.iter().chain(&SETTINGS).map(Path::new) {
        show(root, path)?;
    }
    if orders.network {
        NAMES.iter().try_for_each(|path| show(root, Path::new(path)))?;
    }
    orders.readable.iter().try_for_each(|path| show(root, path))?;
    devices(root)?;
    let user = orders.user.unwrap_or(0);
    users(root, user)?;

    let place = inside(root, Path::new(PROGRAM));
    fs::create_dir_all(inside(root, Path::new("/task")))?;
    File::create(&place)?;
    bind(&PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd())), &place)?;
    let home = inside(root, Path::new(HOME));
    fs::create_dir(&home)?;
    let size = orders.scratch_bytes;
    tmpfs(&home, &format!("size={size},nr_inodes={FILES_MAX},mode=700,uid={user},gid={user}"))?;
    if orders.walls.processes {
        let proc = inside(root, Path::new("/proc"));
        fs::create_dir(&proc)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), &proc, Some("proc"), flags, None::<&str>)?;
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at(None, root, flags, Some("size=1m,nr_inodes=1024,mode=755"))?;

    // The new root is stacked on the old one, which then lies on top and is taken off.
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir(HOME)?;
    Ok(())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn mount_at(source: Option<&Path>, target: &Path, flags: MsFlags, data: Option<&str>) -> nix::Result<()> {
    mount(source, target, None::<&str>, flags, data)
}

fn tmpfs(target: &Path, options: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
}

/// Shows a file or folder of the machine's at the same place, read-only. What does not exist is left out; a link stays a link.
fn show(root: &Path, path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let target = inside(root, path);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    if metadata.is_symlink() {
        return symlink(fs::read_link(path)?, target);
    }
    if metadata.is_dir() {
        fs::create_dir_all(&target)?;
    } else {
        File::create(&target)?;
    }
    bind(path, &target)
}

/// Shows `source` at `target`, which exists, with all that is mounted below; nothing of it can be written, and no program in it gives
/// rights.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount_at(Some(source), target, MsFlags::MS_BIND | MsFlags::MS_REC, None)?;
    read_only(target, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
}

/// `mount_setattr(2)` with everything below. Neither the C library nor nix has it.
fn read_only(target: &Path, attributes: u64) -> io::Result<()> {
    let path = std::ffi::CString::new(target.as_os_str().as_encoded_bytes())?;
    // SAFETY: a structure of integers, for which all zeros mean "change nothing".
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    // SAFETY: the path ends with a zero byte and the structure lives through the call, which is told its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw mut change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn devices(root: &Path) -> io::Result<()> {
    let folder = inside(root, Path::new("/dev"));
    fs::create_dir(&folder)?;
    for name in DEVICES {
        let place = folder.join(name);
        File::create(&place)?;
        // Devices must stay devices, so this is no `bind`.
        mount_at(Some(&Path::new("/dev").join(name)), &place, MsFlags::MS_BIND, None)?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"), ("shm", HOME)]
    {
        symlink(target, folder.join(name))?;
    }
    Ok(())
}

/// Its own name in the list of users, which some programs look up.
fn users(root: &Path, user: u32) -> io::Result<()> {
    let settings = inside(root, Path::new("/etc"));
    fs::create_dir_all(&settings)?;
    fs::write(settings.join("passwd"), format!("task:x:{user}:{user}:tarn task:{HOME}:/bin/sh\n"))?;
    fs::write(settings.join("group"), format!("task:x:{user}:\n"))
}

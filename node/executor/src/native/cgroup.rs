//! Control groups: the kernel's own count of an attempt's memory and processes, with a limit on both.
//!
//! Version 1 has a tree for each resource, version 2 one for all. In version 2 a group with processes in it cannot have groups below that
//! limit memory, so the node moves itself into a group of its own, beside those of its attempts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const ROOT: &str = "/sys/fs/cgroup";

/// How the groups of one executor are named: this, the number of its process, a dash, and its own number in that process.
const PREFIX: &str = "tarn-native-";

/// Where groups for attempts can be made. Dropping it removes the folder of this node.
#[derive(Debug)]
pub(super) struct Cgroups {
    /// The folders in which an attempt gets a group: memory and pids in version 1, one for both in version 2.
    folders: Vec<PathBuf>,
    version: u32,
    next: AtomicU64,
}

/// The group of one attempt. Dropping it removes it; by then nothing is in it.
#[derive(Debug)]
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
    version: u32,
}

impl Cgroups {
    /// Groups below the one in which this process is; `None` where none can be made.
    pub(super) fn open() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let opened = match version_1(&own) {
            Some(folders) => Self::in_folders(&folders, 1),
            None => version_2(&own).and_then(|folder| Self::in_folders(&[folder], 2)),
        };
        opened.filter(Self::works)
    }

    fn in_folders(parents: &[PathBuf], version: u32) -> Option<Self> {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let mut folders = Vec::new();
        for parent in parents {
            remove_abandoned(parent);
            let folder = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            fs::create_dir_all(&folder).ok()?;
            if version == 2 {
                enable(parent).and_then(|()| enable(&folder)).ok()?;
            }
            folders.push(folder);
        }
        let next = AtomicU64::new(0);
        Some(Self { folders, version, next })
    }

    /// Whether a group with limits can really be made.
    fn works(&self) -> bool {
        self.create(64 << 20, 16).is_ok()
    }

    /// 1 or 2.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// A group that may use this much memory, swap included, and have this many processes and threads.
    pub(super) fn create(&self, memory_bytes: u64, processes: u64) -> io::Result<Cgroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.join(&number)).collect();
        // From here on dropping it removes what was made.
        let group = Cgroup { folders, version: self.version };
        for folder in &group.folders {
            fs::create_dir(folder)?;
        }
        match self.version {
            1 => {
                group.set("memory.limit_in_bytes", memory_bytes)?;
                // Only where swap is counted; elsewhere the node should run without swap.
                let _ = group.set("memory.memsw.limit_in_bytes", memory_bytes);
            }
            _ => {
                group.set("memory.max", memory_bytes)?;
                let _ = group.set("memory.swap.max", 0);
            }
        }
        group.set("pids.max", processes)?;
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Cgroup {
    /// Puts a process in; what it starts is in too.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        let add = |folder: &PathBuf| fs::write(folder.join("cgroup.procs"), process.to_string());
        self.folders.iter().try_for_each(add)
    }

    /// The most memory that it had at any moment, in bytes.
    pub(super) fn memory_bytes_peak(&self) -> Option<u64> {
        let file = if self.version == 1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        self.get(file)?.trim().parse().ok()
    }

    /// Whether the kernel killed a process of it because of the memory limit.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let file = if self.version == 1 { "memory.oom_control" } else { "memory.events" };
        let text = self.get(file).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        let folder = self.with(file).ok_or(io::ErrorKind::NotFound)?;
        fs::write(folder.join(file), value.to_string())
    }

    fn get(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.with(file)?.join(file)).ok()
    }

    fn with(&self, file: &str) -> Option<&PathBuf> {
        self.folders.iter().find(|folder| folder.join(file).exists())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot remove the control group of an attempt");
            }
        }
    }
}

/// The folders of memory and pids in version 1. Lines read `4:memory:/path`.
fn version_1(own: &str) -> Option<Vec<PathBuf>> {
    let folder = |name: &str| {
        own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let has = controllers.split(',').any(|controller| controller == name);
            has.then(|| Path::new(ROOT).join(controllers).join(path.trim_start_matches('/')))
        })
    };
    Some(vec![folder("memory")?, folder("pids")?])
}

/// The folder of version 2. Its line reads `0::/path`.
fn version_2(own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(ROOT).join(path.trim_start_matches('/')))
}

/// Lets the groups below this folder limit memory and processes.
fn enable(folder: &Path) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    let wanted = "+memory +pids";
    match fs::write(&control, wanted) {
        // It has processes of its own: this node, and nobody else where the group was made for it (systemd's `Delegate=yes`).
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let node = folder.join("node");
            fs::create_dir_all(&node)?;
            fs::write(node.join("cgroup.procs"), std::process::id().to_string())?;
            fs::write(&control, wanted)
        }
        other => other,
    }
}

/// Removes what nodes left behind that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let own = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let Some((process, _)) = own.and_then(|own| own.split_once('-')) else {
            continue;
        };
        if Path::new("/proc").join(process).exists() {
            continue;
        }
        for group in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(group.path());
        }
        let _ = fs::remove_dir(entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_read_from_the_process_s_own_list() {
        let own = "7:blkio:/\n8:pids:/a/b\n4:memory:/a\n2:cpu,cpuacct:/\n0::/user.slice\n";
        let folders = version_1(own).unwrap();
        assert_eq!(folders[0], Path::new("/sys/fs/cgroup/memory/a"));
        assert_eq!(folders[1], Path::new("/sys/fs/cgroup/pids/a/b"));
        assert_eq!(version_1("0::/init.scope\n"), None);
        assert_eq!(version_2("0::/init.scope\n").unwrap(), Path::new("/sys/fs/cgroup/init.scope"));
        assert_eq!(version_2("1:name=systemd:/\n"), None);
    }
}

//! Disks that are mounted, used like any other, and made to fail. Each test says why when it is skipped.

mod faults;
mod power;
mod usage;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

struct Bench {
    disk: FaultyDisk,
    rng: StdRng,
    root: PathBuf,
    // Dropped last: the disk is mounted in it.
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        Self::with(Promise::Posix, |_| {})
    }

    fn with(promise: Promise, prepare: impl FnOnce(&Path)) -> Option<Self> {
        if let Err(reason) = available() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let backing = folder.path().join("backing");
        fs::create_dir(&backing).unwrap();
        prepare(&backing);
        let disk = FaultyDisk::mount_with(&backing, &folder.path().join("disk"), promise).unwrap();
        Some(Self { root: disk.path().to_owned(), disk, rng: StdRng::seed_from_u64(7), folder })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }

    /// Writes a file, and syncs it and its folder.
    fn durable(&self, name: &str, text: &str) {
        let path = self.at(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        sync_folder(path.parent().unwrap());
    }

    fn cut(&mut self) -> Loss {
        self.disk.lose_unsynced(Survival::Nothing, &mut self.rng).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.disk.files("**").into_iter().map(|(path, _)| path.display().to_string()).collect()
    }
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn errors(operation: Operation, how: How) -> Option<IoErrors> {
    Some(IoErrors { operations: vec![operation], files: "**".to_owned(), how })
}

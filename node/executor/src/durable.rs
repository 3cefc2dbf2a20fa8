//! Files that are either wholly there or not there at all, whatever crashes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of unfinished files end. Whoever opens a directory may remove them, see [`remove_unfinished`].
const UNFINISHED: &str = ".unfinished";

/// Makes `dir` a directory that only its owner can enter, creating it and its parents if need be.
///
/// Changing the mode succeeds only for the owner, so this also proves that the directory is ours: nobody else can have
/// put files into it since, nor will.
pub(crate) fn own_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// A file that is being written. Dropping it without [`persist`](Self::persist) removes it.
pub(crate) struct Unfinished {
    file: File,
    path: PathBuf,
}

impl Unfinished {
    /// Creates an empty file in `dir` that only its owner can read.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{}-{number}{UNFINISHED}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                // A process with our number left it behind before it crashed; the next number is free sooner or later.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives the file its final name in `dir`, replacing what had it before. When this returns, a crash of the machine
    /// cannot take the file away; before, it is not visible under that name.
    pub(crate) fn persist(self, dir: &Path, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, dir.join(name))?;
        // The drop below then finds nothing to remove. The rename itself lives in the directory, which has its own sync.
        File::open(dir)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename nothing has this name any more. Should the removal fail, the next start tries again.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what writers left behind in `dir` when their process died. Only call it while nobody writes there.
pub(crate) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

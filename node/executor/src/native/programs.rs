//! Artifacts as files that can be started.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OnceCell};

use crate::{ExecutionError, Hash, Source};

/// How many programs are kept ready. The artifact store has the others.
const PROGRAMS_MAX: usize = 64;

/// The programs that are ready, in a folder that is emptied on start: what is in it was verified by this process.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    ready: Mutex<Ready>,
    /// The node's own binary, made when it is first wanted.
    own: OnceCell<Arc<Program>>,
}

#[derive(Debug, Default)]
struct Ready {
    /// Each with its last use.
    programs: HashMap<Hash, (Arc<Program>, u64)>,
    uses: u64,
}

/// A file that can be started. It is removed when nobody needs it any more.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Programs {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Others may pass through and start what is in it, but not list or change it.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        Ok(Self { folder: folder.to_owned(), ready: Mutex::default(), own: OnceCell::new() })
    }

    /// This node's own binary as such a file.
    pub(super) async fn own(&self, binary: &Path) -> Result<Arc<Program>, ExecutionError> {
        let made = self.own.get_or_try_init(|| async {
            let (binary, folder) = (binary.to_owned(), self.folder.clone());
            let made = tokio::task::spawn_blocking(move || own_binary(&binary, &folder)).await;
            made.map_err(ExecutionError::broken)?.map(Arc::new).map_err(ExecutionError::broken)
        });
        made.await.cloned()
    }

    /// The artifact as a file, written if it is not there.
    pub(super) async fn program(&self, hash: &Hash, source: Source) -> Result<Arc<Program>, ExecutionError> {
        let mut ready = self.ready.lock().await;
        ready.uses += 1;
        let now = ready.uses;
        if let Some((program, used)) = ready.programs.get_mut(hash) {
            *used = now;
            return Ok(Arc::clone(program));
        }
        let bytes = source.obtain(hash).await?;
        let actual = Hash::of(&bytes);
        if actual != *hash {
            return Err(ExecutionError::HashMismatch { expected: *hash, actual });
        }
        // The name is never used twice, since the file of before may still be being removed.
        let path = self.folder.join(format!("{}-{now}", hash.to_hex()));
        let program = Arc::new(Program { path });
        let writing = Arc::clone(&program);
        let written = tokio::task::spawn_blocking(move || write(&writing.path, &bytes)).await;
        written.map_err(ExecutionError::broken)?.map_err(ExecutionError::broken)?;
        ready.programs.insert(*hash, (Arc::clone(&program), now));
        if ready.programs.len() > PROGRAMS_MAX {
            let oldest = ready.programs.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = *oldest.expect("there is more than one program").0;
            ready.programs.remove(&oldest);
        }
        Ok(program)
    }
}

/// The file `binary`, or that of this process where it is `/proc/self/exe`, under a name in `folder`. It cannot be shown to a
/// process as it is: what this process was started from belongs to another mount namespace, and its file may have been replaced
/// since.
fn own_binary(binary: &Path, folder: &Path) -> io::Result<Program> {
    let copy = Program { path: folder.join("own") };
    let same = |path: &Path| -> io::Result<bool> {
        let (linked, running) = (fs::metadata(path)?, fs::metadata(binary)?);
        Ok((linked.dev(), linked.ino()) == (running.dev(), running.ino()))
    };
    let linked = fs::canonicalize(binary).and_then(|path| fs::hard_link(path, &copy.path));
    if linked.is_ok() && same(&copy.path)? {
        return Ok(copy);
    }
    // Another file system, or another file by now.
    let _ = fs::remove_file(&copy.path);
    fs::copy(binary, &copy.path)?;
    fs::set_permissions(&copy.path, fs::Permissions::from_mode(0o555))?;
    Ok(copy)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // Whatever the mask of this process.
    file.set_permissions(fs::Permissions::from_mode(0o555))
}

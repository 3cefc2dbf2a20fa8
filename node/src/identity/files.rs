//! Owner-only directories and atomic writes.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file or directory could not be made or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct FileError {
    /// What was to be done.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody: a certificate.
    Public,
    /// The owner alone: a key.
    Owner,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Owner => 0o600,
        }
    }
}

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Put the new one in its place.
    Replace,
    /// Fail with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// Makes a directory (and its parents) that only its owner can enter, or narrows one that is there.
pub(super) fn private_dir(dir: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { action: "make the private directory", path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed)
}

/// Writes a file that is there whole or not at all, whatever happens meanwhile, and is on disk when this returns.
///
/// It is made with its final permissions: there is no moment in which others could read a key.
pub(super) fn write_atomic(path: &Path, content: &[u8], access: Access, existing: Existing) -> Result<(), FileError> {
    let failed = |source| FileError { action: "write", path: path.to_owned(), source };
    let dir = parent(path);
    let mut file =
        tempfile::Builder::new().prefix(".tarn-").permissions(Permissions::from_mode(access.mode())).tempfile_in(dir).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    put_in_place(file, path, existing).map_err(failed)?;
    sync_dir(dir).map_err(failed)
}

/// Renames a file over another, and makes that durable.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { action: "put in place", path: to.to_owned(), source };
    fs::rename(from, to).map_err(failed)?;
    sync_dir(parent(to)).map_err(failed)
}

fn put_in_place(file: NamedTempFile, path: &Path, existing: Existing) -> io::Result<()> {
    match existing {
        Existing::Replace => file.persist(path)?,
        Existing::Keep => file.persist_noclobber(path)?,
    };
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_have_their_permissions_and_are_replaced_or_kept() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        private_dir(&inner).unwrap();
        assert_eq!(mode(&inner), 0o700);

        let key = inner.join("key");
        write_atomic(&key, b"one", Access::Owner, Existing::Keep).unwrap();
        assert_eq!(mode(&key), 0o600);
        let error = write_atomic(&key, b"two", Access::Owner, Existing::Keep).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&key).unwrap(), b"one");
        write_atomic(&key, b"two", Access::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read(&key).unwrap(), b"two");
        // Nothing is left lying about.
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn a_wide_directory_is_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let wide = dir.path().join("wide");
        fs::create_dir(&wide).unwrap();
        fs::set_permissions(&wide, Permissions::from_mode(0o755)).unwrap();
        private_dir(&wide).unwrap();
        assert_eq!(mode(&wide), 0o700);
    }
}

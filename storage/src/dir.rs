//! Changes to directories that survive a power cut: whole or not at all.
//!
//! A file system promises little about names. A new file's bytes, the file's own length and the directory's entry
//! for it reach the disk separately, in any order. The helpers here do the known dance: write aside, flush, rename,
//! flush the directory.
//!
//! [`Pointer`] builds on it. It is a small file, by custom called `CURRENT`, that names which of several sibling
//! directories is in use; switching it installs a snapshot in one step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::StorageError;

/// What [`write_atomically`] appends to a file's name while the file is being written.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Flushes a directory, so that the names created, renamed and removed in it survive a power cut.
///
/// # Errors
///
/// A fault of the disk.
pub fn fsync_dir(path: &Path) -> Result<(), StorageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| StorageError::from_io("flushing the directory", path, error))
}

/// Flushes every file below a directory, then the directories themselves, the deepest first.
///
/// # Errors
///
/// A fault of the disk.
pub fn fsync_tree(path: &Path) -> Result<(), StorageError> {
    let failed = |path: &Path, error| StorageError::from_io("flushing", path, error);
    for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        let kind = entry.file_type().map_err(|error| failed(&entry.path(), error))?;
        if kind.is_dir() {
            fsync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(|error| failed(&entry.path(), error))?;
        }
    }
    fsync_dir(path)
}

/// Creates a directory and those above it that are missing, durably. One that is there already is no error.
///
/// # Errors
///
/// A fault of the disk, or a file where a directory should be.
pub fn create_durably(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_durably(&parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(StorageError::from_io("creating the directory", path, error)),
    }
    fsync_dir(&parent)
}

/// Replaces a file's content, or creates the file: after a crash at any moment there is the old content or the new,
/// never a mixture. On return the new content survives a power cut.
///
/// The bytes are first written beside it, under the name with [`TEMPORARY_SUFFIX`]; a crash may leave that file, and
/// the next call for the same path overwrites it. Two calls for one path must not run at once.
///
/// # Errors
///
/// A fault of the disk; the old content is then still there, unless the fault came while the directory was flushed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = with_suffix(path, TEMPORARY_SUFFIX);
    write_and_flush(&temporary, bytes).map_err(|error| StorageError::from_io("writing", &temporary, error))?;
    rename_durably(&temporary, path)
}

/// Renames a file or directory, replacing a file that has the new name, durably.
///
/// Both names must lie in the same file system. What is renamed must have been flushed before.
///
/// # Errors
///
/// A fault of the disk, or a directory with something in it under the new name.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), StorageError> {
    fs::rename(from, to).map_err(|error| StorageError::from_io("renaming", from, error))?;
    fsync_dir(&parent_of(to))?;
    if parent_of(from) != parent_of(to) {
        fsync_dir(&parent_of(from))?;
    }
    Ok(())
}

/// Removes a directory and everything in it, durably. One that is not there is no error.
///
/// # Errors
///
/// A fault of the disk.
pub fn remove_durably(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Ok(()) => fsync_dir(&parent_of(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::from_io("removing the directory", path, error)),
    }
}

/// What the name of a directory ends in while [`create_whole`] fills it.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// Makes a new directory that appears at `path` complete or not at all, and is durable on return.
///
/// `fill` gets a path beside it, with [`PARTIAL_SUFFIX`] appended, where it makes the directory and its content; it
/// need not flush. When it fails, what it made is removed; what a crash leaves of it, the next call removes. Two calls
/// for one path must not run at once.
///
/// # Errors
///
/// [`StorageError::AlreadyExists`] if there is something at `path`, what `fill` returns, or a fault of the disk.
pub fn create_whole(path: &Path, fill: impl FnOnce(&Path) -> Result<(), StorageError>) -> Result<(), StorageError> {
    if path.symlink_metadata().is_ok() {
        return Err(StorageError::AlreadyExists { path: path.to_owned() });
    }
    let partial = with_suffix(path, PARTIAL_SUFFIX);
    remove_durably(&partial)?;
    let made = fill(&partial).and_then(|()| fsync_tree(&partial));
    if let Err(error) = made {
        // The first error is the one to report; rubbish that stays is removed by the next call.
        let _ = remove_durably(&partial);
        return Err(error);
    }
    rename_durably(&partial, path)
}

/// A file that names which directory beside it is in use.
///
/// To install a new directory: write and flush it under a fresh name, [`Pointer::switch`] to it, then remove the old
/// one. A crash before the switch leaves the old directory in use, a crash after it the new one; what is not pointed
/// to is rubbish that the next start removes.
#[derive(Clone, Debug)]
pub struct Pointer {
    path: PathBuf,
}

impl Pointer {
    /// The pointer kept in the file `name` of the directory `dir`, which also holds the directories it points to.
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name) }
    }

    /// The name of the directory in use, or `None` if the pointer was never switched.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corruption`] if the file does not hold a name, otherwise a fault of the disk.
    pub fn read(&self) -> Result<Option<String>, StorageError> {
        let content = match fs::read(&self.path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::from_io("reading", &self.path, error)),
        };
        let name = String::from_utf8(content)
            .ok()
            .and_then(|content| content.strip_suffix('\n').map(str::to_owned))
            .filter(|name| is_plain_name(name));
        name.map(Some)
            .ok_or_else(|| StorageError::Corruption { detail: format!("the pointer file {} does not hold one name", self.path.display()) })
    }

    /// The path of the directory in use, or `None` if the pointer was never switched.
    ///
    /// # Errors
    ///
    /// As [`Pointer::read`].
    pub fn target(&self) -> Result<Option<PathBuf>, StorageError> {
        Ok(self.read()?.map(|name| parent_of(&self.path).join(name)))
    }

    /// Points to the directory `name` from now on, durably and in one step. The directory must be flushed already.
    ///
    /// # Errors
    ///
    /// A fault of the disk.
    ///
    /// # Panics
    ///
    /// If `name` is not the name of a sibling: empty, with a path separator, a control character, or only dots.
    pub fn switch(&self, name: &str) -> Result<(), StorageError> {
        assert!(is_plain_name(name), "a pointer points to a sibling, and {name:?} is not the name of one");
        write_atomically(&self.path, format!("{name}\n").as_bytes())
    }
}

/// The directory in which a path's last component lies.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        // A relative path of one component lies in the working directory; the root lies in itself.
        Some(_) => PathBuf::from("."),
        None => PathBuf::from("/"),
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\']) && !name.contains(char::is_control) && name != "." && name != ".."
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn write_and_flush(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"a longer first content").unwrap();
        write_atomically(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn a_left_over_temporary_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(with_suffix(&path, TEMPORARY_SUFFIX), b"half of an interrupted write that was long").unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn writing_where_there_is_no_directory_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomically(&dir.path().join("missing/f"), b"x").unwrap_err();
        assert!(error.to_string().contains("missing/f"), "{error}");
    }

    #[test]
    fn a_pointer_switches_and_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = Pointer::new(dir.path(), "CURRENT");
        assert_eq!(pointer.read().unwrap(), None);
        pointer.switch("state-1").unwrap();
        pointer.switch("state-2").unwrap();
        assert_eq!(pointer.read().unwrap().as_deref(), Some("state-2"));
        assert_eq!(pointer.target().unwrap(), Some(dir.path().join("state-2")));
    }

    #[test]
    fn a_damaged_pointer_is_corruption() {
        let dir = tempfile::tempdir().unwrap();
        let pointer = Pointer::new(dir.path(), "CURRENT");
        for damaged in ["", "state-1", "../elsewhere\n", "a\nb\n", "\n"] {
            fs::write(dir.path().join("CURRENT"), damaged).unwrap();
            let error = pointer.read().unwrap_err();
            assert!(matches!(error, StorageError::Corruption { .. }), "{damaged:?} gave {error:?}");
        }
    }

    #[test]
    #[should_panic(expected = "not the name of one")]
    fn a_pointer_does_not_leave_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _ = Pointer::new(dir.path(), "CURRENT").switch("../x");
    }

    #[test]
    fn trees_are_made_flushed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_durably(&deep).unwrap();
        create_durably(&deep).unwrap();
        fs::write(deep.join("f"), b"x").unwrap();
        fsync_tree(dir.path()).unwrap();
        remove_durably(&dir.path().join("a")).unwrap();
        remove_durably(&dir.path().join("a")).unwrap();
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let partial = with_suffix(&path, PARTIAL_SUFFIX);
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("rubbish"), b"of a crash").unwrap();

        let fault = || StorageError::Corruption { detail: "for the test".into() };
        create_whole(&path, |at| {
            fs::create_dir(at).unwrap();
            Err(fault())
        })
        .unwrap_err();
        assert!(!path.exists() && !partial.exists());

        create_whole(&path, |at| {
            fs::create_dir(at).unwrap();
            fs::write(at.join("f"), b"x").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "no rubbish is in it");

        let error = create_whole(&path, |_| unreachable!("there is something already")).unwrap_err();
        assert!(matches!(error, StorageError::AlreadyExists { .. }), "{error:?}");
        assert!(path.join("f").exists());
    }

    #[test]
    fn a_file_in_the_way_of_a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"x").unwrap();
        assert!(create_durably(&dir.path().join("a")).is_err());
    }
}

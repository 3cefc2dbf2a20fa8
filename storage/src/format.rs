//! The version that every data directory carries.
//!
//! A data directory has a file called `FORMAT` with one line: the word `tarn-storage`, the engine's name, and the
//! version of the layout. It is written durably before anything else, so that a directory without it and with other
//! files in it is none of ours. A version that this build does not know is refused before a byte is touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::{StorageError, dir};

/// The name of the file that carries the version.
pub const FILE: &str = "FORMAT";

/// The version of the layout that this build reads and writes.
pub const VERSION: u32 = 1;

const WORD: &str = "tarn-storage";

/// Makes sure that a directory carries this build's version: checks it where there is one, writes it where the
/// directory is new.
///
/// # Errors
///
/// As [`check`], or a fault of the disk.
pub fn ensure(path: &Path, engine: &str) -> Result<(), StorageError> {
    if path.join(FILE).exists() || !is_fresh(path)? {
        return check(path, engine);
    }
    write(path, engine)
}

/// Writes this build's version into a directory.
///
/// # Errors
///
/// A fault of the disk.
pub fn write(path: &Path, engine: &str) -> Result<(), StorageError> {
    dir::write_atomically(&path.join(FILE), line(engine, VERSION).as_bytes())
}

/// Checks that a directory belongs to this engine and has this build's version.
///
/// # Errors
///
/// [`StorageError::NotADataDirectory`] if there is no version or the engine is another one,
/// [`StorageError::UnknownFormat`] if the version is another one, [`StorageError::Corruption`] if the file cannot be
/// understood, otherwise a fault of the disk.
pub fn check(path: &Path, engine: &str) -> Result<(), StorageError> {
    let file = path.join(FILE);
    let content = match fs::read_to_string(&file) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StorageError::NotADataDirectory { path: path.to_owned(), detail: format!("it has no file named {FILE}") });
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(unreadable(&file)),
        Err(error) => return Err(StorageError::from_io("reading", &file, error)),
    };
    let (found_engine, found) = parse(&content).ok_or_else(|| unreadable(&file))?;
    if found_engine != engine {
        return Err(StorageError::NotADataDirectory {
            path: path.to_owned(),
            detail: format!("it belongs to the engine {found_engine:?}, not to {engine:?}"),
        });
    }
    if found != VERSION {
        return Err(StorageError::UnknownFormat { path: path.to_owned(), found, supported: VERSION });
    }
    Ok(())
}

fn unreadable(file: &Path) -> StorageError {
    StorageError::Corruption { detail: format!("the file {} does not hold a format version", file.display()) }
}

fn line(engine: &str, version: u32) -> String {
    format!("{WORD} {engine} {version}\n")
}

fn parse(content: &str) -> Option<(&str, u32)> {
    let mut words = content.strip_suffix('\n')?.split(' ');
    let (word, engine, version) = (words.next()?, words.next()?, words.next()?);
    if word != WORD || words.next().is_some() {
        return None;
    }
    Some((engine, version.parse().ok()?))
}

/// Whether nobody has used the directory yet. What an interrupted first start leaves behind does not count as use.
fn is_fresh(path: &Path) -> Result<bool, StorageError> {
    let interrupted = format!("{FILE}{}", dir::TEMPORARY_SUFFIX);
    let failed = |error| StorageError::from_io("listing the directory", path, error);
    for entry in fs::read_dir(path).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != interrupted.as_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_gets_the_version_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), "e").unwrap();
        ensure(dir.path(), "e").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "tarn-storage e 1\n");
    }

    #[test]
    fn an_interrupted_first_start_is_a_first_start() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT.tmp"), b"tarn-st").unwrap();
        ensure(dir.path(), "e").unwrap();
        check(dir.path(), "e").unwrap();
    }

    #[test]
    fn another_version_is_refused_and_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), line("e", 2)).unwrap();
        let error = ensure(dir.path(), "e").unwrap_err();
        assert!(matches!(error, StorageError::UnknownFormat { found: 2, supported: 1, .. }), "{error:?}");
    }

    #[test]
    fn a_strangers_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("diary.txt"), b"x").unwrap();
        let error = ensure(dir.path(), "e").unwrap_err();
        assert!(matches!(error, StorageError::NotADataDirectory { .. }), "{error:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_engines_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "e").unwrap();
        let error = check(dir.path(), "f").unwrap_err();
        assert!(matches!(error, StorageError::NotADataDirectory { .. }), "{error:?}");
    }

    #[test]
    fn a_damaged_version_is_corruption() {
        let dir = tempfile::tempdir().unwrap();
        let damaged: [&[u8]; 6] = [b"", b"tarn-storage e 1", b"tarn-storage e one\n", b"tarn-storage e 1 2\n", b"mud e 1\n", b"\xff\xfe"];
        for content in damaged {
            fs::write(dir.path().join(FILE), content).unwrap();
            let error = check(dir.path(), "e").unwrap_err();
            assert!(matches!(error, StorageError::Corruption { .. }), "{content:?} gave {error:?}");
        }
    }
}

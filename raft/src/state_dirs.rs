//! Where the state lies: one directory per generation, and a pointer to the one in use.
//!
//! ```text
//!   state/CURRENT      "g00000002"
//!   state/g00000002/   the engine in use
//!   state/g00000003/   being filled from a snapshot: in use once CURRENT says so, rubbish if a crash comes first
//! ```

use std::io;
use std::path::{Path, PathBuf};

use tarn_storage::StorageError;
use tarn_storage::dir::{self, Pointer};

use crate::crash;

const POINTER: &str = "CURRENT";

/// The directory that holds the generations.
#[derive(Debug)]
pub(crate) struct StateDirs {
    root: PathBuf,
    pointer: Pointer,
}

impl StateDirs {
    /// Removes what an interrupted installation left, and returns the generation in use: 0 if there is none yet.
    pub fn open(root: PathBuf) -> Result<(Self, u64), io::Error> {
        dir::create_durably(&root).map_err(storage)?;
        let pointer = Pointer::new(&root, POINTER);
        let current = match pointer.read().map_err(storage)? {
            None => 0,
            Some(name) => parse(&name)
                .ok_or_else(|| io::Error::other(format!("{} names {name:?}, which is no generation", root.join(POINTER).display())))?,
        };
        let dirs = Self { root, pointer };
        let others = dirs.others(current)?;
        if current != 0 && !others.is_empty() {
            // Whoever switched may have been stopped by a flush that failed: what was read is on the disk before what it replaces goes.
            dirs.pointer.switch(&name(current)).map_err(storage)?;
        }
        others.iter().try_for_each(|other| remove(other))?;
        Ok((dirs, current))
    }

    pub fn path(&self, generation: u64) -> PathBuf {
        self.root.join(name(generation))
    }

    /// Puts a generation in use, whose directory is complete and flushed, and removes all others.
    pub fn switch(&self, generation: u64) -> Result<(), io::Error> {
        crash::point(crash::STATE_SWITCH_BEFORE);
        self.pointer.switch(&name(generation)).map_err(storage)?;
        crash::point(crash::STATE_SWITCH_AFTER);
        Ok(())
    }

    /// Removes every generation but this one.
    pub fn remove_others(&self, keep: u64) -> Result<(), io::Error> {
        self.others(keep)?.iter().try_for_each(|other| remove(other))
    }

    /// Where every generation but this one lies.
    fn others(&self, keep: u64) -> Result<Vec<PathBuf>, io::Error> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let is_other = entry.file_name().to_str().and_then(parse).is_some_and(|found| found != keep);
            // A checkpoint that was interrupted has a generation's name with a suffix.
            let is_partial = entry.path().extension().is_some_and(|extension| extension == "partial");
            if is_other || is_partial {
                others.push(entry.path());
            }
        }
        Ok(others)
    }
}

fn remove(path: &Path) -> Result<(), io::Error> {
    dir::remove_durably(path).map_err(storage)
}

fn name(generation: u64) -> String {
    format!("g{generation:08}")
}

fn parse(name: &str) -> Option<u64> {
    name.strip_prefix('g')?.parse().ok()
}

fn storage(error: StorageError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_generation_in_use_survives_a_start() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("state");
        let (dirs, current) = StateDirs::open(root.clone()).unwrap();
        assert_eq!(current, 0);
        for generation in 1..=3 {
            std::fs::create_dir(dirs.path(generation)).unwrap();
        }
        dirs.switch(2).unwrap();
        let (dirs, current) = StateDirs::open(root).unwrap();
        assert_eq!(current, 2);
        assert!(dirs.path(2).exists() && !dirs.path(1).exists() && !dirs.path(3).exists());
    }

    #[test]
    fn a_pointer_to_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(POINTER), "elsewhere\n").unwrap();
        assert!(StateDirs::open(temp.path().to_path_buf()).is_err());
    }
}

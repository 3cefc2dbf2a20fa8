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
        dirs.remove_left_over(current)?;
        Ok((dirs, current))
    }

    /// Whoever switched to the generation in use may have been stopped by a flush that failed, and the pointer on the disk may name an earlier one
    /// still: it is written again before those go. Where that fails they stay until the next start.
    fn remove_left_over(&self, current: u64) -> Result<(), io::Error> {
        let is_earlier = |other: &Other| other.generation.is_some_and(|generation| generation < current);
        let (earlier, rubbish): (Vec<_>, Vec<_>) = self.others(current)?.into_iter().partition(is_earlier);
        rubbish.iter().try_for_each(|other| remove(&other.path))?;
        if earlier.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.pointer.switch(&name(current)) {
            tracing::warn!(%error, "earlier generations of the state are kept, because the pointer to the present one cannot be written");
            return Ok(());
        }
        earlier.iter().try_for_each(|other| remove(&other.path))
    }

    pub fn path(&self, generation: u64) -> PathBuf {
        self.root.join(name(generation))
    }

    /// Puts a generation in use, whose directory is complete and flushed.
    pub fn switch(&self, generation: u64) -> Result<(), io::Error> {
        crash::point(crash::STATE_SWITCH_BEFORE);
        self.pointer.switch(&name(generation)).map_err(storage)?;
        crash::point(crash::STATE_SWITCH_AFTER);
        Ok(())
    }

    /// Removes every generation but this one.
    pub fn remove_others(&self, keep: u64) -> Result<(), io::Error> {
        self.others(keep)?.iter().try_for_each(|other| remove(&other.path))
    }

    /// Every generation but this one.
    fn others(&self, keep: u64) -> Result<Vec<Other>, io::Error> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let generation = entry.file_name().to_str().and_then(parse);
            // A checkpoint that was interrupted has a generation's name with a suffix.
            let is_partial = entry.path().extension().is_some_and(|extension| extension == "partial");
            if generation.is_some_and(|found| found != keep) || is_partial {
                others.push(Other { path: entry.path(), generation });
            }
        }
        Ok(others)
    }
}

/// A generation that is not in use.
struct Other {
    path: PathBuf,
    /// `None` if it is not whole.
    generation: Option<u64>,
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
    fn an_earlier_generation_goes_only_after_the_pointer_was_written_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("state");
        let (dirs, _) = StateDirs::open(root.clone()).unwrap();
        for generation in 1..=3 {
            std::fs::create_dir(dirs.path(generation)).unwrap();
        }
        dirs.switch(2).unwrap();
        let in_the_way = root.join(format!("{POINTER}{}", dir::TEMPORARY_SUFFIX));
        std::fs::create_dir(&in_the_way).unwrap();
        let (dirs, current) = StateDirs::open(root.clone()).unwrap();
        assert_eq!(current, 2);
        assert!(dirs.path(1).exists() && !dirs.path(3).exists(), "what was never in use goes, and what was stays");

        std::fs::remove_dir(in_the_way).unwrap();
        StateDirs::open(root).unwrap();
        assert!(dirs.path(2).exists() && !dirs.path(1).exists());
    }

    #[test]
    fn a_pointer_to_something_else_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(POINTER), "elsewhere\n").unwrap();
        assert!(StateDirs::open(temp.path().to_path_buf()).is_err());
    }
}

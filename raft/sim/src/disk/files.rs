//! What a power cut leaves of a file system: what was flushed, and any part of what was not.
//!
//! Snapshots are directories of real files, below a temporary directory. The binary's `fsync` (see `main.rs`) comes here: a flushed file's
//! content and a flushed directory's names are remembered by inode and time of birth, for the number alone is given again. After a power cut
//! a new tree is written from that memory. A name that was not flushed with its directory may be there or not; bytes at the end of a file
//! that were not flushed may be torn off.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use super::current;
use crate::dice::Dice;

/// A file or directory for as long as it exists: its inode, and when that was born.
type Inode = (u64, u128);

fn inode(metadata: &fs::Metadata) -> Inode {
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    (metadata.ino(), born.map_or(0, |since| since.as_nanos()))
}

#[derive(Clone, Debug)]
enum Durable {
    File(Vec<u8>),
    Directory(BTreeMap<String, Inode>),
}

/// By inode, for all nodes of the process: one process simulates one cluster.
static DURABLE: Mutex<BTreeMap<Inode, Durable>> = Mutex::new(BTreeMap::new());

/// A file or directory is flushed by the code under test. `None` outside a simulation; an error number where the simulated disk fails.
pub fn flushed(file: c_int) -> Option<Result<(), c_int>> {
    let disk = current()?;
    Some(match disk.durable_step("a flush", || {}) {
        Ok(()) => remember(format!("/proc/self/fd/{file}")).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)),
        Err(_) => Err(libc::EIO),
    })
}

fn remember(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let metadata = fs::metadata(path)?;
    let durable = match metadata.is_dir() {
        true => Durable::Directory(names(path)?),
        false => Durable::File(fs::read(path)?),
    };
    lock().insert(inode(&metadata), durable);
    Ok(())
}

fn names(directory: &Path) -> io::Result<BTreeMap<String, Inode>> {
    fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), inode(&entry.metadata()?)))
        })
        .collect()
}

/// Writes what a power cut at this moment would leave of the tree at `from` into a new tree at `to`, where all of it is durable.
///
/// # Errors
///
/// The real disk fails.
pub fn survivors(from: &Path, to: &Path, dice: &mut Dice) -> io::Result<()> {
    let durable = lock().clone();
    let root = inode(&fs::metadata(from)?);
    rebuild(&durable, root, Some(from), to, dice)?;
    all_durable(to)
}

fn rebuild(durable: &BTreeMap<Inode, Durable>, this: Inode, live: Option<&Path>, to: &Path, dice: &mut Dice) -> io::Result<()> {
    let live = live.filter(|path| fs::symlink_metadata(path).is_ok_and(|metadata| inode(&metadata) == this));
    let is_directory = match (durable.get(&this), live) {
        (Some(known), _) => matches!(known, Durable::Directory(_)),
        (None, Some(path)) => path.is_dir(),
        (None, None) => return Ok(()),
    };
    match is_directory {
        true => rebuild_directory(durable, this, live, to, dice),
        false => rebuild_file(durable.get(&this), live, to, dice),
    }
}

fn rebuild_directory(durable: &BTreeMap<Inode, Durable>, inode: Inode, live: Option<&Path>, to: &Path, dice: &mut Dice) -> io::Result<()> {
    fs::create_dir(to)?;
    let flushed = match durable.get(&inode) {
        Some(Durable::Directory(names)) => names.clone(),
        _ => BTreeMap::new(),
    };
    // Where nobody can reach the directory any more, it is as it was flushed.
    let present = live.map(names).transpose()?.unwrap_or_else(|| flushed.clone());
    let place_of = |inode: Inode| present.iter().find(|(_, there)| **there == inode).map(|(name, _)| name);
    // A file system renames as a whole: what has two names has the old one or the new one.
    let renamed = flushed.iter().filter(|(name, inode)| place_of(**inode).is_some_and(|now| now != *name));
    let renamed: BTreeMap<Inode, bool> = renamed.map(|(_, inode)| (*inode, dice.percent(50))).collect();
    let all: BTreeSet<&String> = flushed.keys().chain(present.keys()).collect();
    for name in all {
        let (before, now) = (flushed.get(name), present.get(name));
        let moved = |inode: Option<&Inode>| inode.and_then(|inode| renamed.get(inode)).copied();
        let newer = match (moved(now), moved(before)) {
            _ if before == now => true,
            (Some(newer), _) | (None, Some(newer)) => newer,
            (None, None) => dice.percent(50),
        };
        if let Some(kept) = if newer { now } else { before } {
            let path = live.zip(place_of(*kept)).map(|(live, place)| live.join(place));
            rebuild(durable, *kept, path.as_deref(), &to.join(name), dice)?;
        }
    }
    Ok(())
}

fn rebuild_file(durable: Option<&Durable>, live: Option<&Path>, to: &Path, dice: &mut Dice) -> io::Result<()> {
    let flushed: &[u8] = match durable {
        Some(Durable::File(content)) => content,
        _ => &[],
    };
    let present = match live {
        Some(path) => fs::read(path)?,
        None => flushed.to_vec(),
    };
    // The end that was appended and not flushed is torn off anywhere.
    let kept = match present.starts_with(flushed) {
        true => &present[..flushed.len() + dice.below(present.len() - flushed.len() + 1)],
        false => flushed,
    };
    fs::write(to, kept)
}

fn all_durable(path: &Path) -> io::Result<()> {
    remember(path)?;
    if path.is_dir() {
        for name in names(path)?.keys() {
            all_durable(&path.join(name))?;
        }
    }
    Ok(())
}

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<Inode, Durable>> {
    DURABLE.lock().expect("no holder of this lock panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flushes as the hook would.
    fn flush(path: &Path) {
        remember(path).unwrap();
    }

    fn left(from: &Path, to: &Path, seed: u64) -> BTreeMap<String, String> {
        let _ = fs::remove_dir_all(to);
        survivors(from, to, &mut Dice::new(seed, "test")).unwrap();
        let entries = fs::read_dir(to).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_may_go() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("kept"), "flushed").unwrap();
        flush(&from.join("kept"));
        flush(&from);
        fs::write(from.join("kept"), "flushed and more").unwrap();
        fs::write(from.join("loose"), "nobody flushed this").unwrap();

        let outcomes: Vec<_> = (0..64).map(|seed| left(&from, &to, seed)).collect();
        assert!(outcomes.iter().all(|files| files["kept"].starts_with("flushed")));
        assert!(outcomes.iter().any(|files| files["kept"] == "flushed"));
        assert!(outcomes.iter().any(|files| files["kept"].len() > "flushed".len()), "torn anywhere");
        assert!(outcomes.iter().any(|files| files.contains_key("loose")));
        assert!(outcomes.iter().any(|files| !files.contains_key("loose")));

        flush(&from.join("kept"));
        flush(&from.join("loose"));
        flush(&from);
        let all = left(&from, &to, 1);
        assert_eq!((all["kept"].as_str(), all["loose"].as_str()), ("flushed and more", "nobody flushed this"));
    }

    #[test]
    fn a_name_that_was_changed_and_not_flushed_may_be_the_old_one() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("old"), "x").unwrap();
        flush(&from.join("old"));
        flush(&from);
        fs::rename(from.join("old"), from.join("new")).unwrap();
        let outcomes: Vec<_> = (0..64).map(|seed| left(&from, &to, seed)).collect();
        assert!(outcomes.iter().any(|files| files.contains_key("old")));
        assert!(outcomes.iter().any(|files| files.contains_key("new")));
        assert!(outcomes.iter().all(|files| files.len() == 1), "never both, never none");
        flush(&from);
        assert_eq!(left(&from, &to, 1).into_values().collect::<Vec<_>>(), ["x"]);
        assert_eq!(left(&from, &to, 1).into_keys().collect::<Vec<_>>(), ["new"]);
    }
}

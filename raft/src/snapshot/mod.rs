//! Snapshots: the state at one log index, as a directory that can be sent and installed.
//!
//! ```text
//!   snapshots/s00000000000000001234-9f86d081884c7d65/   the newest one; older ones go
//!       MANIFEST        what it is made of (wire::Manifest)
//!       files/          an engine's checkpoint
//!   snapshots/building/             under construction: rubbish after a crash
//!   snapshots/incoming-9f86…/       arriving from the leader: continued after an interruption
//!   snapshots/arrived-9f86…/        complete, until it is installed: out of the reach of the next that arrives
//!   snapshots/removing-s0000…/      an old one on its way out: rubbish after a crash
//! ```
//!
//! A snapshot is named after the hash of its manifest, and the manifest names every file with its size and BLAKE3
//! hash. What arrives is compared with all of it before it is installed. What lies here is compared when the node starts, but for the tables,
//! which are most of it: those when a receiver says that it got something else.

pub(crate) mod receive;
pub(crate) mod send;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tarn_storage::{StorageError, dir};

use crate::convert;
use crate::crash;
use crate::transport::PeerError;
use crate::types::{LogId, SnapshotMeta, StoredMembership};
use crate::wire::{self, Manifest, ManifestFile, SNAPSHOT_FORMAT};

const MANIFEST: &str = "MANIFEST";
const FILES: &str = "files";
const BUILDING: &str = "building";
const INCOMING: &str = "incoming-";
const ARRIVED: &str = "arrived-";
const REMOVING: &str = "removing-";

/// The snapshots of this node.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    root: PathBuf,
    current: Mutex<Option<Arc<SnapshotDir>>>,
    /// Held while one is built: there is one building site.
    building: Mutex<()>,
}

/// A complete snapshot on disk. Its directory goes when a newer one has taken its place and nobody reads it any more.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    /// Changes once: when the snapshot gets its name.
    path: Mutex<PathBuf>,
    pub manifest: Manifest,
    /// The manifest as it stands on disk; its hash is the snapshot's name.
    pub manifest_bytes: Bytes,
    meta: SnapshotMeta,
    obsolete: AtomicBool,
    /// Somebody has doubted it and it has been compared with its manifest.
    doubted: AtomicBool,
}

/// What a state is, beyond its bytes.
pub(crate) struct StateLabel {
    pub machine_version: u32,
    pub last_log_id: Option<LogId>,
    pub membership: StoredMembership,
}

impl SnapshotStore {
    /// Finds the newest snapshot and removes what an interruption left. A damaged one is removed with those before it: it is a copy of the
    /// state, and openraft has another made where the log before it is gone.
    pub fn open(root: PathBuf) -> Result<Self, io::Error> {
        dir::create_durably(&root).map_err(storage)?;
        let mut found = Vec::new();
        let mut damaged = false;
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(INCOMING) {
                continue;
            }
            if !name.starts_with('s') {
                dir::remove_durably(&path).map_err(storage)?;
                continue;
            }
            match SnapshotDir::open_named(path.clone()) {
                Ok(snapshot) => found.push(snapshot),
                Err(error) if is_damage(&error) => {
                    tracing::error!(path = %path.display(), %error, "a snapshot is damaged; it is removed, and made anew from the state");
                    remove(&path).map_err(storage)?;
                    damaged = true;
                }
                Err(error) => return Err(error),
            }
        }
        found.sort_by_key(|snapshot| snapshot.meta.last_log_id);
        let newest = match damaged {
            true => None,
            false => found.pop(),
        };
        for older in found {
            older.obsolete.store(true, Ordering::Relaxed);
        }
        Ok(Self { root, current: Mutex::new(newest.map(Arc::new)), building: Mutex::new(()) })
    }

    /// The newest snapshot.
    pub fn current(&self) -> Option<Arc<SnapshotDir>> {
        self.current.lock().expect("no holder of this lock panics").clone()
    }

    /// Builds a snapshot. `checkpoint` copies the state into the directory that it is given, and says what state it was.
    pub fn build(&self, checkpoint: impl FnOnce(&Path) -> Result<StateLabel, io::Error>) -> Result<Arc<SnapshotDir>, io::Error> {
        let _building = self.building.lock().expect("no holder of this lock panics");
        let building = self.root.join(BUILDING);
        dir::remove_durably(&building).map_err(storage)?;
        dir::create_durably(&building).map_err(storage)?;

        crash::point(crash::SNAPSHOT_CHECKPOINT_BEFORE);
        let label = checkpoint(&building.join(FILES))?;
        crash::point(crash::SNAPSHOT_CHECKPOINT_AFTER);

        let manifest = Manifest {
            format: SNAPSHOT_FORMAT,
            machine_version: label.machine_version,
            last_log_id: label.last_log_id.as_ref().map(convert::log_id_to_wire),
            membership: Some(convert::stored_to_wire(&label.membership)),
            files: self.describe(&building.join(FILES))?,
        };
        dir::write_atomically(&building.join(MANIFEST), &wire::encode(&manifest)).map_err(storage)?;
        let snapshot = Arc::new(SnapshotDir::open(building)?);
        self.publish(&snapshot)?;
        Ok(snapshot)
    }

    /// Gives a complete snapshot its name, and makes it the one to send and to restore from.
    pub fn publish(&self, snapshot: &Arc<SnapshotDir>) -> Result<(), io::Error> {
        let path = self.root.join(snapshot.name());
        let from = snapshot.path();
        crash::point(crash::SNAPSHOT_PUBLISH_BEFORE);
        if from != path {
            if path.exists() {
                // The same bytes: an installation that was interrupted after this step.
                dir::remove_durably(&from).map_err(storage)?;
            } else {
                dir::rename_durably(&from, &path).map_err(storage)?;
            }
            *snapshot.path.lock().expect("no holder of this lock panics") = path.clone();
        }
        crash::point(crash::SNAPSHOT_PUBLISH_AFTER);

        let mut current = self.current.lock().expect("no holder of this lock panics");
        let newer_exists = current.as_ref().is_some_and(|current| current.meta.last_log_id > snapshot.meta.last_log_id);
        if newer_exists {
            // One from the leader was installed while this one was built.
            snapshot.obsolete.store(true, Ordering::Relaxed);
        } else {
            snapshot.obsolete.store(false, Ordering::Relaxed);
            if let Some(previous) = current.replace(snapshot.clone()).filter(|previous| previous.path() != path) {
                previous.obsolete.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The files of a checkpoint with their hashes. A table file that is the very file of the last snapshot, by another
    /// name, is not read again: most of a large state does not change from one snapshot to the next.
    fn describe(&self, files: &Path) -> Result<Vec<ManifestFile>, io::Error> {
        let mut known: HashMap<(u64, u64), ManifestFile> = HashMap::new();
        if let Some(last) = self.current() {
            for file in last.manifest.files.iter().filter(|file| is_table(&file.name)) {
                if let Ok(metadata) = fs::metadata(last.file(file)) {
                    known.insert((metadata.dev(), metadata.ino()), file.clone());
                }
            }
        }
        let mut described = Vec::new();
        for entry in fs::read_dir(files)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other(format!("{} is not a plain file", entry.path().display())));
            }
            let name =
                entry.file_name().into_string().map_err(|name| io::Error::other(format!("the engine made a file named {name:?}")))?;
            let (bytes, blake3) = match known.get(&(metadata.dev(), metadata.ino())) {
                Some(same) if is_table(&name) && same.bytes == metadata.len() => (same.bytes, same.blake3.clone()),
                _ => hash_file(&entry.path())?,
            };
            described.push(ManifestFile { name, bytes, blake3 });
        }
        described.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(described)
    }
}

impl SnapshotDir {
    /// Reads a snapshot's manifest. The files are not read.
    fn open(path: PathBuf) -> Result<Self, io::Error> {
        let manifest_bytes = Bytes::from(fs::read(path.join(MANIFEST))?);
        let damaged = |error: PeerError| io::Error::other(format!("the snapshot {}: {error}", path.display()));
        let manifest = parse_manifest(manifest_bytes.clone()).map_err(damaged)?;
        let meta = SnapshotMeta {
            last_log_id: manifest.last_log_id.map(convert::log_id_from_wire),
            last_membership: convert::stored_from_wire(manifest.membership.clone()).map_err(damaged)?,
        };
        Ok(Self {
            path: Mutex::new(path),
            manifest,
            manifest_bytes,
            meta,
            obsolete: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
        })
    }

    /// As [`SnapshotDir::open`], for one that has its name, which must fit; the files that are no tables must too.
    fn open_named(path: PathBuf) -> Result<Self, io::Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with(&short_hash(&fs::read(path.join(MANIFEST))?)) {
            return Err(damage("its manifest does not have the hash that it is named after"));
        }
        let snapshot = Self::open(path)?;
        snapshot.compare(|file| !is_table(file))?;
        Ok(snapshot)
    }

    /// Compares everything with the manifest, the first time that it is asked to. An error says what is damaged.
    pub fn doubt(&self) -> Result<(), io::Error> {
        match self.doubted.swap(true, Ordering::Relaxed) {
            true => Ok(()),
            false => self.compare(|_| true),
        }
    }

    fn compare(&self, wanted: impl Fn(&str) -> bool) -> Result<(), io::Error> {
        for file in self.manifest.files.iter().filter(|file| wanted(&file.name)) {
            let (bytes, hash) = hash_file(&self.file(file))?;
            if bytes != file.bytes || hash != file.blake3 {
                return Err(damage(&format!("{} does not have the hash of its manifest", file.name)));
            }
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.path.lock().expect("no holder of this lock panics").clone()
    }

    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Copies the state into a new directory, durably. Table files, which an engine never changes, become links.
    pub fn copy_state(&self, target: &Path) -> Result<(), io::Error> {
        dir::remove_durably(target).map_err(storage)?;
        fs::create_dir(target)?;
        for file in &self.manifest.files {
            let (from, to) = (self.file(file), target.join(&file.name));
            let linked = is_table(&file.name) && fs::hard_link(&from, &to).is_ok();
            if !linked {
                fs::copy(&from, &to)?;
            }
        }
        dir::fsync_tree(target).map_err(storage)
    }

    fn file(&self, file: &ManifestFile) -> PathBuf {
        self.path().join(FILES).join(&file.name)
    }

    fn name(&self) -> String {
        let index = self.meta.last_log_id.as_ref().map_or(0, |id| id.index);
        format!("s{index:020}-{}", short_hash(&self.manifest_bytes))
    }
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Relaxed)
            && let Err(error) = remove(&self.path())
        {
            // It is only rubbish: the next start tries again.
            tracing::warn!(path = %self.path().display(), %error, "an old snapshot could not be removed");
        }
    }
}

/// Removes a snapshot. It loses its name first, because a crash in the middle of the removal would leave it without some of its files,
/// and the next start must not take it for a snapshot.
fn remove(path: &Path) -> Result<(), StorageError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rubbish = path.with_file_name(format!("{REMOVING}{name}"));
    dir::rename_durably(path, &rubbish)?;
    dir::remove_durably(&rubbish)
}

/// Reads a manifest and refuses one that names anything but plain files.
fn parse_manifest(bytes: Bytes) -> Result<Manifest, PeerError> {
    let manifest: Manifest = wire::decode(bytes)?;
    if manifest.format != SNAPSHOT_FORMAT {
        return Err(PeerError::Malformed(format!(
            "a snapshot has format {}, and this build knows only format {SNAPSHOT_FORMAT}; upgrade this node",
            manifest.format
        )));
    }
    for file in &manifest.files {
        let plain = !file.name.is_empty() && !file.name.contains(['/', '\\', '\0']) && !file.name.starts_with('.');
        if !plain || file.blake3.len() != blake3::OUT_LEN {
            return Err(PeerError::Malformed(format!("a snapshot names the file {:?}", file.name)));
        }
    }
    Ok(manifest)
}

fn damage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether a snapshot's files say something else than they should, as opposed to a disk that cannot be read.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
}

/// Whether an engine never changes the file once it is written.
fn is_table(name: &str) -> bool {
    name.ends_with(".sst")
}

fn hash_file(path: &Path) -> Result<(u64, Bytes), io::Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.count(), Bytes::copy_from_slice(hasher.finalize().as_bytes())))
}

fn short_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

fn storage(error: StorageError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::LeaderId;

    pub(super) fn label(index: u64) -> StateLabel {
        StateLabel {
            machine_version: 1,
            last_log_id: Some(LogId::new(LeaderId::new(1, 1), index)),
            membership: StoredMembership::default(),
        }
    }

    pub(super) fn build(store: &SnapshotStore, index: u64, content: &[u8]) -> Arc<SnapshotDir> {
        store
            .build(|files| {
                fs::create_dir(files)?;
                fs::write(files.join("000001.sst"), content)?;
                fs::write(files.join("CURRENT"), b"x")?;
                Ok(label(index))
            })
            .unwrap()
    }

    #[test]
    fn the_newest_snapshot_is_found_again_and_older_ones_go() {
        let temp = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        assert!(store.current().is_none());
        let first = build(&store, 10, b"ten");
        let first_path = first.path();
        build(&store, 20, b"twenty");
        assert!(first_path.exists(), "somebody may be sending it");
        drop(first);
        assert!(!first_path.exists());

        fs::create_dir(temp.path().join(BUILDING)).unwrap();
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        let found = store.current().unwrap();
        assert_eq!(found.meta().last_log_id, label(20).last_log_id);
        assert_eq!(found.manifest.files.len(), 2);
        assert!(!temp.path().join(BUILDING).exists());
    }

    #[test]
    fn a_snapshot_that_goes_loses_its_name_before_its_files() {
        let temp = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        let snapshot = build(&store, 10, b"ten");
        let path = snapshot.path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // The new name is taken, so that the removal ends after its first step: nothing may be gone by then.
        let rubbish = temp.path().join(format!("{REMOVING}{name}"));
        fs::create_dir(&rubbish).unwrap();
        fs::write(rubbish.join("in the way"), b"").unwrap();
        assert!(remove(&path).is_err());
        for file in &snapshot.manifest.files {
            assert!(snapshot.file(file).exists(), "{}", file.name);
        }
        // What a crash left after the first step is no snapshot, and goes.
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        assert!(store.current().is_some() && !rubbish.exists());
        fs::rename(&path, &rubbish).unwrap();
        fs::remove_file(rubbish.join(FILES).join("CURRENT")).unwrap();
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        assert!(store.current().is_none() && !rubbish.exists());
    }

    #[test]
    fn an_older_snapshot_does_not_take_the_place_of_a_newer_one() {
        let temp = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
        build(&store, 20, b"twenty");
        drop(build(&store, 10, b"ten"));
        assert_eq!(store.current().unwrap().meta().last_log_id, label(20).last_log_id);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_manifest_that_points_outside_is_refused() {
        let file = |name: &str| Manifest {
            format: SNAPSHOT_FORMAT,
            files: vec![ManifestFile { name: name.into(), bytes: 0, blake3: vec![0; 32].into() }],
            ..Manifest::default()
        };
        assert!(parse_manifest(wire::encode(&file("000001.sst"))).is_ok());
        for name in ["", "..", "../CURRENT", "/etc/passwd", "a/b", ".hidden", "a\\b"] {
            assert!(parse_manifest(wire::encode(&file(name))).is_err(), "{name:?}");
        }
        let newer = Manifest { format: SNAPSHOT_FORMAT + 1, ..Manifest::default() };
        assert!(matches!(parse_manifest(wire::encode(&newer)), Err(PeerError::Malformed(text)) if text.contains("upgrade")));
    }

    #[test]
    fn a_damaged_snapshot_is_not_used_again() {
        for (file, at_start) in [("MANIFEST", true), ("files/CURRENT", true), ("files/000001.sst", false)] {
            for cut in [false, true] {
                let temp = tempfile::tempdir().unwrap();
                let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
                let snapshot = build(&store, 10, b"ten");
                assert!(snapshot.compare(|_| true).is_ok());
                let path = snapshot.path().join(file);
                let mut bytes = fs::read(&path).unwrap();
                match cut {
                    true => bytes.truncate(bytes.len() - 1),
                    false => bytes[0] ^= 1,
                }
                fs::write(&path, bytes).unwrap();
                drop(store);
                let store = SnapshotStore::open(temp.path().to_path_buf()).unwrap();
                let left = fs::read_dir(temp.path()).unwrap().count();
                assert_eq!((store.current().is_none(), left == 0), (at_start, at_start), "{file} {cut}");
                if !at_start {
                    let error = store.current().unwrap().doubt().unwrap_err();
                    assert!(error.to_string().contains("000001.sst"), "{error}");
                }
            }
        }
    }

    #[test]
    fn the_state_comes_out_as_it_went_in() {
        let temp = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(temp.path().join("snapshots")).unwrap();
        let snapshot = build(&store, 5, b"content");
        let target = temp.path().join("state");
        snapshot.copy_state(&target).unwrap();
        assert_eq!(fs::read(target.join("000001.sst")).unwrap(), b"content");
        assert_eq!(fs::read(target.join("CURRENT")).unwrap(), b"x");
    }
}

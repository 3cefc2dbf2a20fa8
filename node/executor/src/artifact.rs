//! The store of artifacts on disk: bytes named by their hash, verified on every read.
//!
//! ```text
//! dir/blobs/ab/ab12…   64 digits, one file for each artifact, complete by construction (written aside, synced, renamed)
//! dir/incoming/        what is being written; emptied on open
//! dir/damaged/         what failed verification, kept for a person to look at
//! ```
//!
//! All methods block on the disk: call them where that is allowed (`tokio::task::spawn_blocking`). A store is a handle;
//! cloning it is cheap. One directory must be open in one process only, which the node's lock on its data directory
//! guarantees.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::Hash;
use crate::durable::{Unfinished, own_directory, remove_unfinished};

/// The largest artifact, in bytes. An artifact is held in memory as a whole while it is verified and compiled, on machines
/// with a few GiB; WebAssembly programs with an interpreter inside reach 20 MiB. Larger things (models, data sets) need
/// another way in than this store.
pub const ARTIFACT_BYTES_MAX: u64 = 64 << 20;

/// How many damaged files are kept to look at. More than a few say nothing new, and a dying disk must not fill itself
/// up with them; when this many are there, further ones are removed.
pub const DAMAGED_FILES_MAX: usize = 16;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The artifact is larger than any may be.
    #[error("the artifact has more than {max_bytes} bytes: make it smaller")]
    TooLarge {
        /// [`ARTIFACT_BYTES_MAX`].
        max_bytes: u64,
    },
    /// What was written does not have the hash that was announced; nothing was stored.
    #[error("the bytes hash to {actual} but {expected} was announced: send the artifact again")]
    WrongHash {
        /// The announced hash.
        expected: Hash,
        /// The hash of what arrived.
        actual: Hash,
    },
    /// The disk refused.
    #[error("the artifact store could not {action} ({source}): check the node's disk")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, source }
}

/// One artifact in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtifactInfo {
    /// Its name.
    pub hash: Hash,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Content-addressed files under one directory.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    folders: Arc<Folders>,
}

#[derive(Debug)]
struct Folders {
    blobs: PathBuf,
    incoming: PathBuf,
    damaged: PathBuf,
    /// Held while a file gets its final name or is set aside, so that a good copy that arrives just then is not taken for
    /// the damaged one.
    renaming: Mutex<()>,
}

impl ArtifactStore {
    /// Opens the store under `dir`, creating it if need be, readable by its owner only. Removes what a crash left
    /// unfinished.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be created or does not belong to this user.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let dir = dir.as_ref();
        let folders =
            Folders { blobs: dir.join("blobs"), incoming: dir.join("incoming"), damaged: dir.join("damaged"), renaming: Mutex::new(()) };
        for folder in [dir, &folders.blobs, &folders.incoming, &folders.damaged] {
            own_directory(folder).map_err(io_error("create its directories"))?;
        }
        remove_unfinished(&folders.incoming).map_err(io_error("remove unfinished files"))?;
        Ok(Self { folders: Arc::new(folders) })
    }

    /// Stores `bytes` and returns their name. When this returns, a crash cannot take them away. Storing what is there
    /// already does nothing, unless the file is damaged, in which case it is replaced.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Io`].
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        check_size(bytes.len() as u64)?;
        let hash = Hash::of(bytes);
        if self.get(&hash)?.is_some() {
            return Ok(hash);
        }
        let mut writer = self.writer()?;
        writer.append(bytes)?;
        writer.finish(&hash)?;
        Ok(hash)
    }

    /// Starts to store an artifact that arrives in pieces.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn writer(&self) -> Result<ArtifactWriter, StoreError> {
        let file = Unfinished::create(&self.folders.incoming).map_err(io_error("create a file"))?;
        Ok(ArtifactWriter { folders: Arc::clone(&self.folders), file, hasher: blake3::Hasher::new(), size_bytes: 0 })
    }

    /// Reads an artifact and verifies it. `None` means that it is not here; that includes one whose file turned out to be
    /// damaged, which is reported in the log and set aside, so that the caller fetches it from a peer.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file exists but cannot be read.
    pub fn get(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        match self.folders.read(hash)? {
            Found::Intact(bytes) => Ok(Some(bytes)),
            Found::Nothing => Ok(None),
            Found::Damaged => self.folders.set_aside(hash),
        }
    }

    /// Whether there is a file for this artifact. Only [`get`](Self::get) can tell whether it is intact.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn contains(&self, hash: &Hash) -> Result<bool, StoreError> {
        self.folders.path(hash).try_exists().map_err(io_error("look for an artifact"))
    }

    /// All artifacts, in the order of their hashes. Files that are not artifacts are skipped.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<ArtifactInfo>, StoreError> {
        let mut found = Vec::new();
        collect(&self.folders.blobs, &mut found).map_err(io_error("list its files"))?;
        found.sort_unstable();
        Ok(found)
    }
}

fn collect(blobs: &Path, found: &mut Vec<ArtifactInfo>) -> io::Result<()> {
    for group in fs::read_dir(blobs)? {
        let group = group?;
        if !group.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(group.path())? {
            let entry = entry?;
            let Some(hash) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) => found.push(ArtifactInfo { hash, size_bytes: metadata.len() }),
                // It was set aside in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn check_size(size_bytes: u64) -> Result<(), StoreError> {
    if size_bytes > ARTIFACT_BYTES_MAX {
        return Err(StoreError::TooLarge { max_bytes: ARTIFACT_BYTES_MAX });
    }
    Ok(())
}

impl Folders {
    /// Artifacts are spread over 256 folders by their first byte, because some file systems are slow with very many files
    /// in one.
    fn group(&self, hash: &Hash) -> PathBuf {
        self.blobs.join(&hash.to_hex()[..2])
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.group(hash).join(hash.to_hex())
    }

    fn read(&self, hash: &Hash) -> Result<Found, StoreError> {
        let file = match File::open(self.path(hash)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(io_error("open an artifact")(error)),
        };
        let mut bytes = Vec::new();
        // One byte more than allowed is enough to know that the file is not what was written.
        file.take(ARTIFACT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read an artifact"))?;
        Ok(if Hash::of(&bytes) == *hash { Found::Intact(bytes.into()) } else { Found::Damaged })
    }

    /// Takes a damaged file out of the way, so that it is missing from now on. Returns the good bytes in the case that
    /// somebody has just put them in its place.
    fn set_aside(&self, hash: &Hash) -> Result<Option<Bytes>, StoreError> {
        let _renaming = self.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(hash)? {
            Found::Intact(bytes) => return Ok(Some(bytes)),
            Found::Nothing => return Ok(None),
            Found::Damaged => {}
        }
        let path = self.path(hash);
        let kept = fs::read_dir(&self.damaged).map_err(io_error("list damaged files"))?.count();
        let moved = if kept < DAMAGED_FILES_MAX {
            fs::rename(path, self.damaged.join(format!("{}-{kept}", hash.to_hex())))
        } else {
            fs::remove_file(path)
        };
        moved.map_err(io_error("set a damaged artifact aside"))?;
        tracing::error!(artifact = %hash, "an artifact was damaged on disk; it was set aside and counts as missing");
        Ok(None)
    }
}

/// What is under an artifact's name.
enum Found {
    Nothing,
    Intact(Bytes),
    Damaged,
}

/// An artifact that arrives in pieces. Dropping the writer without finishing leaves nothing behind.
pub struct ArtifactWriter {
    folders: Arc<Folders>,
    file: Unfinished,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl ArtifactWriter {
    /// Adds a piece at the end.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] before anything beyond [`ARTIFACT_BYTES_MAX`] is written; [`StoreError::Io`]. After an error
    /// the writer is of no more use: drop it.
    pub fn append(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        check_size(self.size_bytes.saturating_add(chunk.len() as u64))?;
        self.file.append(chunk).map_err(io_error("write an artifact"))?;
        self.hasher.update(chunk);
        self.size_bytes += chunk.len() as u64;
        Ok(())
    }

    /// How many bytes were appended.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Stores what was appended, provided that it hashes to `expected`. When this returns, a crash cannot take it away.
    ///
    /// # Errors
    /// [`StoreError::WrongHash`] and [`StoreError::Io`]; in both cases nothing is stored.
    pub fn finish(self, expected: &Hash) -> Result<(), StoreError> {
        let actual = self.hash();
        if actual != *expected {
            return Err(StoreError::WrongHash { expected: *expected, actual });
        }
        self.store(&actual)
    }

    /// Stores what was appended under whatever hash it has, for a sender that does not know it.
    ///
    /// # Errors
    /// [`StoreError::Io`], in which case nothing is stored.
    pub fn finish_unnamed(self) -> Result<Hash, StoreError> {
        let hash = self.hash();
        self.store(&hash)?;
        Ok(hash)
    }

    fn hash(&self) -> Hash {
        Hash::from_bytes(*self.hasher.finalize().as_bytes())
    }

    fn store(self, hash: &Hash) -> Result<(), StoreError> {
        let group = self.folders.group(hash);
        if !group.is_dir() {
            own_directory(&group).map_err(io_error("create a directory"))?;
            // The new folder's own entry must outlive a crash too, before a file in it is promised.
            File::open(&self.folders.blobs).and_then(|blobs| blobs.sync_all()).map_err(io_error("sync its directory"))?;
        }
        let _renaming = self.folders.renaming.lock().unwrap_or_else(PoisonError::into_inner);
        // Two writers of the same artifact both get here; the second rename puts the same bytes in the place of the first.
        self.file.persist(&group, &hash.to_hex()).map_err(io_error("store an artifact"))
    }
}

/// Any error of an [`ArtifactSource`].
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where an executor gets the bytes of an artifact that it has not compiled yet: the local [`ArtifactStore`], or something
/// of the node's that asks its peers too.
#[async_trait]
pub trait ArtifactSource: Send + Sync {
    /// The bytes of `hash`, or `None` when they are nowhere to be found. The executor verifies them.
    ///
    /// # Errors
    /// Whatever kept the source from looking; the attempt fails with `ARTIFACT_UNAVAILABLE`, which is retryable.
    async fn load(&self, hash: &Hash) -> Result<Option<Bytes>, SourceError>;
}

#[async_trait]
impl ArtifactSource for ArtifactStore {
    async fn load(&self, hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        let (store, hash) = (self.clone(), *hash);
        Ok(tokio::task::spawn_blocking(move || store.get(&hash)).await??)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path().join("artifacts")).unwrap();
        (dir, store)
    }

    fn files_in(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn put_get_list_and_put_again() {
        let (dir, store) = store();
        let absent = Hash::of(b"absent");
        assert_eq!(store.get(&absent).unwrap(), None);
        assert!(!store.contains(&absent).unwrap());
        assert_eq!(store.list().unwrap(), []);

        let one = store.put(b"one").unwrap();
        let empty = store.put(b"").unwrap();
        assert_eq!(store.put(b"one").unwrap(), one);
        assert_eq!(one, Hash::of(b"one"));
        assert_eq!(store.get(&one).unwrap().unwrap(), "one");
        assert_eq!(store.get(&empty).unwrap().unwrap(), "");
        assert!(store.contains(&one).unwrap());

        // Everything is still there for the next process, in order, and nothing unfinished is left.
        let store = ArtifactStore::open(dir.path().join("artifacts")).unwrap();
        let mut expected = vec![ArtifactInfo { hash: one, size_bytes: 3 }, ArtifactInfo { hash: empty, size_bytes: 0 }];
        expected.sort_unstable();
        assert_eq!(store.list().unwrap(), expected);
        assert_eq!(files_in(&store.folders.incoming), 0);
    }

    #[test]
    fn only_the_owner_can_read() {
        let (dir, store) = store();
        let hash = store.put(b"private").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("artifacts")), 0o700);
        assert_eq!(mode(&store.folders.path(&hash)), 0o600);
    }

    #[test]
    fn every_kind_of_damage_counts_as_missing_and_put_repairs_it() {
        let (_dir, store) = store();
        let bytes = vec![7_u8; 10_000];
        let mut flipped = bytes.clone();
        flipped[5_000] ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for damaged in [&b""[..], &bytes[..4_096], &flipped, &longer, &vec![0; bytes.len()]] {
            let hash = store.put(&bytes).unwrap();
            fs::write(store.folders.path(&hash), damaged).unwrap();
            let before = files_in(&store.folders.damaged);
            assert_eq!(store.get(&hash).unwrap(), None);
            assert_eq!(files_in(&store.folders.damaged), before + 1);
            assert!(!store.contains(&hash).unwrap());
            assert_eq!(store.list().unwrap(), []);

            // Putting the same bytes over a damaged file, without having read it, works as well.
            store.put(&bytes).unwrap();
            fs::write(store.folders.path(&hash), damaged).unwrap();
            store.put(&bytes).unwrap();
            assert_eq!(store.get(&hash).unwrap().unwrap(), bytes);
        }
    }

    #[test]
    fn damaged_files_do_not_pile_up() {
        let (_dir, store) = store();
        for _ in 0..DAMAGED_FILES_MAX + 3 {
            let hash = store.put(b"fragile").unwrap();
            fs::write(store.folders.path(&hash), b"broken").unwrap();
            assert_eq!(store.get(&hash).unwrap(), None);
        }
        assert_eq!(files_in(&store.folders.damaged), DAMAGED_FILES_MAX);
    }

    #[test]
    fn pieces_make_one_artifact() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        for chunk in [&b"he"[..], b"", b"llo"] {
            writer.append(chunk).unwrap();
        }
        assert_eq!(writer.size_bytes(), 5);
        let hash = Hash::of(b"hello");
        assert!(!store.contains(&hash).unwrap(), "nothing is visible before the end");
        writer.finish(&hash).unwrap();
        assert_eq!(store.get(&hash).unwrap().unwrap(), "hello");

        let mut writer = store.writer().unwrap();
        writer.append(b"unnamed").unwrap();
        assert_eq!(writer.finish_unnamed().unwrap(), Hash::of(b"unnamed"));
        assert_eq!(store.list().unwrap().len(), 2);
    }

    #[test]
    fn a_wrong_hash_or_a_vanished_sender_leaves_nothing() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.append(b"these bytes").unwrap();
        let expected = Hash::of(b"other bytes");
        match writer.finish(&expected) {
            Err(StoreError::WrongHash { actual, .. }) => assert_eq!(actual, Hash::of(b"these bytes")),
            other => panic!("{other:?}"),
        }
        let mut vanished = store.writer().unwrap();
        vanished.append(b"half of i").unwrap();
        drop(vanished);
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(files_in(&store.folders.incoming), 0);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed_on_open() {
        let (dir, store) = store();
        let mut torn = store.writer().unwrap();
        torn.append(b"torn").unwrap();
        std::mem::forget(torn);
        assert_eq!(files_in(&store.folders.incoming), 1);
        let store = ArtifactStore::open(dir.path().join("artifacts")).unwrap();
        assert_eq!(files_in(&store.folders.incoming), 0);
        assert_eq!(store.list().unwrap(), []);
    }

    #[test]
    fn too_large_is_refused_early() {
        let (_dir, store) = store();
        let mut writer = store.writer().unwrap();
        let chunk = vec![0; 1 << 20];
        for _ in 0..ARTIFACT_BYTES_MAX >> 20 {
            writer.append(&chunk).unwrap();
        }
        assert!(matches!(writer.append(b"x"), Err(StoreError::TooLarge { max_bytes: ARTIFACT_BYTES_MAX })));
        drop(writer);
        let large = vec![0; usize::try_from(ARTIFACT_BYTES_MAX).unwrap() + 1];
        assert!(matches!(store.put(&large), Err(StoreError::TooLarge { .. })));
        assert_eq!(files_in(&store.folders.incoming), 0);
    }

    #[test]
    fn concurrent_puts_of_the_same_bytes_agree() {
        let (_dir, store) = store();
        let hashes: Vec<Hash> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| store.put(b"popular").unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(hashes.iter().all(|hash| *hash == Hash::of(b"popular")));
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn strange_files_are_skipped_by_list() {
        let (_dir, store) = store();
        let hash = store.put(b"good").unwrap();
        fs::write(store.folders.blobs.join("README"), b"").unwrap();
        fs::write(store.folders.group(&hash).join("notes"), b"").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_store_is_a_source() {
        let (_dir, store) = store();
        let hash = store.put(b"bytes").unwrap();
        assert_eq!(store.load(&hash).await.unwrap().unwrap(), "bytes");
        assert_eq!(store.load(&Hash::of(b"absent")).await.unwrap(), None);
    }
}

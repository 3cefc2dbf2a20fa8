//! The engine for real nodes: RocksDB.
//!
//! Each keyspace is a column family. With [`Profile::Log`] all column families of one directory share one write-ahead log, and that is what
//! makes a batch atomic across keyspaces: it is one record of that log, found whole by its checksum or not at all. With [`Profile::State`]
//! there is none, because the owner has one: memory tables are written to files together, over all column families, and so a batch is
//! on the disk wholly or not at all there too.
//!
//! ```text
//!   data directory
//!     FORMAT          this crate's version, written before anything else
//!     SYNCED          how far the write-ahead log of a [`Profile::Log`] was synced
//!     CURRENT, …      RocksDB's own files, directly beside it
//!     trash/          second names of a state's data files: `trash.rs`
//! ```
//!
//! The directory itself is locked while it is open, before RocksDB looks at it.

mod profile;
mod status;
mod trash;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, FlushOptions, ReadOptions,
    WriteBatch, WriteOptions,
};

use crate::lock::DirectoryLock;
use crate::mark::{MarkFile, Marker};
use crate::{Batch, Direction, Durability, Engine, Entry, Keyspace, Op, Range, Scan, StorageError, dir, format};
pub use profile::Profile;
use status::translate;
use trash::Trash;

/// The engine's name in the file `FORMAT`.
const ENGINE: &str = "rocksdb";

/// How to open a [`RocksEngine`].
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions<'a> {
    /// The keyspaces to offer. Those that the directory does not have yet are created; those that it has and that are
    /// not named here are kept, and cannot be reached.
    pub keyspaces: &'a [Keyspace],
    /// What the engine is tuned for. It may differ from one opening to the next.
    pub profile: Profile,
}

/// An [`Engine`] on RocksDB, in one directory.
///
/// It is closed when it is dropped, with everything on the disk that was written.
pub struct RocksEngine {
    // Fields are dropped in order: the lock must go last, when RocksDB has let go of its files.
    db: DB,
    /// With [`Profile::Log`].
    marker: Option<Marker>,
    /// With [`Profile::State`], where the file system allows it: a log's files are few and small.
    _trash: Option<Trash>,
    path: PathBuf,
    keyspaces: Vec<&'static str>,
    read: ReadOptions,
    profile: Profile,
    synced: WriteOptions,
    buffered: WriteOptions,
    /// The first write or flush that failed, in words. Nothing is written after it.
    failed: OnceLock<String>,
    _lock: DirectoryLock,
}

impl RocksEngine {
    /// Opens the engine in a directory, which is created, durably, where it is missing.
    ///
    /// # Errors
    ///
    /// [`StorageError::Locked`] if another engine has the directory open, in this process or another;
    /// [`StorageError::UnknownFormat`] if another version wrote it; [`StorageError::NotADataDirectory`] if something
    /// else did; [`StorageError::Corruption`] if what was acknowledged is damaged or missing, as far as the profile
    /// can tell (see [`Profile`]); otherwise a fault of the disk.
    pub fn open(path: &Path, options: RocksOptions<'_>) -> Result<Self, StorageError> {
        dir::create_durably(path)?;
        let lock = DirectoryLock::acquire(path)?;
        format::ensure(path, ENGINE)?;

        let database = options.profile.database_options();
        let mut families: BTreeSet<String> = options.keyspaces.iter().map(|keyspace| keyspace.name().to_owned()).collect();
        families.insert(DEFAULT_COLUMN_FAMILY_NAME.to_owned());
        if holds_a_database(path)? {
            // RocksDB insists that all column families are opened, so the ones nobody asked for are opened too.
            let existing = DB::list_cf(&database, path).map_err(|error| translate(&opening(path), &error))?;
            families.extend(existing);
        }
        let (db, marker, trash) = match options.profile {
            Profile::State => (open_database(path, &options, &families, How::Usual)?, None, Trash::follow(path)),
            Profile::Log => {
                let mark = MarkFile::open(path)?;
                let db = open_log(path, &options, &families, mark.sequence())?;
                let end = db.latest_sequence_number();
                (db, Some(Marker::follow(path, mark, end)?), None)
            }
        };

        let (mut synced, mut buffered) = (WriteOptions::default(), WriteOptions::default());
        match options.profile {
            Profile::Log => synced.set_sync(true),
            // What must be durable is flushed after it.
            Profile::State => [&mut synced, &mut buffered].into_iter().for_each(|write| write.disable_wal(true)),
        }
        Ok(Self {
            db,
            marker,
            _trash: trash,
            path: path.to_owned(),
            keyspaces: options.keyspaces.iter().map(|keyspace| keyspace.name()).collect(),
            synced,
            profile: options.profile,
            read: ReadOptions::default(),
            buffered,
            failed: OnceLock::new(),
            _lock: lock,
        })
    }

    /// The directory that the engine is open in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn family(&self, keyspace: Keyspace) -> Result<&ColumnFamily, StorageError> {
        let found = self.keyspaces.contains(&keyspace.name()).then(|| self.db.cf_handle(keyspace.name())).flatten();
        found.ok_or_else(|| StorageError::unknown_keyspace(keyspace.name()))
    }

    /// The batch in RocksDB's own words.
    fn convert(&self, batch: &Batch) -> Result<WriteBatch, StorageError> {
        // RocksDB's own encoding is shorter than ours, but for its head.
        let mut converted = WriteBatch::with_capacity_bytes(batch.byte_size() + 16);
        // Operations on one keyspace follow each other: it is looked up by its name when it changes.
        let mut last = None;
        let mut family_of = |keyspace: Keyspace| match last {
            Some((name, family)) if std::ptr::eq::<str>(name, keyspace.name()) => Ok(family),
            _ => self.family(keyspace).inspect(|family| last = Some((keyspace.name(), *family))),
        };
        for op in batch {
            match op {
                Op::Put { keyspace, key, value } => converted.put_cf(family_of(keyspace)?, key, value),
                Op::Delete { keyspace, key } => converted.delete_cf(family_of(keyspace)?, key),
                Op::DeleteRange { keyspace, start, end } => {
                    let family = family_of(keyspace)?;
                    // RocksDB refuses a whole batch for one range whose ends cross; here such a range is just empty.
                    if start < end {
                        converted.delete_range_cf(family, start, end);
                    }
                }
            }
        }
        Ok(converted)
    }

    /// Refuses to write after a failed write. What a failed flush left on disk is unknown, and a later flush that
    /// succeeds would say nothing about it, so going on could acknowledge what is lost.
    fn refuse_after_failure(&self, doing: &str) -> Result<(), StorageError> {
        let unmarked = || self.marker.as_ref().and_then(Marker::failure);
        match self.failed.get().cloned().or_else(unmarked) {
            None => Ok(()),
            Some(first) => Err(StorageError::Engine {
                doing: doing.to_owned(),
                detail: format!("an earlier write failed and nothing is written since: {first}"),
            }),
        }
    }

    fn mark(&self, reached: u64) {
        if let Some(marker) = &self.marker {
            marker.reached(reached);
        }
    }

    fn note_failure(&self, error: StorageError) -> StorageError {
        // Only the first failure is kept: the ones that follow are its echo.
        let _ = self.failed.set(error.to_string());
        error
    }
}

impl Engine for RocksEngine {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db.get_cf_opt(self.family(keyspace)?, key, &self.read).map_err(|error| translate("reading a key", &error))
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        let family = match self.family(keyspace) {
            Ok(family) => family,
            Err(error) => return Scan::failed(error),
        };
        if range.is_empty() {
            return Scan::new(std::iter::empty());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start());
        if let Some(end) = range.end() {
            options.set_iterate_upper_bound(end);
        }
        Scan::new(Cursor { inner: self.db.raw_iterator_cf_opt(family, options), direction: range.direction(), started: false })
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let converted = self.convert(&batch)?;
        if converted.is_empty() {
            // RocksDB skips the write-ahead log for an empty batch, and with it the flush that the caller asks for.
            return match durability {
                Durability::Synced => self.sync(),
                Durability::Buffered => self.refuse_after_failure("writing a batch"),
            };
        }
        self.refuse_after_failure("writing a batch")?;
        let options = match durability {
            Durability::Synced => &self.synced,
            Durability::Buffered => &self.buffered,
        };
        // Whoever writes at the same time can only make the batch's numbers higher.
        let reached = (durability == Durability::Synced).then(|| self.db.latest_sequence_number() + converted.len() as u64);
        self.db.write_opt(converted, options).map_err(|error| self.note_failure(translate("writing a batch", &error)))?;
        match (reached, self.profile) {
            (Some(_), Profile::State) => self.sync(),
            (Some(reached), Profile::Log) => {
                self.mark(reached);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.refuse_after_failure("flushing what was written")?;
        let reached = self.db.latest_sequence_number();
        let flushed = match self.profile {
            Profile::Log => self.db.flush_wal(true),
            Profile::State => {
                let families: Vec<_> = self.keyspaces.iter().filter_map(|name| self.db.cf_handle(name)).collect();
                self.db.flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &FlushOptions::default())
            }
        };
        flushed.map_err(|error| self.note_failure(translate("flushing what was written", &error)))?;
        self.mark(reached);
        Ok(())
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError> {
        let failed = |error| translate("writing a checkpoint", &error);
        dir::create_whole(dir, |partial| {
            // The memory tables are flushed first, so the copy consists of links and of a write-ahead log that is
            // close to empty. FORMAT comes last and is a file of its own: a link to ours would share its fate.
            let checkpoint = Checkpoint::new(&self.db).map_err(failed)?;
            checkpoint.create_checkpoint(partial).map_err(failed)?;
            format::write(partial, ENGINE)
        })
    }
}

impl fmt::Debug for RocksEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A scan over one column family. RocksDB keeps it inside the range's bounds, and on the moment at which it was made.
struct Cursor<'a> {
    inner: DBRawIterator<'a>,
    direction: Direction,
    started: bool,
}

impl Cursor<'_> {
    fn advance(&mut self) {
        match (self.started, self.direction) {
            (false, Direction::Ascending) => self.inner.seek_to_first(),
            (false, Direction::Descending) => self.inner.seek_to_last(),
            (true, Direction::Ascending) => self.inner.next(),
            (true, Direction::Descending) => self.inner.prev(),
        }
        self.started = true;
    }
}

impl Iterator for Cursor<'_> {
    type Item = Result<Entry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance();
        if let Some((key, value)) = self.inner.item() {
            return Some(Ok((key.to_vec(), value.to_vec())));
        }
        // The end of the range and an error look alike until one asks.
        match self.inner.status() {
            Ok(()) => None,
            Err(error) => Some(Err(translate("scanning a keyspace", &error))),
        }
    }
}

/// How a directory is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// As the profile has it.
    Usual,
    /// The write-ahead log is read up to the first record that is not whole.
    UpToDamage,
    /// The same, and nothing on the disk is changed.
    ToLook,
}

fn open_database(path: &Path, options: &RocksOptions<'_>, families: &BTreeSet<String>, how: How) -> Result<DB, StorageError> {
    let mut database = options.profile.database_options();
    if how != How::Usual {
        database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    }
    let cache = options.profile.block_cache();
    let descriptors = families.iter().map(|name| ColumnFamilyDescriptor::new(name, options.profile.family_options(&cache)));
    let db = match how {
        How::Usual | How::UpToDamage => DB::open_cf_descriptors(&database, path, descriptors),
        How::ToLook => DB::open_cf_descriptors_read_only(&database, path, descriptors, false),
    };
    db.map_err(|error| translate(&opening(path), &error))
}

/// Opens a directory with [`Profile::Log`].
///
/// A power cut in the middle of a large write can leave a record with holes at the log's end, which looks like damage. Where everything that was
/// synced lies before it, up to the mark, it is the remainder of a write that nobody was promised, and is dropped. The log is looked at
/// first, because opening it so for good would also throw away what lies behind real damage.
fn open_log(path: &Path, options: &RocksOptions<'_>, families: &BTreeSet<String>, mark: Option<u64>) -> Result<DB, StorageError> {
    let damaged = match open_database(path, options, families, How::Usual) {
        Err(error @ StorageError::Corruption { .. }) => error,
        opened => return opened,
    };
    let end = open_database(path, options, families, How::ToLook).map(|db| db.latest_sequence_number());
    match (end, mark) {
        (Ok(end), Some(mark)) if end >= mark => open_database(path, options, families, How::UpToDamage),
        _ => Err(damaged),
    }
}

fn opening(path: &Path) -> String {
    format!("opening {}", path.display())
}

/// Whether RocksDB has finished creating its database here.
///
/// A directory with data files and no `CURRENT` has lost it. RocksDB would take that for a fresh start and forget
/// everything that was acknowledged, so it is refused.
fn holds_a_database(path: &Path) -> Result<bool, StorageError> {
    if path.join("CURRENT").exists() {
        return Ok(true);
    }
    let failed = |error| StorageError::from_io("listing the directory", path, error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let extension = Path::new(&name).extension();
        if extension.is_some_and(|extension| extension == "sst" || extension == "log") {
            return Err(StorageError::Corruption { detail: format!("the data directory {} has lost its file CURRENT", path.display()) });
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;

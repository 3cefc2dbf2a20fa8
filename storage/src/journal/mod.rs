//! The engine for a log: batches one behind the other in files, and an index of them in memory.
//!
//! A log of consensus is written at its end, read from memory or in order, and dropped from its front. So nothing is sorted and nothing is
//! merged here: a batch is one record with a checksum, written once, and flushed when its writer must know that it survives. All keys are in
//! memory with the places of their values, and are read back when the engine opens.
//!
//! ```text
//!   data directory
//!     FORMAT                  this crate's version, written before anything else
//!     SYNCED                  how far the records were flushed
//!     0000000000000007.log    files of records, each begun where the one before is full: `segment.rs` shows their format
//!     0000000000000008.log
//!
//!   write ─► record at the end of the last file ─► flush, if asked ─► index
//!   the last file is full ─► a new one; what little is needed of the oldest ones is written again ─► those are used again, or removed
//! ```
//!
//! What was flushed must be there when the engine opens, or it does not open. A record that cannot be read is what a crash left of a write
//! that was under way only if nothing says otherwise: neither a record behind it, which names the last one that was flushed when it was
//! written, nor the mark (`mark.rs`), for the last ones of all. Such a remainder is cut off. What can be read of the last file is written and
//! flushed again: a node that stopped because a flush failed reads from memory what never reached its disk.

mod index;
mod ops;
mod segment;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::index::{Index, Place};
use self::segment::{EXTENSION, RECORDS_AT, SPARE_EXTENSION, Segment, damaged, walk};
use crate::lock::DirectoryLock;
use crate::mark::{MarkFile, Marker};
use crate::{Batch, Direction, Durability, Engine, Entry, Keyspace, Range, Scan, StorageError, dir, format};

/// The engine's name in the file `FORMAT`.
const ENGINE: &str = "journal";
/// A file that has grown to this is full. One record may make it larger.
const SEGMENT_BYTES: u64 = 16 << 20;
/// What is needed of the oldest files is written again, and they go, when it is no more than this.
const REWRITTEN_BYTES_MAX: u64 = 64 << 10;
/// Files that are kept to be used again.
const SPARES_MAX: usize = 4;

/// An [`Engine`] that is a journal, in one directory. It keeps every key in memory.
///
/// It is closed when it is dropped.
pub struct JournalEngine {
    path: PathBuf,
    keyspaces: BTreeSet<&'static str>,
    // Who holds both has taken the pen first.
    pen: Mutex<Pen>,
    index: RwLock<Index>,
    marker: Marker,
    /// The first write or flush that failed, in words. Nothing is written after it.
    failed: OnceLock<String>,
    _lock: DirectoryLock,
}

/// Where the next record comes.
struct Pen {
    segment: Arc<Segment>,
    at: u64,
    spares: Vec<PathBuf>,
    /// The last record, and the last that would survive a power cut.
    sequence: u64,
    synced: u64,
    buffer: Vec<u8>,
}

impl JournalEngine {
    /// Opens the engine in a directory, which is created, durably, where it is missing. Reads all of it.
    ///
    /// # Errors
    ///
    /// [`StorageError::Locked`] if another engine has the directory open, in this process or another; [`StorageError::UnknownFormat`] if
    /// another version wrote it; [`StorageError::NotADataDirectory`] if something else did; [`StorageError::Corruption`] if what was flushed
    /// is damaged or missing, and then nothing is changed; otherwise a fault of the disk.
    pub fn open(path: &Path, keyspaces: &[Keyspace]) -> Result<Self, StorageError> {
        dir::create_durably(path)?;
        let lock = DirectoryLock::acquire(path)?;
        format::ensure(path, ENGINE)?;
        let mark = MarkFile::open(path)?;
        let mut index = Index::default();
        let last = load(path, &mut index)?;
        let sequence = last.as_ref().map_or(0, |(_, _, sequence)| *sequence);
        let marker = Marker::follow(path, mark, sequence)?;
        let (segment, at) = match last {
            Some((segment, at, _)) => {
                // Only this one can hold what was not flushed: a new one is begun when all before it was.
                segment.settle(at)?;
                dir::fsync_dir(path)?;
                (segment, at)
            }
            None => {
                let segment = Arc::new(Segment::create(path, 1, 1, 1, None)?);
                index.hold(segment.clone());
                (segment, RECORDS_AT)
            }
        };
        let spares = files(path, SPARE_EXTENSION)?;
        let pen = Pen { segment, at, spares, sequence, synced: sequence, buffer: Vec::new() };
        let keyspaces = keyspaces.iter().map(|keyspace| keyspace.name()).collect();
        let (pen, index) = (Mutex::new(pen), RwLock::new(index));
        Ok(Self { path: path.to_owned(), keyspaces, pen, index, marker, failed: OnceLock::new(), _lock: lock })
    }

    /// Whether a directory holds an engine of this kind, or nothing yet.
    ///
    /// # Errors
    ///
    /// As [`JournalEngine::open`], as far as the directory's format tells.
    pub fn is_for(path: &Path) -> Result<bool, StorageError> {
        if !path.join(format::FILE).exists() {
            return Ok(true);
        }
        match format::check(path, ENGINE) {
            Ok(()) => Ok(true),
            Err(StorageError::NotADataDirectory { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn known(&self, keyspace: Keyspace) -> Result<(), StorageError> {
        match self.keyspaces.contains(keyspace.name()) {
            true => Ok(()),
            false => Err(StorageError::unknown_keyspace(keyspace.name())),
        }
    }

    fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock().expect("no writer of the journal panics")
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("no holder of this lock panics")
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("no holder of this lock panics")
    }

    /// Does something with the pen, unless something failed before. What a failed flush left on disk is unknown, and a later one that
    /// succeeds would say nothing about it, so going on could acknowledge what is lost.
    fn with_pen(&self, doing: &str, work: impl FnOnce(&mut Pen) -> Result<(), StorageError>) -> Result<(), StorageError> {
        let mut pen = self.pen();
        if let Some(first) = self.failed.get().cloned().or_else(|| self.marker.failure()) {
            let detail = format!("an earlier write failed and nothing is written since: {first}");
            return Err(StorageError::Engine { doing: doing.to_owned(), detail });
        }
        work(&mut pen).inspect_err(|error| {
            // Only the first failure is kept: the ones that follow are its echo.
            let _ = self.failed.set(error.to_string());
        })
    }

    fn append(&self, pen: &mut Pen, payload: &[u8]) -> Result<(), StorageError> {
        let record = pen.at;
        pen.at = pen.segment.append(record, pen.sequence + 1, pen.synced, payload, &mut pen.buffer)?;
        pen.sequence += 1;
        let applied = self.index_mut().apply(payload, pen.segment.number, record);
        applied.ok_or_else(|| damaged(&pen.segment.path, "a batch in memory cannot be read"))
    }

    fn flush(&self, pen: &mut Pen) -> Result<(), StorageError> {
        pen.segment.sync()?;
        pen.synced = pen.sequence;
        self.marker.reached(pen.synced);
        Ok(())
    }

    /// Begins a new file, and removes the oldest ones as far as little of them is needed.
    fn turn(&self, pen: &mut Pen) -> Result<(), StorageError> {
        self.flush(pen)?;
        let number = pen.segment.number + 1;
        let emptied = self.index().nearly_empty(REWRITTEN_BYTES_MAX);
        let oldest = emptied.last().map_or_else(|| self.index().segments().next().map_or(number, |first| first.number), |last| last + 1);
        let segment = Segment::create(&self.path, number, pen.sequence + 1, oldest, pen.spares.pop())?;
        (pen.segment, pen.at) = (Arc::new(segment), RECORDS_AT);
        self.index_mut().hold(pen.segment.clone());
        let Some(last) = emptied.last() else { return Ok(()) };
        let mut needed = Vec::new();
        for place in self.index().living_up_to(*last) {
            let record = self.index().segment(place.segment)?.read(place.record)?;
            needed.extend_from_slice(&record.payload[place.op as usize..place.end as usize]);
        }
        if !needed.is_empty() {
            self.append(pen, &needed)?;
            self.flush(pen)?;
        }
        for number in emptied {
            match self.index_mut().let_go(number).map(Arc::try_unwrap) {
                Some(Ok(segment)) if pen.spares.len() < SPARES_MAX => pen.spares.push(segment.retire()?),
                // Where it is still read, it lives on without a name.
                Some(Ok(Segment { path, .. })) => remove(&path)?,
                Some(Err(read)) => remove(&read.path)?,
                None => {}
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), StorageError> {
    fs::remove_file(path).map_err(|error| StorageError::from_io("removing", path, error))
}

/// The files in a directory whose names end like this, in the order of their names.
fn files(path: &Path, extension: &str) -> Result<Vec<PathBuf>, StorageError> {
    let failed = |error| StorageError::from_io("listing the directory", path, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|found| found == extension) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads all files, the oldest first: the last one, where its last record ends, and that record's number.
fn load(path: &Path, index: &mut Index) -> Result<Option<(Arc<Segment>, u64, u64)>, StorageError> {
    let mut last: Option<(Arc<Segment>, u64, u64)> = None;
    let mut oldest = None;
    for file in files(path, EXTENSION)? {
        let (segment, content) = Segment::open(file)?;
        if last.as_ref().is_some_and(|(before, _, sequence)| (before.number + 1, sequence + 1) != (segment.number, segment.first)) {
            return Err(damaged(&segment.path, "it does not continue where the file before it ends"));
        }
        oldest.get_or_insert(segment.number);
        let segment = Arc::new(segment);
        index.hold(segment.clone());
        let (at, next) = walk(&content, segment.first, &segment.path, |at, record| {
            let applied = index.apply(&record.payload, segment.number, at);
            applied.ok_or_else(|| damaged(&segment.path, &format!("the batch in record {} cannot be read", record.sequence)))
        })?;
        last = Some((segment, at, next - 1));
    }
    if let Some((segment, ..)) = last.as_ref().filter(|(segment, ..)| oldest > Some(segment.oldest)) {
        return Err(damaged(&segment.path, &format!("file {} is needed, and gone", segment.oldest)));
    }
    Ok(last)
}

impl Engine for JournalEngine {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.known(keyspace)?;
        let (place, segment) = {
            let index = self.index();
            let Some(place) = index.get(keyspace, key) else { return Ok(None) };
            (place, index.segment(place.segment)?)
        };
        Ok(Some(value(&segment.read(place.record)?.payload, place)))
    }

    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_> {
        if let Err(error) = self.known(keyspace) {
            return Scan::failed(error);
        }
        if range.is_empty() {
            return Scan::new(std::iter::empty());
        }
        let index = self.index();
        let mut entries = index.range(keyspace, &range);
        if range.direction() == Direction::Descending {
            entries.reverse();
        }
        // Held while the scan lives, so that what it sees can be read when its file is removed.
        let segments: Vec<Arc<Segment>> = index.segments().cloned().collect();
        // A record often has several of the entries.
        let mut last: Option<((u64, u64), Vec<u8>)> = None;
        Scan::new(entries.into_iter().map(move |(key, place)| -> Result<Entry, StorageError> {
            let wanted = (place.segment, place.record);
            let payload = match last.take() {
                Some((at, payload)) if at == wanted => payload,
                _ => {
                    let segment = segments.iter().find(|segment| segment.number == place.segment);
                    segment.expect("a place is in a file that is held").read(place.record)?.payload
                }
            };
            let entry = (key.into_vec(), value(&payload, place));
            last = Some((wanted, payload));
            Ok(entry)
        }))
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        batch.keyspaces().iter().try_for_each(|keyspace| self.known(*keyspace))?;
        self.with_pen("writing a batch", |pen| {
            if !batch.is_empty() {
                if pen.at >= SEGMENT_BYTES {
                    self.turn(pen)?;
                }
                self.append(pen, batch.as_bytes())?;
            }
            match durability {
                Durability::Synced => self.flush(pen),
                Durability::Buffered => Ok(()),
            }
        })
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.with_pen("flushing the journal", |pen| self.flush(pen))
    }

    fn checkpoint(&self, to: &Path) -> Result<(), StorageError> {
        dir::create_whole(to, |partial| {
            dir::create_durably(partial)?;
            self.with_pen("writing a checkpoint", |_| {
                let segments: Vec<Arc<Segment>> = self.index().segments().cloned().collect();
                for segment in segments {
                    // No links: a file is written over when it is used again.
                    let copy = partial.join(segment.path.file_name().expect("a file of a journal has a name"));
                    let copied = fs::copy(&segment.path, &copy);
                    copied.map_err(|error| StorageError::from_io("writing a checkpoint to", &copy, error))?;
                }
                format::write(partial, ENGINE)
            })
        })
    }
}

/// The value in its record's payload.
fn value(payload: &[u8], place: Place) -> Vec<u8> {
    payload[(place.end - place.value_len) as usize..place.end as usize].to_vec()
}

impl fmt::Debug for JournalEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalEngine").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KS: Keyspace = Keyspace::new("ks");

    #[test]
    fn nothing_is_written_after_a_failed_write() {
        let home = tempfile::tempdir().unwrap();
        let engine = JournalEngine::open(home.path(), &[KS]).unwrap();
        let batch = |key: &str| {
            let mut batch = Batch::new();
            batch.put(KS, key, "v");
            batch
        };
        engine.write(batch("before"), Durability::Synced).unwrap();
        // As a disk that fails once would have it.
        let full = || StorageError::Full { doing: "writing a batch".into(), detail: "for the test".into() };
        engine.with_pen("writing a batch", |_| Err(full())).unwrap_err();
        for attempt in [
            engine.write(batch("k"), Durability::Buffered),
            engine.write(Batch::new(), Durability::Synced),
            engine.sync(),
            engine.checkpoint(&home.path().join("copy")),
        ] {
            let error = attempt.unwrap_err();
            assert!(error.to_string().contains("for the test"), "{error}");
            assert!(error.must_stop_node());
        }
        assert_eq!(engine.scan(KS, Range::all()).count(), 1, "reads go on");
    }
}

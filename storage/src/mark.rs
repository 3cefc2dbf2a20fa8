//! How far a log was flushed, told by a file of its own.
//!
//! A log that lost its end, at the boundary of two records, looks like one that never was longer. For a log of consensus that is the
//! worst damage of all, because the node would forget entries and votes that others count on, and nobody would notice. So an engine that
//! keeps a log keeps a mark beside it, and does not open where the log ends before the mark.
//!
//! ```text
//!   writer   ── write, flush ──► acknowledge          the mark is none of its business: no write waits for it
//!                    └─ sequence ─► marker's thread ── at most each PACE ──► SYNCED, flushed
//! ```
//!
//! The mark is the engine's own sequence number, which lies in the log too and never goes back. It follows the log by [`PACE`] and one flush,
//! and catches up when writing pauses. What stays undetected is the loss of an end that is younger than that, which takes a power cut and
//! damage of the very last records at once. The mark also tells such damage from what a power cut leaves of a write that was under way.
//!
//! The file has two slots that are written in turns, so that a torn write leaves the other one. A slot is a sequence number and its
//! complement, both with their lowest byte first, in a disk block of its own.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{StorageError, dir};

/// The file's name, beside the engine's own files.
const FILE: &str = "SYNCED";
/// The least time between two marks. Each costs a flush beside the log's own, so they are spread thin.
const PACE: Duration = Duration::from_millis(50);
/// From one slot to the next: disks write whole blocks of at most this size.
const SLOT_STEP: u64 = 4096;
const SLOTS: u64 = 2;
const SLOT_BYTES: usize = 16;

/// The file with the mark.
pub(crate) struct MarkFile {
    file: File,
    /// The slot to write next: the older one.
    next: u64,
    /// `None` where the file has just been made.
    sequence: Option<u64>,
}

impl MarkFile {
    /// Opens the file of an engine's directory, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let failed = |error| StorageError::from_io("reading the mark", &path, error);
        let exists = path.try_exists().map_err(failed)?;
        if !exists {
            let mut content = vec![0; usize::try_from(SLOTS * SLOT_STEP).expect("two blocks")];
            content[..SLOT_BYTES].copy_from_slice(&encode(0));
            dir::write_atomically(&path, &content)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let mut newest = None;
        for slot in 0..SLOTS {
            newest = newest.max(read_slot(&file, slot).map_err(failed)?.map(|sequence| (sequence, slot)));
        }
        let (sequence, slot) =
            newest.ok_or_else(|| StorageError::Corruption { detail: format!("the file {} holds no mark", path.display()) })?;
        Ok(Self { file, next: (slot + 1) % SLOTS, sequence: exists.then_some(sequence) })
    }

    /// The mark: the log was synced up to here. `None` if that was never written down.
    #[cfg(any(test, feature = "rocksdb"))]
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    fn write(&mut self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), self.next * SLOT_STEP)?;
        self.file.sync_data()?;
        self.next = (self.next + 1) % SLOTS;
        self.sequence = Some(sequence);
        Ok(())
    }
}

fn encode(sequence: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&sequence.to_le_bytes());
    slot[8..].copy_from_slice(&(!sequence).to_le_bytes());
    slot
}

/// `None`: the slot was never written, or not wholly, or is damaged.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, slot * SLOT_STEP) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (sequence, complement) = bytes.split_at(8);
    let number = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of a slot"));
    let sequence = number(sequence);
    Ok((number(complement) == !sequence).then_some(sequence))
}

/// Follows a log with its mark.
pub(crate) struct Marker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    synced: u64,
    closing: bool,
    /// The mark could not be written, and why.
    failed: Option<String>,
}

impl Marker {
    /// Refuses a log that ends before its mark, and otherwise follows it from now on. `end` is where the log, which has just been read, ends.
    pub(crate) fn follow(dir: &Path, file: MarkFile, end: u64) -> Result<Self, StorageError> {
        let mark = file.sequence.unwrap_or(0);
        if end < mark {
            return Err(StorageError::Corruption {
                detail: format!("the log in {} has lost its end: it was synced up to change {mark}, and now ends at {end}", dir.display()),
            });
        }
        let shared =
            Arc::new(Shared { progress: Mutex::new(Progress { synced: mark, closing: false, failed: None }), moved: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("tarn-mark".into())
            .spawn({
                let shared = shared.clone();
                move || keep_up(&shared, file, mark)
            })
            .map_err(|error| StorageError::from_io("starting a thread for", dir, error))?;
        let thread = Some(thread);
        Ok(Self { shared, thread })
    }

    /// The log would survive a power cut up to this sequence number.
    pub(crate) fn reached(&self, sequence: u64) {
        let mut progress = self.shared.progress();
        if sequence > progress.synced {
            progress.synced = sequence;
            drop(progress);
            self.shared.moved.notify_one();
        }
    }

    /// Why the mark cannot be written any more, if it cannot: the disk is failing.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.progress().failed.clone()
    }
}

impl Drop for Marker {
    /// Writes the last mark.
    fn drop(&mut self) {
        self.shared.progress().closing = true;
        self.shared.moved.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has told its story; the mark stays where it was, which refuses nothing.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no holder of this lock panics")
    }
}

/// The marker's thread: writes the mark whenever it has moved, until the engine closes.
fn keep_up(shared: &Shared, mut file: MarkFile, mut written: u64) {
    loop {
        let progress = shared.progress();
        let progress = shared
            .moved
            .wait_while(progress, |progress| progress.synced == written && !progress.closing)
            .expect("no holder of this lock panics");
        let (synced, closing) = (progress.synced, progress.closing);
        drop(progress);
        if synced > written {
            if let Err(error) = file.write(synced) {
                shared.progress().failed = Some(error.to_string());
                return;
            }
            written = synced;
        }
        if closing {
            return;
        }
        // Asleep, so that no write has to wake this thread in vain.
        std::thread::sleep(PACE);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mark_of(dir: &Path) -> Result<Option<u64>, StorageError> {
        MarkFile::open(dir).map(|file| file.sequence())
    }

    fn marker(dir: &Path, end: u64) -> Result<Marker, StorageError> {
        Marker::follow(dir, MarkFile::open(dir)?, end)
    }

    #[test]
    fn the_mark_is_where_the_log_was_when_it_closed() {
        let home = tempfile::tempdir().unwrap();
        let following = marker(home.path(), 5).unwrap();
        for sequence in [7, 6, 900, 8] {
            following.reached(sequence);
        }
        drop(following);
        assert_eq!(mark_of(home.path()).unwrap(), Some(900));
        assert!(marker(home.path(), 900).is_ok());
        let error = marker(home.path(), 899).err().unwrap();
        assert!(matches!(error, StorageError::Corruption { .. }), "{error:?}");
        assert!(error.to_string().contains("lost its end"), "{error}");
    }

    #[test]
    fn a_slot_that_is_torn_leaves_the_mark_before() {
        let home = tempfile::tempdir().unwrap();
        let mut file = MarkFile::open(home.path()).unwrap();
        for sequence in [10, 20, 30] {
            file.write(sequence).unwrap();
        }
        assert_eq!(mark_of(home.path()).unwrap(), Some(30));
        let path = home.path().join(FILE);
        let mut content = fs::read(&path).unwrap();
        let last = (0..SLOTS).find(|slot| content[usize::try_from(slot * SLOT_STEP).unwrap()] == 30);
        let at = usize::try_from(last.unwrap() * SLOT_STEP).unwrap();
        content[at + 3] ^= 1;
        fs::write(&path, &content).unwrap();
        assert_eq!(mark_of(home.path()).unwrap(), Some(20));
        // The next mark overwrites the damaged slot.
        let mut file = MarkFile::open(home.path()).unwrap();
        file.write(40).unwrap();
        assert_eq!(mark_of(home.path()).unwrap(), Some(40));
        fs::write(&path, b"rubbish").unwrap();
        assert!(matches!(mark_of(home.path()), Err(StorageError::Corruption { .. })));
    }
}

//! How far a log was flushed, told by a file of its own.
//!
//! A log that lost its end, at the boundary of two records, looks like one that never was longer. For a log of consensus that is the
//! worst damage of all, because the node would forget entries and votes that others count on, and nobody would notice. So an engine that
//! keeps a log keeps a mark beside it, and does not open where the log ends before the mark.
//!
//! ```text
//!   writer   ── write, flush ── sequence ─► SYNCED ──► acknowledge
//!   marker's thread ── at most each PACE ── flush ──┘
//! ```
//!
//! The mark is the engine's own sequence number, which lies in the log too and never goes back. It is written behind every flush of the log, and
//! flushed itself by a thread, for which no writer of the log waits unless the file system makes it. So it survives the death of the process at
//! once, and a power cut by [`PACE`] and a flush later. What stays undetected is the loss of an end that is younger than that, which takes a
//! power cut and damage of the very last records at once. The mark also tells such damage from what a power cut leaves of a write that was
//! under way.
//!
//! The file has three slots that take turns: one is written, one is being flushed, and the third was flushed before, so that torn writes leave
//! it. A slot is a sequence number and its complement, both with their lowest byte first, in a disk block of its own. Files of two slots, which
//! earlier versions made, grow; those versions do not see the third, and so a mark that may be older by a turn.

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
/// The least time between two flushes of the mark. Each comes beside the log's own, so they are spread thin.
const PACE: Duration = Duration::from_millis(50);
/// From one slot to the next: disks write whole blocks of at most this size.
const SLOT_STEP: u64 = 4096;
const SLOTS: u64 = 3;
const SLOT_BYTES: usize = 16;

/// The file with the mark.
pub(crate) struct MarkFile {
    file: File,
    /// The slot to write: not the newest.
    slot: u64,
    /// `None` where the file has just been made.
    sequence: Option<u64>,
}

impl MarkFile {
    /// Opens the file of an engine's directory, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let failed = |error| StorageError::from_io("reading the mark, or flushing it again, in", &path, error);
        let exists = path.try_exists().map_err(failed)?;
        if !exists {
            let mut content = vec![0; usize::try_from(SLOTS * SLOT_STEP).expect("three blocks")];
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
        // A process that was killed had not flushed it, or had failed to, after which a kernel takes it for clean.
        file.write_all_at(&encode(sequence), slot * SLOT_STEP).and_then(|()| file.sync_data()).map_err(failed)?;
        Ok(Self { file, slot: (slot + 1) % SLOTS, sequence: exists.then_some(sequence) })
    }

    /// The mark: the log was synced up to here. `None` if that was never written down.
    #[cfg(any(test, feature = "rocksdb"))]
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    fn write(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), self.slot * SLOT_STEP)
    }

    /// Leaves the slot alone that was written: it is to be flushed.
    fn turn(&mut self) {
        self.slot = (self.slot + 1) % SLOTS;
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
    mark: MarkFile,
    /// What the mark says.
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
        let failed = |error| StorageError::from_io("following the log with a mark in", dir, error);
        let handle = file.file.try_clone().map_err(failed)?;
        let progress = Progress { mark: file, synced: mark, closing: false, failed: None };
        let shared = Arc::new(Shared { progress: Mutex::new(progress), moved: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("tarn-mark".into())
            .spawn({
                let shared = shared.clone();
                move || keep_up(&shared, &handle, mark)
            })
            .map_err(failed)?;
        let thread = Some(thread);
        Ok(Self { shared, thread })
    }

    /// The log would survive a power cut up to this sequence number.
    pub(crate) fn reached(&self, sequence: u64) {
        let mut progress = self.shared.progress();
        if sequence <= progress.synced {
            return;
        }
        progress.synced = sequence;
        if let Err(error) = progress.mark.write(sequence) {
            progress.failed.get_or_insert(error.to_string());
        }
        drop(progress);
        self.shared.moved.notify_one();
    }

    /// Why the mark cannot be written any more, if it cannot: the disk is failing.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.progress().failed.clone()
    }
}

impl Drop for Marker {
    /// Flushes the last mark.
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

/// The marker's thread: flushes the mark whenever it has moved, until the engine closes.
fn keep_up(shared: &Shared, file: &File, mut flushed: u64) {
    loop {
        let progress = shared.progress();
        let mut progress = shared
            .moved
            .wait_while(progress, |progress| progress.synced == flushed && !progress.closing)
            .expect("no holder of this lock panics");
        let (synced, closing) = (progress.synced, progress.closing);
        if synced > flushed {
            progress.mark.turn();
            drop(progress);
            if let Err(error) = file.sync_data() {
                shared.progress().failed.get_or_insert(error.to_string());
                return;
            }
            flushed = synced;
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
    use std::time::Instant;

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
    fn the_mark_is_there_before_its_flush() {
        let home = tempfile::tempdir().unwrap();
        let following = marker(home.path(), 0).unwrap();
        for sequence in 1..2_000 {
            following.reached(sequence);
            // What a process that is killed now would find when it starts again.
            assert_eq!(mark_of(home.path()).unwrap(), Some(sequence));
        }
    }

    #[test]
    fn the_slots_take_turns() {
        let home = tempfile::tempdir().unwrap();
        let following = marker(home.path(), 0).unwrap();
        let file = File::open(home.path().join(FILE)).unwrap();
        let written = || (0..SLOTS).all(|slot| read_slot(&file, slot).unwrap().is_some_and(|sequence| sequence > 0));
        let (mut sequence, end) = (0, Instant::now() + Duration::from_secs(60));
        while !written() {
            assert!(Instant::now() < end, "one slot is written all the time");
            sequence += 1;
            following.reached(sequence);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_of_two_slots_is_read_and_grows() {
        let home = tempfile::tempdir().unwrap();
        let content: Vec<u8> = [70, 60].iter().flat_map(|sequence| [&encode(*sequence)[..], &[0; 4096 - SLOT_BYTES]].concat()).collect();
        fs::write(home.path().join(FILE), content).unwrap();
        let mut file = MarkFile::open(home.path()).unwrap();
        assert_eq!(file.sequence(), Some(70));
        for sequence in 71..75 {
            file.write(sequence).unwrap();
            file.turn();
            assert_eq!(mark_of(home.path()).unwrap(), Some(sequence));
        }
    }

    #[test]
    fn a_slot_that_is_torn_leaves_the_mark_before() {
        let home = tempfile::tempdir().unwrap();
        let mut file = MarkFile::open(home.path()).unwrap();
        for sequence in [5, 10, 20, 30] {
            file.write(sequence).unwrap();
            file.turn();
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
        MarkFile::open(home.path()).unwrap().write(40).unwrap();
        assert_eq!(mark_of(home.path()).unwrap(), Some(40));
        fs::write(&path, b"rubbish").unwrap();
        assert!(matches!(mark_of(home.path()), Err(StorageError::Corruption { .. })));
    }
}

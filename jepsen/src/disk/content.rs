//! The bytes of one file: as processes see them, and as the disk has them.
//!
//! The backing file always holds what processes see. What a power cut would leave, the *durable image*, is kept as the difference to it: the
//! durable size, and the durable bytes of each place that was overwritten since the last sync. Appending, which is most of what databases do,
//! costs no copy at all.
//!
//! A failed sync follows Linux: the pages count as clean afterwards although they never reached the disk, so that a later sync succeeds
//! without them. Such bytes are *abandoned* until they are written again. A program that retries a failed sync and believes the second
//! answer loses data here, as it would there.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::extents::{Ranges, Saved};

/// After so many writes without a sync, an append is joined to the one before it.
const WRITES_TOLD_APART: usize = 4096;

/// One file's bytes.
#[derive(Debug)]
pub(super) struct Content {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: Option<Arc<File>>,
    opened: u32,
    /// What processes see.
    size: u64,
    /// How far space is reserved; at least the size.
    allocated: u64,
    modified: SystemTime,
    /// What a power cut leaves: this size, ...
    durable_size: u64,
    /// ... these bytes, and the backing file's elsewhere.
    saved: Saved,
    /// Written since the last sync, in order. The number orders writes of all files.
    dirty: Vec<Dirty>,
    abandoned: Ranges,
}

/// One write that was not synced.
#[derive(Debug, Clone)]
pub(super) struct Dirty {
    /// Grows with each write to any file.
    pub(super) serial: u64,
    pub(super) range: Range<u64>,
}

/// What a power cut took from one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Bytes that were written and not synced.
    pub(super) unsynced: u64,
    /// How many of them reached the disk nevertheless.
    pub(super) kept: u64,
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) size: u64,
    pub(super) allocated: u64,
    pub(super) modified: SystemTime,
}

impl Content {
    /// The content of a backing file that exists; all of it is durable.
    pub(super) fn adopt(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::metadata(&path)?;
        Ok(Self::new(path, metadata.len(), metadata.modified()?))
    }

    /// A new and empty backing file.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self::new(path, 0, SystemTime::now()))
    }

    fn new(path: PathBuf, size: u64, modified: SystemTime) -> Self {
        let inner = Inner {
            file: None,
            opened: 0,
            size,
            allocated: size,
            modified,
            durable_size: size,
            saved: Saved::default(),
            dirty: Vec::new(),
            abandoned: Ranges::default(),
        };
        Self { path, inner: Mutex::new(inner) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn facts(&self) -> Facts {
        let inner = self.lock();
        Facts { size: inner.size, allocated: inner.allocated, modified: inner.modified }
    }

    pub(super) fn set_modified(&self, time: SystemTime) {
        self.lock().modified = time;
    }

    /// One more handle is open.
    pub(super) fn open(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.file = Some(self.file(&inner)?);
        inner.opened += 1;
        Ok(())
    }

    /// One handle less. True if it was the last.
    pub(super) fn close(&self) -> bool {
        let mut inner = self.lock();
        inner.opened = inner.opened.saturating_sub(1);
        if inner.opened == 0 {
            inner.file = None;
        }
        inner.opened == 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().opened > 0
    }

    /// Reads what processes see; short at the end of the file.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let (file, size) = {
            let inner = self.lock();
            (self.file(&inner)?, inner.size)
        };
        let len = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(len);
        read_at(&file, at..at + len as u64)
    }

    /// Writes, which a power cut undoes until the next sync.
    pub(super) fn write(&self, serial: u64, at: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let file = self.file(&inner)?;
        let range = at..at + data.len() as u64;
        inner.put_aside(&file, range.clone())?;
        file.write_all_at(data, at)?;
        inner.wrote(serial, range);
        Ok(())
    }

    /// Writes zeros over a part of the file, without growing it.
    pub(super) fn zero(&self, serial: u64, range: Range<u64>) -> io::Result<()> {
        let mut inner = self.lock();
        let file = self.file(&inner)?;
        let range = range.start..range.end.min(inner.size);
        if range.is_empty() {
            return Ok(());
        }
        inner.put_aside(&file, range.clone())?;
        file.write_all_at(&zeros(&range), range.start)?;
        inner.wrote(serial, range);
        Ok(())
    }

    /// Cuts the file, or makes it longer with zeros, which a power cut undoes until the next sync.
    pub(super) fn resize(&self, size: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let file = self.file(&inner)?;
        if size < inner.size {
            let cut = size..inner.size;
            inner.put_aside(&file, cut)?;
            inner.abandoned.remove(size..u64::MAX);
            inner.allocated = size;
        }
        file.set_len(size)?;
        inner.size = size;
        inner.allocated = inner.allocated.max(size);
        inner.modified = SystemTime::now();
        Ok(())
    }

    /// Notes that space is reserved up to here.
    pub(super) fn reserve(&self, end: u64) {
        let mut inner = self.lock();
        inner.allocated = inner.allocated.max(end);
    }

    /// How far the file could be written on a disk with so much room.
    pub(super) fn reach(&self, room: u64) -> u64 {
        let inner = self.lock();
        inner.allocated.max(inner.size).saturating_add(room)
    }

    /// Everything written so far is durable, except what an earlier sync abandoned.
    pub(super) fn sync(&self) {
        let mut inner = self.lock();
        let Inner { saved, abandoned, .. } = &mut *inner;
        saved.retain(abandoned);
        inner.dirty.clear();
        inner.durable_size = inner.size;
    }

    /// Everything written since the last sync is abandoned.
    pub(super) fn fail_sync(&self) {
        let mut inner = self.lock();
        let (size, durable) = (inner.size, inner.durable_size);
        for dirty in std::mem::take(&mut inner.dirty) {
            // The file may have become shorter since.
            let range = dirty.range.start.min(size)..dirty.range.end.min(size);
            // Where the disk has nothing yet, it will have zeros once the file is longer.
            let new = range.start.max(durable)..range.end;
            for gap in inner.saved.gaps(&new) {
                inner.saved.put(gap.start, zeros(&gap));
            }
            inner.abandoned.insert(range);
        }
    }

    /// The writes that were not synced, in order.
    pub(super) fn dirty(&self) -> Vec<Dirty> {
        self.lock().dirty.clone()
    }

    /// Takes the file back to its durable image, except for the bytes of unsynced writes in `keep`, which reached the disk before the power
    /// went.
    pub(super) fn cut(&self, keep: &Ranges) -> io::Result<Lost> {
        let mut inner = self.lock();
        let mut unsynced = inner.abandoned.clone();
        let size = inner.size;
        for dirty in &inner.dirty {
            unsynced.insert(dirty.range.start.min(size)..dirty.range.end.min(size));
        }
        if inner.saved.is_empty() && size == inner.durable_size && unsynced.is_empty() {
            return Ok(Lost::default());
        }
        let file = self.file(&inner)?;
        let mut kept = Vec::new();
        for range in keep.iter().flat_map(|range| unsynced.within(&range)) {
            kept.push((range.start, read_at(&file, range)?));
        }
        file.set_len(inner.durable_size)?;
        for (at, bytes) in inner.saved.iter().filter(|(at, _)| *at < inner.durable_size) {
            let room = usize::try_from(inner.durable_size - at).unwrap_or(usize::MAX);
            file.write_all_at(&bytes[..bytes.len().min(room)], at)?;
        }
        for (at, bytes) in &kept {
            file.write_all_at(bytes, *at)?;
        }
        let size = file.metadata()?.len();
        inner.settle(size);
        Ok(Lost { unsynced: unsynced.total(), kept: kept.iter().map(|(_, bytes)| bytes.len() as u64).sum() })
    }

    /// Changes bytes as a broken disk does: nobody wrote them, and no power cut takes them back.
    pub(super) fn damage(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let file = self.file(&inner)?;
        file.write_all_at(bytes, at)?;
        let size = inner.size.max(at + bytes.len() as u64);
        inner.settle(size);
        Ok(())
    }

    /// Takes the end of the file away, as a broken disk does.
    pub(super) fn damage_size(&self, size: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let file = self.file(&inner)?;
        file.set_len(size)?;
        inner.settle(size);
        Ok(())
    }

    fn file(&self, inner: &MutexGuard<'_, Inner>) -> io::Result<Arc<File>> {
        match &inner.file {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::new(OpenOptions::new().read(true).write(true).open(&self.path)?)),
        }
    }

    /// The open backing file.
    pub(super) fn backing(&self) -> io::Result<Arc<File>> {
        self.file(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding a file's state")
    }
}

impl Inner {
    /// Saves the durable bytes of a range that is about to change.
    fn put_aside(&mut self, file: &File, range: Range<u64>) -> io::Result<()> {
        let durable = range.start..range.end.min(self.durable_size);
        if durable.start < durable.end {
            for gap in self.saved.gaps(&durable) {
                let at = gap.start;
                self.saved.put(at, read_at(file, gap)?);
            }
        }
        Ok(())
    }

    fn wrote(&mut self, serial: u64, range: Range<u64>) {
        self.size = self.size.max(range.end);
        self.allocated = self.allocated.max(self.size);
        self.modified = SystemTime::now();
        self.abandoned.remove(range.clone());
        let crowded = self.dirty.len() >= WRITES_TOLD_APART;
        match self.dirty.last_mut() {
            Some(last) if crowded && last.range.end == range.start => {
                last.range.end = range.end;
                last.serial = serial;
            }
            _ => self.dirty.push(Dirty { serial, range }),
        }
    }

    /// What the backing file holds is durable, and it has this size.
    fn settle(&mut self, size: u64) {
        self.size = size;
        self.durable_size = size;
        self.allocated = size;
        self.saved.clear();
        self.dirty.clear();
        self.abandoned = Ranges::default();
    }
}

fn zeros(range: &Range<u64>) -> Vec<u8> {
    vec![0; usize::try_from(range.end - range.start).expect("pieces are shorter than memory")]
}

/// Reads a range; what lies behind the end of the file is not in the answer.
fn read_at(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = zeros(&range);
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], range.start + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

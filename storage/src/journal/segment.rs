//! One file of a journal: a head, then records, each written once and never changed.
//!
//! ```text
//!   head      magic: 8 │ number: u64 │ first: u64 │ oldest: u64 │ checksum: u32                     in 64 bytes, the rest zeros
//!   record    magic: u32 │ length: u32 │ sequence: u64 │ synced: u64 │ checksum of the payload: u32 │ checksum of these 28 bytes: u32
//!             payload, then zeros up to a multiple of 8
//! ```
//!
//! Behind the last record of a file may lie what it held when it was another one: files that are not needed any more are used again, because a
//! write over what is there already leaves the file system's own books alone. Sequence numbers never come back, so such records are known by
//! theirs.
//!
//! All numbers have their lowest byte first; checksums are CRC-32 (ISO-HDLC). `first` is the sequence number that the first record has or
//! will have, and `oldest` the oldest file that is still needed since this one was begun. `synced` is the last record that was known to
//! survive a power cut when this one was written. So a record that can be read behind one that cannot tells whether that one was promised.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{StorageError, dir};

/// What the names of files end in, and of those that wait to be used again.
pub(super) const EXTENSION: &str = "log";
pub(super) const SPARE_EXTENSION: &str = "spare";

const HEAD_MAGIC: &[u8; 8] = b"tarnjrnl";
const RECORD_MAGIC: [u8; 4] = *b"TREC";
/// Where the first record begins.
pub(super) const RECORDS_AT: u64 = 64;
const HEAD_BYTES: usize = 36;
const RECORD_HEAD_BYTES: usize = 32;
const ALIGNMENT: u64 = 8;
/// A file of the journal, open for reading, and for writing at its end.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    /// Of its first record.
    pub first: u64,
    /// The oldest file that was still needed when this one was begun.
    pub oldest: u64,
    pub path: PathBuf,
    file: File,
}

/// What was found at one place of a file.
#[derive(Debug)]
pub(super) struct Record {
    pub sequence: u64,
    pub payload: Vec<u8>,
}

impl Segment {
    /// Makes a new file, durably and with its head whole, out of an old one that is not needed if there is one.
    pub fn create(home: &Path, number: u64, first: u64, oldest: u64, spare: Option<PathBuf>) -> Result<Self, StorageError> {
        let path = home.join(format!("{number:016x}.{EXTENSION}"));
        let mut head = vec![0; RECORDS_AT as usize];
        head[..8].copy_from_slice(HEAD_MAGIC);
        for (at, field) in [(8, number), (16, first), (24, oldest)] {
            head[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32fast::hash(&head[..HEAD_BYTES - 4]);
        head[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        match spare {
            None => dir::write_atomically(&path, &head)?,
            Some(spare) => {
                let file = open_file(&spare)?;
                let written = file.write_all_at(&head, 0).and_then(|()| file.sync_data());
                written.map_err(|error| StorageError::from_io("writing", &spare, error))?;
                dir::rename_durably(&spare, &path)?;
            }
        }
        let file = open_file(&path)?;
        Ok(Self { number, first, oldest, path, file })
    }

    /// Takes the file out of the journal, so that another one can be made of it.
    pub fn retire(self) -> Result<PathBuf, StorageError> {
        let spare = self.path.with_extension(SPARE_EXTENSION);
        fs::rename(&self.path, &spare).map_err(|error| StorageError::from_io("renaming", &self.path, error))?;
        Ok(spare)
    }

    /// Opens a file and gives what is in it.
    pub fn open(path: PathBuf) -> Result<(Self, Vec<u8>), StorageError> {
        let mut file = open_file(&path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|error| StorageError::from_io("reading", &path, error))?;
        let head = content.get(..HEAD_BYTES).filter(|head| head.starts_with(HEAD_MAGIC));
        let whole = head.filter(|head| crc32fast::hash(&head[..HEAD_BYTES - 4]) == u32_at(head, HEAD_BYTES - 4));
        let head = whole.ok_or_else(|| damaged(&path, "its head cannot be read"))?;
        let segment = Self { number: u64_at(head, 8), first: u64_at(head, 16), oldest: u64_at(head, 24), path, file };
        Ok((segment, content))
    }

    /// Writes a record, and says where it ends.
    pub fn append(&self, at: u64, sequence: u64, synced: u64, payload: &[u8], buffer: &mut Vec<u8>) -> Result<u64, StorageError> {
        let failed = |error| StorageError::from_io("writing", &self.path, error);
        let length = u32::try_from(payload.len()).map_err(|_| failed(io::Error::from(io::ErrorKind::FileTooLarge)))?;
        buffer.clear();
        buffer.extend_from_slice(&RECORD_MAGIC);
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&sequence.to_le_bytes());
        buffer.extend_from_slice(&synced.to_le_bytes());
        buffer.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        buffer.extend_from_slice(&crc32fast::hash(buffer).to_le_bytes());
        buffer.extend_from_slice(payload);
        buffer.resize(buffer.len().next_multiple_of(ALIGNMENT as usize), 0);
        self.file.write_all_at(buffer, at).map_err(failed)?;
        Ok(at + buffer.len() as u64)
    }

    /// Makes what was written survive a power cut.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|error| StorageError::from_io("flushing", &self.path, error))
    }

    /// Makes the file end with its last record, and durable as it is read. What lies behind must never be taken for one that follows those
    /// written next. And what is read may be in memory alone: after a flush that failed a kernel holds it to be on the disk, and no later
    /// flush writes it, unless it is written again.
    pub fn settle(&self, at: u64) -> Result<(), StorageError> {
        let failed = |error| StorageError::from_io("writing again", &self.path, error);
        let length = usize::try_from(at).map_err(|_| failed(io::Error::from(io::ErrorKind::FileTooLarge)))?;
        let mut content = vec![0; length];
        // The last record may lack the zeros behind it.
        let read = self.file.set_len(at).and_then(|()| self.file.read_exact_at(&mut content, 0));
        read.and_then(|()| self.file.write_all_at(&content, 0)).and_then(|()| self.file.sync_all()).map_err(failed)
    }

    /// The record that begins at a place that was told by this module.
    pub fn read(&self, at: u64) -> Result<Record, StorageError> {
        let failed = |error| StorageError::from_io("reading", &self.path, error);
        let mut head = [0; RECORD_HEAD_BYTES];
        self.file.read_exact_at(&mut head, at).map_err(failed)?;
        let mut record = vec![0; RECORD_HEAD_BYTES + payload_bytes(&head)];
        self.file.read_exact_at(&mut record, at).map_err(failed)?;
        let (record, _) = parse(&record, 0).ok_or_else(|| damaged(&self.path, &format!("the record at byte {at} cannot be read")))?;
        Ok(record)
    }
}

/// Goes through the records of a file, from the one with this number on, and says where the last one ends and the number after it. Fails
/// where a record that was promised is missing before one that can be read.
pub(super) fn walk(
    content: &[u8],
    mut sequence: u64,
    path: &Path,
    mut each: impl FnMut(u64, Record) -> Result<(), StorageError>,
) -> Result<(u64, u64), StorageError> {
    let mut at = RECORDS_AT as usize;
    while let Some((record, _)) = parse(content, at).filter(|(record, _)| record.sequence == sequence) {
        let next = at + (RECORD_HEAD_BYTES + record.payload.len()).next_multiple_of(ALIGNMENT as usize);
        each(at as u64, record)?;
        (at, sequence) = (next, sequence + 1);
    }
    for later in (at..content.len()).step_by(ALIGNMENT as usize).filter(|later| content[*later..].starts_with(&RECORD_MAGIC)) {
        if parse(content, later).is_some_and(|(record, synced)| record.sequence > sequence && synced >= sequence) {
            return Err(damaged(path, &format!("record {sequence}, at byte {at}, cannot be read, and was flushed")));
        }
    }
    Ok((at as u64, sequence))
}

pub(super) fn damaged(path: &Path, what: &str) -> StorageError {
    StorageError::Corruption { detail: format!("{}: {what}", path.display()) }
}

fn open_file(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| StorageError::from_io("opening", path, error))
}

/// A whole record, and what was synced when it was written.
fn parse(content: &[u8], at: usize) -> Option<(Record, u64)> {
    let head = content.get(at..at + RECORD_HEAD_BYTES)?;
    if !head.starts_with(&RECORD_MAGIC) || crc32fast::hash(&head[..28]) != u32_at(head, 28) {
        return None;
    }
    let payload = content[at + RECORD_HEAD_BYTES..].get(..payload_bytes(head))?;
    let whole = crc32fast::hash(payload) == u32_at(head, 24);
    whole.then(|| (Record { sequence: u64_at(head, 8), payload: payload.to_vec() }, u64_at(head, 16)))
}

fn payload_bytes(head: &[u8]) -> usize {
    u32_at(head, 4) as usize
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were asked for"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were asked for"))
}

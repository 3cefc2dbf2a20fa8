//! The trait that both engines implement, and the words that its signatures use.

use std::fmt;
use std::iter::FusedIterator;
use std::path::Path;

use crate::{Batch, Range, StorageError};

/// The name of an ordered map inside an engine.
///
/// The set of keyspaces of an engine is fixed when it is opened. Names are part of the format on disk: they can be
/// added later, never renamed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Keyspace(&'static str);

impl Keyspace {
    /// The longest name, in bytes, so that its length fits in one byte of a batch's encoding.
    pub const NAME_BYTES_MAX: usize = u8::MAX as usize;

    /// A keyspace with this name.
    ///
    /// # Panics
    ///
    /// If the name is empty or longer than [`Keyspace::NAME_BYTES_MAX`]; at compile time where the keyspace is a constant.
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty(), "a keyspace has a name");
        assert!(name.len() <= Self::NAME_BYTES_MAX, "a keyspace's name is at most 255 bytes long");
        Self(name)
    }

    /// The name, as it stands on disk.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How much a write must survive before the call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The batch is atomic and ordered. A power cut may take it, together with every batch after it; so may the death of the process, in an
    /// engine for a state whose owner keeps a log.
    Buffered,
    /// The batch and all batches before it survive a power cut.
    Synced,
}

/// A key and its value, as a scan yields them.
pub type Entry = (Vec<u8>, Vec<u8>);

/// An engine that keeps ordered keyspaces. The crate's first page says what all engines promise.
///
/// All methods may be called from any thread and may block on the disk. Called from an asynchronous task, writes and
/// checkpoints belong on a thread that is allowed to block.
pub trait Engine: Send + Sync + 'static {
    /// The value under a key, or `None` where there is none. An empty value is `Some(vec![])`.
    ///
    /// # Errors
    ///
    /// [`StorageError::UnknownKeyspace`], or a fault of the disk.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The entries of a range in key order, or in reverse order if the range says so.
    ///
    /// The scan reads lazily and sees one moment: the one at which this method was called. While it lives, the engine
    /// keeps what it sees, so a scan should not be kept for long.
    ///
    /// An unknown keyspace or a fault of the disk is the scan's next item, and its last.
    fn scan(&self, keyspace: Keyspace, range: Range<'_>) -> Scan<'_>;

    /// Applies a batch, wholly or not at all, over all the keyspaces it names.
    ///
    /// An empty batch writes nothing; with [`Durability::Synced`] it still makes everything before it durable.
    ///
    /// # Errors
    ///
    /// [`StorageError::UnknownKeyspace`] before anything is written. After any other error it is unknown whether the
    /// batch will be found after a restart: the caller must acknowledge nothing that depends on it.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError>;

    /// Makes everything written so far survive a power cut.
    ///
    /// # Errors
    ///
    /// A fault of the disk. As with [`Engine::write`], nothing since the last success may be acknowledged then; trying
    /// again is not safe, because a kernel may report a failed flush only once.
    fn sync(&self) -> Result<(), StorageError>;

    /// Makes a complete copy of the present moment in a new directory, from which an engine of the same kind can be
    /// opened. Files that never change are hard links where the file system allows it.
    ///
    /// The copy holds everything written so far, synced or not. It is durable on return, and does not change with the
    /// engine afterwards. `dir` appears at once and complete, or not at all; a crash may leave a directory beside it
    /// whose name ends in `.partial`, which the next checkpoint to the same place removes.
    ///
    /// # Errors
    ///
    /// [`StorageError::AlreadyExists`] if there is something at `dir`; otherwise a fault of the disk, after which the
    /// engine may refuse to write.
    fn checkpoint(&self, dir: &Path) -> Result<(), StorageError>;
}

/// The entries of a range, lazily. After an error it yields nothing more.
pub struct Scan<'a> {
    inner: Box<dyn Iterator<Item = Result<Entry, StorageError>> + Send + 'a>,
    finished: bool,
}

impl<'a> Scan<'a> {
    /// Wraps an engine's own iterator.
    pub fn new(entries: impl Iterator<Item = Result<Entry, StorageError>> + Send + 'a) -> Self {
        Self { inner: Box::new(entries), finished: false }
    }

    /// A scan that could not begin: it yields this error and ends.
    pub fn failed(error: StorageError) -> Self {
        Self::new(std::iter::once(Err(error)))
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.inner.next();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

impl FusedIterator for Scan<'_> {}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("finished", &self.finished).finish_non_exhaustive()
    }
}

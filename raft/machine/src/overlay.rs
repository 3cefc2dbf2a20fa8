//! The writes of one entry, readable before they are written.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use tarn_storage::{Batch, Engine, Keyspace};

use crate::error::Fatal;
use crate::key_bytes::KeyBytes;
use crate::keys::Key;

/// The keyspace that holds everything the machine knows. The engine must be opened with it.
pub const STATE: Keyspace = Keyspace::new("state");

/// Reads rows of the state.
pub trait Rows {
    /// What `see` makes of the bytes under a key; `None` if there are none.
    fn read<T>(&self, key: &Key<'_>, see: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Fatal>;

    /// The bytes under a key.
    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal>;

    /// The row under a key.
    fn row<R: Message + Default>(&self, key: Key<'_>) -> Result<Option<R>, Fatal> {
        self.read(&key, |bytes| decode(&key, bytes))?.transpose()
    }
}

/// Decodes a row. One that cannot be decoded means that the state is damaged.
pub fn decode<R: Message + Default>(key: &Key<'_>, bytes: &[u8]) -> Result<R, Fatal> {
    R::decode(bytes).map_err(|error| Fatal::assertion(format!("the row under {key:?} cannot be decoded: {error}")))
}

impl Rows for &dyn Engine {
    fn read<T>(&self, key: &Key<'_>, see: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Fatal> {
        Ok(self.get(STATE, &key.bytes())?.map(|bytes| see(&bytes)))
    }

    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal> {
        Ok(self.get(STATE, &key.bytes())?.map(Bytes::from))
    }
}

/// Rows of the engine with the present entry's changes on top.
pub struct Overlay<'a> {
    engine: &'a dyn Engine,
    /// Ordered, so that the batch is the same on every replica. Where the value stands among `values`; `None`: deleted.
    changes: BTreeMap<KeyBytes, Option<Range<usize>>>,
    /// What was written, one after another: one piece of memory for all rows of an entry. Nothing but memory to begin with.
    pub values: Vec<u8>,
    /// Counts changes, repeated ones too: shows whether a command touched anything.
    touched: u64,
}

impl<'a> Overlay<'a> {
    /// Nothing changed yet.
    pub fn new(engine: &'a dyn Engine) -> Self {
        Overlay { engine, changes: BTreeMap::new(), values: Vec::new(), touched: 0 }
    }

    /// The rows as they were before the entry.
    pub fn engine(&self) -> &'a dyn Engine {
        self.engine
    }

    /// Writes a row.
    pub fn put<R: Message>(&mut self, key: Key<'_>, row: &R) {
        self.put_with(key, |values| row.encode_raw(values));
    }

    /// Writes bytes as they are.
    pub fn put_bytes(&mut self, key: Key<'_>, bytes: impl AsRef<[u8]>) {
        self.put_with(key, |values| values.extend_from_slice(bytes.as_ref()));
    }

    /// Writes what `write` appends.
    pub fn put_with(&mut self, key: Key<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.values.len();
        write(&mut self.values);
        self.change(key, Some(start..self.values.len()));
    }

    /// Removes a row; no error if there is none.
    pub fn delete(&mut self, key: Key<'_>) {
        self.change(key, None);
    }

    fn change(&mut self, key: Key<'_>, change: Option<Range<usize>>) {
        self.touched += 1;
        self.changes.insert(key.bytes(), change);
    }

    /// How often something was changed so far.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    /// All changes in the order of their keys, and the memory in which they were.
    pub fn into_batch(mut self) -> (Batch, Vec<u8>) {
        let bytes = self.changes.iter().map(|(key, value)| 32 + key.len() + value.as_ref().map_or(0, Range::len)).sum();
        let mut batch = Batch::with_capacity(bytes);
        for (key, value) in &self.changes {
            match value {
                Some(value) => batch.put(STATE, &**key, &self.values[value.clone()]),
                None => batch.delete(STATE, &**key),
            }
        }
        self.values.clear();
        (batch, self.values)
    }
}

impl Rows for Overlay<'_> {
    fn read<T>(&self, key: &Key<'_>, see: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Fatal> {
        let key = key.bytes();
        match self.changes.get(&key) {
            Some(change) => Ok(change.clone().map(|value| see(&self.values[value]))),
            None => Ok(self.engine.get(STATE, &key)?.map(|bytes| see(&bytes))),
        }
    }

    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal> {
        let key = key.bytes();
        match self.changes.get(&key) {
            Some(change) => Ok(change.clone().map(|value| Bytes::copy_from_slice(&self.values[value]))),
            None => Ok(self.engine.get(STATE, &key)?.map(Bytes::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tarn_storage::{Durability, MemoryEngine};

    use super::*;

    #[test]
    fn reads_see_what_the_entry_wrote_and_the_batch_holds_the_last_word() {
        let engine = MemoryEngine::new();
        let (a, b, c) = (Key::Worker { id: 1 }, Key::Worker { id: 2 }, Key::Worker { id: 3 });
        let mut before = Batch::new();
        before.put(STATE, a.encode(), "old");
        before.put(STATE, b.encode(), "kept");
        engine.write(before, Durability::Buffered).unwrap();

        let mut overlay = Overlay::new(&engine);
        overlay.put_bytes(c, Bytes::from_static(b"first"));
        overlay.put_bytes(c, Bytes::from_static(b"second"));
        overlay.delete(a);
        assert_eq!(overlay.bytes(a).unwrap(), None);
        assert_eq!(overlay.bytes(b).unwrap().as_deref(), Some(&b"kept"[..]));
        assert_eq!(overlay.bytes(c).unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(overlay.touched(), 3);

        let mut expected = Batch::new();
        expected.delete(STATE, a.encode());
        expected.put(STATE, c.encode(), "second");
        assert_eq!(overlay.into_batch().0, expected);
    }

    #[test]
    fn a_damaged_row_is_fatal() {
        let engine = MemoryEngine::new();
        let mut overlay = Overlay::new(&engine);
        overlay.put_bytes(Key::Meta, Bytes::from_static(&[0xff]));
        assert!(matches!(overlay.row::<crate::rows::MetaRow>(Key::Meta), Err(Fatal::Assertion { .. })));
    }
}

//! The writes of one entry, readable before they are written.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use tarn_storage::{Batch, Engine, Keyspace};

use crate::error::Fatal;
use crate::keys::Key;

/// The keyspace that holds everything the machine knows. The engine must be opened with it.
pub const STATE: Keyspace = Keyspace::new("state");

/// Reads rows of the state.
pub trait Rows {
    /// The bytes under a key.
    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal>;

    /// The row under a key.
    fn row<R: Message + Default>(&self, key: Key<'_>) -> Result<Option<R>, Fatal> {
        self.bytes(key)?.map(|bytes| decode(&key, bytes)).transpose()
    }
}

/// Decodes a row. One that cannot be decoded means that the state is damaged.
pub fn decode<R: Message + Default>(key: &Key<'_>, bytes: Bytes) -> Result<R, Fatal> {
    R::decode(bytes).map_err(|error| Fatal::assertion(format!("the row under {key:?} cannot be decoded: {error}")))
}

impl Rows for &dyn Engine {
    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal> {
        Ok(self.get(STATE, &key.encode())?.map(Bytes::from))
    }
}

/// Rows of the engine with the present entry's changes on top.
pub struct Overlay<'a> {
    engine: &'a dyn Engine,
    /// Ordered, so that the batch is the same on every replica. `None`: deleted.
    changes: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// Counts changes, repeated ones too: shows whether a command touched anything.
    touched: u64,
}

impl<'a> Overlay<'a> {
    /// Nothing changed yet.
    pub fn new(engine: &'a dyn Engine) -> Self {
        Overlay { engine, changes: BTreeMap::new(), touched: 0 }
    }

    /// The rows as they were before the entry.
    pub fn engine(&self) -> &'a dyn Engine {
        self.engine
    }

    /// Writes a row.
    pub fn put<R: Message>(&mut self, key: Key<'_>, row: &R) {
        self.put_bytes(key, Bytes::from(row.encode_to_vec()));
    }

    /// Writes bytes as they are.
    pub fn put_bytes(&mut self, key: Key<'_>, bytes: Bytes) {
        self.touched += 1;
        self.changes.insert(key.encode(), Some(bytes));
    }

    /// Removes a row; no error if there is none.
    pub fn delete(&mut self, key: Key<'_>) {
        self.touched += 1;
        self.changes.insert(key.encode(), None);
    }

    /// How often something was changed so far.
    pub fn touched(&self) -> u64 {
        self.touched
    }

    /// All changes in the order of their keys.
    pub fn into_batch(self) -> Batch {
        let bytes = self.changes.iter().map(|(key, value)| 32 + key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        let mut batch = Batch::with_capacity(bytes);
        for (key, value) in &self.changes {
            match value {
                Some(value) => batch.put(STATE, key, value),
                None => batch.delete(STATE, key),
            }
        }
        batch
    }
}

impl Rows for Overlay<'_> {
    fn bytes(&self, key: Key<'_>) -> Result<Option<Bytes>, Fatal> {
        let key = key.encode();
        match self.changes.get(&key) {
            Some(change) => Ok(change.clone()),
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
        assert_eq!(overlay.into_batch(), expected);
    }

    #[test]
    fn a_damaged_row_is_fatal() {
        let engine = MemoryEngine::new();
        let mut overlay = Overlay::new(&engine);
        overlay.put_bytes(Key::Meta, Bytes::from_static(&[0xff]));
        assert!(matches!(overlay.row::<crate::rows::MetaRow>(Key::Meta), Err(Fatal::Assertion { .. })));
    }
}

//! Batches: what is written together or not at all.
//!
//! # Format
//!
//! A batch is kept as the bytes of its own encoding, so that hashing it costs no second pass. The encoding is the
//! operations one after another, each of them
//!
//! ```text
//! put           1 │ name length: u8 │ name │ key length: u32 │ key   │ value length: u32 │ value
//! delete        2 │ name length: u8 │ name │ key length: u32 │ key
//! delete_range  3 │ name length: u8 │ name │ start length: u32 │ start │ end length: u32 │ end
//! ```
//!
//! with little-endian lengths and the keyspace's name in full. Equal sequences of operations have equal bytes, and
//! different ones have different bytes. Replicas compare digests over these bytes, so the format never changes; a new
//! kind of operation gets a new first byte.

use std::fmt;

use crate::Keyspace;

pub(crate) const PUT: u8 = 1;
pub(crate) const DELETE: u8 = 2;
pub(crate) const DELETE_RANGE: u8 = 3;

/// Operations that an engine applies together, in the order in which they were added.
///
/// A later operation wins over an earlier one: a put after a delete of the same key leaves the key there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Batch {
    encoded: Vec<u8>,
    len: usize,
    /// The keyspaces that occur in `encoded`. Few, so that a linear search beats a map.
    keyspaces: Vec<Keyspace>,
}

/// One operation of a batch, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// Store a value under a key, replacing what was there.
    Put {
        /// Where.
        keyspace: Keyspace,
        /// The key, possibly empty.
        key: &'a [u8],
        /// The value, possibly empty.
        value: &'a [u8],
    },
    /// Remove a key. Removing what is not there is no error.
    Delete {
        /// Where.
        keyspace: Keyspace,
        /// The key.
        key: &'a [u8],
    },
    /// Remove every key from `start`, included, to `end`, excluded. Nothing if `end` is not above `start`.
    DeleteRange {
        /// Where.
        keyspace: Keyspace,
        /// The first key to remove.
        start: &'a [u8],
        /// The first key to keep.
        end: &'a [u8],
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for this many encoded bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { encoded: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Adds: store `value` under `key`.
    ///
    /// # Panics
    ///
    /// If the key or the value is 4 GiB long or longer. Limits that are worth a message lie far below, and are
    /// checked by the layers above.
    pub fn put(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.begin(PUT, keyspace);
        self.push(key.as_ref());
        self.push(value.as_ref());
    }

    /// Adds: remove `key`.
    ///
    /// # Panics
    ///
    /// If the key is 4 GiB long or longer.
    pub fn delete(&mut self, keyspace: Keyspace, key: impl AsRef<[u8]>) {
        self.begin(DELETE, keyspace);
        self.push(key.as_ref());
    }

    /// Adds: remove every key from `start`, included, to `end`, excluded.
    ///
    /// # Panics
    ///
    /// If one of the keys is 4 GiB long or longer.
    pub fn delete_range(&mut self, keyspace: Keyspace, start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) {
        self.begin(DELETE_RANGE, keyspace);
        self.push(start.as_ref());
        self.push(end.as_ref());
    }

    /// Adds all operations of another batch, after those that are here already.
    pub fn append(&mut self, other: &Batch) {
        self.encoded.extend_from_slice(&other.encoded);
        self.len += other.len;
        for keyspace in &other.keyspaces {
            self.remember(*keyspace);
        }
    }

    /// Removes all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
        self.len = 0;
        self.keyspaces.clear();
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The length of the encoding in bytes: what the batch costs in memory, and about what it costs in the engine's log.
    pub fn byte_size(&self) -> usize {
        self.encoded.len()
    }

    /// The operations, in order.
    pub fn iter(&self) -> Ops<'_> {
        Ops { rest: &self.encoded, left: self.len, keyspaces: &self.keyspaces }
    }

    /// The keyspaces that the operations name, each once, in the order in which they first occur.
    pub fn keyspaces(&self) -> &[Keyspace] {
        &self.keyspaces
    }

    /// The encoding, whose format is fixed: the head of `batch.rs` shows it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// Appends the encoding to a buffer.
    pub fn encode_into(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.encoded);
    }

    fn begin(&mut self, tag: u8, keyspace: Keyspace) {
        self.remember(keyspace);
        self.len += 1;
        let name = keyspace.name().as_bytes();
        let name_len = u8::try_from(name.len()).expect("the length was checked when the keyspace was named");
        self.encoded.extend_from_slice(&[tag, name_len]);
        self.encoded.extend_from_slice(name);
    }

    fn push(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("keys and values are shorter than 4 GiB");
        self.encoded.extend_from_slice(&len.to_le_bytes());
        self.encoded.extend_from_slice(bytes);
    }

    fn remember(&mut self, keyspace: Keyspace) {
        // Most often it is the one that was named last, by the same constant.
        let is_last = self.keyspaces.last().is_some_and(|last| std::ptr::eq(last.name(), keyspace.name()));
        if !is_last && !self.keyspaces.contains(&keyspace) {
            self.keyspaces.push(keyspace);
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = Op<'a>;
    type IntoIter = Ops<'a>;

    fn into_iter(self) -> Ops<'a> {
        self.iter()
    }
}

/// The operations of a batch, in order.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    rest: &'a [u8],
    left: usize,
    keyspaces: &'a [Keyspace],
}

impl<'a> Ops<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn take_byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn take_keyspace(&mut self) -> Keyspace {
        let len = usize::from(self.take_byte());
        let name = self.take(len);
        *self.keyspaces.iter().find(|keyspace| keyspace.name().as_bytes() == name).expect("a batch remembers every keyspace that it names")
    }

    fn take_bytes(&mut self) -> &'a [u8] {
        let len = self.take(4).try_into().expect("four bytes were asked for");
        self.take(u32::from_le_bytes(len) as usize)
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        self.left = self.left.checked_sub(1)?;
        let tag = self.take_byte();
        let keyspace = self.take_keyspace();
        let key = self.take_bytes();
        Some(match tag {
            PUT => Op::Put { keyspace, key, value: self.take_bytes() },
            DELETE => Op::Delete { keyspace, key },
            DELETE_RANGE => Op::DeleteRange { keyspace, start: key, end: self.take_bytes() },
            _ => unreachable!("only this module encodes, and it writes no other first byte"),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Ops<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Keyspace = Keyspace::new("a");
    const LONG: Keyspace = Keyspace::new("state");

    fn sample() -> Batch {
        let mut batch = Batch::new();
        batch.put(LONG, b"k1", b"value");
        batch.delete(A, b"");
        batch.delete_range(LONG, b"a", b"b\xff");
        batch.put(A, b"", b"");
        batch
    }

    /// The bytes that replicas hash. If this test fails, the format was changed, and clusters would split.
    #[test]
    fn the_encoding_is_golden() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"\x01\x05state\x02\x00\x00\x00k1\x05\x00\x00\x00value");
        expected.extend_from_slice(b"\x02\x01a\x00\x00\x00\x00");
        expected.extend_from_slice(b"\x03\x05state\x01\x00\x00\x00a\x02\x00\x00\x00b\xff");
        expected.extend_from_slice(b"\x01\x01a\x00\x00\x00\x00\x00\x00\x00\x00");

        let mut buffer = b"before".to_vec();
        sample().encode_into(&mut buffer);
        assert_eq!(&buffer[6..], expected);
        assert_eq!(sample().as_bytes(), expected);
        assert_eq!(sample().byte_size(), expected.len());
    }

    #[test]
    fn operations_come_back_in_order() {
        let batch = sample();
        let ops: Vec<Op<'_>> = batch.iter().collect();
        assert_eq!(
            ops,
            [
                Op::Put { keyspace: LONG, key: b"k1", value: b"value" },
                Op::Delete { keyspace: A, key: b"" },
                Op::DeleteRange { keyspace: LONG, start: b"a", end: b"b\xff" },
                Op::Put { keyspace: A, key: b"", value: b"" },
            ]
        );
        assert_eq!(batch.len(), 4);
        assert_eq!(batch.iter().len(), 4);
        assert_eq!(batch.keyspaces(), [LONG, A]);
    }

    #[test]
    fn a_cleared_batch_is_a_new_one() {
        let mut batch = sample();
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch, Batch::new());
        assert_eq!(batch.iter().next(), None);
    }

    #[test]
    fn appending_keeps_order_and_keyspaces() {
        let mut batch = Batch::with_capacity(64);
        batch.delete(A, b"x");
        batch.append(&sample());
        assert_eq!(batch.len(), 5);
        assert_eq!(batch.iter().skip(1).collect::<Vec<_>>(), sample().iter().collect::<Vec<_>>());
    }

    /// Neighbouring fields cannot be shifted into each other without changing the bytes.
    #[test]
    fn different_operations_have_different_bytes() {
        let encode = |fill: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            fill(&mut batch);
            batch.as_bytes().to_vec()
        };
        let all = [
            encode(&|b| b.put(A, b"ab", b"c")),
            encode(&|b| b.put(A, b"a", b"bc")),
            encode(&|b| b.put(Keyspace::new("aa"), b"b", b"c")),
            encode(&|b| b.delete_range(A, b"ab", b"c")),
            encode(&|b| b.delete(A, b"abc")),
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(one, other);
            }
        }
    }
}

//! Which record of which file holds each key's value, in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::ops::{Change, RawOps};
use super::segment::Segment;
use crate::{Keyspace, Range, StorageError};

/// Where a value lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The file's number, and where in it the record begins.
    pub segment: u64,
    pub record: u64,
    /// In the record's payload: where the operation begins, and where it and its value end.
    pub op: u32,
    pub end: u32,
    pub value_len: u32,
}

impl Place {
    fn bytes(&self) -> u64 {
        u64::from(self.end - self.op)
    }
}

/// A file, and how many bytes of its operations are still needed.
#[derive(Debug)]
struct Held {
    segment: Arc<Segment>,
    bytes: u64,
}

type Keys = BTreeMap<Box<[u8]>, Place>;

#[derive(Debug, Default)]
pub(super) struct Index {
    keyspaces: BTreeMap<Box<str>, Keys>,
    segments: BTreeMap<u64, Held>,
}

impl Index {
    /// Takes in a file, whose records follow.
    pub fn hold(&mut self, segment: Arc<Segment>) {
        self.segments.insert(segment.number, Held { segment, bytes: 0 });
    }

    /// Forgets a file of which nothing is needed any more.
    pub fn let_go(&mut self, number: u64) -> Option<Arc<Segment>> {
        self.segments.remove(&number).map(|held| held.segment)
    }

    /// The files, the oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.values().map(|held| &held.segment)
    }

    pub fn segment(&self, number: u64) -> Result<Arc<Segment>, StorageError> {
        let held = self.segments.get(&number).map(|held| held.segment.clone());
        held.ok_or_else(|| StorageError::Corruption { detail: format!("file {number} of the journal is needed, and gone") })
    }

    /// The oldest files that together hold no more than so many bytes that are needed.
    pub fn nearly_empty(&self, bytes_max: u64) -> Vec<u64> {
        let mut bytes = 0;
        let few = self.segments.iter().take_while(|(_, held)| {
            bytes += held.bytes;
            bytes <= bytes_max
        });
        few.map(|(number, _)| *number).collect()
    }

    /// All that lives in files up to this one.
    pub fn living_up_to(&self, number: u64) -> Vec<Place> {
        let places = self.keyspaces.values().flat_map(BTreeMap::values);
        places.filter(|place| place.segment <= number).copied().collect()
    }

    pub fn get(&self, keyspace: Keyspace, key: &[u8]) -> Option<Place> {
        self.keyspaces.get(keyspace.name())?.get(key).copied()
    }

    /// Keys and places in ascending order. The range must not be empty.
    pub fn range(&self, keyspace: Keyspace, range: &Range<'_>) -> Vec<(Box<[u8]>, Place)> {
        let keys = self.keyspaces.get(keyspace.name()).into_iter();
        keys.flat_map(|keys| keys.range::<[u8], _>(range.bounds())).map(|(key, place)| (key.clone(), *place)).collect()
    }

    /// Takes a record's operations in. `None`: one of them cannot be read, and the index is of no more use.
    pub fn apply(&mut self, payload: &[u8], segment: u64, record: u64) -> Option<()> {
        let mut op = 0;
        for raw in RawOps::of(payload) {
            let raw = raw?;
            if !self.keyspaces.contains_key(raw.name) {
                self.keyspaces.insert(raw.name.into(), Keys::new());
            }
            let keys = self.keyspaces.get_mut(raw.name)?;
            let end = u32::try_from(raw.end).ok()?;
            let gone = match raw.change {
                Change::Put(value) => {
                    let place = Place { segment, record, op, end, value_len: u32::try_from(value.len()).ok()? };
                    self.segments.get_mut(&segment)?.bytes += place.bytes();
                    keys.insert(raw.key.into(), place).into_iter().collect()
                }
                Change::Delete => keys.remove(raw.key).into_iter().collect(),
                Change::DeleteRange(first_kept) => cut_out(keys, raw.key, first_kept),
            };
            for place in gone {
                self.segments.get_mut(&place.segment)?.bytes -= place.bytes();
            }
            op = end;
        }
        Some(())
    }
}

/// Removes the keys from `start`, included, to `end`, excluded.
fn cut_out(keys: &mut Keys, start: &[u8], end: &[u8]) -> Vec<Place> {
    if start >= end {
        return Vec::new();
    }
    let bounds = (Bound::Included(Box::from(start)), Bound::Excluded(Box::from(end)));
    keys.extract_if(bounds, |_, _| true).map(|(_, place)| place).collect()
}

//! All keyspaces of one moment. A clone costs one reference count per keyspace; the maps are copied only when one of
//! the clones changes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::Entry;
use crate::{Direction, Keyspace, Op, Range};

type Map = BTreeMap<Bytes, Bytes>;

/// The content of an engine at one moment.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    /// By name, because a checkpoint that is read back has no static names.
    keyspaces: BTreeMap<Box<str>, Arc<Map>>,
}

/// One operation that owns its bytes, so that the live and the durable tree share them.
#[derive(Debug)]
pub(super) enum Change {
    Put { keyspace: Keyspace, key: Bytes, value: Bytes },
    Delete { keyspace: Keyspace, key: Bytes },
    DeleteRange { keyspace: Keyspace, start: Bytes, end: Bytes },
}

impl From<Op<'_>> for Change {
    fn from(op: Op<'_>) -> Self {
        match op {
            Op::Put { keyspace, key, value } => {
                Self::Put { keyspace, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
            }
            Op::Delete { keyspace, key } => Self::Delete { keyspace, key: Bytes::copy_from_slice(key) },
            Op::DeleteRange { keyspace, start, end } => {
                Self::DeleteRange { keyspace, start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) }
            }
        }
    }
}

impl Tree {
    pub(super) fn get(&self, keyspace: Keyspace, key: &[u8]) -> Option<&Bytes> {
        self.keyspaces.get(keyspace.name())?.get(key)
    }

    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put { keyspace, key, value } => {
                    self.map_mut(keyspace.name()).insert(key.clone(), value.clone());
                }
                Change::Delete { keyspace, key } => {
                    self.map_mut(keyspace.name()).remove(key);
                }
                Change::DeleteRange { keyspace, start, end } => {
                    remove_range(self.map_mut(keyspace.name()), &Range::between(start, end));
                }
            }
        }
    }

    /// Adds an entry to a keyspace given by name.
    pub(super) fn insert(&mut self, keyspace: &str, key: Bytes, value: Bytes) {
        self.map_mut(keyspace).insert(key, value);
    }

    /// The keyspaces that hold something, by name.
    pub(super) fn keyspaces(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.keyspaces.iter().map(|(name, map)| (&**name, &**map)).filter(|(_, map)| !map.is_empty())
    }

    /// The entries of a range as they are now, whatever is written later.
    pub(super) fn walk(&self, keyspace: Keyspace, range: &Range<'_>) -> Walk {
        let map = self.keyspaces.get(keyspace.name()).cloned().unwrap_or_default();
        Walk {
            map,
            from: Bound::Included(Bytes::copy_from_slice(range.start())),
            to: range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(Bytes::copy_from_slice(end))),
            direction: range.direction(),
            finished: range.is_empty(),
        }
    }

    fn map_mut(&mut self, keyspace: &str) -> &mut Map {
        if !self.keyspaces.contains_key(keyspace) {
            self.keyspaces.insert(keyspace.into(), Arc::default());
        }
        let map = self.keyspaces.get_mut(keyspace).expect("the keyspace was added if it was missing");
        Arc::make_mut(map)
    }
}

fn remove_range(map: &mut Map, range: &Range<'_>) {
    if range.is_empty() {
        return;
    }
    let doomed: Vec<Bytes> = map.range::<[u8], _>(range.bounds()).map(|(key, _)| key.clone()).collect();
    for key in doomed {
        map.remove(&key);
    }
}

/// A scan over one map. It holds the map, not a place in it, and finds its place again at each step.
pub(super) struct Walk {
    map: Arc<Map>,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    direction: Direction,
    finished: bool,
}

impl Iterator for Walk {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.finished {
            return None;
        }
        let bounds = (as_slice(&self.from), as_slice(&self.to));
        let mut left = self.map.range::<[u8], _>(bounds);
        let next = match self.direction {
            Direction::Ascending => left.next(),
            Direction::Descending => left.next_back(),
        };
        let Some((key, value)) = next else {
            self.finished = true;
            return None;
        };
        let entry = (key.to_vec(), value.to_vec());
        match self.direction {
            Direction::Ascending => {
                self.from = Bound::Excluded(key.clone());
                // The map refuses bounds that exclude the same key on both sides, and this is where they can meet.
                self.finished = matches!(&self.to, Bound::Excluded(end) if end <= key);
            }
            Direction::Descending => {
                self.finished = matches!(&self.from, Bound::Included(start) if start == key);
                self.to = Bound::Excluded(key.clone());
            }
        }
        Some(entry)
    }
}

fn as_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

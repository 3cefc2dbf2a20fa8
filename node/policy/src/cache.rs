//! Decisions that are remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What identifies a decision: BLAKE3 of the active bundles' digests and of what they were shown.
pub(crate) type Key = [u8; 32];

/// A map that holds a bounded number of entries. Full, it gives up one that was not asked for since the hand came by (the CLOCK algorithm
/// of Corbató, 1968: nearly as good as giving up the least recently used, without moving anything on a hit). In parts, so that threads
/// rarely wait for each other.
pub(crate) struct Cache<T> {
    parts: Vec<Mutex<Part<T>>>,
    entries_per_part: usize,
}

const PARTS: usize = 16;

struct Part<T> {
    places: HashMap<Key, usize>,
    entries: Vec<Entry<T>>,
    hand: usize,
}

struct Entry<T> {
    key: Key,
    value: Arc<T>,
    asked_for: bool,
}

impl<T> Cache<T> {
    /// A cache of about `entries` entries. None: nothing is remembered.
    pub(crate) fn new(entries: usize) -> Self {
        let part = || Mutex::new(Part { places: HashMap::new(), entries: Vec::new(), hand: 0 });
        Self { parts: (0..PARTS).map(|_| part()).collect(), entries_per_part: entries.div_ceil(PARTS) }
    }

    /// Keys are digests: each of their bytes is as good as random.
    fn part(&self, key: &Key) -> MutexGuard<'_, Part<T>> {
        self.parts[usize::from(key[31]) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        let mut part = self.part(key);
        let place = *part.places.get(key)?;
        let entry = &mut part.entries[place];
        entry.asked_for = true;
        Some(Arc::clone(&entry.value))
    }

    pub(crate) fn put(&self, key: Key, value: Arc<T>) {
        if self.entries_per_part == 0 {
            return;
        }
        self.part(&key).put(Entry { key, value, asked_for: false }, self.entries_per_part);
    }

    /// How many decisions are remembered.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum()
    }
}

impl<T> Part<T> {
    fn put(&mut self, entry: Entry<T>, limit: usize) {
        if let Some(place) = self.places.get(&entry.key) {
            self.entries[*place] = entry;
        } else if self.entries.len() < limit {
            self.places.insert(entry.key, self.entries.len());
            self.entries.push(entry);
        } else {
            let place = self.victim();
            self.places.remove(&self.entries[place].key);
            self.places.insert(entry.key, place);
            self.entries[place] = entry;
        }
    }

    /// Goes round until an entry was not asked for since the last time. Each step forgets one that was, so it ends within two rounds.
    fn victim(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[place].asked_for) {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        *blake3::hash(&number.to_be_bytes()).as_bytes()
    }

    #[test]
    fn it_stays_within_its_size_and_keeps_what_is_asked_for() {
        let cache = Cache::new(160);
        for number in 0..10_000 {
            cache.put(key(number), Arc::new(number));
            assert_eq!(cache.get(&key(0)).as_deref(), Some(&0), "asked for each time, so never given up");
        }
        assert_eq!(cache.len(), 160);
        let kept = (0..10_000).filter(|number| cache.get(&key(*number)).is_some_and(|kept| *kept == *number)).count();
        assert_eq!(kept, 160);
    }

    #[test]
    fn the_latest_value_counts() {
        let cache = Cache::new(16);
        cache.put(key(1), Arc::new("old"));
        cache.put(key(1), Arc::new("new"));
        assert_eq!((cache.get(&key(1)).as_deref(), cache.len()), (Some(&"new"), 1));
        let none = Cache::new(0);
        none.put(key(1), Arc::new(()));
        assert_eq!((none.get(&key(1)), none.len()), (None, 0));
    }
}

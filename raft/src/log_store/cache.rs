//! Recent entries in memory: the newest end of the log, without a hole.

use std::collections::VecDeque;

use openraft::entry::RaftEntry;

use crate::types::Entry;

pub(super) struct Cache {
    entries: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

struct Cached {
    entry: Entry,
    bytes: usize,
    /// The append that brought it. Until the writer has flushed that one, the entry is nowhere else.
    sequence: u64,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|cached| cached.entry.index())
    }

    /// Adds the entry that follows the last one. An entry that does not follow starts the cache anew.
    pub fn push(&mut self, entry: Entry, bytes: usize, sequence: u64) {
        if self.entries.back().is_some_and(|last| last.entry.index() + 1 != entry.index()) {
            self.clear();
        }
        self.bytes += bytes;
        self.entries.push_back(Cached { entry, bytes, sequence });
    }

    /// Forgets the oldest entries above the limit, but none that is not flushed yet.
    pub fn evict(&mut self, flushed: u64) {
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.entries.front()
            && oldest.sequence <= flushed
        {
            self.pop_front();
        }
    }

    /// Entries from `start` to `end`, excluded, up to about `bytes_max` but at least one. `start` must be in the cache.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.first_index() else {
            return Vec::new();
        };
        let Some(skip) = start.checked_sub(first) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let mut entries = Vec::new();
        for cached in self.entries.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)) {
            if cached.entry.index() >= end || bytes >= bytes_max {
                break;
            }
            bytes += cached.bytes;
            entries.push(cached.entry.clone());
        }
        entries
    }

    /// Forgets the entries from `next` on.
    pub fn truncate(&mut self, next: u64) {
        while self.entries.back().is_some_and(|last| last.entry.index() >= next) {
            let removed = self.entries.pop_back().expect("there is a last entry");
            self.bytes -= removed.bytes;
        }
    }

    /// Forgets the entries up to `index`, included.
    pub fn purge(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(removed) = self.entries.pop_front() {
            self.bytes -= removed.bytes;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::{LeaderId, LogId};

    fn filled(from: u64, to: u64, bytes_max: usize) -> Cache {
        let mut cache = Cache::new(bytes_max);
        for index in from..=to {
            let entry = Entry::new_blank(LogId::new(LeaderId::new(1, 1), index));
            cache.push(entry, 10, index);
        }
        cache
    }

    fn indexes(entries: Vec<Entry>) -> Vec<u64> {
        entries.iter().map(|entry| entry.index()).collect()
    }

    #[test]
    fn what_is_not_flushed_is_not_evicted() {
        let mut cache = filled(5, 9, 20);
        cache.evict(6);
        assert_eq!(cache.first_index(), Some(7));
        cache.evict(9);
        assert_eq!(cache.first_index(), Some(8));
    }

    #[test]
    fn reading_stops_at_the_byte_limit_but_gives_one() {
        let cache = filled(5, 9, 1_000);
        assert_eq!(indexes(cache.read(6, 100, usize::MAX)), [6, 7, 8, 9]);
        assert_eq!(indexes(cache.read(6, 8, usize::MAX)), [6, 7]);
        assert_eq!(indexes(cache.read(6, 100, 11)), [6, 7]);
        assert_eq!(indexes(cache.read(6, 100, 1)), [6]);
        assert_eq!(indexes(cache.read(4, 100, 1_000)), [] as [u64; 0]);
    }

    #[test]
    fn both_ends_can_be_cut() {
        let mut cache = filled(5, 9, 1_000);
        cache.truncate(8);
        cache.purge(5);
        assert_eq!(indexes(cache.read(6, 100, usize::MAX)), [6, 7]);
        cache.purge(100);
        assert_eq!(cache.first_index(), None);
        assert_eq!(cache.bytes, 0);
    }
}

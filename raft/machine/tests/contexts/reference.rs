//! Contexts as plainly as possible: maps of whole histories, snapshots that copy, restores that write every key at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tarn_machine::limits;

/// One version of a key.
#[derive(Clone, PartialEq, Debug)]
pub struct Version {
    pub version: u64,
    /// The value, with the version that first had it; `None`: deleted.
    pub value: Option<(u64, Bytes)>,
}

/// The keys with a value, as (version, version that first had the value, value).
pub type Keys = BTreeMap<String, (u64, u64, Bytes)>;

#[derive(Clone, Default)]
pub struct Context {
    histories: BTreeMap<String, Vec<Version>>,
    /// When each was taken, and what there was then.
    pub snapshots: BTreeMap<String, (u64, Keys)>,
}

impl Context {
    /// What there is now.
    pub fn keys(&self) -> Keys {
        let present = |(key, history): (&String, &Vec<Version>)| {
            let last = history.last()?;
            let (first, value) = last.value.clone()?;
            Some((key.clone(), (last.version, first, value)))
        };
        self.histories.iter().filter_map(present).collect()
    }

    /// The version that a key has, 0 if it has no value.
    pub fn version(&self, key: &str) -> u64 {
        self.keys().get(key).map_or(0, |(version, ..)| *version)
    }

    pub fn history(&self, key: &str) -> &[Version] {
        self.histories.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn write(&mut self, key: &str, version: u64, value: Option<(u64, Bytes)>) {
        self.histories.entry(key.to_owned()).or_default().push(Version { version, value });
        self.forget();
    }

    pub fn snapshot(&mut self, name: &str, version: u64) {
        self.snapshots.insert(name.to_owned(), (version, self.keys()));
    }

    pub fn restore(&mut self, name: &str, version: u64) {
        let then = self.snapshots[name].1.clone();
        let now = self.keys();
        let all: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
        for key in all {
            let was = then.get(key).map(|(_, first, value)| (*first, value.clone()));
            if was.as_ref().map(|(first, _)| first) != now.get(key).map(|(_, first, _)| first) {
                self.histories.entry(key.clone()).or_default().push(Version { version, value: was });
            }
        }
        self.forget();
    }

    pub fn delete_snapshot(&mut self, name: &str) {
        self.snapshots.remove(name);
        self.forget();
    }

    /// What is stored: each value that some version has, with its key.
    pub fn bytes(&self) -> u64 {
        let of_key = |(key, history): (&String, &Vec<Version>)| {
            let values = history.iter().filter_map(|version| version.value.as_ref());
            let distinct: BTreeMap<u64, u64> = values.map(|(first, value)| (*first, value.len() as u64)).collect();
            distinct.values().map(|bytes| key.len() as u64 + bytes).sum::<u64>()
        };
        self.histories.iter().map(of_key).sum()
    }

    /// Rows that the keys and the values take.
    pub fn rows(&self) -> (usize, usize) {
        let values = |history: &Vec<Version>| {
            let firsts = history.iter().filter_map(|version| version.value.as_ref().map(|(first, _)| *first));
            firsts.collect::<BTreeSet<u64>>().len()
        };
        (self.histories.len(), self.histories.values().map(values).sum())
    }

    /// Drops what nobody needs: older versions than the last few, all of a key that is gone, but nothing that was there when a snapshot was
    /// taken.
    fn forget(&mut self) {
        let moments: Vec<u64> = self.snapshots.values().map(|(version, _)| *version).collect();
        for history in self.histories.values_mut() {
            let count = history.len();
            let kept = if history[count - 1].value.is_some() { limits::KEY_VERSIONS_KEPT } else { 1 };
            let needed: Vec<bool> = (0..count)
                .map(|place| {
                    let until = history.get(place + 1).map_or(u64::MAX, |next| next.version);
                    let held = moments.iter().any(|moment| history[place].version <= *moment && *moment < until);
                    place + kept >= count || held
                })
                .collect();
            let mut place = 0;
            history.retain(|_| {
                place += 1;
                needed[place - 1]
            });
            while history.first().is_some_and(|first| first.value.is_none()) {
                history.remove(0);
            }
        }
        self.histories.retain(|_, history| !history.is_empty());
    }
}

//! Reading.

use std::collections::BTreeSet;

use crate::base::{Version, encode_entry};
use crate::codec::Writer;
use crate::commit::{Commit, Conflict};
use crate::limits::{AUTHOR_BYTES_MAX, AUTHOR_BYTES_SPARE, DOCUMENT_BYTES_MAX};
use crate::refusal::Refusal;
use crate::replica::{Replica, WriteError};
use crate::signature::Identity;

/// How much a replica holds, in bytes as stored.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Size {
    /// Keys and values of the base, with who wrote them.
    pub base: u64,
    /// Change sets that are not folded, with their signatures.
    pub history: u64,
    /// Change sets that are folded and kept for other members.
    pub retired: u64,
}

impl Replica {
    /// The value of a key. A deleted key has none.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.versions(key).into_iter().next()?.value
    }

    /// All that nobody superseded under a key, the winner first; more than one is a conflict.
    pub fn versions(&self, key: &str) -> Vec<Version> {
        self.base.merge(&self.live(), key)
    }

    /// Keys with this prefix and their values, ascending.
    pub fn range(&self, prefix: &str) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.keys(prefix).filter_map(|key| self.get(&key).map(|value| (key, value)))
    }

    /// The next keys with this prefix behind `after` and their values, of at most `max` keys; and behind which one to go on, if there are more.
    pub fn page(&self, prefix: &str, after: &str, max: usize) -> (Vec<(String, Vec<u8>)>, Option<String>) {
        let from = if after < prefix { prefix.to_owned() } else { format!("{after}\0") };
        let base = self.base.entries.range(from.clone()..).map(|(key, _)| key.as_str());
        let mut keys: BTreeSet<&str> = base.take_while(|key| key.starts_with(prefix)).take(max).collect();
        for (layer, _) in self.live() {
            keys.extend(layer.keys_from(&from).take_while(|key| key.starts_with(prefix)).take(max));
        }
        let keys: Vec<&str> = keys.into_iter().take(max).collect();
        let next = keys.last().filter(|_| keys.len() == max).map(|last| (*last).to_owned());
        (keys.into_iter().filter_map(|key| Some((key.to_owned(), self.get(key)?))).collect(), next)
    }

    /// Keys with this prefix that have, or had, a value.
    pub(crate) fn keys(&self, prefix: &str) -> impl Iterator<Item = String> + use<> {
        let mut keys: BTreeSet<String> = BTreeSet::new();
        let base = self.base.entries.range(prefix.to_owned()..).map(|(key, _)| key.as_str());
        keys.extend(base.take_while(|key| key.starts_with(prefix)).map(str::to_owned));
        for (layer, _) in self.live() {
            keys.extend(layer.keys_from(prefix).take_while(|key| key.starts_with(prefix)).map(str::to_owned));
        }
        keys.into_iter()
    }

    /// All conflicts, by key.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.contested.iter().filter_map(|key| Conflict::of(key, &self.versions(key)))
    }

    /// How many conflicts there are.
    pub fn conflict_count(&self) -> usize {
        self.contested.len()
    }

    /// Ends a conflict with a chosen value (`None` deletes the key): an ordinary write, which supersedes all that is known here.
    ///
    /// # Errors
    /// [`WriteError`]: this cluster may not write the key.
    pub fn resolve(&mut self, identity: &Identity, key: &str, value: Option<Vec<u8>>, now_ms: u64) -> Result<Commit, WriteError> {
        self.put(identity, vec![(key.to_owned(), value)], now_ms)
    }

    /// The last refusals, at most 256, the oldest first.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter().map(|(_, refusal)| refusal)
    }

    /// How much it holds.
    pub fn size(&self) -> Size {
        let (retired, live): (Vec<_>, Vec<_>) = self.layers.iter().partition(|layer| layer.epoch < self.base.epoch);
        let sum = |layers: Vec<&crate::layer::Layer>| layers.iter().map(|layer| layer.bytes()).sum();
        Size { base: self.base.bytes, history: sum(live), retired: sum(retired) }
    }

    /// Bytes that this cluster may still write: as far as the document is from its bound, and the cluster from its own of the epoch. Whoever
    /// writes for it asks first: what is beyond is taken up to a spare, and refused then.
    pub fn room(&self) -> u64 {
        let size = self.size();
        let spent = self.layers.last().map_or(0, |layer| layer.spent(self.me, layer.vector().get(self.me)));
        let document = DOCUMENT_BYTES_MAX.saturating_sub(size.base + size.history);
        document.min((AUTHOR_BYTES_MAX - AUTHOR_BYTES_SPARE).saturating_sub(spent))
    }

    /// The first epoch that is not folded, and the one that is written.
    pub fn epochs(&self) -> (u64, u64) {
        (self.base.epoch, self.layers.last().map_or(self.base.epoch, |layer| layer.epoch))
    }

    /// The document's bytes: the base, and the change sets of each open epoch in the order of their hashes. They are the same on all
    /// replicas that hold the same. As large as the document: for tests and for people; [`Replica::digest`] says the same in 32 bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = self.federation.0.to_vec();
        out.number(self.base.epoch);
        self.base.vector.encode(&mut out);
        for (key, versions) in &self.base.entries {
            out.extend(encode_entry(key, versions));
        }
        for (layer, _) in self.live().into_iter().filter(|(layer, _)| !layer.entries().is_empty()) {
            out.number(layer.epoch);
            let mut entries: Vec<_> = layer.entries().iter().map(|entry| &entry.signed).collect();
            entries.sort_by_key(|signed| signed.hash);
            entries.iter().for_each(|signed| out.extend(signed.encode()));
        }
        out
    }

    /// A digest of the document, which costs next to nothing: of the base's digest and of the open epochs' heads, which name their whole
    /// past by hash. Two replicas have the same digest exactly if they have the same [`Replica::canonical`] bytes.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("tarn federation 1: document");
        hasher.update(&self.federation.0).update(&self.base.digest);
        for (layer, _) in self.live().into_iter().filter(|(layer, _)| !layer.entries().is_empty()) {
            hasher.update(&layer.epoch.to_be_bytes());
            for head in layer.heads() {
                hasher.update(&head.0);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

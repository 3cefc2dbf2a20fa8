//! What is below all epochs: each key with its value, and no history.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Writer};
use crate::id::ClusterId;
use crate::key::Key;
use crate::layer::{Found, Layer};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX, VERSIONS_MAX};
use crate::vector::Vector;

/// One of the values that a key has, with who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The value; `None` where the key was deleted.
    pub value: Option<Vec<u8>>,
    /// Who wrote it.
    pub author: ClusterId,
    /// The epoch in which it was written.
    pub epoch: u64,
    /// The author's how-many-th change set of that epoch it came with.
    pub seq: u64,
}

/// What all folded epochs come to.
#[derive(Clone, Default)]
pub(crate) struct Base {
    /// The first epoch that is not folded in.
    pub epoch: u64,
    /// The change sets of the last folded epoch that are in it.
    pub vector: Vector,
    /// The versions of each key that nobody superseded, the winner first.
    pub entries: BTreeMap<String, Vec<Version>>,
    /// Of epoch, vector and entries.
    pub digest: [u8; 32],
    /// Bytes of the entries.
    pub bytes: u64,
}

/// What folding an epoch would do to the base.
pub(crate) struct Fold {
    pub vector: Vector,
    /// The new versions of each key that the epoch wrote; none for one that is gone.
    pub changed: BTreeMap<String, Vec<Version>>,
    pub digest: [u8; 32],
}

impl Version {
    pub(crate) fn of(found: &Found<'_>) -> Self {
        Self { value: found.value().map(<[u8]>::to_vec), author: found.author(), epoch: found.epoch, seq: found.seq() }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.author.0);
        out.number(self.epoch);
        out.number(self.seq);
        out.option(self.value.as_deref(), |out, value| out.bytes(value));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (author, epoch, seq) = (ClusterId(r.array()?), r.epoch()?, r.number()?);
        Ok(Self { author, epoch, seq, value: r.option(|r| r.bytes(VALUE_BYTES_MAX).map(<[u8]>::to_vec))? })
    }
}

/// Encodes an entry of the base: in rows, in snapshots and for the digest.
pub(crate) fn encode_entry(key: &str, versions: &[Version]) -> Vec<u8> {
    let mut out = Vec::new();
    out.bytes(key.as_bytes());
    out.number(versions.len() as u64);
    for version in versions {
        version.encode(&mut out);
    }
    out
}

pub(crate) fn decode_entry(r: &mut Reader<'_>) -> Result<(String, Vec<Version>), Malformed> {
    let key = r.text(KEY_BYTES_MAX)?.to_owned();
    Key::parse(&key)?;
    let versions = r.list(VERSIONS_MAX, Version::decode)?;
    match versions.is_empty() {
        true => Err(Malformed("an entry of the base has no version")),
        false => Ok((key, versions)),
    }
}

impl Base {
    /// What a key holds on top of this base, with these layers, the highest first, each read within what its vector knows; the winner
    /// first.
    pub fn merge(&self, layers: &[(&Layer, &Vector)], key: &str) -> Vec<Version> {
        let mut found: Vec<Found<'_>> = Vec::new();
        for (layer, within) in layers {
            let mut here = layer.versions(key, within);
            here.retain(|one| !found.iter().any(|above| above.knows(one.epoch, one.author(), one.seq())));
            found.append(&mut here);
        }
        let below = self.entries.get(key).into_iter().flatten();
        let below = below.filter(|one| !found.iter().any(|above| above.knows(one.epoch, one.author, one.seq)));
        found.iter().map(Version::of).chain(below.cloned()).collect()
    }

    /// Folds an epoch at a vector. Of a key's versions the winner and those next to it are kept; a key whose every version is a deletion goes,
    /// and so do the books of the epoch.
    pub fn fold(&self, layer: &Layer, vector: Vector) -> Fold {
        let mut changed = BTreeMap::new();
        for key in layer.keys_from("") {
            if Key::parse(key).is_ok_and(Key::is_bookkeeping) || layer.versions(key, &vector).is_empty() {
                continue;
            }
            let mut versions = self.merge(&[(layer, &vector)], key);
            if versions.iter().all(|version| version.value.is_none()) {
                versions.clear();
            }
            versions.truncate(VERSIONS_MAX);
            changed.insert(key.to_owned(), versions);
        }
        let digest = self.digest_with(self.epoch + 1, &vector, &changed);
        Fold { vector, changed, digest }
    }

    /// Does what a fold found.
    pub fn apply(&mut self, fold: Fold) {
        for (key, versions) in fold.changed {
            let new = if versions.is_empty() { 0 } else { encode_entry(&key, &versions).len() };
            let old = match versions.is_empty() {
                true => self.entries.remove_entry(&key),
                false => self.entries.insert(key.clone(), versions).map(|old| (key, old)),
            };
            let old = old.map_or(0, |(key, versions)| encode_entry(&key, &versions).len());
            self.bytes = self.bytes + new as u64 - old as u64;
        }
        self.epoch += 1;
        self.vector = fold.vector;
        self.digest = fold.digest;
    }

    /// A base of these entries, as it was before they were stored or sent.
    pub fn of(epoch: u64, vector: Vector, entries: BTreeMap<String, Vec<Version>>) -> Self {
        let bytes = entries.iter().map(|(key, versions)| encode_entry(key, versions).len() as u64).sum();
        let mut base = Self { epoch, vector, entries, digest: [0; 32], bytes };
        base.digest = base.digest_with(epoch, &base.vector, &BTreeMap::new());
        base
    }

    fn digest_with(&self, epoch: u64, vector: &Vector, changed: &BTreeMap<String, Vec<Version>>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("tarn federation 1: base");
        let mut head = Vec::new();
        head.number(epoch);
        vector.encode(&mut head);
        hasher.update(&head);
        let kept = self.entries.iter().filter(|(key, _)| !changed.contains_key(*key));
        // Both are sorted: one walk over both, in the order of the keys.
        let (mut kept, mut changed) = (kept.peekable(), changed.iter().filter(|(_, versions)| !versions.is_empty()).peekable());
        loop {
            let next = match (kept.peek(), changed.peek()) {
                (Some(old), Some(new)) if old.0 < new.0 => kept.next(),
                (Some(_), None) => kept.next(),
                _ => changed.next(),
            };
            let Some((key, versions)) = next else { break };
            hasher.update(&encode_entry(key, versions));
        }
        *hasher.finalize().as_bytes()
    }
}

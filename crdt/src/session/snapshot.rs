//! A base that is taken from a peer: by a cluster that joins, or one that stayed away while everybody else who counted folded.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Base, Version, encode_entry};
use crate::id::ClusterId;
use crate::key::Own;
use crate::layer::Layer;
use crate::limits::{ATTESTATIONS_MAX, SNAPSHOT_BYTES_MAX};
use crate::records::{Attested, End, Introduction};
use crate::refusal::{Reason, Refusal};
use crate::replica::Replica;
use crate::rows;
use crate::session::message::{Attestation, SnapshotHead};

/// A base on its way in.
pub(super) struct Incoming {
    head: SnapshotHead,
    entries: BTreeMap<String, Vec<Version>>,
    bytes: usize,
}

impl Incoming {
    pub fn new(head: SnapshotHead) -> Self {
        Self { head, entries: BTreeMap::new(), bytes: 0 }
    }

    /// Takes more of it; false when it is too large.
    pub fn take(&mut self, entries: Vec<(String, Vec<Version>)>) -> bool {
        self.bytes += entries.iter().map(|(key, versions)| encode_entry(key, versions).len()).sum::<usize>();
        self.entries.extend(entries);
        self.bytes <= SNAPSHOT_BYTES_MAX
    }

    /// Hands it to the replica, which checks it.
    pub fn finish(self, replica: &mut Replica, from: ClusterId, now_ms: u64) -> Result<(), Refusal> {
        if self.head.epoch <= replica.base.epoch {
            return Ok(());
        }
        let base = Base::of(self.head.epoch, self.head.vector, self.entries);
        let refused = match () {
            () if !is_sound(&base) => Some((Reason::Malformed, "the base holds what no epoch can have left")),
            () if !is_attested(replica, from, &base, &self.head.attestations) => {
                Some((Reason::BadSignature, "the base is not signed by those whom this cluster trusts to have folded it"))
            }
            () => None,
        };
        if let Some((reason, detail)) = refused {
            let refusal = Refusal::new(from, from, reason, detail.to_owned(), now_ms);
            replica.refuse(refusal.clone());
            return Err(refusal);
        }
        replica.adopt(base);
        Ok(())
    }
}

/// Is it of epochs below its own, and is each cluster's key the one of its id?
fn is_sound(base: &Base) -> bool {
    base.entries.iter().all(|(key, versions)| {
        let introduced = |value: &[u8]| {
            Introduction::decode(value).is_ok_and(|one| key.starts_with(&format!("member/{}/", ClusterId::of(&one.public_key))))
        };
        let right = |version: &Version| !key.starts_with("member/") || version.value.as_deref().is_some_and(introduced);
        versions.iter().all(|version| version.epoch < base.epoch && right(version))
    })
}

/// Is every signature right, and are they of those whom this replica trusts: of more than half of the members that count here, or of whoever
/// invited it? One that knows nobody yet takes the word of its inviter, which is at the other end. So no member hands out a base alone, but
/// the one who could have told a newcomer anything.
fn is_attested(replica: &Replica, from: ClusterId, base: &Base, attestations: &[Attestation]) -> bool {
    let message = End::message(&replica.federation, &base.digest);
    let right = |one: &Attestation| replica.scheme.verify(&one.public_key, &message, &one.signature);
    if attestations.is_empty() || !attestations.iter().all(right) {
        return false;
    }
    let signers: BTreeSet<ClusterId> = attestations.iter().map(|one| ClusterId::of(&one.public_key)).collect();
    let inviter = replica.inviter.filter(|inviter| !replica.removed.contains(inviter));
    if inviter.is_some_and(|inviter| signers.contains(&inviter) || (inviter == from && replica.members.is_empty())) {
        return true;
    }
    let counted = replica.counted();
    counted.iter().filter(|member| signers.contains(member)).count() * 2 > counted.len()
}

impl Replica {
    /// Signatures over the base as it is, of all whom its end counts: they stand in the epoch above the folded one until that is folded in
    /// turn. `None` while one is missing here.
    pub(super) fn attestations(&self) -> Option<Vec<Attestation>> {
        let lower = self.layer(self.base.epoch)?;
        let of = |member: ClusterId, kind: Own| {
            let attested = Attested::decode(lower.own(&kind.key(member), member)?).ok()?;
            (attested.end.digest == self.base.digest).then_some(attested)
        };
        let any = |member: ClusterId| of(member, Own::Folded).or_else(|| of(member, Own::Confirm));
        let end = self.members.keys().find_map(|member| any(*member))?.end;
        let others = self.members.keys().filter(|member| !end.members.contains(member) && any(**member).is_some());
        let signers = end.members.iter().chain(others).take(ATTESTATIONS_MAX);
        let attestation = |signer: &ClusterId| {
            Some(Attestation { public_key: self.members.get(signer)?.public_key.clone(), signature: any(*signer)?.signature })
        };
        signers.map(attestation).collect()
    }

    /// The other members that count in the lower epoch, as far as is known here.
    fn counted(&self) -> Vec<ClusterId> {
        let Some(lower) = self.layer(self.base.epoch) else { return Vec::new() };
        let mut counted = self.introduced(lower, lower.vector());
        counted.sort();
        counted.dedup();
        counted.retain(|member| *member != self.me && !self.removed.contains(member));
        counted
    }

    /// Puts a newer base in the place of this one and of the epochs that are folded into it.
    fn adopt(&mut self, base: Base) {
        let keys: Vec<String> = self.keys("").chain(base.entries.keys().cloned()).collect();
        keys.iter().for_each(|key| self.touch(key));
        for key in self.base.entries.keys() {
            self.draft.rows.insert(rows::base_key(key), None);
        }
        for (key, versions) in &base.entries {
            self.draft.rows.insert(rows::base_key(key), Some(encode_entry(key, versions)));
        }
        self.drop_below(base.epoch);
        if self.layer(base.epoch).is_none() {
            self.layers.insert(0, Layer::new(base.epoch, self.me));
        }
        self.base = base;
        self.prepared = None;
        self.draft_head();
        self.recount();
    }
}

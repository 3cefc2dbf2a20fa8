//! A base that is taken from a peer: by a cluster that joins, or one that stayed away while everybody else who counted folded.

use std::collections::BTreeMap;

use crate::base::{Base, Version, encode_entry};
use crate::id::ClusterId;
use crate::key::Own;
use crate::layer::Layer;
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::records::{End, Introduction};
use crate::refusal::{Reason, Refusal};
use crate::replica::Replica;
use crate::rows;
use crate::session::message::SnapshotHead;

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
        if !is_attested(replica, &base, &self.head.attestations) {
            let detail = "the base is not signed by those who are said to have folded it".to_owned();
            let refusal = Refusal::new(from, from, Reason::BadSignature, detail, now_ms);
            replica.refuse(refusal.clone());
            return Err(refusal);
        }
        replica.adopt(base);
        Ok(())
    }
}

/// Is every signature right, and is there one? That the sender is trusted was seen before: it is the inviter, or a member. So a stranger
/// cannot hand out a base, and a member can hand out only one that members of that base have signed.
fn is_attested(replica: &Replica, base: &Base, attestations: &[(ClusterId, Vec<u8>)]) -> bool {
    let message = End::message(&replica.federation, &base.digest);
    let signed = |(cluster, signature): &(ClusterId, Vec<u8>)| {
        let key = key_in(base, *cluster);
        key.is_some_and(|key| replica.scheme.verify(&key, &message, signature))
    };
    !attestations.is_empty() && attestations.iter().all(signed)
}

/// A cluster's public key, by a base. The id is the key's digest, so it is the cluster's in whatever base it stands.
fn key_in(base: &Base, cluster: ClusterId) -> Option<Vec<u8>> {
    let prefix = format!("member/{cluster}/");
    let (_, versions) = base.entries.range(prefix.clone()..).next().filter(|(key, _)| key.starts_with(&prefix))?;
    let introduction = Introduction::decode(versions.first()?.value.as_deref()?).ok()?;
    (ClusterId::of(&introduction.public_key) == cluster).then_some(introduction.public_key)
}

impl Replica {
    /// Signatures of members over the base as it is: they stand in the epoch above the folded one until that is folded in turn.
    pub(super) fn attestations(&self) -> Vec<(ClusterId, Vec<u8>)> {
        let Some(lower) = self.layer(self.base.epoch) else { return Vec::new() };
        let of = |member: ClusterId, kind: Own| {
            let attested = crate::records::Attested::decode(lower.own(&kind.key(member), member)?).ok()?;
            (attested.end.digest == self.base.digest).then_some((member, attested.signature))
        };
        let known = self.members.keys().filter(|member| key_in(&self.base, **member).is_some());
        known.filter_map(|member| of(*member, Own::Folded).or_else(|| of(*member, Own::Confirm))).collect()
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

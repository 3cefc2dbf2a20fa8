//! A cluster's copy of what the federation shares.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::{Base, Fold, Version};
use crate::change::{ChangeSet, Put, Signed};
use crate::commit::{Commit, Conflict, Draft};
use crate::id::{ClusterId, FederationId};
use crate::key::{Key, Own, Scope, member_key};
use crate::layer::Layer;
use crate::limits::{AUTHOR_BYTES_MAX, CHANGE_BYTES_MAX, DEPS_MAX, PUTS_MAX, REFUSALS_MAX, VALUE_BYTES_MAX};
use crate::records::{Introduction, Seal};
use crate::refusal::{Reason, Refusal};
use crate::rows::{self, Head, LoadError};
use crate::signature::{Identity, Scheme};
use crate::vector::Vector;

/// When history is compacted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// Bytes of an epoch's history (change sets with their signatures) that are kept in any case.
    pub history_bytes_min: u64,
    /// How many times the live content's bytes an epoch's history may have before it is closed.
    pub history_multiple: u64,
    /// Bytes of an epoch's history at which it is closed in any case: what automerge does for each change takes longer the more there are.
    pub history_bytes_max: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { history_bytes_min: 4 << 20, history_multiple: 2, history_bytes_max: 16 << 20 }
    }
}

impl Tuning {
    /// The bytes of history at which an epoch is closed, over so many bytes of live content.
    pub(crate) fn history_limit(&self, live: u64) -> u64 {
        live.saturating_mul(self.history_multiple).min(self.history_bytes_max).max(self.history_bytes_min)
    }
}

/// A cluster that was introduced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    pub public_key: Vec<u8>,
    pub scope: Scope,
    pub card: Vec<u8>,
    /// Whose introduction the card is from: see [`Replica::note`].
    by: ClusterId,
}

/// Why a write was not made. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// The identity is another cluster's.
    #[error("the key is of cluster {0}, and this is not its replica: use the key that the replica was made with")]
    WrongIdentity(ClusterId),
    /// Nobody has introduced this cluster, as far as it knows.
    #[error("this cluster is not a member of the federation yet: wait until the synchronisation with whoever invited it has ended")]
    NotAMember,
    /// The federation has withdrawn its trust.
    #[error("the federation has withdrawn its trust in this cluster: found or join with a new key")]
    Removed,
    /// It has written as much as a cluster may in one epoch.
    #[error("this cluster has written all that it may until the others have closed the epoch: wait, or see who is away")]
    Full,
    /// It would be refused everywhere.
    #[error("{}: {detail}", reason.name())]
    Refused {
        /// Why.
        reason: Reason,
        /// What exactly.
        detail: String,
    },
}

/// A cluster's copy of what the federation shares: see the crate's page.
pub struct Replica {
    pub(crate) federation: FederationId,
    pub(crate) me: ClusterId,
    pub(crate) inviter: Option<ClusterId>,
    pub(crate) scheme: &'static dyn Scheme,
    pub(crate) tuning: Tuning,
    pub(crate) base: Base,
    /// By epoch. The one with the base's epoch is always there; at most one above it is open; one below it may be kept for those who have
    /// not folded it.
    pub(crate) layers: Vec<Layer>,
    pub(crate) members: BTreeMap<ClusterId, Member>,
    pub(crate) removed: BTreeSet<ClusterId>,
    pub(crate) contested: BTreeSet<String>,
    pub(crate) refusals: VecDeque<(u64, Refusal)>,
    pub(crate) draft: Draft,
    /// What a cluster may write, as of its last change set of that epoch: it only grows along the cluster's own history.
    pub(crate) granted: BTreeMap<ClusterId, (u64, Scope)>,
    /// The fold that was last computed, for these members: to confirm it and to do it are two steps.
    pub(crate) prepared: Option<(Vec<ClusterId>, Fold)>,
}

impl Replica {
    /// Founds a federation: the identity's cluster is its first member, with this card, and may write everything.
    ///
    /// # Errors
    /// None in practice: what it writes is within every bound.
    pub fn found(identity: &Identity, name: &str, card: &[u8], tuning: Tuning, now_ms: u64) -> Result<(Self, Commit), WriteError> {
        let federation = FederationId::new(identity.id(), name);
        let mut replica =
            Self::empty(federation, identity.id(), None, identity.scheme(), tuning, Base::of(0, Vector::default(), BTreeMap::new()));
        replica.draft_head();
        let signature = identity.sign_card(&federation, card);
        let introduction = Introduction { public_key: identity.public_key().to_vec(), scope: Scope::ALL, card: card.to_vec(), signature };
        let key = member_key(replica.me, replica.me);
        replica.write_into(identity, 0, vec![(key, Some(introduction.encode()))], now_ms)?;
        let commit = replica.commit();
        Ok((replica, commit))
    }

    /// A replica that knows nothing yet, of a cluster that `inviter` introduces. It can write once a session with the inviter has brought
    /// it its own introduction.
    pub fn join(federation: FederationId, me: &Identity, inviter: ClusterId, tuning: Tuning) -> (Self, Commit) {
        let base = Base::of(0, Vector::default(), BTreeMap::new());
        let mut replica = Self::empty(federation, me.id(), Some(inviter), me.scheme(), tuning, base);
        replica.draft_head();
        let commit = replica.commit();
        (replica, commit)
    }

    /// The replica whose commits' rows these are. What is stored is trusted: signatures are not verified again.
    ///
    /// # Errors
    /// [`LoadError`] when rows are missing, mixed up, or of another format.
    pub fn load(
        scheme: &'static dyn Scheme,
        tuning: Tuning,
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, LoadError> {
        let rows = rows::read(rows)?;
        let Head { federation, me, inviter, .. } = rows.head;
        let mut replica = Self::empty(federation, me, inviter, scheme, tuning, rows.base);
        for (epoch, position, signed, bytes) in rows.changes {
            replica.reload(signed, bytes).ok_or(LoadError::Misplaced { epoch, position })?;
        }
        replica.refusals = rows.refusals;
        replica.recount();
        replica.contested = replica.keys("").filter(|key| replica.versions(key).len() > 1).collect();
        Ok(replica)
    }

    pub(crate) fn empty(
        federation: FederationId,
        me: ClusterId,
        inviter: Option<ClusterId>,
        scheme: &'static dyn Scheme,
        tuning: Tuning,
        base: Base,
    ) -> Self {
        Self {
            federation,
            me,
            inviter,
            scheme,
            tuning,
            layers: vec![Layer::new(base.epoch, me)],
            base,
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            contested: BTreeSet::new(),
            refusals: VecDeque::new(),
            draft: Draft::default(),
            granted: BTreeMap::new(),
            prepared: None,
        }
    }

    fn reload(&mut self, signed: Signed, bytes: usize) -> Option<()> {
        let layer = self.layer_or_new(signed.change.epoch)?;
        let mut place = layer.place(&signed.change, None).ok()?;
        let built = layer.build(&signed.change, &mut place);
        if built.hash() != signed.hash {
            return None;
        }
        layer.insert(signed, place, built, bytes);
        Some(())
    }

    /// The cluster whose replica it is.
    pub fn cluster(&self) -> ClusterId {
        self.me
    }

    /// The federation.
    pub fn federation(&self) -> FederationId {
        self.federation
    }

    /// Writes keys, all at once, as one signed change set. An empty list writes nothing.
    ///
    /// # Errors
    /// As [`Replica::write`].
    pub fn put(&mut self, identity: &Identity, puts: Vec<Put>, now_ms: u64) -> Result<Commit, WriteError> {
        if !puts.is_empty() {
            let epoch = self.layers.last().expect("there is always one").epoch;
            self.write_into(identity, epoch, puts, now_ms)?;
        }
        Ok(self.commit())
    }

    /// Writes into one epoch. A cluster's first change set of an epoch seals the one below, and so does each that knows more of it.
    pub(crate) fn write_into(&mut self, identity: &Identity, epoch: u64, mut puts: Vec<Put>, now_ms: u64) -> Result<(), WriteError> {
        self.may_write(identity)?;
        let layer = self.layer(epoch).expect("its own writes go to an epoch that is there");
        let seq = layer.vector().get(self.me) + 1;
        if epoch > 0 {
            self.renew_seal(epoch, layer, &mut puts);
        }
        puts.sort();
        let mut deps: Vec<_> = layer.heads().copied().collect();
        // More heads than that wait for the next change set; one that knows its own last one must be among them.
        if deps.len() > DEPS_MAX {
            deps.sort_by_key(|head| layer.entry(head).is_none_or(|entry| entry.clock.get(self.me) + 1 != seq));
            deps.truncate(DEPS_MAX);
            deps.sort();
        }
        let change = ChangeSet { author: self.me, epoch, seq, time_ms: now_ms, deps, puts };
        let bounded = change.puts.len() <= PUTS_MAX && change.content_bytes() <= CHANGE_BYTES_MAX;
        if !bounded || change.puts.iter().any(|(_, value)| value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX)) {
            let detail = "a change set has at most 1,024 keys and 256 KiB, a value at most 64 KiB: write less at once".to_owned();
            return Err(WriteError::Refused { reason: Reason::TooLarge, detail });
        }
        if change.puts.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            let detail = "a key stands twice in what is to be written at once".to_owned();
            return Err(WriteError::Refused { reason: Reason::Malformed, detail });
        }
        if change.cost() > 0 && layer.spent(self.me, seq - 1) + change.cost() > AUTHOR_BYTES_MAX {
            return Err(WriteError::Full);
        }
        let Ok(mut place) = layer.place(&change, None) else { unreachable!("the heads are there, and the number is the next") };
        let built = layer.build(&change, &mut place);
        self.judge_puts(&change, &place).map_err(|(reason, detail)| WriteError::Refused { reason, detail })?;
        let signature = identity.sign(&Signed::message(&self.federation, epoch, &built.hash()));
        self.insert(Signed { hash: built.hash(), change, signature }, place, built);
        Ok(())
    }

    /// Adds a seal where more is known of the epoch below than the last one says: what is written must supersede what was seen.
    fn renew_seal(&self, epoch: u64, layer: &Layer, puts: &mut Vec<Put>) {
        let (key, mut seal) = (Own::Seal.key(self.me), self.seal_of(epoch));
        let last = layer.own(&key, self.me).and_then(|value| Seal::decode(value).ok());
        // What a removed cluster wrote may have been sealed here and folded by nobody: a seal says that it was known, and only grows.
        last.iter().for_each(|last| seal.vector.join(&last.vector));
        if last.as_ref() != Some(&seal) && !puts.iter().any(|(other, _)| *other == key) {
            puts.push((key, Some(seal.encode())));
        }
    }

    /// What this cluster knows of the epoch below.
    pub(crate) fn seal_of(&self, epoch: u64) -> Seal {
        let below = self.layer(epoch - 1).filter(|_| epoch > self.base.epoch);
        Seal { epoch: epoch - 1, vector: below.map_or(&self.base.vector, Layer::vector).clone() }
    }

    fn may_write(&self, identity: &Identity) -> Result<(), WriteError> {
        let founds = self.me == self.federation.founder();
        match () {
            () if identity.id() != self.me => Err(WriteError::WrongIdentity(identity.id())),
            () if self.removed.contains(&self.me) => Err(WriteError::Removed),
            () if !founds && !self.members.contains_key(&self.me) => Err(WriteError::NotAMember),
            () => Ok(()),
        }
    }

    pub(crate) fn layer(&self, epoch: u64) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.epoch == epoch)
    }

    pub(crate) fn layer_mut(&mut self, epoch: u64) -> Option<&mut Layer> {
        self.layers.iter_mut().find(|layer| layer.epoch == epoch)
    }

    /// The epoch's layer; opened if it is the one above the base's. Of an older one only when rows bring it back.
    pub(crate) fn layer_or_new(&mut self, epoch: u64) -> Option<&mut Layer> {
        if self.layer(epoch).is_none() {
            if epoch > self.base.epoch + 1 || epoch + 1 < self.base.epoch {
                return None;
            }
            self.layers.push(Layer::new(epoch, self.me));
            self.layers.sort_by_key(|layer| layer.epoch);
        }
        self.layer_mut(epoch)
    }

    /// Layers that are not folded, the highest first, as readers see them.
    pub(crate) fn live(&self) -> Vec<(&Layer, &Vector)> {
        self.layers.iter().rev().filter(|layer| layer.epoch >= self.base.epoch).map(|layer| (layer, layer.vector())).collect()
    }

    /// Notes what a key holds, before it changes for the first time in this commit.
    pub(crate) fn touch(&mut self, key: &str) {
        if !self.draft.before.contains_key(key) {
            let before = self.versions(key);
            self.draft.before.insert(key.to_owned(), before);
        }
    }

    pub(crate) fn draft_head(&mut self) {
        let Self { federation, me, inviter, .. } = *self;
        let head = Head { federation, me, inviter, epoch: self.base.epoch, vector: self.base.vector.clone() };
        self.draft.rows.insert(rows::head_key(), Some(head.encode()));
    }

    /// Records a refusal, if it is not known: a peer that comes again with the same must not make the state grow.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let at_ms = refusal.at_ms;
        if self.refusals.iter().any(|(_, known)| Refusal { at_ms, ..known.clone() } == refusal) {
            return;
        }
        let number = self.refusals.back().map_or(0, |(number, _)| number + 1);
        self.draft.rows.insert(rows::refusal_key(number), Some(refusal.encode()));
        self.draft.refusals.push(refusal.clone());
        self.refusals.push_back((number, refusal));
        while self.refusals.len() > REFUSALS_MAX {
            let (oldest, _) = self.refusals.pop_front().expect("there are more than none");
            self.draft.rows.insert(rows::refusal_key(oldest), None);
        }
    }

    /// Ends a transition, and says what it changed.
    pub(crate) fn commit(&mut self) -> Commit {
        let draft = std::mem::take(&mut self.draft);
        let mut commit = Commit { rows: draft.rows.into_iter().collect(), refusals: draft.refusals, ..Commit::default() };
        for (key, before) in draft.before {
            let now = self.versions(&key);
            let value = |versions: &[Version]| versions.first().and_then(|version| version.value.clone());
            if value(&now) != value(&before) {
                commit.entries.push((key.clone(), value(&now)));
            }
            let conflict = Conflict::of(&key, &now).filter(|_| now != before);
            commit.conflicts.extend(conflict);
            match now.len() > 1 {
                true => self.contested.insert(key),
                false => self.contested.remove(&key),
            };
        }
        commit
    }

    /// Counts members and removals anew: after a fold, what was not kept no longer counts.
    pub(crate) fn recount(&mut self) {
        self.members.clear();
        self.removed.clear();
        self.granted.clear();
        let mut known: Vec<(Key, Vec<u8>)> = Vec::new();
        for prefix in ["member/", "removed/"] {
            let keys: Vec<String> = self.keys(prefix).collect();
            known.extend(keys.iter().filter_map(|key| Some((Key::parse(key).ok()?, self.get(key)?))));
        }
        known.into_iter().for_each(|(key, value)| self.note(key, &value));
    }

    /// Counts one introduction or removal. A cluster that has signed two cards is who the member with the least id says, whatever came first.
    pub(crate) fn note(&mut self, key: Key, value: &[u8]) {
        match (key, Introduction::decode(value)) {
            (Key::Member { cluster, by }, Ok(Introduction { public_key, scope, card, .. })) => {
                let member = self.members.entry(cluster).or_insert(Member { public_key, scope, card: card.clone(), by });
                member.scope = member.scope | scope;
                if by < member.by {
                    (member.card, member.by) = (card, by);
                }
            }
            (Key::Removed { cluster, .. }, _) => drop(self.removed.insert(cluster)),
            _ => {}
        }
    }
}

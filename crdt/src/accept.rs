//! Whether a change set is taken. That is a function of the change set and of what it knows, never of the order in which things arrive:
//! else replicas would not converge. Two things depend on more, and say so: withdrawn trust, and equivocation.

use std::collections::BTreeSet;

use automerge::{Change, ChangeHash};

use crate::change::{ChangeSet, Signed};
use crate::id::ClusterId;
use crate::key::{Key, Own, Scope, member_key};
use crate::layer::{Layer, Misplaced, Place};
use crate::limits::{AUTHOR_BYTES_MAX, INTRODUCED_MAX};
use crate::records::{Attested, Introduction, Seal};
use crate::refusal::{Reason, Refusal};
use crate::replica::Replica;
use crate::rows;
use crate::vector::Vector;

/// What became of a change set.
pub(crate) enum Judged {
    /// It is taken.
    Taken,
    /// It was there already, or its epoch is folded.
    Known,
    /// Part of what it knows is missing here; or who sends it, and who wrote it, are removed.
    Early(Signed),
}

/// A reason, and one sentence.
type Refused = (Reason, String);

impl Replica {
    /// Judges a change set that `from` sent, and takes it if nothing speaks against it. A refusal is recorded.
    pub(crate) fn accept(&mut self, from: ClusterId, signed: Signed, now_ms: u64) -> Result<Judged, Refusal> {
        let author = signed.change.author;
        self.judge(from, signed).map_err(|(reason, detail)| {
            let refusal = Refusal::new(from, author, reason, detail, now_ms);
            self.refuse(refusal.clone());
            refusal
        })
    }

    fn judge(&mut self, from: ClusterId, signed: Signed) -> Result<Judged, Refused> {
        let change = &signed.change;
        if change.epoch < self.base.epoch {
            return Ok(Judged::Known);
        }
        if change.epoch > self.base.epoch + 1 {
            return Ok(Judged::Early(signed));
        }
        let none = Layer::new(change.epoch, self.me);
        let layer = self.layer(change.epoch).unwrap_or(&none);
        if layer.entry(&signed.hash).is_some() {
            return Ok(Judged::Known);
        }
        let mut place = match layer.place(change, Some(&signed.hash)) {
            Ok(place) => place,
            Err(Misplaced::MissingPast) => return Ok(Judged::Early(signed)),
            Err(misplaced) => return Err(self.accuse(&signed, &misplaced)),
        };
        if !self.knows_sealed(change) {
            return Ok(Judged::Early(signed));
        }
        self.judge_signature(&signed, &place)?;
        let built = layer.build(change, &mut place);
        if built.hash() != signed.hash {
            return Err((Reason::Malformed, "its hash is not that of its content".to_owned()));
        }
        // A session with a removed cluster ends at its next frame: this is the rest of the one that brought its removal.
        if self.removed.contains(&change.author) && self.removed.contains(&from) {
            return Ok(Judged::Early(signed));
        }
        self.judge_puts(change, &place)?;
        self.insert(signed, place, built);
        Ok(Judged::Taken)
    }

    /// Why a change set has no place: it is its author's doing only if the author signed it.
    fn accuse(&self, signed: &Signed, misplaced: &Misplaced) -> Refused {
        let (seq, epoch) = (signed.change.seq, signed.change.epoch);
        if !self.public_key_of(&signed.change).is_some_and(|key| self.is_signed(signed, &key)) {
            return (Reason::BadSignature, format!("change set {seq} of epoch {epoch} has no place, and is not signed by its author"));
        }
        match misplaced {
            Misplaced::Equivocation => {
                (Reason::Equivocation, format!("another change set {seq} of epoch {epoch} by the same cluster is known"))
            }
            Misplaced::Replay | Misplaced::MissingPast => {
                (Reason::Replay, format!("change set {seq} of epoch {epoch} does not follow the last one that it knows of"))
            }
        }
    }

    fn is_signed(&self, signed: &Signed, key: &[u8]) -> bool {
        self.scheme.verify(key, &Signed::message(&self.federation, signed.change.epoch, &signed.hash), &signed.signature)
    }

    /// Is what the author sealed here, or folded already?
    fn knows_sealed(&self, change: &ChangeSet) -> bool {
        let below = change.epoch.checked_sub(1).filter(|below| *below >= self.base.epoch).and_then(|below| self.layer(below));
        below.is_none_or(|below| change.seal().is_none_or(|seal| below.vector().covers(&seal.vector)))
    }

    fn judge_signature(&self, signed: &Signed, place: &Place) -> Result<(), Refused> {
        let change = &signed.change;
        let key = self.public_key_of(change);
        let Some(key) = key.filter(|_| self.scope_within(change.author, change.epoch, place).is_some()) else {
            return Err((Reason::UnknownCluster, "nobody introduced its author, as far as it knows".to_owned()));
        };
        match self.is_signed(signed, &key) {
            true => Ok(()),
            false => Err((Reason::BadSignature, "the signature is not its author's over this change set in this federation".to_owned())),
        }
    }

    /// The author's key. An id is its key's digest, so it does not matter where the key is found; the founder brings it along.
    fn public_key_of(&self, change: &ChangeSet) -> Option<Vec<u8>> {
        if let Some(member) = self.members.get(&change.author) {
            return Some(member.public_key.clone());
        }
        let own = member_key(change.author, change.author);
        let (_, value) = change.puts.iter().find(|(key, _)| *key == own)?;
        Introduction::decode(value.as_deref()?).ok().map(|introduction| introduction.public_key)
    }

    /// What a cluster may write in the past that a change set names: all that anybody gave it there. `None` if nobody introduced it.
    fn scope_within(&self, cluster: ClusterId, epoch: u64, place: &Place) -> Option<Scope> {
        if cluster == self.federation.founder() {
            return Some(Scope::ALL);
        }
        // It only grows along the cluster's own history, which every change set of it contains.
        if let Some((_, scope)) = self.granted.get(&cluster).filter(|(granted, _)| *granted == epoch) {
            return Some(*scope);
        }
        self.scope_exactly(cluster, epoch, place)
    }

    fn scope_exactly(&self, cluster: ClusterId, epoch: u64, place: &Place) -> Option<Scope> {
        let prefix = format!("member/{cluster}/");
        let within = |layer: &Layer| -> Option<Vector> {
            match epoch.checked_sub(layer.epoch)? {
                0 => Some(place.clock.clone()),
                1 => Some((*place.below).clone()),
                _ => None,
            }
        };
        let mut scope = None;
        let mut give = |more: Option<Scope>| scope = more.map(|more| scope.unwrap_or(Scope::NONE) | more).or(scope);
        for (key, versions) in self.base.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)) {
            debug_assert!(Key::parse(key).is_ok());
            give(versions[0].value.as_deref().and_then(|value| Introduction::decode(value).ok()).map(|one| one.scope));
        }
        for layer in self.layers.iter().filter(|layer| layer.epoch >= self.base.epoch) {
            let Some(within) = within(layer) else { continue };
            for key in layer.keys_from(&prefix).take_while(|key| key.starts_with(&prefix)) {
                let Ok(Key::Member { by, .. }) = Key::parse(key) else { continue };
                let value = layer.own(key, by).filter(|_| layer.wrote(key, by, &within));
                give(value.and_then(|value| Introduction::decode(value).ok()).map(|one| one.scope));
            }
        }
        scope
    }

    /// Whom anybody introduced in the past that a change set names.
    fn introduced_within(&self, epoch: u64, place: &Place) -> BTreeSet<ClusterId> {
        let mut found: BTreeSet<ClusterId> = BTreeSet::new();
        let mut note = |key: &str, wrote: &dyn Fn(ClusterId) -> bool| {
            if let Ok(Key::Member { cluster, by }) = Key::parse(key)
                && wrote(by)
            {
                found.insert(cluster);
            }
        };
        let prefix = "member/";
        let base = self.base.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        base.for_each(|(key, _)| note(key, &|_| true));
        for layer in self.layers.iter().filter(|layer| layer.epoch >= self.base.epoch && layer.epoch <= epoch) {
            let within = if layer.epoch == epoch { &place.clock } else { &*place.below };
            layer.keys_from(prefix).take_while(|key| key.starts_with(prefix)).for_each(|key| note(key, &|by| layer.wrote(key, by, within)));
        }
        found
    }

    /// May the author write these keys, and are the values that the room reads what they should be?
    pub(crate) fn judge_puts(&self, change: &ChangeSet, place: &Place) -> Result<(), Refused> {
        for (key, value) in &change.puts {
            let parsed = Key::parse(key).map_err(|malformed| (Reason::Malformed, format!("{key:?}: {malformed}")))?;
            self.judge_put(change, place, parsed, value.as_deref()).map_err(|(reason, detail)| (reason, format!("{key:?}: {detail}")))?;
        }
        let spent = self.layer(change.epoch).map_or(0, |layer| layer.spent(change.author, change.seq - 1));
        if change.cost() > 0 && spent + change.cost() > AUTHOR_BYTES_MAX {
            let detail = "its author has written more in this epoch than a cluster may: it waits until the others have closed it";
            return Err((Reason::TooLarge, detail.to_owned()));
        }
        let seals = change.seq > 1 || change.epoch == 0 || change.seal().is_some();
        seals.then_some(()).ok_or((Reason::Malformed, "a cluster's first change set of an epoch must seal the one below".to_owned()))
    }

    fn judge_put(&self, change: &ChangeSet, place: &Place, key: Key, value: Option<&[u8]>) -> Result<(), Refused> {
        let author = change.author;
        let out_of_scope = |detail: &str| Err((Reason::OutOfScope, detail.to_owned()));
        match key {
            Key::Member { by, .. } | Key::Removed { by, .. } if by != author => out_of_scope("it speaks for another cluster"),
            Key::Own(_, cluster) if cluster != author => out_of_scope("it belongs to another cluster"),
            Key::Member { cluster, .. } => self.judge_introduction(change, place, cluster, value),
            Key::Removed { .. } if value != Some(&[]) => Err((Reason::Malformed, "a removal has an empty value, and stays".to_owned())),
            Key::Removed { cluster, .. } if !self.introduced_within(change.epoch, place).contains(&cluster) => {
                out_of_scope("nobody introduced the cluster that it removes, as far as it knows")
            }
            Key::Shared(section) if !self.may(change, place, Scope::of(section)) => {
                out_of_scope("the cluster's scope does not hold the section")
            }
            Key::Own(Own::Seal, _) => judge_seal(self.layer(change.epoch), change, value),
            Key::Own(Own::Confirm | Own::Folded, _) => judge_end(change, value),
            Key::Removed { .. } | Key::Own(Own::Directory | Own::Capacity, _) | Key::Shared(_) => Ok(()),
        }
    }

    fn judge_introduction(&self, change: &ChangeSet, place: &Place, cluster: ClusterId, value: Option<&[u8]>) -> Result<(), Refused> {
        let malformed = |detail: &str| Err((Reason::Malformed, detail.to_owned()));
        let Some(Ok(introduction)) = value.map(Introduction::decode) else {
            return malformed("an introduction holds a public key and a scope, and stays");
        };
        let (author, key) = (change.author, member_key(cluster, change.author));
        if ClusterId::of(&introduction.public_key) != cluster {
            return malformed("the public key is not the one of the cluster's id");
        }
        if !introduction.is_signed(self.scheme, &self.federation) {
            return Err((Reason::BadSignature, "the card is not signed by the cluster that it is of".to_owned()));
        }
        if cluster == author && author != self.federation.founder() {
            return Err((Reason::OutOfScope, "a cluster does not introduce itself".to_owned()));
        }
        if !self.may(change, place, introduction.scope) {
            return Err((Reason::OutOfScope, "nobody gives more than it has".to_owned()));
        }
        let again = self.layers.iter().filter(|layer| layer.epoch >= self.base.epoch && layer.epoch <= change.epoch).any(|layer| {
            let within = if layer.epoch == change.epoch { &place.clock } else { &*place.below };
            layer.wrote(&key, author, within)
        });
        let known = self.introduced_within(change.epoch, place);
        let others = change.puts.iter().filter_map(|(key, _)| match Key::parse(key) {
            Ok(Key::Member { cluster, .. }) => Some(cluster),
            _ => None,
        });
        if !known.contains(&cluster) && known.into_iter().chain(others).collect::<BTreeSet<_>>().len() > INTRODUCED_MAX {
            return Err((Reason::TooLarge, format!("a federation has at most {INTRODUCED_MAX} clusters, those that went counted in")));
        }
        if again || self.base.entries.contains_key(&key) {
            return Err((Reason::OutOfScope, "a cluster introduces another once; its key and scope stay".to_owned()));
        }
        Ok(())
    }

    fn may(&self, change: &ChangeSet, place: &Place, wanted: Scope) -> bool {
        let holds = |scope: Option<Scope>| scope.is_some_and(|scope| scope.holds(wanted));
        let founder = change.author == self.federation.founder();
        founder
            || holds(self.scope_within(change.author, change.epoch, place))
            || holds(self.scope_exactly(change.author, change.epoch, place))
    }

    /// Takes a change set that was judged, and notes what it changes.
    pub(crate) fn insert(&mut self, signed: Signed, place: Place, built: Change) {
        let epoch = signed.change.epoch;
        let author = signed.change.author;
        if self.granted.get(&author).is_none_or(|(granted, _)| *granted != epoch)
            && let Some(scope) = self.scope_exactly(author, epoch, &place)
        {
            self.granted.insert(author, (epoch, scope));
        }
        let mut noted = Vec::new();
        for (key, value) in &signed.change.puts {
            self.touch(key);
            let parsed = Key::parse(key).expect("it was judged");
            noted.extend(value.clone().map(|value| (parsed, value)));
        }
        let encoded = signed.encode();
        let bytes = encoded.len();
        let layer = self.layer_or_new(epoch).expect("it was judged");
        let row = rows::change_key(epoch, layer.entries().len());
        layer.insert(signed, place, built, bytes);
        self.draft.rows.insert(row, Some(encoded));
        noted.into_iter().for_each(|(key, value)| self.note(key, &value));
    }

    /// Is the change set with that hash here?
    pub(crate) fn has(&self, epoch: u64, hash: &ChangeHash) -> bool {
        self.layer(epoch).is_some_and(|layer| layer.entry(hash).is_some())
    }
}

/// A seal is of the epoch below, and only grows.
fn judge_seal(layer: Option<&Layer>, change: &ChangeSet, value: Option<&[u8]>) -> Result<(), Refused> {
    let seal = value.and_then(|value| Seal::decode(value).ok());
    let Some(seal) = seal.filter(|seal| seal.epoch.checked_add(1) == Some(change.epoch)) else {
        return Err((Reason::Malformed, "a seal names the epoch below, and what of it is known".to_owned()));
    };
    let before = layer.and_then(|layer| layer.own(&Own::Seal.key(change.author), change.author)).and_then(|value| Seal::decode(value).ok());
    match before.is_none_or(|before| seal.vector.covers(&before.vector)) {
        true => Ok(()),
        false => Err((Reason::Malformed, "a seal knows less than the cluster's one before".to_owned())),
    }
}

/// A confirmation, or the notice of a fold, is of the epoch below.
fn judge_end(change: &ChangeSet, value: Option<&[u8]>) -> Result<(), Refused> {
    let attested = value.and_then(|value| Attested::decode(value).ok());
    match attested.is_some_and(|attested| attested.end.epoch.checked_add(1) == Some(change.epoch)) {
        true => Ok(()),
        false => Err((Reason::Malformed, "it names the epoch below, its members, its end and its digest".to_owned())),
    }
}

//! How history is compacted: an epoch is closed, its end is agreed, and it is folded into the base. The crate's page says why that is safe.

use std::collections::BTreeSet;

use crate::base::Fold;
use crate::change::Put;
use crate::commit::Commit;
use crate::id::ClusterId;
use crate::key::{Key, Own};
use crate::layer::{Entry, Layer};
use crate::records::{Attested, End, Seal};
use crate::refusal::{Reason, Refusal};
use crate::replica::{Replica, WriteError};
use crate::rows;
use crate::signature::Identity;
use crate::vector::Vector;

impl Replica {
    /// Does what is due: seals, confirms and folds epochs, drops what nobody needs any more, and builds on what a removed cluster left. To
    /// be called after whatever changed the replica. A cluster that is no member (yet, or any more) has nothing to do.
    ///
    /// # Errors
    /// [`WriteError::WrongIdentity`] if the key is another cluster's.
    pub fn tend(&mut self, identity: &Identity, now_ms: u64) -> Result<Commit, WriteError> {
        if identity.id() != self.me {
            return Err(WriteError::WrongIdentity(identity.id()));
        }
        if self.members.contains_key(&self.me) && !self.removed.contains(&self.me) {
            // Each step brings one of the few things about so that it is not due again, so this ends.
            while self.step(identity, now_ms)? {}
        }
        Ok(self.commit())
    }

    fn step(&mut self, identity: &Identity, now_ms: u64) -> Result<bool, WriteError> {
        if self.drop_retired() {
            return Ok(true);
        }
        if let Some(layer) = self.unvouched() {
            self.vouch(identity, layer, now_ms)?;
            return Ok(true);
        }
        if self.closes() {
            self.write_into(identity, self.base.epoch + 1, Vec::new(), now_ms)?;
            return Ok(true);
        }
        self.end_epoch(identity, now_ms)
    }

    /// Is it this cluster's turn to seal: because somebody did, or because there is too much history?
    fn closes(&mut self) -> bool {
        let epoch = self.base.epoch;
        if let Some(above) = self.layer(epoch + 1) {
            return above.vector().get(self.me) == 0;
        }
        let history = self.layer(epoch).map_or(0, Layer::content_bytes);
        let closes = self.retired().is_none() && history > self.tuning.history_limit(self.base.bytes);
        if closes {
            self.layer_or_new(epoch + 1).expect("the epoch above the base's can be opened");
        }
        closes
    }

    /// An epoch in which a removed cluster's change set is on top: nobody has signed that it knows it. Who was introduced later than the epoch
    /// writes nothing there; its seal says what it knows.
    fn unvouched(&self) -> Option<u64> {
        let on_top = |layer: &Layer| {
            layer.heads().any(|head| layer.entry(head).is_some_and(|entry| self.removed.contains(&entry.signed.change.author)))
        };
        let writes = |layer: &Layer| layer.epoch > self.base.epoch || self.introduced(layer, layer.vector()).contains(&self.me);
        self.layers.iter().find(|layer| layer.epoch >= self.base.epoch && on_top(layer) && writes(layer)).map(|layer| layer.epoch)
    }

    /// Builds on it with a change set that puts nothing. Where this cluster has sealed the epoch, it seals it anew.
    fn vouch(&mut self, identity: &Identity, epoch: u64, now_ms: u64) -> Result<(), WriteError> {
        self.write_into(identity, epoch, Vec::new(), now_ms)?;
        let above = self.layer(epoch + 1).is_some_and(|above| above.vector().get(self.me) > 0);
        match above {
            true => self.write_into(identity, epoch + 1, vec![(Own::Seal.key(self.me), Some(self.seal_of(epoch + 1).encode()))], now_ms),
            false => Ok(()),
        }
    }

    /// Confirms the end of the lower epoch, or folds it, as far as is known; says whether anything happened.
    fn end_epoch(&mut self, identity: &Identity, now_ms: u64) -> Result<bool, WriteError> {
        let Some(above) = self.layer(self.base.epoch + 1) else { return Ok(false) };
        let folded = self.folded_by_others(above);
        let whole = |end: &&End| self.layer(end.epoch).is_some_and(|lower| lower.vector().covers(&end.vector));
        let (agreed, others): (Vec<&End>, Vec<&End>) = folded.iter().filter(whole).partition(|end| self.is_agreed(above, end));
        if let Some(end) = agreed.into_iter().find(|end| self.is_settled(above, end)) {
            return self.follow(identity, end, now_ms);
        }
        if let Some(end) = others.first() {
            self.refuse_diverged(end, "that not all who count have confirmed", now_ms);
        }
        let Some(above) = self.layer(self.base.epoch + 1) else { return Ok(false) };
        let Some((members, vector)) = self.end_of(above) else { return Ok(false) };
        if !members.contains(&self.me) {
            return Ok(false);
        }
        let end = self.prepare(members, vector);
        let confirmed = |member: &ClusterId| self.attested(Own::Confirm, *member).is_some_and(|attested| attested.end == end);
        if !confirmed(&self.me) {
            self.write_end(identity, Own::Confirm, end, now_ms)?;
            return Ok(true);
        }
        if !end.members.iter().all(confirmed) {
            return Ok(false);
        }
        self.fold(identity, end, now_ms)?;
        Ok(true)
    }

    /// Does as a member that has folded: all of what it folded is here, and all who count agreed.
    fn follow(&mut self, identity: &Identity, end: &End, now_ms: u64) -> Result<bool, WriteError> {
        let own = self.prepare(end.members.clone(), end.vector.clone());
        if own.digest != end.digest {
            self.refuse_diverged(end, "that is not the one here", now_ms);
            return Ok(false);
        }
        self.fold(identity, own, now_ms)?;
        Ok(true)
    }

    /// Says once that a member folded to something else: it is not followed, and people have to look.
    fn refuse_diverged(&mut self, end: &End, what: &str, now_ms: u64) {
        let detail = format!("epoch {} was folded by {} members to a content {what}", end.epoch, end.members.len());
        let refusal = Refusal::new(self.me, self.me, Reason::Diverged, detail, now_ms);
        let told = self.refusals.iter().any(|(_, known)| known.reason == refusal.reason && known.detail == refusal.detail);
        if !told {
            self.refuse(refusal);
        }
    }

    /// What members that have not been removed folded the lower epoch to.
    fn folded_by_others(&self, above: &Layer) -> Vec<End> {
        let candidates = self.members.keys().filter(|member| !self.removed.contains(member));
        let records = candidates.filter_map(|member| Attested::decode(above.own(&Own::Folded.key(*member), *member)?).ok());
        records.map(|attested| attested.end).filter(|end| end.epoch == self.base.epoch).collect()
    }

    /// May an end that was agreed be followed? Who counts in it may: it has confirmed the end, so the others need it for any other. Who does
    /// not (it was introduced later) waits for all that do: who folded first may have been removed meanwhile, and the others agree anew.
    fn is_settled(&self, above: &Layer, end: &End) -> bool {
        let folded = |member: &ClusterId| {
            let record = above.own(&Own::Folded.key(*member), *member).and_then(|value| Attested::decode(value).ok());
            record.is_some_and(|attested| attested.end.digest == end.digest)
        };
        end.members.contains(&self.me) || end.members.iter().all(|member| self.removed.contains(member) || folded(member))
    }

    /// Has each whom an end counts confirmed it, and does it count all who are introduced in what it keeps, less the removed? Whoever folded
    /// honestly knew that, so it is known here when the notice of the fold is. Some may have confirmed another end since.
    fn is_agreed(&self, above: &Layer, end: &End) -> bool {
        let Some(lower) = self.layer(end.epoch).filter(|lower| lower.vector().covers(&end.vector)) else { return false };
        let confirmed = |member: &ClusterId| {
            let mut ever = above.all_own(&Own::Confirm.key(*member), *member);
            ever.any(|value| Attested::decode(value).is_ok_and(|attested| attested.end == *end))
        };
        let introduced = self.introduced(lower, &end.vector);
        let all = introduced.iter().all(|member| self.removed.contains(member) || end.members.contains(member));
        all && !end.members.is_empty() && end.members.iter().all(confirmed)
    }

    /// Who counts, and what of the lower epoch is kept; `None` while a seal is missing. Kept is what whoever withdrew trust knew when it
    /// did, and what the members had sealed. Members are the founder, those of the base, and whoever is introduced in what is kept; less
    /// the removed.
    fn end_of(&self, above: &Layer) -> Option<(Vec<ClusterId>, Vector)> {
        let lower = self.layer(self.base.epoch)?;
        let mut members: BTreeSet<ClusterId> = BTreeSet::new();
        let mut vector = known_to_removers(lower);
        for entry in removals(above) {
            vector.join(&entry.below);
        }
        let mut found = self.introduced(lower, &vector);
        while let Some(member) = found.pop() {
            if self.removed.contains(&member) || !members.insert(member) {
                continue;
            }
            let seal = Seal::decode(above.own(&Own::Seal.key(member), member)?).ok()?;
            vector.join(&seal.vector);
            found = self.introduced(lower, &vector);
            found.retain(|cluster| !members.contains(cluster));
        }
        let whole = lower.vector().covers(&vector);
        whole.then(|| (members.into_iter().collect(), vector))
    }

    /// Whom the base introduces, or the lower epoch within what `within` knows.
    pub(crate) fn introduced(&self, lower: &Layer, within: &Vector) -> Vec<ClusterId> {
        let prefix = "member/";
        let base = self.base.entries.range(prefix.to_owned()..).map(|(key, _)| key.as_str()).take_while(|key| key.starts_with(prefix));
        let lower = lower.keys_from(prefix).take_while(|key| key.starts_with(prefix)).filter(|key| match Key::parse(key) {
            Ok(Key::Member { by, .. }) => lower.wrote(key, by, within),
            _ => false,
        });
        let clusters: BTreeSet<ClusterId> = base
            .chain(lower)
            .filter_map(|key| match Key::parse(key) {
                Ok(Key::Member { cluster, .. }) => Some(cluster),
                _ => None,
            })
            .collect();
        clusters.into_iter().chain([self.federation.founder()]).collect()
    }

    /// Computes the fold, or finds that it was computed.
    fn prepare(&mut self, members: Vec<ClusterId>, vector: Vector) -> End {
        let known = self.prepared.as_ref().is_some_and(|(known, fold)| *known == members && fold.vector == vector);
        if !known {
            let lower = self.layer(self.base.epoch).expect("the base's epoch is always there");
            self.prepared = Some((members, self.base.fold(lower, vector)));
        }
        let (members, fold) = self.prepared.as_ref().expect("it is now");
        End { epoch: self.base.epoch, members: members.clone(), vector: fold.vector.clone(), digest: fold.digest }
    }

    fn fold(&mut self, identity: &Identity, end: End, now_ms: u64) -> Result<(), WriteError> {
        let (_, fold) = self.prepared.take().expect("it was prepared");
        self.touch_all(self.base.epoch);
        self.draft_fold(&fold);
        self.base.apply(fold);
        self.draft_head();
        self.recount();
        self.drop_below(self.base.epoch - 1);
        self.write_end(identity, Own::Folded, end, now_ms)
    }

    fn touch_all(&mut self, epoch: u64) {
        let keys: Vec<String> = self.layer(epoch).into_iter().flat_map(|layer| layer.keys_from("")).map(str::to_owned).collect();
        keys.iter().for_each(|key| self.touch(key));
    }

    fn draft_fold(&mut self, fold: &Fold) {
        for (key, versions) in &fold.changed {
            let entry = (!versions.is_empty()).then(|| crate::base::encode_entry(key, versions));
            self.draft.rows.insert(rows::base_key(key), entry);
        }
    }

    /// Writes a confirmation, or the notice of a fold, into the epoch above the one that ends.
    fn write_end(&mut self, identity: &Identity, kind: Own, end: End, now_ms: u64) -> Result<(), WriteError> {
        let signature = identity.sign(&End::message(&self.federation, &end.digest));
        let epoch = end.epoch + 1;
        let put: Put = (kind.key(self.me), Some(Attested { end, signature }.encode()));
        self.write_into(identity, epoch, vec![put], now_ms)
    }

    /// What a member confirmed last, or folded.
    pub(crate) fn attested(&self, kind: Own, member: ClusterId) -> Option<Attested> {
        let above = self.layers.last()?;
        Attested::decode(above.own(&kind.key(member), member)?).ok()
    }

    /// The epoch below the base's that is kept for those who have not folded it.
    pub(crate) fn retired(&self) -> Option<&Layer> {
        self.layers.first().filter(|layer| layer.epoch < self.base.epoch)
    }

    /// Drops it once every member that counted has folded it.
    fn drop_retired(&mut self) -> bool {
        let Some(epoch) = self.retired().map(|layer| layer.epoch) else { return false };
        let Some(layer) = self.layer(self.base.epoch) else { return false };
        let folded = |member: ClusterId| {
            let record = layer.own(&Own::Folded.key(member), member).and_then(|value| Attested::decode(value).ok());
            record.filter(|attested| attested.end.epoch == epoch).map(|attested| attested.end)
        };
        let Some(end) = folded(self.me) else { return false };
        let all = end.members.iter().all(|member| self.removed.contains(member) || folded(*member).is_some());
        if all {
            self.drop_below(self.base.epoch);
        }
        all
    }

    /// Drops the history below an epoch.
    pub(crate) fn drop_below(&mut self, epoch: u64) {
        let (dropped, kept) = std::mem::take(&mut self.layers).into_iter().partition(|layer: &Layer| layer.epoch < epoch);
        self.layers = kept;
        for layer in &dropped {
            for position in 0..layer.entries().len() {
                self.draft.rows.insert(rows::change_key(layer.epoch, position), None);
            }
        }
    }
}

/// Change sets by which trust was withdrawn.
fn removals(layer: &Layer) -> impl Iterator<Item = &Entry> {
    let keys = layer.keys_from("removed/").take_while(|key| key.starts_with("removed/"));
    keys.filter_map(|key| match Key::parse(key) {
        Ok(Key::Removed { by, .. }) => Some(layer.last_write(key, by)?.entry),
        _ => None,
    })
}

fn known_to_removers(lower: &Layer) -> Vector {
    let mut vector = Vector::default();
    removals(lower).for_each(|entry| vector.join(&entry.clock));
    vector
}

//! One epoch: its document in automerge, and an index that answers what was known when.
//!
//! Automerge holds the history, hashes it, merges it and synchronises it. It cannot tell cheaply what a key held in the past that some
//! change set names, and that question decides rights, predecessors and folding: so for each key the index keeps who wrote it with which
//! change set, and each change set has its version vector. [`Replica::verify`](crate::Replica::verify) compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use automerge::{ActorId, Automerge, Change, ChangeHash};

use crate::change::{ChangeSet, Signed};
use crate::id::ClusterId;
use crate::vector::Vector;

/// The document of one epoch.
pub(crate) struct Layer {
    pub epoch: u64,
    pub doc: Automerge,
    /// In the order in which they came, which is causal.
    entries: Vec<Entry>,
    by_hash: BTreeMap<ChangeHash, usize>,
    /// Positions of each cluster's change sets: the one with number n is at n - 1.
    by_author: BTreeMap<ClusterId, Vec<usize>>,
    /// For each key, what each cluster wrote, in the order of its numbers.
    writes: BTreeMap<String, BTreeMap<ClusterId, Vec<Write>>>,
    heads: BTreeSet<ChangeHash>,
    vector: Vector,
    bytes: u64,
    /// Of these, bytes of change sets that hold nothing but books of epochs.
    books: u64,
    /// Taken, but not yet handed to automerge, which is much faster with many at once.
    fresh: Vec<Change>,
}

/// A change set in its place.
pub(crate) struct Entry {
    pub signed: Signed,
    start_op: u64,
    /// What it knows of its epoch, itself included.
    pub clock: Vector,
    /// What it knows of the epoch below.
    pub below: Arc<Vector>,
    /// What its author's change sets of the epoch have cost up to this one.
    spent: u64,
}

#[derive(Clone, Copy)]
struct Write {
    seq: u64,
    entry: usize,
    put: usize,
}

/// One write of a key.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub epoch: u64,
    pub entry: &'a Entry,
    put: usize,
}

impl<'a> Found<'a> {
    pub fn author(&self) -> ClusterId {
        self.entry.signed.change.author
    }

    pub fn seq(&self) -> u64 {
        self.entry.signed.change.seq
    }

    pub fn value(&self) -> Option<&'a [u8]> {
        self.entry.signed.change.puts[self.put].1.as_deref()
    }

    /// Automerge's number of the operation; the higher one wins among concurrent ones.
    fn operation(&self) -> (u64, ClusterId) {
        (self.entry.start_op + self.put as u64, self.author())
    }

    /// Did its author know that write when it wrote this one? An author leaves an epoch for the next but one only when all before is
    /// folded, so it knows everything that is two epochs or more below.
    pub fn knows(&self, epoch: u64, author: ClusterId, seq: u64) -> bool {
        match self.epoch.checked_sub(epoch) {
            None => false,
            Some(0) => self.entry.clock.get(author) >= seq,
            Some(1) => self.entry.below.get(author) >= seq,
            Some(_) => true,
        }
    }
}

/// Where a change set belongs: what it knows, and what follows from that.
pub(crate) struct Place {
    pub clock: Vector,
    pub below: Arc<Vector>,
    start_op: u64,
    preds: Vec<Vec<(u64, ClusterId)>>,
}

/// Why a change set has no place.
pub(crate) enum Misplaced {
    /// Some of its direct past is missing.
    MissingPast,
    /// Its author signed another one with that number.
    Equivocation,
    /// It does not follow its author's last one that it knows of.
    Replay,
}

impl Layer {
    pub fn new(epoch: u64, me: ClusterId) -> Self {
        Self {
            epoch,
            doc: Automerge::new().with_actor(ActorId::from(me.0)),
            entries: Vec::new(),
            by_hash: BTreeMap::new(),
            by_author: BTreeMap::new(),
            writes: BTreeMap::new(),
            heads: BTreeSet::new(),
            vector: Vector::default(),
            bytes: 0,
            books: 0,
            fresh: Vec::new(),
        }
    }

    /// Finds the place of a change set, which decides its hash.
    pub fn place(&self, change: &ChangeSet, hash: Option<&ChangeHash>) -> Result<Place, Misplaced> {
        let mut place = Place { clock: Vector::default(), below: Arc::default(), start_op: 1, preds: Vec::new() };
        for dep in &change.deps {
            let entry = self.entry(dep).ok_or(Misplaced::MissingPast)?;
            place.clock.join(&entry.clock);
            // Most change sets know the same of the epoch below, and share it.
            if entry.below.covers(&place.below) {
                place.below = entry.below.clone();
            } else if !place.below.covers(&entry.below) {
                Arc::make_mut(&mut place.below).join(&entry.below);
            }
            place.start_op = place.start_op.max(entry.start_op + entry.signed.change.puts.len() as u64);
        }
        let known = self.by_author.get(&change.author).and_then(|list| list.get(change.seq as usize - 1));
        if known.is_some_and(|at| hash != Some(&self.entries[*at].signed.hash)) {
            return Err(Misplaced::Equivocation);
        }
        if place.clock.get(change.author) + 1 != change.seq {
            return Err(Misplaced::Replay);
        }
        if let Some(seal) = change.seal() {
            Arc::make_mut(&mut place.below).join(&seal.vector);
        }
        place.preds = change.puts.iter().map(|(key, _)| self.operations(key, &place.clock)).collect();
        place.clock.raise(change.author, change.seq);
        Ok(place)
    }

    /// The change of automerge that a change set is in this place.
    pub fn build(&self, change: &ChangeSet, place: &mut Place) -> Change {
        change.build(place.start_op, std::mem::take(&mut place.preds))
    }

    /// Takes a change set in its place.
    pub fn insert(&mut self, signed: Signed, place: Place, built: Change, encoded: usize) {
        let at = self.entries.len();
        let (author, seq) = (signed.change.author, signed.change.seq);
        for dep in &signed.change.deps {
            self.heads.remove(dep);
        }
        self.heads.insert(signed.hash);
        self.vector.raise(author, seq);
        self.bytes += encoded as u64;
        let cost = signed.change.cost();
        if cost == 0 {
            self.books += encoded as u64;
        }
        let spent = self.spent(author, seq - 1) + cost;
        self.by_hash.insert(signed.hash, at);
        self.by_author.entry(author).or_default().push(at);
        for (put, (key, _)) in signed.change.puts.iter().enumerate() {
            let write = Write { seq, entry: at, put };
            match self.writes.get_mut(key) {
                Some(writes) => writes.entry(author).or_default().push(write),
                None => drop(self.writes.insert(key.clone(), BTreeMap::from([(author, vec![write])]))),
            }
        }
        self.entries.push(Entry { signed, start_op: place.start_op, clock: place.clock, below: place.below, spent });
        self.fresh.push(built);
    }

    /// Hands to automerge what was taken since the last time.
    pub fn settle(&mut self) {
        if !self.fresh.is_empty() {
            self.doc
                .apply_changes(std::mem::take(&mut self.fresh))
                .expect("changes that the index placed have their past, and one number each");
        }
    }

    /// The writes of a key that no other supersedes, within what `within` knows; the winner first.
    pub fn versions(&self, key: &str, within: &Vector) -> Vec<Found<'_>> {
        let Some(writes) = self.writes.get(key) else { return Vec::new() };
        // A cluster's last write supersedes its earlier ones: nothing else can be on top.
        let latest: Vec<Found<'_>> = writes.iter().filter_map(|(author, list)| self.last(list, within.get(*author))).collect();
        let superseded = |one: &Found<'_>| {
            let known = |other: &Found<'_>| other.author() != one.author() && other.knows(self.epoch, one.author(), one.seq());
            latest.iter().any(known)
        };
        let mut top: Vec<Found<'_>> = latest.iter().filter(|one| !superseded(one)).copied().collect();
        top.sort_by_key(|found| std::cmp::Reverse(found.operation()));
        top
    }

    /// What a cluster wrote last to a key that it alone writes.
    pub fn own(&self, key: &str, author: ClusterId) -> Option<&[u8]> {
        self.last_write(key, author)?.value()
    }

    /// All that a cluster ever wrote to a key.
    pub fn all_own<'a>(&'a self, key: &str, author: ClusterId) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let writes = self.writes.get(key).and_then(|writes| writes.get(&author)).into_iter().flatten();
        writes.filter_map(|write| Found { epoch: self.epoch, entry: &self.entries[write.entry], put: write.put }.value())
    }

    /// A cluster's last write of a key.
    pub fn last_write(&self, key: &str, author: ClusterId) -> Option<Found<'_>> {
        self.last(self.writes.get(key)?.get(&author)?, u64::MAX)
    }

    /// Was the key written by that cluster, within what `within` knows?
    pub fn wrote(&self, key: &str, author: ClusterId, within: &Vector) -> bool {
        let first = self.writes.get(key).and_then(|writes| writes.get(&author)?.first());
        first.is_some_and(|write| write.seq <= within.get(author))
    }

    /// Keys that were written, from one on, ascending.
    pub fn keys_from<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.writes.range::<str, _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded)).map(|(key, _)| key.as_str())
    }

    pub fn entry(&self, hash: &ChangeHash) -> Option<&Entry> {
        self.by_hash.get(hash).map(|at| &self.entries[*at])
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Change sets that no other builds on, ascending.
    pub fn heads(&self) -> impl Iterator<Item = &ChangeHash> {
        self.heads.iter()
    }

    /// What a cluster's change sets of the epoch have cost, up to the one with a number.
    pub fn spent(&self, author: ClusterId, seq: u64) -> u64 {
        let at = usize::try_from(seq).ok().and_then(|seq| self.by_author.get(&author)?.get(seq.checked_sub(1)?));
        at.map_or(0, |at| self.entries[*at].spent)
    }

    /// What is known of this epoch.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// Bytes of the change sets as they are stored, signatures included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the change sets that hold content: what closing the epoch would free. Its books alone must not close it, for closing writes
    /// more.
    pub fn content_bytes(&self) -> u64 {
        self.bytes - self.books
    }

    fn operations(&self, key: &str, within: &Vector) -> Vec<(u64, ClusterId)> {
        self.versions(key, within).iter().map(Found::operation).collect()
    }

    fn last(&self, list: &[Write], seq: u64) -> Option<Found<'_>> {
        let at = list.partition_point(|write| write.seq <= seq).checked_sub(1)?;
        Some(Found { epoch: self.epoch, entry: &self.entries[list[at].entry], put: list[at].put })
    }
}

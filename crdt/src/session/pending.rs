//! Change sets that cannot be taken yet: part of what they know is missing, or their author is removed and nobody vouches for them.

use std::collections::{BTreeMap, BTreeSet};

use automerge::ChangeHash;

use crate::accept::Judged;
use crate::change::Signed;
use crate::id::ClusterId;
use crate::limits::{PENDING_BYTES_MAX, PENDING_MAX};
use crate::refusal::Refusal;
use crate::replica::Replica;

#[derive(Default)]
pub(super) struct Pending {
    waiting: Vec<Signed>,
    bytes: usize,
    /// Those that a member has built on, as its signature says.
    vouched: BTreeSet<ChangeHash>,
    /// Those whose signature was checked for that.
    asked: BTreeSet<ChangeHash>,
}

impl Pending {
    pub fn push(&mut self, signed: Signed) {
        self.bytes += signed.change.content_bytes() + signed.signature.len();
        self.waiting.push(signed);
    }

    /// Is there more than may be held?
    pub fn is_too_much(&self) -> bool {
        self.waiting.len() > PENDING_MAX || self.bytes > PENDING_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Hands the replica what it can take, until nothing more can be. What was taken before a refusal stays taken.
    pub fn settle(&mut self, replica: &mut Replica, from: ClusterId, now_ms: u64) -> Result<(), Refusal> {
        loop {
            let (mut progress, mut unvouched) = (false, false);
            for signed in std::mem::take(&mut self.waiting) {
                let vouched = self.vouched.contains(&signed.hash);
                match replica.accept(from, signed, vouched, now_ms)? {
                    Judged::Taken => progress = true,
                    Judged::Known => {}
                    Judged::Early(signed) => self.waiting.push(signed),
                    Judged::Unvouched(signed) => {
                        unvouched = true;
                        self.waiting.push(signed);
                    }
                }
            }
            let vouched = unvouched && self.vouch(replica);
            if self.waiting.is_empty() || !(progress || vouched) {
                break;
            }
        }
        self.bytes = self.waiting.iter().map(|signed| signed.change.content_bytes() + signed.signature.len()).sum();
        if self.waiting.is_empty() {
            *self = Self::default();
        }
        Ok(())
    }

    /// Finds what members vouch for; says whether that is more than before.
    fn vouch(&mut self, replica: &Replica) -> bool {
        let before = self.vouched.len();
        let by_hash: BTreeMap<&ChangeHash, &Signed> = self.waiting.iter().map(|signed| (&signed.hash, signed)).collect();
        for signed in &self.waiting {
            if self.asked.contains(&signed.hash) || !replica.vouches(signed) {
                continue;
            }
            self.asked.insert(signed.hash);
            let mut past: Vec<&ChangeHash> = signed.change.deps.iter().collect();
            while let Some(hash) = past.pop() {
                if let Some(signed) = by_hash.get(hash)
                    && self.vouched.insert(*hash)
                {
                    past.extend(&signed.change.deps);
                }
            }
        }
        self.vouched.len() > before
    }

    /// Replaces what is wanted by what is missing for it: what waits here was sent already.
    pub fn missing(&self, replica: &Replica, epoch: u64, wanted: &[ChangeHash]) -> Vec<ChangeHash> {
        let waiting = self.waiting.iter().filter(|signed| signed.change.epoch == epoch);
        let by_hash: BTreeMap<&ChangeHash, &Signed> = waiting.map(|signed| (&signed.hash, signed)).collect();
        let (mut seen, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<&ChangeHash> = wanted.iter().chain(by_hash.keys().copied()).collect();
        while let Some(hash) = stack.pop() {
            if replica.has(epoch, hash) || !seen.insert(hash) {
                continue;
            }
            match by_hash.get(hash) {
                Some(signed) => stack.extend(&signed.change.deps),
                None => drop(missing.insert(*hash)),
            }
        }
        missing.into_iter().collect()
    }
}

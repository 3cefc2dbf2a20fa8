//! Change sets that cannot be taken yet: part of what they know is missing.

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
            let mut progress = false;
            for signed in std::mem::take(&mut self.waiting) {
                match replica.accept(from, signed, now_ms)? {
                    Judged::Taken => progress = true,
                    Judged::Known => {}
                    Judged::Early(signed) => self.waiting.push(signed),
                }
            }
            if self.waiting.is_empty() || !progress {
                break;
            }
        }
        self.bytes = self.waiting.iter().map(|signed| signed.change.content_bytes() + signed.signature.len()).sum();
        if self.waiting.is_empty() {
            *self = Self::default();
        }
        Ok(())
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

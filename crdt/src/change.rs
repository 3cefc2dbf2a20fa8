//! Change sets: what one cluster wrote at once, signed.
//!
//! A change set becomes one change of automerge, and automerge's hash of that change is what is signed. On the wire and in the store stands
//! the room's own encoding, from which the change is **derived**: who supersedes whom follows from the past that it names. So no byte of a
//! stranger reaches automerge's decoders, and no author can claim to supersede what it never saw.

use std::num::NonZeroU64;

use automerge::legacy::{Key as LegacyKey, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, Change, ChangeHash, ExpandedChange, ScalarValue};

use crate::codec::{Malformed, Reader, TOO_LONG, Writer, ascending};
use crate::id::{ClusterId, FederationId};
use crate::key::{Key, Own};
use crate::limits::{CHANGE_BYTES_MAX, DEPS_MAX, KEY_BYTES_MAX, PUTS_MAX, VALUE_BYTES_MAX};
use crate::records::Seal;
use crate::signature::SIGNATURE_BYTES;

/// A key and its new value; `None` deletes it.
pub(crate) type Put = (String, Option<Vec<u8>>);

/// What one cluster wrote at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChangeSet {
    pub author: ClusterId,
    pub epoch: u64,
    /// The author's how-many-th of the epoch, from 1.
    pub seq: u64,
    pub time_ms: u64,
    /// The heads of the epoch's document when it was written, ascending.
    pub deps: Vec<ChangeHash>,
    /// Ascending by key, each key once.
    pub puts: Vec<Put>,
}

/// A change set with the hash and signature that came with it; whether they are right is `Replica`'s to judge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Signed {
    pub change: ChangeSet,
    pub hash: ChangeHash,
    pub signature: Vec<u8>,
}

impl ChangeSet {
    /// The change of automerge: its operations are numbered from `start_op`, and `preds` are those that each put supersedes.
    pub fn build(&self, start_op: u64, preds: Vec<Vec<(u64, ClusterId)>>) -> Change {
        let operations = self.puts.iter().zip(preds).map(|((key, value), preds)| Op {
            action: OpType::Put(value.clone().map_or(ScalarValue::Null, ScalarValue::Bytes)),
            obj: ObjectId::Root,
            key: LegacyKey::Map(key.as_str().into()),
            pred: preds.into_iter().map(|(counter, author)| OpId(counter, ActorId::from(author.0))).collect(),
            insert: false,
        });
        Change::from(ExpandedChange {
            operations: operations.collect(),
            actor_id: ActorId::from(self.author.0),
            author: None,
            hash: None,
            seq: self.seq,
            start_op: NonZeroU64::new(start_op).expect("operations are numbered from 1"),
            time: i64::try_from(self.time_ms).unwrap_or(i64::MAX),
            message: None,
            deps: self.deps.clone(),
            extra_bytes: Vec::new(),
        })
    }

    /// What it says to know of the epoch below, if it says so.
    pub fn seal(&self) -> Option<Seal> {
        let key = Own::Seal.key(self.author);
        let (_, value) = self.puts.iter().find(|(other, _)| *other == key)?;
        Seal::decode(value.as_deref()?).ok()
    }

    /// The bytes of keys and values.
    pub fn content_bytes(&self) -> usize {
        self.puts.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum()
    }

    /// What it counts for in its author's budget: nothing if it holds only books of epochs.
    pub fn cost(&self) -> u64 {
        let books = self.puts.iter().all(|(key, _)| Key::parse(key).is_ok_and(Key::is_bookkeeping));
        if books { 0 } else { (self.content_bytes() + SIGNATURE_BYTES) as u64 }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.author.0);
        out.number(self.epoch);
        out.number(self.seq);
        out.number(self.time_ms);
        out.number(self.deps.len() as u64);
        for dep in &self.deps {
            out.extend_from_slice(&dep.0);
        }
        out.number(self.puts.len() as u64);
        for (key, value) in &self.puts {
            out.bytes(key.as_bytes());
            out.option(value.as_deref(), |out, value| out.bytes(value));
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (author, epoch, seq, time_ms) = (ClusterId(r.array()?), r.epoch()?, r.number()?, r.number()?);
        let deps = r.list(DEPS_MAX, |r| Ok(ChangeHash(r.array()?)))?;
        ascending(&deps)?;
        let puts = r.list(PUTS_MAX, |r| {
            let key = r.text(KEY_BYTES_MAX)?.to_owned();
            Ok((key, r.option(|r| r.bytes(VALUE_BYTES_MAX).map(<[u8]>::to_vec))?))
        })?;
        ascending(&puts.iter().map(|(key, _)| key).collect::<Vec<_>>())?;
        let change = Self { author, epoch, seq, time_ms, deps, puts };
        if change.seq == 0 || change.seq > u64::from(u32::MAX) {
            return Err(Malformed("a change set's number is not within 1 to 2^32 - 1"));
        }
        if change.content_bytes() > CHANGE_BYTES_MAX {
            return Err(TOO_LONG);
        }
        Ok(change)
    }
}

impl Signed {
    /// What is signed: federation, epoch and hash, under a name of their own so that the key's other signatures cannot be passed off as it.
    pub fn message(federation: &FederationId, epoch: u64, hash: &ChangeHash) -> Vec<u8> {
        [b"tarn federation 1: change set\0".as_slice(), &federation.0, &epoch.to_be_bytes(), &hash.0].concat()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.change.content_bytes() + SIGNATURE_BYTES + 256);
        self.change.encode(&mut out);
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(&self.signature);
        out
    }

    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let change = ChangeSet::decode(r)?;
        Ok(Self { change, hash: ChangeHash(r.array()?), signature: r.take(SIGNATURE_BYTES)?.to_vec() })
    }
}

//! What peers say to each other.

use automerge::ChangeHash;
use automerge::sync::{self, BloomFilter, ChunkList, Have, MessageVersion};

use crate::base::{Base, Version, decode_entry, encode_entry};
use crate::change::Signed;
use crate::codec::{Malformed, Reader, TOO_LONG, Writer, whole};
use crate::id::FederationId;
use crate::limits::{ATTESTATIONS_MAX, BLOOM_ENTRIES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_SENT, HASHES_MAX};
use crate::signature::{PUBLIC_KEY_BYTES, SIGNATURE_BYTES};
use crate::vector::Vector;

/// Which epochs a replica has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status {
    pub federation: FederationId,
    /// The first that is not folded.
    pub base: u64,
    /// The lowest whose history is there.
    pub low: u64,
    /// The highest that is open.
    pub top: u64,
}

/// Before the entries of a base: what it is, and who says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SnapshotHead {
    pub epoch: u64,
    pub vector: Vector,
    pub attestations: Vec<Attestation>,
}

/// A cluster's signature over a base, with the key, of which the cluster's id is the digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attestation {
    pub public_key: Vec<u8>,
    pub signature: Vec<u8>,
}

pub(super) enum Message {
    Status(Status),
    Changes(Vec<Signed>),
    /// Automerge's message about an epoch, without changes.
    Sync(u64, sync::Message),
    SnapshotHead(SnapshotHead),
    SnapshotEntries(Vec<(String, Vec<Version>)>),
    SnapshotEnd,
    /// The sender lacks history that is folded, and asks for the base.
    SnapshotWanted,
}

impl Message {
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| match r.byte()? {
            1 => Status::decode(r).map(Self::Status),
            2 => rest(r, Signed::decode).map(Self::Changes),
            3 => Ok(Self::Sync(r.epoch()?, decode_sync(r)?)),
            4 => {
                let (epoch, vector) = (r.epoch()?, Vector::decode(r)?);
                let attestations = r.list(ATTESTATIONS_MAX, Attestation::decode)?;
                Ok(Self::SnapshotHead(SnapshotHead { epoch, vector, attestations }))
            }
            5 => rest(r, decode_entry).map(Self::SnapshotEntries),
            6 => Ok(Self::SnapshotEnd),
            7 => Ok(Self::SnapshotWanted),
            _ => Err(Malformed("a message is of an unknown kind")),
        })
    }
}

impl Attestation {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { public_key: r.take(PUBLIC_KEY_BYTES)?.to_vec(), signature: r.take(SIGNATURE_BYTES)?.to_vec() })
    }
}

impl Status {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let federation = FederationId(r.array()?);
        let (base, low, top) = (r.epoch()?, r.epoch()?, r.epoch()?);
        match low <= base && base <= top {
            true => Ok(Self { federation, base, low, top }),
            false => Err(Malformed("the epochs of a replica are not in order")),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.federation.0);
        [self.base, self.low, self.top].into_iter().for_each(|number| out.number(number));
        out
    }
}

/// The message that asks for a base.
pub(super) fn wanted() -> Vec<u8> {
    vec![7]
}

/// A message of change sets, to be filled.
pub(super) fn changes() -> Vec<u8> {
    vec![2]
}

/// Automerge's message about an epoch. Its changes travel before it, in messages of their own.
pub(super) fn encode_sync(epoch: u64, message: &sync::Message) -> Vec<u8> {
    let mut out = vec![3];
    out.number(epoch);
    put_hashes(&mut out, &message.heads);
    put_hashes(&mut out, &message.need);
    out.option(message.have.first(), |out, have| {
        put_hashes(out, &have.last_sync);
        out.bytes(&have.bloom.to_bytes());
    });
    out
}

fn decode_sync(r: &mut Reader<'_>) -> Result<sync::Message, Malformed> {
    let (heads, need) = (hashes(r)?, hashes(r)?);
    let have = r.option(|r| Ok(Have { last_sync: hashes(r)?, bloom: bloom(r.bytes(FRAME_BYTES_MAX)?)? }))?;
    // Without flags automerge answers in its first version: changes one by one, never a whole document.
    let (changes, flags) = (ChunkList::empty(), None);
    Ok(sync::Message { heads, need, have: have.into_iter().collect(), changes, flags, version: MessageVersion::V1 })
}

/// A Bloom filter with the parameters that automerge writes, and no other: it would allocate for as many probes as a filter asks for, and
/// divide by the length of an empty one.
fn bloom(bytes: &[u8]) -> Result<BloomFilter, Malformed> {
    if !bytes.is_empty() {
        let mut r = Reader(bytes);
        let (entries, bits_per_entry, probes) = (r.number()?, r.number()?, r.number()?);
        if entries > BLOOM_ENTRIES_MAX {
            return Err(TOO_LONG);
        }
        if entries == 0 || bits_per_entry != 10 || probes != 7 || r.0.len() as u64 != (entries * 10).div_ceil(8) {
            return Err(Malformed("a Bloom filter is not as automerge writes it"));
        }
    }
    BloomFilter::try_from(bytes).map_err(|_| Malformed("a Bloom filter is not as automerge writes it"))
}

/// A base in messages.
pub(super) fn encode_snapshot(base: &Base, attestations: &[Attestation]) -> Vec<Vec<u8>> {
    let mut head = vec![4];
    head.number(base.epoch);
    base.vector.encode(&mut head);
    head.number(attestations.len() as u64);
    for Attestation { public_key, signature } in attestations {
        head.extend_from_slice(public_key);
        head.extend_from_slice(signature);
    }
    let mut messages = vec![head];
    let mut piece = vec![5];
    for (key, versions) in &base.entries {
        piece.extend(encode_entry(key, versions));
        if piece.len() >= FRAME_BYTES_SENT {
            messages.push(std::mem::replace(&mut piece, vec![5]));
        }
    }
    messages.extend([piece, vec![6]]);
    messages
}

/// Everything up to the end: each thing takes at least a byte, and a frame's length is bounded.
fn rest<T>(r: &mut Reader<'_>, read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
    let mut list = Vec::new();
    while !r.0.is_empty() {
        list.push(read(r)?);
    }
    Ok(list)
}

fn put_hashes(out: &mut Vec<u8>, hashes: &[ChangeHash]) {
    let hashes = &hashes[..hashes.len().min(HASHES_MAX)];
    out.number(hashes.len() as u64);
    hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
}

fn hashes(r: &mut Reader<'_>) -> Result<Vec<ChangeHash>, Malformed> {
    r.list(HASHES_MAX, |r| Ok(ChangeHash(r.array()?)))
}

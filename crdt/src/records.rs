//! Values that the room itself reads: introductions, and the books by which an epoch is closed.

use crate::codec::{Malformed, Reader, Writer, ascending, whole};
use crate::id::{ClusterId, FederationId};
use crate::key::Scope;
use crate::limits::{CARD_BYTES_MAX, CLUSTERS_MAX};
use crate::signature::{Identity, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Scheme};
use crate::vector::Vector;

/// Value of `member/CLUSTER/BY`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub public_key: Vec<u8>,
    pub scope: Scope,
    /// Whatever else the others must know of the cluster before they can hear of it from itself.
    pub card: Vec<u8>,
    /// The cluster's own, over the card: whoever introduces it cannot say of it what it did not say itself.
    pub signature: Vec<u8>,
}

impl Introduction {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [self.public_key.as_slice(), &[self.scope.bits()]].concat();
        out.bytes(&self.card);
        out.extend_from_slice(&self.signature);
        out
    }

    /// Has the cluster signed its card for this federation?
    pub fn is_signed(&self, scheme: &dyn Scheme, federation: &FederationId) -> bool {
        card_is_signed(scheme, federation, &self.public_key, &self.card, &self.signature)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r: &mut Reader<'_>| {
            let public_key = r.take(PUBLIC_KEY_BYTES)?.to_vec();
            let (scope, card) = (Scope::from_bits(r.byte()?)?, r.bytes(CARD_BYTES_MAX)?.to_vec());
            Ok(Self { public_key, scope, card, signature: r.take(SIGNATURE_BYTES)?.to_vec() })
        })
    }
}

fn card_message(federation: &FederationId, card: &[u8]) -> Vec<u8> {
    [b"tarn federation 1: card\0".as_slice(), &federation.0, card].concat()
}

/// Is this the signature of the holder of a raw public key over its own card, for this federation?
pub fn card_is_signed(scheme: &dyn Scheme, federation: &FederationId, public_key: &[u8], card: &[u8], signature: &[u8]) -> bool {
    scheme.verify(public_key, &card_message(federation, card), signature)
}

impl Identity {
    /// Signs this cluster's own card, for whoever introduces it in a federation.
    pub fn sign_card(&self, federation: &FederationId, card: &[u8]) -> Vec<u8> {
        self.sign(&card_message(federation, card))
    }
}

/// Value of `seal/CLUSTER`: what the cluster knew of the epoch below when it last wrote there. It writes there no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    pub epoch: u64,
    pub vector: Vector,
}

impl Seal {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.number(self.epoch);
        self.vector.encode(&mut out);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| Ok(Self { epoch: r.epoch()?, vector: Vector::decode(r)? }))
    }
}

/// Where an epoch ends: whom it counted, what of it is kept, and the digest of the base that this gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct End {
    pub epoch: u64,
    /// Ascending.
    pub members: Vec<ClusterId>,
    pub vector: Vector,
    pub digest: [u8; 32],
}

/// Value of `confirm/CLUSTER` and `folded/CLUSTER`: an end, and the cluster's signature for whoever takes the base from a stranger's hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attested {
    pub end: End,
    pub signature: Vec<u8>,
}

impl End {
    /// What is signed for a base: its digest holds epoch, vector and content.
    pub fn message(federation: &FederationId, digest: &[u8; 32]) -> Vec<u8> {
        [b"tarn federation 1: base\0".as_slice(), &federation.0, digest].concat()
    }
}

impl Attested {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.number(self.end.epoch);
        out.number(self.end.members.len() as u64);
        for member in &self.end.members {
            out.extend_from_slice(&member.0);
        }
        self.end.vector.encode(&mut out);
        out.extend_from_slice(&self.end.digest);
        out.extend_from_slice(&self.signature);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r| {
            let epoch = r.epoch()?;
            let members = r.list(CLUSTERS_MAX, |r| Ok(ClusterId(r.array()?)))?;
            ascending(&members)?;
            let end = End { epoch, members, vector: Vector::decode(r)?, digest: r.array()? };
            Ok(Self { end, signature: r.take(SIGNATURE_BYTES)?.to_vec() })
        })
    }
}

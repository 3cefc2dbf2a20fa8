//! A bundle together with who vouches for it.

use super::{Bundle, Digest};
use crate::{
    Error,
    limits::{BUNDLE_BYTES_MAX, SIGNATURE_BYTES_MAX},
};

/// What comes before the digest in the message that is signed, so that a signature for one purpose never serves another.
pub const SIGNATURE_PREFIX: &[u8] = b"tarn policy bundle v1\0";

const MAGIC: &[u8; 8] = b"tarnsig\0";

/// Whether a signature is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A bundle without a signature passes; one with a signature that does not fit is refused all the same.
    Optional,
    /// Only a bundle with a signature that fits passes.
    Required,
}

/// The canonical bytes of a bundle, and a detached signature over its digest or none.
///
/// As bytes:
/// ```text
/// magic      8 bytes   "tarnsig" and a zero byte
/// bundle     u32 length, then the canonical bytes
/// signature  u32 length, then the signature; length 0 for none
/// ```
/// Integers are big-endian. Nothing follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBundle {
    bundle: Vec<u8>,
    signature: Vec<u8>,
}

impl SignedBundle {
    /// A bundle that nobody signed.
    pub fn unsigned(bundle: &Bundle) -> Self {
        Self { bundle: bundle.to_bytes(), signature: Vec::new() }
    }

    /// Signs with `sign`, which gets the [message](Self::message) and answers with an ML-DSA-65 signature.
    ///
    /// # Errors
    /// What `sign` fails with.
    pub fn sign<E>(bundle: &Bundle, sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>) -> Result<Self, E> {
        Ok(Self { bundle: bundle.to_bytes(), signature: sign(&Self::message(bundle.digest()))? })
    }

    /// Puts the two parts together, as a store keeps them.
    pub fn from_parts(bundle: Vec<u8>, signature: Vec<u8>) -> Self {
        Self { bundle, signature }
    }

    /// The message that a signature is over: [`SIGNATURE_PREFIX`], then the 32 bytes of the digest.
    pub fn message(digest: Digest) -> Vec<u8> {
        [SIGNATURE_PREFIX, &digest.0].concat()
    }

    /// The bundle's bytes, not yet read.
    pub fn bundle_bytes(&self) -> &[u8] {
        &self.bundle
    }

    /// The signature; empty for none.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Reads the bundle after its signature was verified. `verify` gets the message and the signature, and says whether a key that the
    /// cluster trusts made it.
    ///
    /// # Errors
    /// A signature that is missing and required, or that does not fit; bytes that are no bundle. The signature is looked at first.
    pub fn open(&self, trust: Trust, verify: impl FnOnce(&[u8], &[u8]) -> bool) -> Result<Bundle, Error> {
        Error::at_most("the bundle, in bytes", BUNDLE_BYTES_MAX, self.bundle.len())?;
        Error::at_most("the signature, in bytes", SIGNATURE_BYTES_MAX, self.signature.len())?;
        if self.signature.is_empty() {
            if trust == Trust::Required {
                let message = "the bundle is not signed, and this cluster takes signed bundles alone: sign it with a key that it trusts";
                return Err(Error::Signature(message.into()));
            }
        } else if !verify(&Self::message(Digest::of(&self.bundle)), &self.signature) {
            let message =
                "the bundle's signature does not fit: it was changed after signing, or signed with a key that this cluster does not trust";
            return Err(Error::Signature(message.into()));
        }
        Bundle::from_bytes(&self.bundle)
    }

    /// Both as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for part in [&self.bundle, &self.signature] {
            let length = u32::try_from(part.len()).expect("bundles and signatures are far below 4 GiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Reads [`to_bytes`](Self::to_bytes)'s form, or the bare canonical bytes of a bundle that nobody signed.
    ///
    /// # Errors
    /// Bytes that are neither. The bundle itself is read by [`open`](Self::open).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        Error::at_most("the signed bundle, in bytes", BUNDLE_BYTES_MAX + SIGNATURE_BYTES_MAX + 16, bytes.len())?;
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Ok(Self { bundle: bytes.to_vec(), signature: Vec::new() });
        };
        let (bundle, rest) = part(rest)?;
        let (signature, rest) = part(rest)?;
        if !rest.is_empty() {
            return Err(Error::Encoding("something follows its signature".into()));
        }
        Ok(Self { bundle: bundle.to_vec(), signature: signature.to_vec() })
    }
}

/// A length and that many bytes, and what follows.
fn part(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let early = || Error::Encoding("it ends too early".into());
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(early)?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(early)
}

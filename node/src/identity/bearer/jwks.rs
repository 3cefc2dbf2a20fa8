//! Key sets (JWKS, RFC 7517): which keys of a file are taken, and why others are refused.
//!
//! A file is taken as a whole or not at all: a set in which one key is weak or means two things is a mistake that somebody should see, and
//! the keys that were in force before stay so. Keys for encryption are passed over, because identity providers publish them in the same
//! file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Longest file that is read. A set of a dozen keys has about 10 kB.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Most keys in a set. An issuer has the present key and a few around a rotation.
const KEYS_MAX: usize = 64;

/// Longest key id.
pub(super) const KEY_ID_BYTES_MAX: usize = 128;

/// Sizes of RSA keys in bits: shorter ones are broken or soon will be, and longer ones cost more to verify than they protect.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The one public exponent in use, 65537. Small ones have been the root of forgeries.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// Why a key file is not taken.
#[derive(Debug, thiserror::Error)]
#[error("the key file {path} cannot be used: {reason}")]
pub struct JwksError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

/// A key that signatures are verified with.
pub(super) struct Key {
    /// The only algorithm that it is used with.
    pub algorithm: Algorithm,
    /// The name of that algorithm in a token's header.
    pub algorithm_name: &'static str,
    pub verifier: DecodingKey,
}

/// The keys of one issuer.
#[derive(Default)]
pub struct KeySet {
    by_id: BTreeMap<String, Key>,
    /// The only key of a set whose key has no id.
    nameless: Option<Key>,
}

impl KeySet {
    /// Reads a set from a file; the file's bytes come with it, for telling whether it has changed.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or is refused by [`KeySet::parse`].
    pub(super) fn from_file(path: &Path) -> Result<(Self, Vec<u8>), JwksError> {
        let failed = |reason: String| JwksError { path: path.to_owned(), reason };
        let text = read(path).map_err(failed)?;
        let keys = Self::parse(&text).map_err(failed)?;
        Ok((keys, text))
    }

    /// Whether a file could be used.
    ///
    /// # Errors
    /// Why not.
    pub fn check_file(path: &Path) -> Result<(), JwksError> {
        Self::from_file(path).map(drop)
    }

    /// Reads a set from its text.
    ///
    /// # Errors
    /// One sentence: what is wrong, with which key.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let set: RawSet = serde_json::from_slice(text).map_err(|error| format!("it is not a JWKS: {error}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it has {} keys, more than the {KEYS_MAX} allowed", set.keys.len()));
        }
        let mut keys = Self::default();
        let mut signing = 0;
        for (place, raw) in set.keys.into_iter().enumerate() {
            let name = raw.name(place);
            if raw.is_for_encryption() {
                tracing::debug!(key = name, "passed over a key for encryption");
                continue;
            }
            let key_id = raw.kid.clone();
            let key = raw.key().map_err(|reason| format!("{name} {reason}"))?;
            signing += 1;
            match key_id {
                None => keys.nameless = Some(key),
                Some(id) if id.is_empty() || id.len() > KEY_ID_BYTES_MAX => {
                    return Err(format!("{name} has an id that is empty or longer than {KEY_ID_BYTES_MAX} bytes"));
                }
                Some(id) => {
                    if keys.by_id.insert(id, key).is_some() {
                        return Err(format!("{name} has an id that another key has too: each needs its own"));
                    }
                }
            }
        }
        if signing == 0 {
            return Err("it has no key for signatures".into());
        }
        if keys.nameless.is_some() && signing > 1 {
            return Err("it has several keys and one of them has no `kid`: which is meant could not be told".into());
        }
        Ok(keys)
    }

    /// The key that a token asks for. A token without a key id is for the only key.
    pub(super) fn key(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            Some(id) => self.by_id.get(id),
            None => self.nameless.as_ref().or_else(|| match self.by_id.len() {
                1 => self.by_id.values().next(),
                _ => None,
            }),
        }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len() + usize::from(self.nameless.is_some())
    }

    /// Whether there are none, which no set from a file is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file's bytes, if they are not too many.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(format!("it is longer than the {FILE_BYTES_MAX} bytes allowed")),
        false => Ok(text),
    }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

/// A key as it is written. Fields that are not here mean nothing to the verification of signatures (RFC 7517, section 4).
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    /// The private part of any asymmetric key.
    d: Option<serde::de::IgnoredAny>,
    /// The secret of a symmetric one.
    k: Option<serde::de::IgnoredAny>,
}

impl RawKey {
    /// What to call it in messages.
    fn name(&self, place: usize) -> String {
        match &self.kid {
            Some(kid) => format!("key {:?}", kid.chars().take(64).collect::<String>()),
            None => format!("key number {}", place + 1),
        }
    }

    fn is_for_encryption(&self) -> bool {
        self.usage.as_deref() == Some("enc")
    }

    /// The key, ready for use.
    fn key(self) -> Result<Key, String> {
        if self.d.is_some() || self.k.is_some() || self.kty == "oct" {
            return Err("is secret: whoever reads this file could sign; put the public keys alone into it".into());
        }
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("is for another use than \"sig\" or \"enc\"".into());
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("may not verify signatures, says its `key_ops`".into());
        }
        let (algorithm, algorithm_name, verifier) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA", ed25519(self.x.as_deref())?),
            ("EC", Some("P-256")) => (Algorithm::ES256, "ES256", p256(self.x.as_deref(), self.y.as_deref())?),
            ("RSA", None) => (Algorithm::RS256, "RS256", rsa(self.n.as_deref(), self.e.as_deref())?),
            _ => return Err("is of a kind that is not taken: Ed25519, EC P-256 and RSA are".into()),
        };
        // Ed25519 keys are also said to be for "Ed25519" since RFC 9864.
        let said = self.alg.as_deref().unwrap_or(algorithm_name);
        if said != algorithm_name && !(algorithm_name == "EdDSA" && said == "Ed25519") {
            return Err(format!("is for an algorithm that is not taken; a key of its kind is used with {algorithm_name}"));
        }
        Ok(Key { algorithm, algorithm_name, verifier })
    }
}

fn ed25519(x: Option<&str>) -> Result<DecodingKey, String> {
    let point = bytes("x", x)?;
    if point.len() != 32 || ParsedPublicKey::new(&ED25519, &point).is_err() {
        return Err("is not an Ed25519 public key".into());
    }
    Ok(DecodingKey::from_ed_der(&point))
}

fn p256(x: Option<&str>, y: Option<&str>) -> Result<DecodingKey, String> {
    let (x, y) = (bytes("x", x)?, bytes("y", y)?);
    let point = [&[4][..], &x, &y].concat();
    // Parsing asks whether the point is on the curve.
    if x.len() != 32 || y.len() != 32 || ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_err() {
        return Err("is not a point on the curve P-256".into());
    }
    Ok(DecodingKey::from_ec_der(&point))
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<DecodingKey, String> {
    let (n, e) = (bytes("n", n)?, bytes("e", e)?);
    let significant = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    };
    let (n, e) = (significant(&n), significant(&e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("is an RSA key of {bits} bits: from {} to {} are taken", RSA_BITS.start(), RSA_BITS.end()));
    }
    if n.last().is_none_or(|last| last % 2 == 0) {
        return Err("is an RSA key whose modulus is even, which none is".into());
    }
    if e != RSA_EXPONENT {
        return Err("is an RSA key with another exponent than 65537".into());
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

fn bytes(field: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("has no {field:?}"))?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| format!("has a {field:?} that is not base64url"))
}

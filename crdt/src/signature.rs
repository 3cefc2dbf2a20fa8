//! ML-DSA-65 (FIPS 204, empty context), by two libraries behind one trait.
//!
//! `pqcrypto` is the one asked for; its upstream has announced its end, so aws-lc stands beside it, and `tests/signatures.rs` proves that
//! each verifies what the other signs. Which one a cluster uses is the one argument of [`Identity::from_seed`] and of the replica.

use std::fmt;

use aws_lc_rs::signature::{KeyPair as _, ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey};
use pqcrypto_mldsa::mldsa65;
use pqcrypto_traits::sign::{DetachedSignature as _, PublicKey as _, SecretKey as _};

use crate::id::ClusterId;

/// Bytes of the seed from which a key pair is derived.
pub const SEED_BYTES: usize = 32;
/// Bytes of a raw public key.
pub const PUBLIC_KEY_BYTES: usize = 1952;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 3309;
/// Bytes of a secret key in the expanded form of FIPS 204.
const SECRET_KEY_BYTES: usize = 4032;

/// A library that signs and verifies.
pub trait Scheme: Send + Sync + 'static {
    /// Signs a message with an expanded secret key (4,032 bytes): 3,309 bytes. Two signatures of one message may differ: both libraries
    /// hedge with randomness of their own, as FIPS 204 advises.
    fn sign(&self, secret: &[u8], message: &[u8]) -> Vec<u8>;

    /// Is this the signature of the message by the holder of this raw public key? Bytes of a wrong length are no signature.
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool;
}

/// By `pqcrypto-mldsa`.
#[derive(Clone, Copy, Debug)]
pub struct Pqcrypto;

/// By `aws-lc-rs`.
#[derive(Clone, Copy, Debug)]
pub struct AwsLc;

impl Scheme for Pqcrypto {
    fn sign(&self, secret: &[u8], message: &[u8]) -> Vec<u8> {
        let secret = mldsa65::SecretKey::from_bytes(secret).expect("an identity's secret has the right length");
        mldsa65::detached_sign(message, &secret).as_bytes().to_vec()
    }

    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        // The library takes a short signature and reads on as if it were whole.
        if signature.len() != SIGNATURE_BYTES {
            return false;
        }
        let (Ok(key), Ok(signature)) = (mldsa65::PublicKey::from_bytes(public_key), mldsa65::DetachedSignature::from_bytes(signature))
        else {
            return false;
        };
        mldsa65::verify_detached_signature(&signature, message, &key).is_ok()
    }
}

impl Scheme for AwsLc {
    fn sign(&self, secret: &[u8], message: &[u8]) -> Vec<u8> {
        let pair = PqdsaKeyPair::from_raw_private_key(&ML_DSA_65_SIGNING, secret).expect("an identity's secret has the right length");
        let mut signature = vec![0; SIGNATURE_BYTES];
        pair.sign(message, &mut signature).expect("signing fails only for want of memory or randomness");
        signature
    }

    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ML_DSA_65, public_key).verify(message, signature).is_ok()
    }
}

/// A cluster's key pair, and the library it signs with. Never printed: its `Debug` shows the id alone.
#[derive(Clone)]
pub struct Identity {
    scheme: &'static dyn Scheme,
    id: ClusterId,
    public_key: Vec<u8>,
    secret: Vec<u8>,
}

impl Identity {
    /// The key pair that belongs to a seed, as in FIPS 204: the same seed gives the same key for ever. `pqcrypto` makes keys from its own
    /// randomness alone, so aws-lc expands the seed for both.
    pub fn from_seed(scheme: &'static dyn Scheme, seed: &[u8; SEED_BYTES]) -> Self {
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed).expect("every 32 bytes are a seed");
        let public_key = pair.public_key().as_ref().to_vec();
        let secret = aws_lc_rs::encoding::AsRawBytes::as_raw_bytes(&pair.private_key()).expect("the key has a raw form").as_ref().to_vec();
        assert_eq!((public_key.len(), secret.len()), (PUBLIC_KEY_BYTES, SECRET_KEY_BYTES), "FIPS 204, table 2");
        Self { scheme, id: ClusterId::of(&public_key), public_key, secret }
    }

    /// The cluster's id: see [`ClusterId::of`].
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// The raw public key.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The library it signs with, which also verifies.
    pub fn scheme(&self) -> &'static dyn Scheme {
        self.scheme
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.scheme.sign(&self.secret, message)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}, secret)", self.id)
    }
}

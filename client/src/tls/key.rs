//! ML-DSA-65 private keys.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::pem::{self, PemError};
use super::provider::{provider, random_bytes};

/// Bytes of the seed from which an ML-DSA key pair is derived.
pub const SEED_BYTES: usize = 32;

/// Bytes of a raw ML-DSA-65 public key; they end the public key's DER form.
const PUBLIC_KEY_BYTES: usize = 1952;

/// What stands before the seed in PKCS#8 (RFC 9881, "seed" form): the lengths are fixed, so the DER prefix is a constant.
const PKCS8_PREFIX: [u8; 22] =
    [0x30, 0x34, 0x02, 0x01, 0x00, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x12, 0x04, 0x22, 0x80, 0x20];

/// Why a private key was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file or text could not be read as PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The key is of another kind, or broken.
    #[error("{what} is not an ML-DSA-65 private key (PKCS#8): tarn takes no other kind; issue one with `tarn ca issue`")]
    NotMlDsa65 {
        /// File or description.
        what: String,
    },
}

/// An ML-DSA-65 key pair. Never printed: its `Debug` shows nothing, and only [`PrivateKey::to_pem`] and [`PrivateKey::pkcs8`]
/// reveal it.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Arc<[u8]>,
    key: Arc<dyn SigningKey>,
    spki: Arc<[u8]>,
}

impl PrivateKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self::from_seed(&random_bytes())
    }

    /// The key that belongs to a seed: the same seed gives the same key for ever.
    pub fn from_seed(seed: &[u8; SEED_BYTES]) -> Self {
        let mut pkcs8 = Vec::with_capacity(PKCS8_PREFIX.len() + SEED_BYTES);
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(seed);
        Self::from_pkcs8("a seed", pkcs8).expect("every 32 bytes are the seed of an ML-DSA-65 key")
    }

    /// Reads a key from PEM text. `what` names the text in errors.
    ///
    /// # Errors
    /// [`KeyError`] when the text is no PEM, or the key not ML-DSA-65.
    pub fn from_pem(what: &str, text: &[u8]) -> Result<Self, KeyError> {
        Self::from_pkcs8(what, pem::private_key(what, text)?)
    }

    fn from_pkcs8(what: &str, pkcs8: Vec<u8>) -> Result<Self, KeyError> {
        let wrong = || KeyError::NotMlDsa65 { what: what.to_owned() };
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.clone()));
        let key = provider().key_provider.load_private_key(der).map_err(|_| wrong())?;
        key.choose_scheme(&[SignatureScheme::ML_DSA_65]).ok_or_else(wrong)?;
        let spki: Arc<[u8]> = key.public_key().ok_or_else(wrong)?.as_ref().into();
        Ok(Self { pkcs8: pkcs8.into(), key, spki })
    }

    /// The key as PEM text. Secret.
    pub fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The key as PKCS#8 DER. Secret.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key with its algorithm (SubjectPublicKeyInfo, DER).
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The public key alone: 1,952 bytes.
    pub fn public_key(&self) -> &[u8] {
        &self.spki[self.spki.len() - PUBLIC_KEY_BYTES..]
    }

    /// Signs a message (ML-DSA-65, empty context): 3,309 bytes.
    ///
    /// # Errors
    /// When the cryptography library fails, which it does only for want of memory or randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key
            .choose_scheme(&[SignatureScheme::ML_DSA_65])
            .expect("the constructors accept only keys that sign with ML-DSA-65")
            .sign(message)
    }

    /// The form that rustls signs handshakes with.
    pub(super) fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.key.clone()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ML_DSA_65;

    #[test]
    fn a_seed_gives_the_same_key_for_ever() {
        let first = PrivateKey::from_seed(&[7; SEED_BYTES]);
        let again = PrivateKey::from_seed(&[7; SEED_BYTES]);
        let other = PrivateKey::from_seed(&[8; SEED_BYTES]);
        assert_eq!(first.spki(), again.spki());
        assert_ne!(first.spki(), other.spki());
        assert_eq!(first.pkcs8().len(), 54);
        // A change here would make tokens and key files of older builds useless.
        assert_eq!(blake3::hash(first.spki()).to_hex().as_str(), "ba36f56877b235f41aeb06d66668d721ed75e385025930ce7916c7f86105244a");
    }

    #[test]
    fn signatures_verify() {
        let key = PrivateKey::generate();
        let signature = key.sign(b"message").unwrap();
        ML_DSA_65.verify_signature(key.public_key(), b"message", &signature).unwrap();
        assert!(ML_DSA_65.verify_signature(key.public_key(), b"massage", &signature).is_err());
    }

    #[test]
    fn pem_round_trip_and_bad_input() {
        let key = PrivateKey::generate();
        let read = PrivateKey::from_pem("node.key", key.to_pem().as_bytes()).unwrap();
        assert_eq!(read.spki(), key.spki());
        assert!(!format!("{key:?}").contains("BEGIN"));

        let mut short = key.pkcs8().to_vec();
        short.pop();
        for bytes in [short, vec![0x30; 54], Vec::new()] {
            let text = pem::encode("PRIVATE KEY", &bytes);
            let error = PrivateKey::from_pem("node.key", text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("node.key"), "{error}");
        }
    }
}

//! Our keys in the shape that the certificate library wants. It cannot load ML-DSA keys by itself.

use rcgen::{PKCS_ML_DSA_65, PublicKeyData, SignatureAlgorithm, SigningKey};
use tarn_client::tls::PrivateKey;

/// A private key that signs certificates and requests.
pub(super) struct Signer(pub(super) PrivateKey);

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A public key that is to be certified: 1,952 raw bytes of ML-DSA-65.
pub(super) struct Subject<'a>(pub(super) &'a [u8]);

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ML_DSA_65
    }
}

/// What certificates call a key by, to help find the issuer: 20 bytes of the hash of the public key. Nothing rests on it.
pub(super) fn key_id(public_key: &[u8]) -> rcgen::KeyIdMethod {
    rcgen::KeyIdMethod::PreSpecified(blake3::hash(public_key).as_bytes()[..20].to_vec())
}

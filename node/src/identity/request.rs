//! Certificate requests (PKCS#10): how a key asks for a certificate without leaving its machine.

use rcgen::{CertificateParams, DistinguishedName};
use tarn_client::tls::{ML_DSA_65, PrivateKey, spki_hash};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::signing::Signer;

/// Largest request that is looked at, in bytes. One with an ML-DSA-65 key and signature has about 5,400.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a raw ML-DSA-65 public key.
const PUBLIC_KEY_BYTES: usize = 1952;

/// Why a certificate request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More bytes than any request needs.
    #[error("the certificate request has {0} bytes, more than the {REQUEST_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// No request at all.
    #[error("the certificate request is not PKCS#10 (DER)")]
    Malformed,
    /// A key of another kind.
    #[error("the certificate request is not for an ML-DSA-65 key")]
    NotMlDsa65,
    /// The sender does not hold the key.
    #[error("the certificate request is not signed by the key that it is for")]
    BadSignature,
}

/// A request whose sender has proven to hold the key. Whatever name it asks for is ignored: who somebody is, the cluster decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    public_key: Vec<u8>,
    spki_hash: [u8; 32],
}

impl CertificateRequest {
    /// Reads and verifies a request (DER).
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLarge(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let info = &request.certification_request_info;
        let public_key = info.subject_pki.subject_public_key.data.as_ref();
        let is_ml_dsa_65 = |oid: String| oid == ML_DSA_65_OID;
        if !is_ml_dsa_65(info.subject_pki.algorithm.algorithm.to_id_string())
            || !is_ml_dsa_65(request.signature_algorithm.algorithm.to_id_string())
            || public_key.len() != PUBLIC_KEY_BYTES
        {
            return Err(RequestError::NotMlDsa65);
        }
        ML_DSA_65.verify_signature(public_key, info.raw, &request.signature_value.data).map_err(|_| RequestError::BadSignature)?;
        Ok(Self { public_key: public_key.to_vec(), spki_hash: spki_hash(info.subject_pki.raw) })
    }

    /// BLAKE3 of the public key (SPKI, DER).
    pub fn spki_hash(&self) -> &[u8; 32] {
        &self.spki_hash
    }

    /// The raw public key.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

/// ML-DSA-65 in FIPS 204's numbering.
const ML_DSA_65_OID: &str = "2.16.840.1.101.3.4.3.18";

/// A certificate request for a key, DER. It names nobody.
///
/// # Panics
/// When the cryptography library fails to sign, which it does only for want of memory or randomness.
pub fn make_request(key: &PrivateKey) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&Signer(key.clone())).expect("a request without names can always be encoded and signed").der().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_proves_its_key() {
        let key = PrivateKey::generate();
        let request = CertificateRequest::parse(&make_request(&key)).unwrap();
        assert_eq!(request.public_key(), key.public_key());
        assert_eq!(*request.spki_hash(), spki_hash(key.spki()));
    }

    #[test]
    fn bad_requests_are_refused() {
        let der = make_request(&PrivateKey::generate());
        assert_eq!(CertificateRequest::parse(&[]), Err(RequestError::Malformed));
        assert_eq!(CertificateRequest::parse(&[0x30; 500]), Err(RequestError::Malformed));
        assert_eq!(CertificateRequest::parse(&vec![0; 1 << 20]), Err(RequestError::TooLarge(1 << 20)));
        assert_eq!(CertificateRequest::parse(&der[..der.len() - 1]), Err(RequestError::Malformed));
        let longer = [der.as_slice(), b"x"].concat();
        assert_eq!(CertificateRequest::parse(&longer), Err(RequestError::Malformed));

        // Each flipped byte is refused one way or another: nothing in a request is outside the signature's reach.
        for position in (0..der.len()).step_by(97) {
            let mut broken = der.clone();
            broken[position] ^= 1;
            assert!(CertificateRequest::parse(&broken).is_err(), "byte {position}");
        }
    }
}

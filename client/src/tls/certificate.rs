//! The cluster's root certificate, and what a leaf certificate says.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::pem::{self, PemError};
use super::principal::{Principal, PrincipalError, parse_ca_uri};
use super::provider::ML_DSA_65;

/// Why a certificate was not accepted from a file or text. What a peer presents is judged in `verify`.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file or text could not be read as PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The bytes are no X.509 certificate.
    #[error("{what} is not an X.509 certificate: {reason}")]
    Malformed {
        /// File or description.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate is not a cluster's root certificate.
    #[error("{what} is not the root certificate of a tarn cluster ({reason}): take ca.pem as written by `tarn ca init`")]
    NotARoot {
        /// File or description.
        what: String,
        /// What is missing.
        reason: String,
    },
    /// The certificate names no identity.
    #[error("{what} is not a tarn certificate: {source}")]
    NotAnIdentity {
        /// File or description.
        what: String,
        /// What is wrong with its identity.
        source: PrincipalError,
    },
    /// More than one certificate in a file that should hold the root alone.
    #[error("{what} holds {count} certificates: it must hold the root certificate alone")]
    TooMany {
        /// File or description.
        what: String,
        /// How many it holds.
        count: usize,
    },
}

/// A cluster's root certificate: the only trust anchor of its members.
#[derive(Clone)]
pub struct CaCertificate {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    cluster: String,
    fingerprint: [u8; 32],
    not_after: SystemTime,
    spki: Vec<u8>,
}

impl CaCertificate {
    /// Reads `ca.pem`.
    ///
    /// # Errors
    /// [`CertificateError`] when the file cannot be read or holds anything but one root certificate of a tarn cluster.
    pub fn from_file(path: &Path) -> Result<Self, CertificateError> {
        Self::from_pem(&path.display().to_string(), &pem::read_public_file(path)?)
    }

    /// Reads PEM text. `what` names the text in errors.
    ///
    /// # Errors
    /// As [`CaCertificate::from_file`].
    pub fn from_pem(what: &str, text: &[u8]) -> Result<Self, CertificateError> {
        let mut certificates = pem::certificates(what, text)?;
        if certificates.len() > 1 {
            return Err(CertificateError::TooMany { what: what.to_owned(), count: certificates.len() });
        }
        Self::from_der(what, certificates.remove(0))
    }

    /// Reads DER. `what` names the bytes in errors.
    ///
    /// # Errors
    /// As [`CaCertificate::from_file`].
    pub fn from_der(what: &str, der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let not_a_root = |reason: &str| CertificateError::NotARoot { what: what.to_owned(), reason: reason.to_owned() };
        let certificate = parse_x509(what, &der)?;
        if !certificate.is_ca() {
            return Err(not_a_root("it may not issue certificates"));
        }
        if certificate.issuer().as_raw() != certificate.subject().as_raw() {
            return Err(not_a_root("it is not self-signed"));
        }
        ML_DSA_65
            .verify_signature(
                &certificate.public_key().subject_public_key.data,
                certificate.tbs_certificate.as_ref(),
                &certificate.signature_value.data,
            )
            .map_err(|_| not_a_root("it is not signed by its own ML-DSA-65 key"))?;
        let cluster = match uris(what, &certificate)?[..] {
            [uri] => parse_ca_uri(uri).map_err(|error| not_a_root(&error.to_string()))?,
            _ => return Err(not_a_root("it does not name one cluster")),
        };
        let not_after = unix_time(certificate.validity().not_after.timestamp());
        let spki = certificate.public_key().raw.to_vec();
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| malformed(what, &error))?.to_owned();
        Ok(Self { fingerprint: *blake3::hash(&der).as_bytes(), anchor, cluster, not_after, spki, der })
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// BLAKE3 of the certificate's DER: what a join token pins.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The certificate, DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as PEM text.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// When it expires; no leaf outlives it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its public key with algorithm (SubjectPublicKeyInfo, DER).
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The subject's distinguished name without the outer SEQUENCE: what TLS names an authority by.
    pub(super) fn subject(&self) -> &[u8] {
        self.anchor.subject.as_ref()
    }

    /// Checks that `leaf` was issued by this root, is valid at `now`, and may be used for `usage`.
    ///
    /// The expiry of the root itself needs no check of its own, because no leaf is issued beyond it.
    pub(super) fn verify_chain(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        leaf.verify_for_usage(&[ML_DSA_65], std::slice::from_ref(&self.anchor), intermediates, now, usage, None, None).map(|_path| ())
    }
}

impl fmt::Debug for CaCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaCertificate")
            .field("cluster", &self.cluster)
            .field("fingerprint", &data_encoding::HEXLOWER.encode(&self.fingerprint))
            .finish_non_exhaustive()
    }
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafInfo {
    /// Who it speaks for.
    pub principal: Principal,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Serial number, hexadecimal: what revocation will name it by.
    pub serial: String,
    /// BLAKE3 of the public key (SPKI, DER).
    pub spki_hash: [u8; 32],
}

impl LeafInfo {
    /// Reads a leaf certificate, without judging who issued it. `what` names it in errors.
    ///
    /// # Errors
    /// [`CertificateError`] when it is no certificate or names no identity.
    pub fn from_der(what: &str, der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse_x509(what, der)?;
        let principal = Principal::from_uris(uris(what, &certificate)?.into_iter())
            .map_err(|source| CertificateError::NotAnIdentity { what: what.to_owned(), source })?;
        Ok(Self {
            principal,
            not_before: unix_time(certificate.validity().not_before.timestamp()),
            not_after: unix_time(certificate.validity().not_after.timestamp()),
            serial: data_encoding::HEXLOWER.encode(certificate.raw_serial()),
            spki_hash: spki_hash(certificate.public_key().raw),
        })
    }
}

/// BLAKE3 of a public key (SPKI, DER): the name of a key in join tokens.
pub fn spki_hash(spki: &[u8]) -> [u8; 32] {
    *blake3::hash(spki).as_bytes()
}

fn parse_x509<'a>(what: &str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(malformed(what, &"bytes follow it")),
        Err(error) => Err(malformed(what, &error)),
    }
}

fn uris<'a>(what: &str, certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|error| malformed(what, &error))?;
    let Some(names) = names else {
        return Ok(Vec::new());
    };
    Ok(names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect())
}

fn malformed(what: &str, reason: &dyn fmt::Display) -> CertificateError {
    CertificateError::Malformed { what: what.to_owned(), reason: reason.to_string() }
}

/// X.509 dates before 1970 have no use here and become 1970.
fn unix_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

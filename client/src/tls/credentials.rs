//! What one party brings to a connection: the root it trusts, its certificate and its key.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate::{CaCertificate, CertificateError, LeafInfo, spki_hash};
use super::key::{KeyError, PrivateKey};
use super::pem::{self, PemError};
use super::principal::Principal;

/// Why credentials were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The root certificate or the own certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The private key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The private key belongs to another certificate.
    #[error("the private key does not belong to the certificate of {principal}: take the two files that were issued together")]
    KeyMismatch {
        /// Whose certificate it is.
        principal: Principal,
    },
    /// The certificate was issued by another cluster.
    #[error(
        "the certificate of {principal} was not issued by the root certificate of cluster {cluster}: take the ca.pem that belongs to it"
    )]
    NotIssuedByCa {
        /// Whose certificate it is.
        principal: Principal,
        /// The cluster of the root certificate.
        cluster: String,
    },
    /// A replacement speaks for somebody else.
    #[error("credentials of {current} cannot be replaced by those of {offered}")]
    OtherPrincipal {
        /// Whose credentials they are.
        current: Principal,
        /// Whose certificate was offered.
        offered: Principal,
    },
}

impl From<PemError> for CredentialsError {
    fn from(error: PemError) -> Self {
        Self::Certificate(CertificateError::Pem(error))
    }
}

/// A certificate chain (leaf first, without the root) and the key that belongs to it.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    info: LeafInfo,
}

impl Identity {
    /// Puts a chain (leaf first) and its key together.
    ///
    /// # Errors
    /// When the leaf names no principal, or the key is another's.
    ///
    /// # Panics
    /// When the chain is empty.
    pub fn new(what: &str, chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, CredentialsError> {
        let leaf = chain.first().expect("a chain has at least its leaf certificate");
        let info = LeafInfo::from_der(what, leaf)?;
        if info.spki_hash != spki_hash(key.spki()) {
            return Err(CredentialsError::KeyMismatch { principal: info.principal });
        }
        Ok(Self { chain, key, info })
    }

    /// Reads certificate and key from PEM text.
    ///
    /// # Errors
    /// When either is malformed, or they do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        Self::from_named_pem("the certificate", certificate, "the private key", key)
    }

    /// Reads certificate and key from PEM files. The key file must be its owner's alone.
    ///
    /// # Errors
    /// When either cannot be read, is malformed, or they do not belong together; when others can access the key file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        Self::from_named_pem(
            &certificate.display().to_string(),
            &pem::read_public_file(certificate)?,
            &key.display().to_string(),
            &pem::read_secret_file(key)?,
        )
    }

    fn from_named_pem(certificate_name: &str, certificate: &[u8], key_name: &str, key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = pem::certificates(certificate_name, certificate)?;
        let key = PrivateKey::from_pem(key_name, key)?;
        Self::new(certificate_name, chain, key)
    }

    /// Who the certificate speaks for.
    pub fn principal(&self) -> &Principal {
        &self.info.principal
    }

    /// What the leaf certificate says.
    pub fn info(&self) -> &LeafInfo {
        &self.info
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key. Secret.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The certificates as PEM text, leaf first.
    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem::encode("CERTIFICATE", certificate)).collect()
    }

    /// What answers rustls for a party that has no root yet: a joiner.
    pub(super) fn resolver(&self) -> Arc<Current> {
        Arc::new(Current::new(Presented::new(None, self.clone())))
    }

    fn certified_key(&self, root: Option<&CertificateDer<'static>>) -> Arc<CertifiedKey> {
        let mut chain = self.chain.clone();
        chain.extend(root.cloned());
        Arc::new(CertifiedKey::new(chain, self.key.signing_key()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("info", &self.info).finish_non_exhaustive()
    }
}

/// A party's credentials: the root it trusts and its own identity.
///
/// Clones share the identity: [`Credentials::replace`] on one changes what all configurations made from any of them present in later
/// handshakes, so that certificates rotate without a restart. Connections that stand keep the certificate they were made with.
#[derive(Clone)]
pub struct Credentials {
    ca: Arc<CaCertificate>,
    current: Arc<Current>,
}

impl Credentials {
    /// Puts root and identity together without asking whether the one issued the other: [`Credentials::check_issuer`] asks.
    pub fn new(ca: CaCertificate, identity: Identity) -> Self {
        let current = Current::new(Presented::new(Some(ca.der()), identity));
        Self { ca: Arc::new(ca), current: Arc::new(current) }
    }

    /// Reads root certificate, certificate and key from PEM text.
    ///
    /// # Errors
    /// [`CredentialsError`], also when the root did not issue the certificate. Expiry is not judged: see [`Credentials::info`].
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let ca = CaCertificate::from_pem("the root certificate", ca)?;
        let credentials = Self::new(ca, Identity::from_pem(certificate, key)?);
        credentials.check_issuer()?;
        Ok(credentials)
    }

    /// Reads root certificate, certificate and key from PEM files. The key file must be its owner's alone.
    ///
    /// # Errors
    /// As [`Credentials::from_pem`], and when a file cannot be read or others can access the key file.
    pub fn from_files(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let ca = CaCertificate::from_file(ca)?;
        let credentials = Self::new(ca, Identity::from_files(certificate, key)?);
        credentials.check_issuer()?;
        Ok(credentials)
    }

    /// The root certificate.
    pub fn ca(&self) -> &Arc<CaCertificate> {
        &self.ca
    }

    /// Who these credentials speak for.
    pub fn principal(&self) -> Principal {
        self.info().principal
    }

    /// What the present leaf certificate says, its expiry among it.
    pub fn info(&self) -> LeafInfo {
        self.current.get().identity.info.clone()
    }

    /// The present identity.
    pub fn identity(&self) -> Identity {
        self.current.get().identity.clone()
    }

    /// Whether the present certificate is valid at this time. A party whose own certificate is not is refused everywhere, so ask this
    /// first and say so.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        let info = self.info();
        (info.not_before..=info.not_after).contains(&now)
    }

    /// Presents another certificate of the same principal from now on.
    ///
    /// # Errors
    /// When it speaks for somebody else or was issued by another root; then nothing changes.
    pub fn replace(&self, identity: Identity) -> Result<(), CredentialsError> {
        let current = self.principal();
        if *identity.principal() != current {
            return Err(CredentialsError::OtherPrincipal { current, offered: identity.info.principal });
        }
        check_issuer(&self.ca, &identity)?;
        self.current.set(Presented::new(Some(self.ca.der()), identity));
        Ok(())
    }

    /// Asks whether the root issued the present certificate.
    ///
    /// # Errors
    /// [`CredentialsError::NotIssuedByCa`].
    pub fn check_issuer(&self) -> Result<(), CredentialsError> {
        check_issuer(&self.ca, &self.current.get().identity)
    }

    /// What answers rustls when it asks for a certificate.
    pub(super) fn resolver(&self) -> Arc<Current> {
        self.current.clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("ca", &self.ca).field("info", &self.info()).finish()
    }
}

/// Judged at a time when the leaf is valid for certain, because expiry is another question.
fn check_issuer(ca: &CaCertificate, identity: &Identity) -> Result<(), CredentialsError> {
    let not_issued = || CredentialsError::NotIssuedByCa { principal: identity.info.principal.clone(), cluster: ca.cluster().to_owned() };
    let since_epoch = identity.info.not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let leaf = EndEntityCert::try_from(&identity.chain[0]).map_err(|_| not_issued())?;
    ca.verify_chain(&leaf, &identity.chain[1..], UnixTime::since_unix_epoch(since_epoch), KeyUsage::client_auth())
        .map_err(|_| not_issued())?;
    if identity.info.principal.cluster == ca.cluster() { Ok(()) } else { Err(not_issued()) }
}

/// The identity in force, and its two forms for handshakes.
struct Presented {
    identity: Identity,
    short: Arc<CertifiedKey>,
    with_root: Arc<CertifiedKey>,
}

impl Presented {
    fn new(root: Option<&CertificateDer<'static>>, identity: Identity) -> Self {
        Self { short: identity.certified_key(None), with_root: identity.certified_key(root), identity }
    }
}

/// A slot that handshakes read and rotation writes.
pub(super) struct Current(RwLock<Arc<Presented>>);

impl Current {
    fn new(presented: Presented) -> Self {
        Self(RwLock::new(Arc::new(presented)))
    }

    fn get(&self) -> Arc<Presented> {
        self.0.read().expect("nothing panics while it holds this lock").clone()
    }

    fn set(&self, presented: Presented) {
        *self.0.write().expect("nothing panics while it holds this lock") = Arc::new(presented);
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Current").field(&self.get().identity).finish()
    }
}

impl ResolvesServerCert for Current {
    /// A client that holds the root says so by naming it among the authorities that it trusts, and is spared 5.5 kB. A client that names
    /// none is joining: it knows the root's fingerprint only, and gets the root along with the chain.
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let presented = self.get();
        if client_hello.certificate_authorities().is_some() { Some(presented.short.clone()) } else { Some(presented.with_root.clone()) }
    }
}

impl ResolvesClientCert for Current {
    /// The one certificate there is, whatever the server hints at: a wrong one earns a clear refusal, none at all a vague one.
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get().short.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

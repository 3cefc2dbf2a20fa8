//! What each side demands of the other's certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate::{CaCertificate, spki_hash};
use super::principal::{Principal, PrincipalError, PrincipalKind, join_id};
use super::provider::SIGNATURES;

/// Extended key usage "TLS server", as the content of an OID.
const EKU_SERVER: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

/// Extended key usage "TLS client".
const EKU_CLIENT: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Which server a client accepts. It is always a node of the client's own cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any node: what users want.
    AnyNode,
    /// This node and no other: what peers want, so that a mixed-up address cannot deliver one node's log to another.
    Node(u64),
}

/// Knows which join tokens may be used now.
///
/// It is asked in the middle of a handshake, so it must answer from memory and without waiting. The answer opens the connection only;
/// the token is used up by the command that the join service proposes, which decides for good.
pub trait JoinGate: Send + Sync {
    /// Whether the token whose public key (SPKI, DER) has this BLAKE3 hash is neither expired nor used.
    fn is_outstanding(&self, spki_hash: &[u8; 32]) -> bool;

    /// Whether the certificate with this serial number (hexadecimal, small letters) is revoked. None is, unless told otherwise.
    fn is_revoked(&self, _serial: &str) -> bool {
        false
    }
}

/// Knows which certificates are revoked. It is asked in the middle of a handshake, so it must answer from memory and without waiting.
pub trait Revocations: Send + Sync {
    /// Whether the certificate with this serial number (hexadecimal, small letters) is revoked.
    fn is_revoked(&self, serial: &str) -> bool;
}

/// Knows the root certificates of the other clusters of a federation. It is asked in the middle of a handshake, so it must answer from
/// memory and without waiting.
pub trait ForeignRoots: Send + Sync {
    /// The root certificates of the clusters of this name that are trusted now. Two that were let in at once may bear one name.
    fn roots_of(&self, cluster: &str) -> Vec<Arc<CaCertificate>>;
}

/// Why a certificate that cryptography accepts is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It names no principal.
    #[error("its certificate names no tarn identity: {0}")]
    NotAnIdentity(PrincipalError),
    /// It names a principal of another cluster than its issuer's.
    #[error("its certificate is for cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The cluster of the party that verifies.
        ours: String,
        /// The cluster that the certificate names.
        theirs: String,
    },
    /// Its cluster is not in the federation, or not any more.
    #[error("it is of cluster {0}, which is not a member of this federation")]
    StrangeCluster(String),
    /// The client is of another cluster, and no node.
    #[error("it presented the certificate of {0}, but between clusters only nodes talk")]
    NotAGateway(Principal),
    /// The server is no node.
    #[error("it presented the certificate of {0}, but only nodes may serve")]
    NotANode(Principal),
    /// The server is another node than the one that was dialled.
    #[error("it is {got}, but node {expected} was expected at this address")]
    OtherNode {
        /// The node that was wanted.
        expected: u64,
        /// Who answered.
        got: Principal,
    },
    /// The cluster has revoked it.
    #[error("the certificate of {0} is revoked")]
    Revoked(Principal),
    /// The join token is unknown, used or expired.
    #[error("join token {id} is unknown, used up or expired")]
    TokenNotOutstanding {
        /// The token's id.
        id: String,
    },
    /// A join certificate whose name does not follow from its key.
    #[error("its join certificate names another token than the one whose key it holds")]
    TokenMismatch,
    /// The server did not send the root certificate that the join token pins.
    #[error("its root certificate is not the one in the join token: this is another cluster, or somebody between")]
    FingerprintMismatch,
}

impl From<VerifyError> for Error {
    /// Which alert the peer gets follows from the error's kind: one that was revoked is told so, because only a new certificate helps.
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(match error {
            VerifyError::Revoked(_) => CertificateError::Revoked,
            error => CertificateError::Other(OtherError(Arc::new(error))),
        })
    }
}

/// A client's demands: a node of the right cluster, and perhaps one certain node.
pub(super) struct NodeVerifier {
    trust: Trust,
    expect: Expect,
    hints: Option<Vec<DistinguishedName>>,
    revocations: Option<Arc<dyn Revocations>>,
}

/// Where a client's trust starts.
enum Trust {
    /// It holds the root certificate.
    Root(Arc<CaCertificate>),
    /// It knows the root's fingerprint, and finds the root in the chain that the server sends.
    Fingerprint([u8; 32]),
}

impl NodeVerifier {
    /// Trusts the root and accepts the expected node.
    pub(super) fn new(ca: Arc<CaCertificate>, expect: Expect) -> Self {
        Self { hints: Some(vec![DistinguishedName::in_sequence(ca.subject())]), trust: Trust::Root(ca), expect, revocations: None }
    }

    /// The same, and refuses revoked certificates.
    pub(super) fn asking(self, revocations: Arc<dyn Revocations>) -> Self {
        Self { revocations: Some(revocations), ..self }
    }

    /// Trusts the root with this fingerprint and accepts any node.
    pub(super) fn pinned(fingerprint: [u8; 32]) -> Self {
        Self { trust: Trust::Fingerprint(fingerprint), expect: Expect::AnyNode, hints: None, revocations: None }
    }

    fn verify_with(
        &self,
        ca: &CaCertificate,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
        let principal = principal_of(&leaf)?;
        let usage = KeyUsage::required(EKU_SERVER);
        ca.verify_chain(&leaf, intermediates, now, usage).map_err(chain_error)?;
        check_cluster(ca, &principal)?;
        if let Some(revocations) = &self.revocations {
            check_revoked(&leaf, &principal, |serial| revocations.is_revoked(serial))?;
        }
        match (&principal.kind, self.expect) {
            (PrincipalKind::Node { .. }, Expect::AnyNode) => Ok(()),
            (PrincipalKind::Node { id }, Expect::Node(expected)) if *id == expected => Ok(()),
            (PrincipalKind::Node { .. }, Expect::Node(expected)) => Err(VerifyError::OtherNode { expected, got: principal }.into()),
            (PrincipalKind::User { .. } | PrincipalKind::Join { .. }, _) => Err(VerifyError::NotANode(principal).into()),
        }
    }
}

impl fmt::Debug for NodeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeVerifier").field("expect", &self.expect).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Root(ca) => self.verify_with(ca, end_entity, intermediates, now)?,
            Trust::Fingerprint(fingerprint) => {
                let ca = pinned_root(fingerprint, intermediates)?;
                self.verify_with(&ca, end_entity, intermediates, now)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &SIGNATURES)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }

    /// Tells the server that this client holds the root, so that it need not send it.
    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.hints.as_deref()
    }
}

/// A server's demands: a member of the cluster, or a node of another cluster of the federation, or the holder of an outstanding token.
pub(super) struct MemberVerifier {
    roots: Roots,
    gate: Arc<dyn JoinGate>,
}

/// Whose certificates a server takes.
enum Roots {
    /// Those of its own cluster.
    Own(Arc<CaCertificate>),
    /// Those of nodes of the clusters that are known here.
    Foreign(Arc<dyn ForeignRoots>),
}

impl MemberVerifier {
    pub(super) fn new(ca: Arc<CaCertificate>, gate: Arc<dyn JoinGate>) -> Self {
        Self { roots: Roots::Own(ca), gate }
    }

    /// For the listener between clusters.
    pub(super) fn foreign(roots: Arc<dyn ForeignRoots>, gate: Arc<dyn JoinGate>) -> Self {
        Self { roots: Roots::Foreign(roots), gate }
    }

    /// A joiner's certificate is signed by its own key, so everything in it is the joiner's claim. What counts is the key, whose
    /// possession the handshake proves: its hash must be that of an outstanding token, and the name must follow from it. Dates are not
    /// looked at, because the token's life is the cluster's to decide and a new machine's clock may be wrong.
    fn verify_joiner(&self, leaf: &EndEntityCert<'_>, claimed: &str) -> Result<(), VerifyError> {
        let hash = spki_hash(leaf.subject_public_key_info().as_ref());
        if join_id(&hash) != claimed {
            return Err(VerifyError::TokenMismatch);
        }
        if !self.gate.is_outstanding(&hash) {
            return Err(VerifyError::TokenNotOutstanding { id: claimed.to_owned() });
        }
        Ok(())
    }
}

impl fmt::Debug for MemberVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = match &self.roots {
            Roots::Own(ca) => Some(ca),
            Roots::Foreign(_) => None,
        };
        f.debug_struct("MemberVerifier").field("ca", &own).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: a client has one certificate and presents it, and a joiner's has no issuer that could be hinted at.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
        let principal = principal_of(&leaf)?;
        if let PrincipalKind::Join { id } = &principal.kind {
            self.verify_joiner(&leaf, id)?;
            return Ok(ClientCertVerified::assertion());
        }
        match &self.roots {
            Roots::Own(ca) => {
                ca.verify_chain(&leaf, intermediates, now, KeyUsage::required(EKU_CLIENT)).map_err(chain_error)?;
                check_cluster(ca, &principal)?;
            }
            Roots::Foreign(roots) => drop(foreign_issuer(roots.as_ref(), end_entity, intermediates, now)?),
        }
        check_revoked(&leaf, &principal, |serial| self.gate.is_revoked(serial))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &SIGNATURES)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &SIGNATURES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURES.supported_schemes()
    }
}

/// Finds the root that a join token pins. It is parsed only once its hash is right, so nothing of a stranger's is looked into.
fn pinned_root(fingerprint: &[u8; 32], intermediates: &[CertificateDer<'_>]) -> Result<CaCertificate, Error> {
    let root =
        intermediates.iter().find(|certificate| blake3::hash(certificate) == *fingerprint).ok_or(VerifyError::FingerprintMismatch)?;
    CaCertificate::from_der("the server's root certificate", root.clone().into_owned()).map_err(|_| VerifyError::FingerprintMismatch.into())
}

/// The root that has issued the certificate of another cluster's node, among those that are trusted now. Who the node speaks for follows from
/// that root, and not from the name in its certificate.
///
/// # Errors
/// Why it is not let in: it is no node, or no trusted root has issued its certificate.
pub fn foreign_issuer(
    roots: &dyn ForeignRoots,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Arc<CaCertificate>, Error> {
    let leaf = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
    let principal = principal_of(&leaf)?;
    if !matches!(principal.kind, PrincipalKind::Node { .. }) {
        return Err(VerifyError::NotAGateway(principal).into());
    }
    let mut why = VerifyError::StrangeCluster(principal.cluster.clone()).into();
    for ca in roots.roots_of(&principal.cluster) {
        let chain = ca.verify_chain(&leaf, intermediates, now, KeyUsage::required(EKU_CLIENT)).map_err(chain_error);
        match chain.and_then(|()| Ok(check_cluster(&ca, &principal)?)) {
            Ok(()) => return Ok(ca),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn principal_of(leaf: &EndEntityCert<'_>) -> Result<Principal, VerifyError> {
    Principal::from_uris(leaf.valid_uri_names()).map_err(VerifyError::NotAnIdentity)
}

fn check_cluster(ca: &CaCertificate, principal: &Principal) -> Result<(), VerifyError> {
    if principal.cluster == ca.cluster() {
        return Ok(());
    }
    Err(VerifyError::OtherCluster { ours: ca.cluster().to_owned(), theirs: principal.cluster.clone() })
}

fn check_revoked(leaf: &EndEntityCert<'_>, principal: &Principal, revoked: impl Fn(&str) -> bool) -> Result<(), VerifyError> {
    match revoked(&data_encoding::HEXLOWER.encode(leaf.serial())) {
        true => Err(VerifyError::Revoked(principal.clone())),
        false => Ok(()),
    }
}

/// Translates webpki's verdict into rustls's, which decides the alert that the peer gets.
///
/// A wrong signature on the chain means "another issuer": two clusters of the same name have roots that differ in nothing but the key. So
/// does a certificate that a mere member has issued.
fn chain_error(error: webpki::Error) -> Error {
    use webpki::Error as Chain;

    let verdict = match error {
        Chain::BadDer | Chain::BadDerTime | Chain::TrailingData(_) => CertificateError::BadEncoding,
        Chain::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        Chain::InvalidCertValidity => CertificateError::Expired,
        Chain::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        Chain::UnknownIssuer
        | Chain::EndEntityUsedAsCa
        | Chain::PathLenConstraintViolated
        | Chain::InvalidSignatureForPublicKey
        | Chain::UnsupportedSignatureAlgorithmContext(_)
        | Chain::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => CertificateError::UnknownIssuer,
        Chain::RequiredEkuNotFoundContext(_) | Chain::EmptyEkuExtension => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(verdict)
}

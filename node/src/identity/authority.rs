//! The cluster's certificate authority: one ML-DSA-65 root key that issues the certificates of nodes and users.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tarn_client::tls::{
    CaCertificate, CertificateError, Identity, KeyError, PemError, Principal, PrincipalError, PrincipalKind, PrivateKey, ca_uri,
    check_cluster_id, encode_pem, random_bytes, read_secret_file,
};
use time::OffsetDateTime;

use super::files::{Access, Existing, FileError, private_dir, write_atomic};
use super::request::CertificateRequest;
use super::signing::{Signer, Subject, key_id};

/// How long a root certificate is valid. Replacing a root touches every member by hand, so it should outlive the machines.
pub const ROOT_VALIDITY: Duration = days(3650);

/// How long a node's certificate is valid. Nodes renew by themselves, so a stolen key should not serve for long.
pub const NODE_VALIDITY: Duration = days(90);

/// How long a user's certificate is valid. People renew by hand, and once a year is what they bear.
pub const USER_VALIDITY: Duration = days(365);

/// How far before its issue a certificate begins to be valid, for machines whose clocks run behind the authority's.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// The shortest validity that can be asked for: less is a slip of the unit.
const VALIDITY_MIN: Duration = Duration::from_secs(60);

/// Most DNS names and addresses in one certificate. A node has a few interfaces, not a farm of them.
const NAMES_MAX: usize = 32;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 60 * 60)
}

/// Why the authority could not be made or loaded, or does not issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is a certificate authority in the directory already.
    #[error(
        "{0} exists already: replacing a certificate authority makes every certificate it issued worthless; choose another directory, or move the old one away if that is what you want"
    )]
    Exists(PathBuf),
    /// There is a certificate or key of that name in the directory already.
    #[error("{0} exists already, and a key is never overwritten: choose another directory, or move the old certificate and its key away")]
    IdentityExists(PathBuf),
    /// A name in the request is not accepted.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
    /// A DNS name or IP address is not accepted.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// Names where none belong, or too many.
    #[error("a certificate can name {NAMES_MAX} DNS names and addresses, and only a node's: {given} were given")]
    Names {
        /// How many were asked for.
        given: usize,
    },
    /// The authority issues for nodes and users only: joiners make their own certificates.
    #[error("certificates are issued to nodes and users: a joiner's comes with its token")]
    Joiner,
    /// The validity is too short, or the root expires first.
    #[error(
        "the certificate would be valid for less than a minute (asked for: {asked_s} s; the root certificate is valid for another {root_s} s)"
    )]
    Validity {
        /// Seconds that were asked for.
        asked_s: u64,
        /// Seconds until the root certificate expires.
        root_s: u64,
    },
    /// The root certificate could not be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The root key could not be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Root certificate and key are of different authorities.
    #[error("{0} is not the key of the root certificate beside it: restore the two files from the same backup")]
    KeyMismatch(PathBuf),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate library refused.
    #[error("the certificate could not be made: {0}")]
    Library(#[from] rcgen::Error),
}

impl From<PemError> for AuthorityError {
    fn from(error: PemError) -> Self {
        Self::Certificate(CertificateError::Pem(error))
    }
}

/// What may be chosen about a certificate beyond whose it is.
#[derive(Clone, Debug)]
pub struct IssueOptions {
    /// How long it is valid; `None` means [`NODE_VALIDITY`] or [`USER_VALIDITY`]. Cut where the root certificate ends.
    pub validity: Option<Duration>,
    /// DNS names and IP addresses of a node, for software that insists on them. Members of the cluster do not look at them.
    pub names: Vec<String>,
    /// The time of issue.
    pub now: SystemTime,
}

impl Default for IssueOptions {
    /// The kind's usual validity from now on, and no names.
    fn default() -> Self {
        Self { validity: None, names: Vec::new(), now: SystemTime::now() }
    }
}

/// A cluster's certificate authority, key included.
pub struct CertificateAuthority {
    certificate: CaCertificate,
    issuer: Issuer<'static, Signer>,
}

impl CertificateAuthority {
    /// Makes a new authority for a cluster and writes `ca.pem` and `ca.key` (mode 0600) to `dir` (mode 0700).
    ///
    /// # Errors
    /// When there is one in `dir` already, the cluster id is not accepted, or a file cannot be written.
    pub fn init(dir: &Path, cluster_id: &str) -> Result<Self, AuthorityError> {
        check_cluster_id(cluster_id)?;
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let key_path = dir.join(KEY_FILE);
        for path in [&certificate_path, &key_path] {
            if path.symlink_metadata().is_ok() {
                return Err(AuthorityError::Exists(path.clone()));
            }
        }
        let key = PrivateKey::generate();
        let authority = Self::new(cluster_id, key.clone(), SystemTime::now())?;
        private_dir(dir)?;
        // The key first: a certificate without its key would look like an authority, and be none.
        write_new(&key_path, &key.to_pem(), Access::Owner, AuthorityError::Exists)?;
        write_new(&certificate_path, &authority.certificate.to_pem(), Access::Public, AuthorityError::Exists)?;
        Ok(authority)
    }

    /// Loads the authority that [`CertificateAuthority::init`] wrote.
    ///
    /// # Errors
    /// When a file cannot be read, is malformed or does not belong to the other, or the key is readable by others.
    pub fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let certificate = CaCertificate::from_file(&dir.join(CERTIFICATE_FILE))?;
        let key_path = dir.join(KEY_FILE);
        let key = PrivateKey::from_pem(&key_path.display().to_string(), &read_secret_file(&key_path)?)?;
        if key.spki() != certificate.spki() {
            return Err(AuthorityError::KeyMismatch(key_path));
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), Signer(key))?;
        Ok(Self { certificate, issuer })
    }

    /// An authority in memory only: for `tarn dev` and tests.
    ///
    /// # Errors
    /// When the cluster id is not accepted.
    pub fn ephemeral(cluster_id: &str) -> Result<Self, AuthorityError> {
        check_cluster_id(cluster_id)?;
        Self::new(cluster_id, PrivateKey::generate(), SystemTime::now())
    }

    fn new(cluster_id: &str, key: PrivateKey, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(now + ROOT_VALIDITY);
        params.serial_number = Some(random_serial());
        params.distinguished_name = common_name(&format!("tarn cluster {cluster_id}"));
        params.subject_alt_names = vec![SanType::URI(ca_uri(cluster_id).try_into()?)];
        // It issues leaves and nothing else.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = key_id(key.public_key());
        let signer = Signer(key);
        let der = params.self_signed(&signer)?.der().clone();
        Ok(Self { certificate: CaCertificate::from_der("the new root certificate", der)?, issuer: Issuer::new(params, signer) })
    }

    /// The root certificate.
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        self.certificate.cluster()
    }

    /// Makes a new key and its certificate for a node or user.
    ///
    /// # Errors
    /// When a name or the validity is not accepted.
    pub fn issue(&self, kind: &PrincipalKind, options: &IssueOptions) -> Result<Identity, AuthorityError> {
        let key = PrivateKey::generate();
        let leaf = self.certify(key.public_key(), kind, options)?;
        Ok(Identity::new("the new certificate", vec![leaf], key).expect("the certificate was made for this key"))
    }

    /// Certifies the key of a request for a node or user; returns the certificate as PEM text.
    ///
    /// # Errors
    /// When a name or the validity is not accepted.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        kind: &PrincipalKind,
        options: &IssueOptions,
    ) -> Result<String, AuthorityError> {
        let leaf = self.certify(request.public_key(), kind, options)?;
        Ok(encode_pem("CERTIFICATE", &leaf))
    }

    fn certify(&self, public_key: &[u8], kind: &PrincipalKind, options: &IssueOptions) -> Result<CertificateDer<'static>, AuthorityError> {
        let principal = Principal { cluster: self.cluster().to_owned(), kind: kind.clone() };
        principal.check()?;
        let (usages, label, usual) = match kind {
            PrincipalKind::Node { id } => {
                (vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], format!("node {id}"), NODE_VALIDITY)
            }
            PrincipalKind::User { name } => (vec![ExtendedKeyUsagePurpose::ClientAuth], name.clone(), USER_VALIDITY),
            PrincipalKind::Join { .. } => return Err(AuthorityError::Joiner),
        };
        let names_allowed = if matches!(kind, PrincipalKind::Node { .. }) { NAMES_MAX } else { 0 };
        if options.names.len() > names_allowed {
            return Err(AuthorityError::Names { given: options.names.len() });
        }
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(options.now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(self.end(options.validity.unwrap_or(usual), options.now)?);
        params.serial_number = Some(random_serial());
        params.distinguished_name = common_name(&label);
        params.subject_alt_names = vec![SanType::URI(principal.uri().try_into()?)];
        for name in &options.names {
            params.subject_alt_names.push(alternative_name(name)?);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_id(public_key);
        let certificate = params.signed_by(&Subject(public_key), &self.issuer)?;
        Ok(certificate.der().clone())
    }

    /// The end of a certificate issued now: no leaf outlives the root, so that peers need not look at the root's dates.
    fn end(&self, validity: Duration, now: SystemTime) -> Result<SystemTime, AuthorityError> {
        let root_left = self.certificate.not_after().duration_since(now).unwrap_or_default();
        let length = validity.min(root_left);
        if length < VALIDITY_MIN {
            return Err(AuthorityError::Validity { asked_s: validity.as_secs(), root_s: root_left.as_secs() });
        }
        Ok(now + length)
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A cluster id for those who do not care: 16 random hexadecimal digits.
pub fn random_cluster_id() -> String {
    data_encoding::HEXLOWER.encode(&random_bytes::<8>())
}

/// Writes credentials for handing out: `ca.pem`, `<name>.pem` and `<name>.key` (mode 0600) in `dir`, which is made if absent. Returns the
/// three paths in that order.
///
/// # Errors
/// When a file cannot be written; the certificate and key of that name must not exist yet.
pub fn write_identity(dir: &Path, name: &str, ca: &CaCertificate, identity: &Identity) -> Result<[PathBuf; 3], AuthorityError> {
    let paths = [dir.join(CERTIFICATE_FILE), dir.join(format!("{name}.pem")), dir.join(format!("{name}.key"))];
    if !dir.is_dir() {
        private_dir(dir)?;
    }
    let exists = AuthorityError::IdentityExists;
    write_new(&paths[2], &identity.key().to_pem(), Access::Owner, exists)?;
    write_new(&paths[1], &identity.certificate_pem(), Access::Public, exists)?;
    write_atomic(&paths[0], ca.to_pem().as_bytes(), Access::Public, Existing::Replace)?;
    Ok(paths)
}

/// Writes a file that must not exist; the check and the creation are one step.
fn write_new(path: &Path, content: &str, access: Access, exists: fn(PathBuf) -> AuthorityError) -> Result<(), AuthorityError> {
    write_atomic(path, content.as_bytes(), access, Existing::Keep).map_err(|error| {
        if error.source.kind() == std::io::ErrorKind::AlreadyExists { exists(error.path) } else { AuthorityError::File(error) }
    })
}

pub(super) fn alternative_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) => Ok(SanType::DnsName(name.try_into()?)),
        _ => Err(AuthorityError::Name(name.chars().take(253).collect())),
    }
}

pub(super) fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// 16 random bytes, positive: unique without anybody counting. The second-highest bit is set so that the length never varies.
pub(super) fn random_serial() -> SerialNumber {
    let mut serial: [u8; 16] = random_bytes();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tarn_client::tls::Credentials;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn node(id: u64) -> PrincipalKind {
        PrincipalKind::Node { id }
    }

    fn user(name: &str) -> PrincipalKind {
        PrincipalKind::User { name: name.to_owned() }
    }

    #[test]
    fn an_authority_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        let made = CertificateAuthority::init(&dir, "prod").unwrap();
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join(KEY_FILE)), 0o600);

        let loaded = CertificateAuthority::load(&dir).unwrap();
        assert_eq!(loaded.cluster(), "prod");
        assert_eq!(loaded.certificate().fingerprint(), made.certificate().fingerprint());
        // What either issues, the same root vouches for.
        for authority in [&made, &loaded] {
            let identity = authority.issue(&node(1), &IssueOptions::default()).unwrap();
            Credentials::new(made.certificate().clone(), identity).check_issuer().unwrap();
        }
    }

    #[test]
    fn an_authority_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        CertificateAuthority::init(dir.path(), "prod").unwrap();
        let key = std::fs::read(dir.path().join(KEY_FILE)).unwrap();
        let error = CertificateAuthority::init(dir.path(), "prod").unwrap_err();
        assert!(matches!(error, AuthorityError::Exists(_)), "{error}");
        assert_eq!(std::fs::read(dir.path().join(KEY_FILE)).unwrap(), key);
        // The key alone is enough to refuse.
        std::fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        assert!(CertificateAuthority::init(dir.path(), "prod").is_err());
    }

    #[test]
    fn an_authority_with_an_open_or_foreign_key_does_not_load() {
        let dir = tempfile::tempdir().unwrap();
        let key_path = dir.path().join(KEY_FILE);
        CertificateAuthority::init(dir.path(), "prod").unwrap();
        std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = CertificateAuthority::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");

        std::fs::write(&key_path, PrivateKey::generate().to_pem()).unwrap();
        std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = CertificateAuthority::load(dir.path()).unwrap_err();
        assert!(matches!(error, AuthorityError::KeyMismatch(_)), "{error}");

        std::fs::write(&key_path, "garbage").unwrap();
        assert!(CertificateAuthority::load(dir.path()).is_err());
    }

    #[test]
    fn certificates_have_their_dates() {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let now = SystemTime::now();
        let issue = |kind: &PrincipalKind, validity| authority.issue(kind, &IssueOptions { validity, now, names: Vec::new() });
        let length = |identity: Identity| {
            let info = identity.info().clone();
            info.not_after.duration_since(info.not_before).unwrap()
        };
        assert_eq!(length(issue(&node(1), None).unwrap()), NODE_VALIDITY + CLOCK_SKEW);
        assert_eq!(length(issue(&user("ada"), None).unwrap()), USER_VALIDITY + CLOCK_SKEW);
        let cut = issue(&node(1), Some(days(36500))).unwrap();
        assert_eq!(cut.info().not_after, authority.certificate().not_after());
        assert!(matches!(issue(&node(1), Some(Duration::from_secs(59))), Err(AuthorityError::Validity { .. })));
    }

    #[test]
    fn only_good_names_are_certified() {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let issue = |kind: &PrincipalKind, names: &[&str]| {
            authority.issue(kind, &IssueOptions { names: names.iter().map(|name| (*name).to_owned()).collect(), ..IssueOptions::default() })
        };
        let identity = issue(&node(7), &["node-7.example.org", "10.0.0.7", "::1"]).unwrap();
        assert_eq!(*identity.principal(), Principal::node("prod", 7));
        assert!(issue(&node(0), &[]).is_err());
        assert!(issue(&user("../node/1"), &[]).is_err());
        assert!(issue(&user("ada"), &["example.org"]).is_err());
        assert!(issue(&node(7), &["not a name"]).is_err());
        assert!(issue(&node(7), &["tarn://prod/node/8"]).is_err());
        assert!(issue(&node(7), &["x"; NAMES_MAX + 1]).is_err());
        assert!(issue(&PrincipalKind::Join { id: "0".repeat(16) }, &[]).is_err());
        assert!(CertificateAuthority::ephemeral("join").is_err());
        assert!(CertificateAuthority::ephemeral("Prod").is_err());
        assert!(check_cluster_id(&random_cluster_id()).is_ok());
    }

    #[test]
    fn a_request_is_signed_for_whom_the_cluster_says() {
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let key = PrivateKey::generate();
        let request = CertificateRequest::parse(&super::super::make_request(&key)).unwrap();
        let pem = authority.sign_request(&request, &node(4), &IssueOptions::default()).unwrap();
        let credentials =
            Credentials::from_pem(authority.certificate().to_pem().as_bytes(), pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
        assert_eq!(credentials.principal(), Principal::node("prod", 4));
    }

    #[test]
    fn identities_are_handed_out_as_files() {
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let other = CertificateAuthority::ephemeral("prod").unwrap();
        let identity = authority.issue(&user("ada"), &IssueOptions::default()).unwrap();
        let ca = authority.certificate();
        let [ca_path, certificate, key] = write_identity(dir.path(), "ada", ca, &identity).unwrap();
        let credentials = Credentials::from_files(&ca_path, &certificate, &key).unwrap();
        assert_eq!(credentials.principal(), Principal::user("prod", "ada"));
        assert!(write_identity(dir.path(), "ada", ca, &identity).is_err());

        // The same cluster name, another root.
        std::fs::write(&ca_path, other.certificate().to_pem()).unwrap();
        let error = Credentials::from_files(&ca_path, &certificate, &key).unwrap_err();
        assert!(error.to_string().contains("was not issued by"), "{error}");
        // A leaf is no root.
        let error = Credentials::from_files(&certificate, &certificate, &key).unwrap_err();
        assert!(error.to_string().contains("not the root certificate"), "{error}");
        // Somebody else's key.
        let stranger = authority.issue(&user("bob"), &IssueOptions::default()).unwrap();
        std::fs::write(&key, stranger.key().to_pem()).unwrap();
        let error = Credentials::from_files(&ca_path, &certificate, &key).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
    }
}

//! The cluster's web authority: one ECDSA P-256 root that issues the certificates of the second listeners.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tarn_client::tls::{encode_pem, read_secret_file};
use time::OffsetDateTime;

use super::super::authority::{CLOCK_SKEW, NODE_VALIDITY, ROOT_VALIDITY, alternative_name, common_name, random_serial};
use super::super::files::{Access, Existing, FileError, private_dir, write_atomic};
use super::super::signing::key_id;

const CERTIFICATE_FILE: &str = "web-ca.pem";
const KEY_FILE: &str = "web-ca.key";

/// Most names in one certificate.
pub const WEB_NAMES_MAX: usize = 32;

/// Bytes of a public key: a point, uncompressed.
const POINT_BYTES: usize = 65;

/// Why the web authority cannot be used, or does not issue.
#[derive(Debug, thiserror::Error)]
pub enum WebAuthorityError {
    /// A file could not be read, or is not what it should be.
    #[error("the web authority in {path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or name in a request is not accepted.
    #[error("the web certificate is not issued: {0}")]
    Request(String),
    /// The certificate library refused.
    #[error("the web certificate could not be made: {0}")]
    Library(#[from] rcgen::Error),
}

/// What a node asks for.
#[derive(Clone, Debug)]
pub struct WebRequest {
    /// Its public key: a point on P-256, uncompressed.
    pub public_key: Vec<u8>,
    /// The DNS names and IP addresses by which clients reach it.
    pub names: Vec<String>,
}

/// The web authority, key included.
pub struct WebAuthority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

impl WebAuthority {
    /// Loads the authority in the folder of the cluster's own, or makes one there, for ten years. Several may do so at once.
    ///
    /// # Errors
    /// A file that cannot be read or written, is not what it should be, or a key that others can read.
    pub fn load_or_init(dir: &Path, cluster: &str) -> Result<Self, WebAuthorityError> {
        let path = dir.join(KEY_FILE);
        if !path.exists() {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let key = pair.serialize_pem();
            let made = Self::new(cluster, pair, SystemTime::now())?;
            private_dir(dir)?;
            let both = format!("{}{key}", made.pem());
            match write_atomic(&path, both.as_bytes(), Access::Owner, Existing::Keep) {
                // Another was faster: its authority counts.
                Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {}
                written => written?,
            }
        }
        let authority = Self::load(&path)?;
        let public = dir.join(CERTIFICATE_FILE);
        if !public.exists() {
            write_atomic(&public, authority.pem().as_bytes(), Access::Public, Existing::Replace)?;
        }
        Ok(authority)
    }

    /// An authority in memory only, for tests.
    ///
    /// # Errors
    /// Never, in effect.
    pub fn ephemeral(cluster: &str) -> Result<Self, WebAuthorityError> {
        Self::new(cluster, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, SystemTime::now())
    }

    fn load(path: &Path) -> Result<Self, WebAuthorityError> {
        let unusable = |reason: String| WebAuthorityError::Unusable { path: path.to_owned(), reason };
        let text = read_secret_file(path).map_err(|error| unusable(error.to_string()))?;
        let der = CertificateDer::from_pem_slice(&text).map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| unusable(error.to_string()))?;
        let pair = KeyPair::from_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(|error| unusable(error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(unusable("its key is not the key of its certificate".into()));
        }
        let not_after = unix_time(parsed.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, pair)?;
        Ok(Self { certificate: der.clone().into_owned(), issuer, not_after })
    }

    fn new(cluster: &str, key: KeyPair, now: SystemTime) -> Result<Self, WebAuthorityError> {
        let mut params = CertificateParams::default();
        let not_after = now + ROOT_VALIDITY;
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from(not_after);
        params.serial_number = Some(random_serial());
        params.distinguished_name = common_name(&format!("tarn web authority of cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = key_id(key.public_key_raw());
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key), not_after })
    }

    /// The root certificate, for those who connect.
    #[must_use]
    pub fn pem(&self) -> String {
        encode_pem("CERTIFICATE", &self.certificate)
    }

    /// Certifies a node's key for its names; returns PEM. `validity` `None` means as long as nodes' other certificates; cut where the root
    /// ends.
    ///
    /// # Errors
    /// A key that is none, or names that are none or too many.
    pub fn issue(
        &self,
        node_id: u64,
        request: &WebRequest,
        validity: Option<Duration>,
        now: SystemTime,
    ) -> Result<String, WebAuthorityError> {
        let refused = |reason: &str| WebAuthorityError::Request(reason.to_owned());
        if request.public_key.len() != POINT_BYTES
            || aws_lc_rs::signature::ParsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, &request.public_key).is_err()
        {
            return Err(refused("the key is not a point on the curve P-256"));
        }
        if request.names.is_empty() || request.names.len() > WEB_NAMES_MAX {
            return Err(refused(&format!("a certificate has from 1 to {WEB_NAMES_MAX} names")));
        }
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
        params.not_after = OffsetDateTime::from((now + validity.unwrap_or(NODE_VALIDITY)).min(self.not_after));
        params.serial_number = Some(random_serial());
        params.distinguished_name = common_name(&format!("tarn node {node_id}"));
        params.subject_alt_names = names(&request.names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_id(&request.public_key);
        let certificate = params.signed_by(&Point(&request.public_key), &self.issuer)?;
        Ok(encode_pem("CERTIFICATE", certificate.der()))
    }
}

impl fmt::Debug for WebAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebAuthority").finish_non_exhaustive()
    }
}

fn names(names: &[String]) -> Result<Vec<SanType>, WebAuthorityError> {
    names.iter().map(|name| alternative_name(name).map_err(|error| WebAuthorityError::Request(error.to_string()))).collect()
}

pub(super) fn unix_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A public key whose private half is elsewhere.
struct Point<'a>(&'a [u8]);

impl PublicKeyData for Point<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn request() -> WebRequest {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        WebRequest { public_key: key.public_key_raw().to_vec(), names: vec!["node-1.example".into(), "127.0.0.1".into()] }
    }

    #[test]
    fn an_authority_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let made = WebAuthority::load_or_init(dir.path(), "prod").unwrap();
        let found = WebAuthority::load_or_init(dir.path(), "prod").unwrap();
        assert_eq!(made.pem(), found.pem());
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        // What the found one issues, the made one's certificate vouches for.
        let leaf = found.issue(1, &request(), None, SystemTime::now()).unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
        let root = CertificateDer::from_pem_slice(made.pem().as_bytes()).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let (_, root) = x509_parser::parse_x509_certificate(&root).unwrap();
        assert_eq!(leaf.issuer(), root.subject());
        assert!(leaf.validity().not_after <= root.validity().not_after);

        std::fs::set_permissions(dir.path().join(KEY_FILE), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(WebAuthority::load_or_init(dir.path(), "prod").is_err(), "a key that others can read");
    }

    #[test]
    fn several_that_begin_at_once_have_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let pems: Vec<String> = std::thread::scope(|scope| {
            let begin = || WebAuthority::load_or_init(dir.path(), "prod").unwrap().pem();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pems.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(std::fs::read_to_string(dir.path().join(CERTIFICATE_FILE)).unwrap(), pems[0]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let texts = [&a, &b].map(|dir| {
            WebAuthority::load_or_init(dir.path(), "prod").unwrap();
            std::fs::read_to_string(dir.path().join(KEY_FILE)).unwrap()
        });
        let certificate = texts[0].split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        let key = texts[1].split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap();
        std::fs::write(b.path().join(KEY_FILE), format!("{certificate}{key}")).unwrap();
        let error = WebAuthority::load_or_init(b.path(), "prod").unwrap_err().to_string();
        assert!(error.contains("not the key"), "{error}");
    }

    #[test]
    fn bad_requests_are_refused() {
        let authority = WebAuthority::ephemeral("prod").unwrap();
        let refused = |change: &dyn Fn(&mut WebRequest)| {
            let mut asked = request();
            change(&mut asked);
            assert!(authority.issue(1, &asked, None, SystemTime::now()).is_err(), "{asked:?}");
        };
        refused(&|asked| asked.public_key.clear());
        refused(&|asked| asked.public_key = vec![4; POINT_BYTES]);
        refused(&|asked| asked.public_key.truncate(33));
        refused(&|asked| asked.names.clear());
        refused(&|asked| asked.names = vec!["a".into(); WEB_NAMES_MAX + 1]);
        refused(&|asked| asked.names = vec!["a b".into()]);
        refused(&|asked| asked.names = vec!["http://a".into()]);
    }
}

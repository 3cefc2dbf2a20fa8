//! Where a node keeps its web certificate: beside its identity, for its owner alone.
//!
//! ```text
//!   identity/web.pem      the certificate and its private key, in one file so that they change together
//!   identity/web-ca.pem   the web authority's certificate
//! ```

use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tarn_client::tls::read_secret_file;

use super::super::files::{Access, Existing, FileError, private_dir, write_atomic};
use super::authority::WebRequest;
use super::certificate::{WebCertificate, WebCertificateError};

const DIRECTORY: &str = "identity";
const CERTIFICATE_FILE: &str = "web.pem";
const AUTHORITY_FILE: &str = "web-ca.pem";

/// Longest certificate of the authority that is read, in bytes: it has about 700.
const AUTHORITY_BYTES_MAX: usize = 64 << 10;

/// The web certificate's files in one data directory.
#[derive(Clone, Debug)]
pub struct WebStore {
    dir: PathBuf,
}

impl WebStore {
    /// The store in a node's data directory. Touches nothing yet.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join(DIRECTORY) }
    }

    /// The file with the certificate and its key.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join(CERTIFICATE_FILE)
    }

    /// Puts the stored certificate in force. `false`: there is none.
    ///
    /// # Errors
    /// It cannot be read or is malformed, or others can read its key.
    pub fn load(&self, certificate: &WebCertificate) -> Result<bool, WebCertificateError> {
        let path = self.dir.join(CERTIFICATE_FILE);
        if !path.exists() {
            return Ok(false);
        }
        let text = read_secret_file(&path).map_err(|error| WebCertificateError { path: path.clone(), reason: error.to_string() })?;
        certificate.put([&path, &path], &text, &text)?;
        Ok(true)
    }

    /// A new key, with the request for its certificate.
    ///
    /// # Panics
    /// When the operating system's random source fails.
    #[must_use]
    pub fn request(names: Vec<String>) -> (String, WebRequest) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .expect("the operating system's random source works: no key can be made without it");
        let request = WebRequest { public_key: key.public_key_raw().to_vec(), names };
        (key.serialize_pem(), request)
    }

    /// Stores a certificate with its key, and the certificate of the authority that issued it.
    ///
    /// # Errors
    /// A file cannot be written; then the old certificate stays.
    pub fn replace(&self, certificate: &str, key: &str, authority: &str) -> Result<(), FileError> {
        private_dir(&self.dir)?;
        write_atomic(&self.dir.join(AUTHORITY_FILE), authority.as_bytes(), Access::Public, Existing::Replace)?;
        let both = format!("{certificate}{key}");
        write_atomic(&self.dir.join(CERTIFICATE_FILE), both.as_bytes(), Access::Owner, Existing::Replace)
    }

    /// The certificate of the web authority (PEM), if this node's certificate is of one.
    #[must_use]
    pub fn authority(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.dir.join(AUTHORITY_FILE)).ok()?;
        (text.len() <= AUTHORITY_BYTES_MAX).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::WebAuthority;
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_certificate_is_kept_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let authority = WebAuthority::load_or_init(&dir.path().join("ca"), "prod").unwrap();
        let store = WebStore::new(dir.path());
        let certificate = WebCertificate::absent();
        assert!(!store.load(&certificate).unwrap());
        assert_eq!((certificate.info(), store.authority()), (None, None));
        let mut ends = Vec::new();
        for hours in [1, 2] {
            let (key, request) = WebStore::request(vec!["localhost".into()]);
            let validity = std::time::Duration::from_secs(hours * 3_600);
            let leaf = authority.issue(1, &request, Some(validity), SystemTime::now()).unwrap();
            store.replace(&leaf, &key, &authority.pem()).unwrap();
            assert!(store.load(&certificate).unwrap());
            ends.push(certificate.info().unwrap().not_after);
        }
        assert!(ends[0] < ends[1]);
        assert_eq!(store.authority(), Some(authority.pem()));

        // A file that is broken leaves what is in force.
        let path = dir.path().join("identity/web.pem");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(store.load(&certificate).is_err());
        assert_eq!(certificate.info().unwrap().not_after, ends[1]);
        // As does a key of another certificate.
        let (other, _) = WebStore::request(vec!["localhost".into()]);
        let (_, request) = WebStore::request(vec!["localhost".into()]);
        let leaf = authority.issue(1, &request, None, SystemTime::now()).unwrap();
        store.replace(&leaf, &other, &authority.pem()).unwrap();
        let error = store.load(&certificate).unwrap_err();
        assert!(error.reason.contains("not the key"), "{error}");
        assert_eq!(certificate.info().unwrap().not_after, ends[1]);
    }
}

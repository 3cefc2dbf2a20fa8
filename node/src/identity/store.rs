//! Where a node keeps its identity: `identity/` in its data directory, for its owner alone.
//!
//! ```text
//!   identity/ca.pem         the cluster's root certificate
//!   identity/node.pem       the node's certificate
//!   identity/node.key       its private key
//!   identity/node.key.new   only while certificate and key are being replaced
//! ```
//!
//! Certificate and key are two files and must change together. A replacement writes the new key beside the old one, then puts the new
//! certificate in place (this is the moment that counts), then the key. Whoever loads finds the key that belongs to the certificate in one
//! of the two files, whenever the machine stopped, and finishes what was begun.

use std::path::{Path, PathBuf};

use tarn_client::tls::{CaCertificate, Credentials, CredentialsError, Identity, Principal, PrincipalKind};

use super::files::{Access, Existing, FileError, private_dir, rename, write_atomic};

const DIRECTORY: &str = "identity";
const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "node.pem";
const KEY_FILE: &str = "node.key";
const NEW_KEY_FILE: &str = "node.key.new";

/// Why an identity could not be stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("there is no identity in {0}: run `tarn node join`, or `tarn ca issue` for the first node")]
    Absent(PathBuf),
    /// There is one, and it would be overwritten.
    #[error("there is an identity in {0} already: a data directory belongs to one node of one cluster")]
    Exists(PathBuf),
    /// It is not a node's.
    #[error("the certificate in {path} is that of {principal}, not of a node")]
    NotANode {
        /// The directory.
        path: PathBuf,
        /// Whose certificate it is.
        principal: Principal,
    },
    /// A certificate or key is not accepted.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The identity files of one data directory.
#[derive(Clone, Debug)]
pub struct IdentityStore {
    dir: PathBuf,
}

impl IdentityStore {
    /// The store in a node's data directory. Touches nothing yet.
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.join(DIRECTORY) }
    }

    /// The directory with the files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether there is an identity.
    pub fn exists(&self) -> bool {
        self.path(CERTIFICATE_FILE).exists()
    }

    /// Stores a node's first identity.
    ///
    /// # Errors
    /// When there is one already, this one is not a node's, or a file cannot be written.
    pub fn create(&self, ca: &CaCertificate, identity: &Identity) -> Result<(), StoreError> {
        if self.exists() {
            return Err(StoreError::Exists(self.dir.clone()));
        }
        self.check_node(identity.principal())?;
        private_dir(&self.dir)?;
        self.write(CA_FILE, &ca.to_pem(), Access::Public)?;
        // The certificate comes last: it is what makes the store exist.
        self.write(KEY_FILE, &identity.key().to_pem(), Access::Owner)?;
        self.write(CERTIFICATE_FILE, &identity.certificate_pem(), Access::Public)
    }

    /// Replaces certificate and key, for rotation.
    ///
    /// # Errors
    /// When there is no identity yet, this one is not a node's, or a file cannot be written; then the old one stays in force.
    pub fn replace(&self, identity: &Identity) -> Result<(), StoreError> {
        if !self.exists() {
            return Err(StoreError::Absent(self.dir.clone()));
        }
        self.check_node(identity.principal())?;
        self.write(NEW_KEY_FILE, &identity.key().to_pem(), Access::Owner)?;
        self.write(CERTIFICATE_FILE, &identity.certificate_pem(), Access::Public)?;
        rename(&self.path(NEW_KEY_FILE), &self.path(KEY_FILE))?;
        Ok(())
    }

    /// Loads the identity, finishing a replacement that was interrupted.
    ///
    /// # Errors
    /// When there is none, or the files are malformed, do not belong together, are not a node's, or the key is readable by others.
    pub fn load(&self) -> Result<Credentials, StoreError> {
        if !self.exists() {
            return Err(StoreError::Absent(self.dir.clone()));
        }
        let credentials = match self.load_with(KEY_FILE) {
            Err(CredentialsError::KeyMismatch { .. }) if self.path(NEW_KEY_FILE).exists() => {
                let credentials = self.load_with(NEW_KEY_FILE)?;
                rename(&self.path(NEW_KEY_FILE), &self.path(KEY_FILE))?;
                credentials
            }
            other => other?,
        };
        self.check_node(&credentials.principal())?;
        Ok(credentials)
    }

    fn load_with(&self, key: &str) -> Result<Credentials, CredentialsError> {
        Credentials::from_files(&self.path(CA_FILE), &self.path(CERTIFICATE_FILE), &self.path(key))
    }

    fn check_node(&self, principal: &Principal) -> Result<(), StoreError> {
        match principal.kind {
            PrincipalKind::Node { .. } => Ok(()),
            PrincipalKind::User { .. } | PrincipalKind::Join { .. } => {
                Err(StoreError::NotANode { path: self.dir.clone(), principal: principal.clone() })
            }
        }
    }

    fn write(&self, name: &str, content: &str, access: Access) -> Result<(), StoreError> {
        write_atomic(&self.path(name), content.as_bytes(), access, Existing::Replace)?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CertificateAuthority, IssueOptions};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn issue(authority: &CertificateAuthority, id: u64) -> Identity {
        authority.issue(&PrincipalKind::Node { id }, &IssueOptions::default()).unwrap()
    }

    #[test]
    fn an_identity_is_stored_loaded_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let store = IdentityStore::new(dir.path());
        assert!(matches!(store.load(), Err(StoreError::Absent(_))));
        assert!(store.replace(&issue(&authority, 1)).is_err());

        let first = issue(&authority, 1);
        store.create(authority.certificate(), &first).unwrap();
        assert!(matches!(store.create(authority.certificate(), &first), Err(StoreError::Exists(_))));
        assert_eq!(store.load().unwrap().info(), *first.info());
        for (name, expected) in [("", 0o700), (KEY_FILE, 0o600)] {
            let mode = std::fs::metadata(store.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{name}");
        }

        let second = issue(&authority, 1);
        store.replace(&second).unwrap();
        assert_eq!(store.load().unwrap().info(), *second.info());
        assert!(!store.path(NEW_KEY_FILE).exists());
    }

    #[test]
    fn an_interrupted_replacement_is_finished_or_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let store = IdentityStore::new(dir.path());
        let first = issue(&authority, 1);
        let second = issue(&authority, 1);
        store.create(authority.certificate(), &first).unwrap();

        // Stopped before the certificate was put in place: the old identity stays in force.
        store.write(NEW_KEY_FILE, &second.key().to_pem(), Access::Owner).unwrap();
        assert_eq!(store.load().unwrap().info(), *first.info());

        // Stopped after it: the new one is in force, now and later.
        store.write(CERTIFICATE_FILE, &second.certificate_pem(), Access::Public).unwrap();
        for _ in 0..2 {
            assert_eq!(store.load().unwrap().info(), *second.info());
        }
        assert!(!store.path(NEW_KEY_FILE).exists());
    }

    #[test]
    fn what_is_not_a_nodes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::ephemeral("prod").unwrap();
        let store = IdentityStore::new(dir.path());
        let kind = PrincipalKind::User { name: "ada".to_owned() };
        let user = authority.issue(&kind, &IssueOptions::default()).unwrap();
        assert!(matches!(store.create(authority.certificate(), &user), Err(StoreError::NotANode { .. })));

        store.create(authority.certificate(), &issue(&authority, 1)).unwrap();
        std::fs::set_permissions(store.path(KEY_FILE), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}

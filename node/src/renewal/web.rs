//! The certificate of the second listener.

use std::path::PathBuf;

use tarn_proto::v1::PeerRenewal;

use super::{RENEW_PART, RenewError, Renewal, is_due};
use crate::identity::web::{WebCertificate, WebCertificateError, WebStore};

/// Certificate and key that the operator provides.
#[derive(Clone, Debug)]
pub struct WebFiles {
    /// The certificate, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// What renews the certificate of the second listener.
#[derive(Debug)]
pub struct WebRenewal {
    /// What the listener presents.
    pub certificate: WebCertificate,
    /// Where a certificate of the cluster's web authority is stored.
    pub store: WebStore,
    /// The names it is to have.
    pub names: Vec<String>,
    /// The files of the operator, where there are any; then the cluster's web authority has no part in it.
    pub files: Option<WebFiles>,
    /// What the files held when they were looked at last.
    seen: Option<[u8; 32]>,
}

impl WebRenewal {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(certificate: WebCertificate, store: WebStore, names: Vec<String>, files: Option<WebFiles>) -> Self {
        Self { certificate, store, names, files, seen: None }
    }

    /// Whether the listener has nothing to present.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.certificate.info().is_none()
    }

    /// Puts in force what lies on the disk. Does nothing where that is as it was at the last look.
    ///
    /// # Errors
    /// The files are not what they should be; what was in force stays so.
    pub fn look_at_files(&mut self) -> Result<(), WebCertificateError> {
        let content = match &self.files {
            Some(files) => hash_of(&[&files.certificate, &files.key]),
            None => hash_of(&[&self.store.certificate_path()]),
        };
        if content.is_some() && self.seen == content {
            return Ok(());
        }
        self.seen = content;
        match &self.files {
            Some(files) => self.certificate.put_files(&files.certificate, &files.key),
            None => self.store.load(&self.certificate).map(drop),
        }
    }
}

/// A hash of some small files; `None` if one cannot be read.
fn hash_of(paths: &[&PathBuf]) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        hasher.update(&std::fs::read(path).ok()?);
    }
    Some(*hasher.finalize().as_bytes())
}

impl Renewal {
    /// Takes over what has changed on disk, and renews what the web authority has issued.
    pub(super) async fn look_at_web(&mut self) -> Result<(), RenewError> {
        let Some(web) = &mut self.web else {
            return Ok(());
        };
        let looked = web.look_at_files();
        if web.files.is_some() {
            return Ok(looked?);
        }
        if let Err(error) = looked {
            tracing::warn!(%error, "the stored certificate of the HTTPS listener is replaced");
        }
        let certificate = web.certificate.clone();
        if certificate.info().is_some_and(|info| !is_due(info.not_before, info.not_after, RENEW_PART)) {
            return Ok(());
        }
        let (key, request) = WebStore::request(web.names.clone());
        let request = PeerRenewal { web_public_key: request.public_key.into(), web_names: request.names, ..PeerRenewal::default() };
        let renewed = self.sign(request).await?;
        let Some(web) = &mut self.web else {
            return Ok(());
        };
        // Tried before it is stored: what does not fit must not take the good one's place.
        let path = web.store.certificate_path();
        WebCertificate::absent().put([&path, &path], renewed.web_certificate.as_bytes(), key.as_bytes())?;
        web.store.replace(&renewed.web_certificate, &key, &renewed.web_ca_certificate)?;
        web.look_at_files()?;
        tracing::info!("the certificate of the HTTPS listener is new");
        let resource = format!("certificate/https-{}", self.node_id);
        self.ledger.changed(None, "RenewCertificate", resource, String::new());
        Ok(())
    }
}

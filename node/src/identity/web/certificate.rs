//! The web certificate in force, and the TLS configuration that presents it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tarn_client::tls::{read_public_file, read_secret_file};

use super::authority::unix_time;

/// The only application protocol: gRPC's.
const HTTP_2: &[u8] = b"h2";

/// Key size in bytes that a cipher suite must have, as on the first listener.
const CIPHER_KEY_BYTES: usize = 32;

/// Which key exchanges are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 alone. grpcio 1.85, Chromium 124, Firefox 132, OpenSSL 3.5 and Go 1.24 offer it.
    Hybrid,
    /// For older clients X25519 too; what they send can be recorded now and read once there are machines for it.
    HybridOrClassical,
}

/// Why a certificate is not taken.
#[derive(Debug, thiserror::Error)]
#[error("the web certificate in {path} cannot be used: {reason}")]
pub struct WebCertificateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// What the certificate in force says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebInfo {
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// The certificate that the second listener presents. Clones share it: what one puts in force, all later handshakes present; connections
/// that stand keep theirs.
#[derive(Clone, Default)]
pub struct WebCertificate {
    current: Arc<ArcSwapOption<(Arc<CertifiedKey>, WebInfo)>>,
}

impl WebCertificate {
    /// None yet: handshakes are refused until there is one.
    #[must_use]
    pub fn absent() -> Self {
        Self::default()
    }

    /// What the certificate in force says, if there is one.
    #[must_use]
    pub fn info(&self) -> Option<WebInfo> {
        self.current.load().as_ref().map(|current| current.1.clone())
    }

    /// Puts a certificate (PEM, leaf first) with its key (PEM) in force. `names` name the two in errors.
    ///
    /// # Errors
    /// Either is malformed, or they do not belong together; then nothing changes.
    pub fn put(&self, names: [&Path; 2], certificate: &[u8], key: &[u8]) -> Result<(), WebCertificateError> {
        let unusable = |path: &Path, reason: String| WebCertificateError { path: path.to_owned(), reason };
        let [certificate_name, key_name] = names;
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(certificate_name, error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| unusable(certificate_name, "there is no certificate in it".into()))?;
        let info = info_of(leaf).map_err(|reason| unusable(certificate_name, reason))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(key_name, error.to_string()))?;
        let key = default_provider().key_provider.load_private_key(key).map_err(|error| unusable(key_name, error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| unusable(key_name, "it is not the key of the certificate".into()))?;
        self.current.store(Some(Arc::new((Arc::new(certified), info))));
        Ok(())
    }

    /// Reads certificate and key from files and puts them in force.
    ///
    /// # Errors
    /// As [`WebCertificate::put`], and when a file cannot be read, or others can read the key.
    pub fn put_files(&self, certificate: &Path, key: &Path) -> Result<(), WebCertificateError> {
        let unreadable = |path: &Path, error: &dyn fmt::Display| WebCertificateError { path: path.to_owned(), reason: error.to_string() };
        let chain = read_public_file(certificate).map_err(|error| unreadable(certificate, &error))?;
        let secret = read_secret_file(key).map_err(|error| unreadable(key, &error))?;
        self.put([certificate, key], &chain, &secret)
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebCertificate").field(&self.info()).finish()
    }
}

impl ResolvesServerCert for WebCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|current| current.0.clone())
    }
}

fn info_of(leaf: &CertificateDer<'_>) -> Result<WebInfo, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    Ok(WebInfo {
        not_before: unix_time(parsed.validity().not_before.timestamp()),
        not_after: unix_time(parsed.validity().not_after.timestamp()),
    })
}

/// The configuration of the second listener: TLS 1.3 and HTTP/2 alone, and no certificate asked of clients.
///
/// # Panics
/// Never: the provider has suites for TLS 1.3.
#[must_use]
pub fn web_config(certificate: WebCertificate, exchange: KeyExchange) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider(exchange))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites for TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    // Connections live for long, and tickets cost each handshake a flight of bytes.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

fn provider(exchange: KeyExchange) -> Arc<CryptoProvider> {
    let base = default_provider();
    let strong = |suite: &SupportedCipherSuite| suite.tls13().is_some_and(|suite| suite.aead_alg.key_len() >= CIPHER_KEY_BYTES);
    let mut kx_groups = vec![kx_group::X25519MLKEM768];
    if exchange == KeyExchange::HybridOrClassical {
        kx_groups.push(kx_group::X25519);
    }
    Arc::new(CryptoProvider { cipher_suites: base.cipher_suites.into_iter().filter(strong).collect(), kx_groups, ..base })
}

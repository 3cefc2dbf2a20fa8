//! One HTTP request to a receiver: POST, signed, with a time-out, over plain TCP or TLS 1.3.
//!
//! What arrives there is decided by who may put handlers; this side follows no redirect, reads no body, sends no cookie and no credential
//! but the signature.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::signature::{SIGNATURE_HEADER, sign};

/// The header with the violation's id: the same in every repeat.
pub const DELIVERY_HEADER: &str = "tarn-delivery";

/// A receiver has this long, from the first packet to the status.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the way out cannot be made ready.
#[derive(Debug, thiserror::Error)]
#[error("the certificates of authorities in {path} cannot be used: {why}")]
pub struct WebhookError {
    path: PathBuf,
    why: String,
}

/// Why a message did not arrive, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The URL is none that can be sent to.
    #[error("the handler's URL cannot be used: {0}")]
    Url(String),
    /// The key that signs is not there.
    #[error("the handler's key {name:?} cannot be used on this node: {why}")]
    Key {
        /// The key's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The receiver could not be reached, or was not who it should be.
    #[error("the receiver could not be reached: {0}")]
    Connect(std::io::Error),
    /// It broke off, or spoke no HTTP.
    #[error("the receiver did not answer: {0}")]
    Http(#[from] hyper::Error),
    /// It answered with something else than success.
    #[error("the receiver answered {}", answered(*.0))]
    Status(StatusCode),
    /// It took too long.
    #[error("the receiver took longer than {} s", TIMEOUT.as_secs())]
    Timeout,
}

fn answered(status: StatusCode) -> String {
    match status.is_redirection() {
        true => format!("{status}; redirects are not followed"),
        false => status.to_string(),
    }
}

/// The way out. Clones share it.
#[derive(Clone)]
pub struct Webhook {
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Webhook {
    /// Trusts these authorities for https: a PEM file of their certificates. Without the file only http works.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn new(authorities: &Path) -> Result<Self, WebhookError> {
        if !authorities.exists() {
            return Ok(Self { tls: None });
        }
        let failed = |why: String| WebhookError { path: authorities.to_owned(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(authorities)
            .and_then(|certificates| certificates.collect())
            .map_err(|error| failed(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        // Systems' collections have some that no library takes.
        let (taken, _) = roots.add_parsable_certificates(certificates);
        if taken == 0 {
            return Err(failed("there is none in it".into()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config)) })
    }

    /// Sends a body once. Only a status of success counts as arrived.
    ///
    /// # Errors
    /// [`SendError`]. The receiver may have taken it all the same.
    pub async fn post(&self, url: &str, delivery: &str, body: Vec<u8>, key: &[u8]) -> Result<(), SendError> {
        match tokio::time::timeout(TIMEOUT, self.try_post(url, delivery, body, key)).await {
            Ok(result) => result,
            Err(_) => Err(SendError::Timeout),
        }
    }

    async fn try_post(&self, url: &str, delivery: &str, body: Vec<u8>, key: &[u8]) -> Result<(), SendError> {
        let uri: Uri = url.parse().map_err(|error| SendError::Url(format!("{error}")))?;
        let host = uri.host().ok_or_else(|| SendError::Url("it names no host".into()))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await.map_err(SendError::Connect)?;
        stream.set_nodelay(true).map_err(SendError::Connect)?;
        let request = request(&uri, delivery, body, key)?;
        let status = match (secure, &self.tls) {
            (false, _) => exchange(stream, request).await?,
            (true, Some(tls)) => {
                let name = ServerName::try_from(bare.to_owned()).map_err(|error| SendError::Url(error.to_string()))?;
                let connected = TlsConnector::from(tls.clone()).connect(name, stream).await;
                exchange(connected.map_err(SendError::Connect)?, request).await?
            }
            (true, None) => {
                let message = "this node knows no authorities for https: set policy.webhook_authorities";
                return Err(SendError::Url(message.into()));
            }
        };
        match status.is_success() {
            true => Ok(()),
            false => Err(SendError::Status(status)),
        }
    }
}

fn request(uri: &Uri, delivery: &str, body: Vec<u8>, key: &[u8]) -> Result<Request<Full<Bytes>>, SendError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("tarn/", env!("CARGO_PKG_VERSION")))
        .header(DELIVERY_HEADER, delivery)
        .header(SIGNATURE_HEADER, sign(key, now.as_secs(), &body))
        .body(Full::new(body.into()))
        .map_err(|error| SendError::Url(error.to_string()))
}

/// One request and its status, on a connection that is closed afterwards.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, SendError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move { sender.send_request(request).await.map(|answer| answer.status()) };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        status = &mut exchange => Ok(status?),
        ended = &mut connection => {
            ended?;
            Ok(exchange.await?)
        }
    }
}

//! The second listener: what a node needs for it, and its start.

use std::path::Path;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::Config;
use crate::identity::web::{KeyExchange, WebCertificate, WebStore};
use crate::renewal::{WebFiles, WebRenewal};

/// The names by which every machine reaches itself.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The second listener's socket, if there is to be one.
pub(super) async fn bind_web(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.listen.https_bind.0 else {
        return Ok(None);
    };
    TcpListener::bind(address).await.map(Some).map_err(|source| StartError::Listen { address, source })
}

/// What provides the listener's certificate, with what lies on the disk in force. Files that the operator names must be good; a stored
/// certificate that is not is replaced in time.
pub(super) fn web_renewal(config: &Config, certificate: WebCertificate, advertise: &str) -> Result<WebRenewal, StartError> {
    let files = (!config.https.certificate.is_empty())
        .then(|| WebFiles { certificate: config.https.certificate.clone().into(), key: config.https.key.clone().into() });
    let named = files.is_some();
    let store = WebStore::new(Path::new(&config.node.data_dir));
    let mut renewal = WebRenewal::new(certificate, store, names(config, advertise), files);
    match renewal.look_at_files() {
        Err(error) if named => return Err(error.into()),
        Err(error) => tracing::warn!(%error, "the stored certificate of the HTTPS listener cannot be used"),
        Ok(()) => {}
    }
    Ok(renewal)
}

/// The host that others dial, the loopback names, and what the operator adds.
fn names(config: &Config, advertise: &str) -> Vec<String> {
    let host = advertise.parse().ok().map(|address: tarn_client::tls::Address| address.host().to_owned());
    let all = host.into_iter().chain(LOOPBACK_NAMES.map(str::to_owned)).chain(config.https.names.iter().cloned());
    let mut names: Vec<String> = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Which key exchanges the configuration allows.
pub(super) fn key_exchange(config: &Config) -> KeyExchange {
    match config.https.classical {
        true => KeyExchange::HybridOrClassical,
        false => KeyExchange::Hybrid,
    }
}

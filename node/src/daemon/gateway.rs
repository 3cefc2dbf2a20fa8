//! The listener for other clusters.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tarn_client::tls::{Credentials, gateway_server_config};
use tarn_proto::v1::gateway_service_server::GatewayServiceServer;
use tarn_raft::Consensus;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::StartError;
use crate::api::{self, TraceLayer};
use crate::config::Config;
use crate::federation::{FRAME_BYTES_MAX, Federation, Gateway, Invited, Roots};
use crate::identity::{Foreigners, ListenerOptions, listen_through};

/// Connections of other clusters at a time: each needs one, and there are few.
const CONNECTIONS_MAX: usize = 256;

/// The listener's socket, if there is to be one.
pub(super) async fn bind_gateway(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.federation.bind.0 else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|source| StartError::Listen { address, source })
}

/// Where other clusters reach it, as host:port; empty if they cannot.
pub(super) fn gateway_address(config: &Config, bound: Option<SocketAddr>, advertise: &str) -> String {
    match (bound, config.federation.advertise.as_str()) {
        (None, _) => String::new(),
        (Some(bound), "") => {
            let host = advertise.rsplit_once(':').map_or(advertise, |(host, _)| host);
            format!("{host}:{}", bound.port())
        }
        (Some(_), advertise) => advertise.to_owned(),
    }
}

/// Serves other clusters until `stop`.
///
/// # Errors
/// The socket does not know its own address.
pub(super) fn serve_gateway(
    socket: TcpListener,
    credentials: &Credentials,
    consensus: &Consensus,
    federation: Federation,
    options: ListenerOptions,
    trace: TraceLayer,
    stop: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let roots = Arc::new(Roots { consensus: consensus.clone() });
    let invited = Arc::new(Invited { consensus: consensus.clone() });
    let tls = gateway_server_config(credentials, roots.clone(), invited);
    let options = ListenerOptions { connections_max: CONNECTIONS_MAX, ..options };
    let incoming = listen_through(socket, tls, options, Foreigners::new(roots))?;
    let service = GatewayServiceServer::new(Gateway::new(federation))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(FRAME_BYTES_MAX);
    let serving = api::serve(Routes::new(service), trace, incoming, stop);
    Ok(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the listener for other clusters has failed");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_dial_what_is_said_or_the_nodes_host() {
        let mut config = Config::in_dir(std::path::Path::new("/nowhere"));
        let bound = Some("0.0.0.0:7613".parse().unwrap());
        assert_eq!(gateway_address(&config, None, "10.0.0.1:7610"), "");
        assert_eq!(gateway_address(&config, bound, "10.0.0.1:7610"), "10.0.0.1:7613");
        assert_eq!(gateway_address(&config, bound, "[::1]:7610"), "[::1]:7613");
        config.federation.advertise = "gate.example:99".into();
        assert_eq!(gateway_address(&config, bound, "10.0.0.1:7610"), "gate.example:99");
    }
}

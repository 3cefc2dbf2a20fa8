//! The daemon: starts the rooms in order, and stops them in the other.
//!
//! ```text
//!   start: identity ─► sockets ─► links, consensus ─► way, dispatch, artifacts ─► API ─► membership ─► executors ─► HTTP
//!   stop:  not ready ─► streams end ─► executors drain ─► leadership handed over ─► API closes ─► consensus flushes
//! ```

mod addresses;
mod dev;
mod executors;
mod founding;
mod gateway;
mod keys;
mod parts;
mod revocations;
mod signals;
mod web;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_raft::{Consensus, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use addresses::Addresses;
pub use dev::{Dev, DevError, prepare_dev};
pub use executors::child_main;
pub use signals::{Ending, run};

use crate::api::Health;
use crate::config::Config;
use crate::host::Host;
use crate::ops::Readiness;

/// At shutdown, requests under way get this long after the executors have drained.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// At shutdown, handing leadership over may take this long.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a node did not start. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("the data directory {path} cannot be used: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node has no usable identity.
    #[error(transparent)]
    Identity(#[from] crate::identity::StoreError),
    /// The cluster's CA key is there and cannot be used.
    #[error(transparent)]
    Authority(#[from] crate::identity::AuthorityError),
    /// The keys of an issuer of JWTs cannot be used.
    #[error("auth.jwt: {0}")]
    Jwks(#[from] crate::identity::bearer::JwksError),
    /// The web authority beside the cluster's CA cannot be used.
    #[error(transparent)]
    WebAuthority(#[from] crate::identity::web::WebAuthorityError),
    /// The HTTPS listener's certificate cannot be used.
    #[error(transparent)]
    WebCertificate(#[from] crate::identity::web::WebCertificateError),
    /// The configuration contradicts the certificate.
    #[error("node.id is {configured}, but the certificate in the data directory is that of node {certified}: correct one of them")]
    OtherNode {
        /// What the configuration says.
        configured: u64,
        /// What the certificate says.
        certified: u64,
    },
    /// The authorities of handlers cannot be used.
    #[error("policy.webhook_authorities: {0}")]
    Webhook(#[from] crate::escalation::WebhookError),
    /// What the node was told when it joined cannot be read.
    #[error(transparent)]
    Seeds(#[from] crate::peer::SeedsError),
    /// An address is in use, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Log or state cannot be used.
    #[error(transparent)]
    Consensus(#[from] tarn_raft::StartError),
    /// The cluster could not be founded.
    #[error("the cluster cannot be founded: {0}")]
    Bootstrap(#[from] tarn_raft::BootstrapError),
    /// The artifacts cannot be used.
    #[error("the artifact store cannot be used: {0}")]
    Artifacts(#[from] tarn_executor::StoreError),
    /// An executor does not work on this machine.
    #[error("the executor for {runtime} does not start: {source}")]
    Executor {
        /// Its runtime.
        runtime: &'static str,
        /// Why.
        source: tarn_executor::ExecutionError,
    },
    /// The build is defective.
    #[error("the services cannot be built: {0}")]
    Services(#[from] tonic_reflection::server::Error),
}

/// A node at work. Dropping it stops nothing: call [`Running::shutdown`].
pub struct Running {
    addresses: Addresses,
    node_id: u64,
    consensus: Consensus,
    readiness: Readiness,
    health: Health,
    hosts: Vec<Host>,
    stops: Stops,
    grace: Duration,
    tasks: TaskTracker,
}

/// What is ended when, at shutdown.
#[derive(Clone, Default)]
struct Stops {
    /// The node is going: not ready, no new streams.
    leaving: CancellationToken,
    /// No new connections or requests; peers' pipelines end.
    closing: CancellationToken,
    /// Nothing is returned or reconciled any more.
    closed: CancellationToken,
}

/// Starts a node. Returns when it serves; whether it is ready, [`Running::is_ready`] tells.
///
/// # Errors
/// [`StartError`]; nothing of the node runs then.
pub async fn start(config: Config) -> Result<Running, StartError> {
    parts::start(config).await
}

impl Running {
    /// Where the node listens, and what it tells others to dial.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// The node's consensus, for tests and tools in the same process.
    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether every check of `/readyz` passes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Returns when the node can no longer keep its promises, with the reason. It must be ended then.
    pub async fn fatal(&self) -> Arc<str> {
        let mut fatal = self.consensus.fatal();
        loop {
            if let Some(reason) = fatal.borrow_and_update().clone() {
                return reason;
            }
            if fatal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops gracefully: not ready, executors drained, leadership handed over, requests under way answered, everything on disk.
    pub async fn shutdown(self) {
        tracing::info!("the node stops");
        self.health.set(false).await;
        self.stops.leaving.cancel();
        futures::future::join_all(self.hosts.iter().map(Host::drain)).await;
        self.hand_over().await;
        self.stops.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_TIMEOUT + self.grace.min(CLOSE_TIMEOUT), self.tasks.wait()).await.is_err() {
            tracing::warn!("some requests were still under way and are cut off");
        }
        self.consensus.shutdown().await;
        self.stops.closed.cancel();
        tracing::info!("the node has stopped");
    }

    /// Gives leadership to another voter while this node still serves, so that the cluster does not notice.
    async fn hand_over(&self) {
        let Ok(status) = self.consensus.status() else { return };
        let leads = self.consensus.leadership().borrow().is_this_node;
        let others = status.members.iter().any(|member| member.voter && member.peer.id != self.node_id);
        if leads && others {
            match self.consensus.transfer_leader(None, Instant::now() + HAND_OVER_TIMEOUT).await {
                Ok(leader) => tracing::info!(leader, "leadership is handed over"),
                Err(error) => tracing::warn!(%error, "leadership was not handed over; the others will elect a leader"),
            }
        }
    }
}

//! Certificates renew themselves, well before they end: the node's own, and that of its second listener.
//!
//! ```text
//!   every so often: identity ─┬─ replaced on disk? ─► taken over
//!                             └─ less than a third of its life left? ─► new key ─► signed ─► stored ─► in force
//!                   web       ─── the same, and at once where there is none yet
//!
//!   signed by:  this node's own authority, if it holds the cluster's CA key;
//!               else a peer's that does, asked over the authenticated connection (PeerService.Renew);
//!               else nobody: the node warns, and takes over what `tarn ca issue --renew` puts in the files' place
//! ```
//!
//! Nothing is dropped by a renewal. Handshakes from then on present the new certificate; connections that stand keep theirs; and the links
//! to peers make new connections for what begins from then on, so that none is in use when the old certificate ends.
//!
//! Invariants: a private key never leaves its node; the signer names the node that the connection's certificate proves, and nobody else;
//! what cannot be stored is not put in force.

mod identity;
mod signer;
mod web;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tarn_client::tls::{Credentials, LeafInfo};
use tarn_proto::v1::{PeerRenewal, PeerRenewed};
use tarn_raft::{Consensus, NodeId, Peer};
use tokio_util::sync::CancellationToken;

pub use signer::Signer;
pub use web::{WebFiles, WebRenewal};

use crate::gate::{Ledger, Refusal};
use crate::identity::IdentityStore;
use crate::ops::Metrics;
use crate::peer::{Fault, Links, Traffic};

/// While a certificate is missing, it is asked for this often.
const MISSING_PAUSE: Duration = Duration::from_secs(1);

/// Limit on a peer's answer: it makes two signatures.
const RENEW_TIMEOUT: Duration = Duration::from_secs(5);

/// A certificate that has less than this part of its life left is warned about: by then several renewals have failed.
const WARN_PART: u32 = 6;

/// A certificate is renewed when less than this part of its life is left.
const RENEW_PART: u32 = 3;

/// What renews a node's certificates.
pub struct Renewal {
    /// Who this node is.
    pub node_id: NodeId,
    /// What it presents.
    pub credentials: Credentials,
    /// Where that is stored.
    pub store: IdentityStore,
    /// The certificate of the second listener, if there is one.
    pub web: Option<WebRenewal>,
    /// Signs here, if this node holds the cluster's CA key.
    pub signer: Option<Arc<Signer>>,
    /// The way to peers that do.
    pub links: Arc<Links>,
    /// Who the peers are.
    pub consensus: Consensus,
    /// Where new certificates are recorded.
    pub ledger: Ledger,
    /// Where the certificates' ends are told.
    pub metrics: Arc<Metrics>,
    /// How often to look.
    pub every: Duration,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    /// A file or the certificate in it.
    #[error(transparent)]
    Store(#[from] crate::identity::StoreError),
    /// The same of the second listener.
    #[error(transparent)]
    Web(#[from] crate::identity::web::WebCertificateError),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] crate::identity::FileError),
    /// What was signed is not what was asked for.
    #[error("the signed certificate cannot be used: {0}")]
    Credentials(#[from] tarn_client::tls::CredentialsError),
    /// The signer refused.
    #[error("{0}")]
    Refused(String),
    /// Nobody signs.
    #[error(
        "no node that answers holds the cluster's CA key: start the one that does, or renew this certificate where the key is, with \
         `tarn ca issue --renew`"
    )]
    NoSigner,
}

impl Renewal {
    /// Looks after the certificates until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.look().await;
            let missing = self.web.as_ref().is_some_and(WebRenewal::is_missing);
            let pause = if missing { self.every.min(MISSING_PAUSE) } else { self.every };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// One look at each certificate.
    pub async fn look(&mut self) {
        if let Err(error) = self.look_at_identity().await {
            let info = self.credentials.info();
            self.tell("node", info.not_before, info.not_after, &error);
        }
        if let Err(error) = self.look_at_web().await {
            match self.web.as_ref().and_then(|web| web.certificate.info()) {
                Some(info) => self.tell("web", info.not_before, info.not_after, &error),
                None => tracing::debug!(%error, "the HTTPS listener has no certificate yet"),
            }
        }
        self.measure();
    }

    /// A renewal has failed. It is tried again, so it is worth a warning only when time runs short.
    fn tell(&self, which: &'static str, not_before: SystemTime, not_after: SystemTime, error: &RenewError) {
        let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
        match is_due(not_before, not_after, WARN_PART) {
            true => {
                tracing::warn!(certificate = which, left_s = left.as_secs(), %error, "a certificate ends soon and is not renewed");
            }
            false => {
                tracing::info!(certificate = which, left_s = left.as_secs(), %error, "a certificate is not renewed yet")
            }
        }
    }

    fn measure(&self) {
        self.metrics.certificate_ends("node", self.credentials.info().not_after);
        if let Some(info) = self.web.as_ref().and_then(|web| web.certificate.info()) {
            self.metrics.certificate_ends("web", info.not_after);
        }
    }

    /// Has a request signed: here, or by the first peer that can.
    async fn sign(&self, request: PeerRenewal) -> Result<PeerRenewed, RenewError> {
        if let Some(signer) = &self.signer {
            let host = self.host();
            return signer
                .sign(self.node_id, host.as_deref(), &request, SystemTime::now())
                .map_err(|refusal| RenewError::Refused(refusal.rejection.message));
        }
        for peer in self.peers() {
            let question = request.clone();
            let answer =
                self.links.exchange(&peer, Traffic::Control, RENEW_TIMEOUT, |mut client| async move { client.renew(question).await }).await;
            match answer {
                Ok(answered) => return Ok(answered.body),
                // It holds no key, or knows less than another: the next may do.
                Err(Fault::Refused(status)) => tracing::debug!(peer = peer.id, %status, "a peer does not renew"),
                Err(fault) => tracing::debug!(peer = peer.id, %fault, "a peer could not be asked for a renewal"),
            }
        }
        Err(RenewError::NoSigner)
    }

    fn peers(&self) -> Vec<Peer> {
        let members = self.consensus.members();
        let others = members.into_iter().filter(|(peer, _)| peer.id != self.node_id);
        others.map(|(peer, _)| peer).collect()
    }

    /// The host by which this node is known to the cluster.
    fn host(&self) -> Option<String> {
        host_of(&self.consensus, self.node_id)
    }
}

/// The host by which the cluster knows a node; `None`: it is no member.
pub(crate) fn host_of(consensus: &Consensus, node_id: NodeId) -> Option<String> {
    let members = consensus.members();
    let (peer, _) = members.into_iter().find(|(peer, _)| peer.id == node_id)?;
    let address: tarn_client::tls::Address = peer.address.parse().ok()?;
    Some(address.host().to_owned())
}

/// Whether less than this part of a certificate's life is left.
fn is_due(not_before: SystemTime, not_after: SystemTime, part: u32) -> bool {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    left < life / part
}

/// The serial number of a renewed certificate; none where none was asked for.
fn serial_of(renewed: &PeerRenewed) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(renewed.certificate.as_bytes()).ok()?;
    Some(LeafInfo::from_der("the renewed certificate", &leaf).ok()?.serial)
}

/// Signs for other nodes, at a node that holds the CA's key.
///
/// # Errors
/// The node is no member, or its request is not accepted.
pub fn renew_for(signer: &Signer, consensus: &Consensus, node_id: NodeId, request: &PeerRenewal) -> Result<PeerRenewed, Refusal> {
    let host = host_of(consensus, node_id);
    let host = host.ok_or_else(|| signer::refused("NOT_A_MEMBER", format!("node {node_id} is no member of this cluster: add it first")))?;
    let renewed = signer.sign(node_id, Some(&host), request, SystemTime::now())?;
    // Whoever finds out that a node's key was stolen has to revoke all that it was renewed to: the log tells which.
    tracing::info!(node = node_id, serial = serial_of(&renewed), "renewed a node's certificates");
    Ok(renewed)
}

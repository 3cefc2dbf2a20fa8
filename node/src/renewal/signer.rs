//! Signs renewals, at a node that holds the cluster's CA key.

use std::time::{Duration, SystemTime};

use tarn_client::tls::PrincipalKind;
use tarn_proto::v1::{PeerRenewal, PeerRenewed, Rejection};
use tarn_raft::NodeId;
use tonic::Code;

use crate::gate::Refusal;
use crate::identity::web::{WebAuthority, WebRequest};
use crate::identity::{CertificateAuthority, CertificateRequest, IssueOptions};

/// The cluster's two authorities, keys included.
#[derive(Debug)]
pub struct Signer {
    /// Of the nodes' and users' own certificates.
    pub authority: CertificateAuthority,
    /// Of the certificates of the second listeners.
    pub web: WebAuthority,
    /// How long nodes' certificates are valid.
    pub validity: Duration,
}

impl Signer {
    /// Signs what a node asks for, as the node that it is. `host` is where the cluster knows it.
    ///
    /// # Errors
    /// A request that is malformed or does not prove its key.
    pub fn sign(&self, node_id: NodeId, host: Option<&str>, request: &PeerRenewal, now: SystemTime) -> Result<PeerRenewed, Refusal> {
        let mut renewed = PeerRenewed::default();
        if !request.certificate_request.is_empty() {
            let asked =
                CertificateRequest::parse(&request.certificate_request).map_err(|error| refused("RENEWAL_INVALID", error.to_string()))?;
            let options = IssueOptions { validity: Some(self.validity), names: host.map(str::to_owned).into_iter().collect(), now };
            renewed.certificate =
                self.authority.sign_request(&asked, &PrincipalKind::Node { id: node_id }, &options).map_err(Refusal::internal)?;
        }
        if !request.web_public_key.is_empty() {
            let asked = WebRequest { public_key: request.web_public_key.to_vec(), names: request.web_names.clone() };
            renewed.web_certificate =
                self.web.issue(node_id, &asked, Some(self.validity), now).map_err(|error| refused("RENEWAL_INVALID", error.to_string()))?;
            renewed.web_ca_certificate = self.web.pem();
        }
        Ok(renewed)
    }
}

pub(super) fn refused(reason: &str, message: String) -> Refusal {
    Refusal::from(Rejection { code: Code::FailedPrecondition as u32, reason: reason.into(), message, ..Rejection::default() })
}

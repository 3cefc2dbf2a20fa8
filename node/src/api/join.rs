//! Letting machines into the cluster: a join token for a certificate, and a certificate for membership.
//!
//! ```text
//!   joiner ─ Join ─► any node ─┬─ holds the CA's key ─► uses the token up (replicated) ─► signs ─► certificate
//!                              └─ does not ─ Admit ─► the peer that does
//! ```
//!
//! The token is used up by the node that signs, not by the one that was asked: so a certificate is only ever made for the node
//! id that the log gave to this token and key, whatever the node between says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tarn_client::tls::{Address, CaCertificate, JoinGate, PrincipalKind, Revocations as _, join_id};
use tarn_proto::v1::join_service_server::JoinService;
use tarn_proto::v1::{
    ConsumeJoinToken, JoinRequest, JoinResponse, Member, PeerAdmission, PeerMembership, PeerMembershipRequest, PeerRenewal, PeerRenewed,
    Rejection,
};
use tarn_raft::{Consensus, NodeId, Peer};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use super::cluster::administration_refused;
use super::status::status;
use super::trace::trace_of;
use crate::gate::{Caller, Refusal};
use crate::identity::{CertificateRequest, IssueOptions, Revoked, require_joiner};
use crate::peer::{Admissions, Fault, Links, Traffic, grant};
use crate::renewal::{Signer, renew_for};
use crate::way::Way;

/// How long the replicated use of a token may take. A joiner waits this long for an election.
const CONSUME_TIMEOUT: Duration = Duration::from_secs(8);

/// Limit on a peer's answer: the above and the way.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(9);

/// Lets machines in. Serves joiners ([`JoinService`]) and peers ([`Admissions`]). Clones share it.
#[derive(Clone)]
pub struct JoinApi {
    shared: Arc<Shared>,
}

struct Shared {
    way: Way,
    links: Arc<Links>,
    ca: Arc<CaCertificate>,
    signer: Option<Arc<Signer>>,
}

impl JoinApi {
    /// The door of the cluster whose root certificate is `ca`. `signer` has the CA's key, if this node holds it; other
    /// nodes pass joiners on to one that does.
    #[must_use]
    pub fn new(way: Way, links: Arc<Links>, ca: Arc<CaCertificate>, signer: Option<Arc<Signer>>) -> Self {
        Self { shared: Arc::new(Shared { way, links, ca, signer }) }
    }
}

#[tonic::async_trait]
impl JoinService for JoinApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let trace = trace_of(request.extensions());
        let joiner = require_joiner(&request)?;
        let admission = PeerAdmission { key_hash: joiner.spki_hash().to_vec().into(), request: Some(request.into_inner()) };
        let answer = match self.shared.signer {
            Some(_) => self.shared.admit(admission).await,
            None => self.shared.pass_on(admission).await,
        };
        answer.map(Response::new).map_err(|refusal| status(refusal, &trace))
    }
}

#[async_trait]
impl Admissions for JoinApi {
    async fn request_membership(&self, from: NodeId, request: PeerMembershipRequest) -> Result<PeerMembership, Refusal> {
        parse_address(&request.address)?;
        grant(self.shared.way.consensus(), from, request).await.map_err(administration_refused)
    }

    async fn admit(&self, admission: PeerAdmission) -> Result<JoinResponse, Refusal> {
        self.shared.admit(admission).await
    }

    async fn renew(&self, from: NodeId, request: PeerRenewal) -> Result<PeerRenewed, Refusal> {
        let signer = self.shared.signer.as_ref().ok_or_else(no_ca)?;
        renew_for(signer, self.shared.way.consensus(), from, &request)
    }
}

impl Shared {
    /// Uses the token up and signs, here.
    async fn admit(&self, admission: PeerAdmission) -> Result<JoinResponse, Refusal> {
        let signer = self.signer.as_ref().ok_or_else(no_ca)?;
        let JoinRequest { certificate_request, address } =
            admission.request.ok_or_else(|| invalid("request", "the request is missing: send one"))?;
        let token: [u8; 32] = admission.key_hash.as_ref().try_into().map_err(|_| invalid("key_hash", "a hash has 32 bytes"))?;
        let address = parse_address(&address)?;
        // Before the token is used up: a request that cannot be signed must not cost it.
        let request = CertificateRequest::parse(&certificate_request).map_err(|error| invalid("certificate_request", error.to_string()))?;
        let node_id = self.consume(token, *request.spki_hash()).await?;
        let options = IssueOptions { validity: Some(signer.validity), names: vec![address.host().to_owned()], ..IssueOptions::default() };
        let kind = PrincipalKind::Node { id: node_id };
        let certificate = signer.authority.sign_request(&request, &kind, &options).map_err(Refusal::internal)?;
        tracing::info!(node = node_id, token = join_id(&token), %address, "a machine has joined");
        Ok(JoinResponse {
            node_id,
            cluster_id: self.ca.cluster().to_owned(),
            certificate,
            ca_certificate: self.ca.to_pem(),
            members: self.members(),
        })
    }

    /// The replicated part: decides for good whether the token is good, and which id the node has. The kernel remembers the ids that it
    /// gave; those of founders, and of nodes that were added by hand, it learns from here, and so none is given again.
    async fn consume(&self, token: [u8; 32], key: [u8; 32]) -> Result<NodeId, Refusal> {
        let deadline = Instant::now() + CONSUME_TIMEOUT;
        self.way.barrier(deadline).await?;
        let command = ConsumeJoinToken {
            key_hash: token.to_vec().into(),
            node_key_hash: key.to_vec().into(),
            node_id_min: self.way.consensus().applied().borrow().node_id_max,
        };
        // Who joins was judged by its token; the node asks on its behalf.
        let caller = Caller::own(format!("join/{}", join_id(&token)));
        let consumed = self.way.command(&caller, command, deadline).await?;
        Ok(consumed.node_id)
    }

    /// Asks the other nodes, one after the other, for the one that holds the CA's key.
    async fn pass_on(&self, admission: PeerAdmission) -> Result<JoinResponse, Refusal> {
        let own_id = self.way.consensus().status().map(|status| status.node_id).unwrap_or_default();
        let mut unreachable = Vec::new();
        for member in self.members().into_iter().filter(|member| member.node_id != own_id) {
            let peer = Peer { id: member.node_id, address: member.address };
            let question = admission.clone();
            let answer =
                self.links.exchange(&peer, Traffic::Control, ADMIT_TIMEOUT, |mut client| async move { client.admit(question).await }).await;
            match answer {
                Ok(answered) => return Ok(answered.body),
                Err(Fault::Refused(status)) => {
                    let rejection = rejection_of(&status);
                    if rejection.reason != NO_CA {
                        return Err(rejection.into());
                    }
                }
                Err(fault) => {
                    tracing::warn!(peer = peer.id, %fault, "a joiner could not be passed on");
                    unreachable.push(peer.id.to_string());
                }
            }
        }
        if unreachable.is_empty() {
            return Err(no_ca());
        }
        let nodes = unreachable.join(", ");
        Err(rejection(
            Code::Unavailable,
            "CA_UNREACHABLE",
            format!(
                "no node that answers holds the cluster's CA key, and these do not answer: {nodes}; start the one that holds it \
                 and join again, the token stays good until it expires"
            ),
        ))
    }

    fn members(&self) -> Vec<Member> {
        let members = self.way.consensus().status().map(|status| status.members).unwrap_or_default();
        members
            .into_iter()
            .map(|member| Member { node_id: member.peer.id, address: member.peer.address, voter: member.voter, ..Member::default() })
            .collect()
    }
}

const NO_CA: &str = "NO_CA";

fn no_ca() -> Refusal {
    rejection(
        Code::FailedPrecondition,
        NO_CA,
        "no node of this cluster holds the CA's key: put ca.key and ca.pem into <data_dir>/ca of one node and restart it, or issue \
         the certificate where they are, with `tarn ca issue`"
            .into(),
    )
}

fn invalid(field: &str, message: impl Into<String>) -> Refusal {
    rejection(Code::InvalidArgument, "JOIN_REQUEST_INVALID", message.into()).field(field)
}

fn parse_address(address: &str) -> Result<Address, Refusal> {
    address.parse().map_err(|error| invalid("address", format!("{error}")))
}

fn rejection(code: Code, reason: &str, message: String) -> Refusal {
    Refusal::from(Rejection { code: code as u32, reason: reason.into(), message, ..Rejection::default() })
}

/// What another node's refusal says, to be told on.
pub(crate) fn rejection_of(status: &Status) -> Rejection {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        // Not a refusal of tarn's, but what a library on that node said: it is no caller's business.
        tracing::warn!(%status, "another node failed to do what it was asked");
        return Rejection {
            code: status.code() as u32,
            reason: "PEER_REFUSED".into(),
            message: "the other node that this needs failed: its log says why; try again".into(),
            ..Rejection::default()
        };
    };
    let fact = |name: &str| info.metadata.get(name).cloned().unwrap_or_default();
    Rejection {
        code: status.code() as u32,
        reason: info.reason.clone(),
        message: status.message().to_owned(),
        field: fact("field"),
        limit: fact("limit").parse().unwrap_or(0),
        ..Rejection::default()
    }
}

/// Knows from this node's state which join tokens may open a connection, and which certificates may not any more. A node that lags may not have heard of a new one yet;
/// the joiner then tries another.
pub struct TokenGate {
    consensus: Consensus,
    revoked: Revoked,
}

impl TokenGate {
    /// A gate that asks this node's state.
    #[must_use]
    pub fn new(consensus: Consensus, revoked: Revoked) -> Self {
        Self { consensus, revoked }
    }
}

impl JoinGate for TokenGate {
    fn is_outstanding(&self, spki_hash: &[u8; 32]) -> bool {
        // A token that was used stays outstanding until it expires, because a joiner whose answer was lost asks again; which key
        // it was used for is decided by the command.
        self.consensus.read(|machine| machine.join_token_outstanding(spki_hash)).unwrap_or(false)
    }

    fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.is_revoked(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_way_through_another_node() {
        let refusal = invalid("address", "write host:port");
        let told = rejection_of(&status(refusal.clone(), "trace"));
        assert_eq!(told, refusal.rejection);
        assert_eq!(rejection_of(&status(no_ca(), "")).reason, NO_CA);
        assert_eq!(rejection_of(&Status::unavailable("away")).reason, "PEER_REFUSED");
    }
}

//! The server side: what other nodes ask of this one.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{Stream, StreamExt as _};
use tarn_client::tls::PrincipalKind;
use tarn_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use tarn_proto::v1::{
    JoinResponse, PeerAdmission, PeerArtifactChunk, PeerArtifactHeld, PeerArtifactList, PeerArtifactStored, PeerArtifactWanted,
    PeerDriversAnswer, PeerDriversQuestion, PeerFederationAnswer, PeerFederationQuestion, PeerFrame, PeerMembership, PeerMembershipRequest,
    PeerRenewal, PeerRenewed, PeerRequest, PeerResponse,
};
use tarn_raft::{AdminError, Method, NodeId, PeerError, TransportError};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::contacts::Contacts;
use super::fault::Fault;
use super::handler::{PeerHandler, Requests};
use super::limits::FRAME_BYTES_MAX;
use super::members::{Members, Standing};
use crate::api::{administration_refused, status};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::gate::Refusal;
use crate::identity::require_node;

/// Lets machines and nodes into the cluster.
#[async_trait]
pub trait Admissions: Send + Sync + 'static {
    /// A node that has an identity asks to become a member. It speaks for itself: `from` is who its certificate says.
    async fn request_membership(&self, from: NodeId, request: PeerMembershipRequest) -> Result<PeerMembership, Refusal>;

    /// Admits the holder of a join token, on behalf of the node that it turned to, if this node holds the CA's key.
    async fn admit(&self, admission: PeerAdmission) -> Result<JoinResponse, Refusal>;

    /// New certificates for a node, if this one holds the CA's key. It speaks for itself: `from` is who its certificate says.
    async fn renew(&self, from: NodeId, request: PeerRenewal) -> Result<PeerRenewed, Refusal>;
}

/// Answers for the drivers that run on this node.
#[async_trait]
pub trait DriversHere: Send + Sync + 'static {
    /// What a peer asks, on behalf of a user whom it has let through.
    async fn answer(&self, question: PeerDriversQuestion) -> Result<PeerDriversAnswer, Refusal>;
}

/// Answers for this node's part in the federation.
#[async_trait]
pub trait FederationHere: Send + Sync + 'static {
    /// What a peer asks, on behalf of a user whom it has let through.
    async fn answer(&self, question: PeerFederationQuestion) -> Result<PeerFederationAnswer, Refusal>;
}

/// What is asked of this node alone.
pub struct Here {
    /// Joining.
    pub admissions: Arc<dyn Admissions>,
    /// Its drivers.
    pub drivers: Arc<dyn DriversHere>,
    /// Its part in the federation.
    pub federation: Arc<dyn FederationHere>,
}

/// The service for peers. Callers without a node's certificate are refused at every method, and so are nodes that were removed, whose
/// certificates live on. Strangers may ask to become members and speak for the log, as a leader may that this node has not heard of yet;
/// what they say there counts for no more than their votes and terms do. All else is for members.
pub struct PeerApi {
    handler: Arc<dyn PeerHandler>,
    members: Arc<dyn Members>,
    contacts: Arc<Contacts>,
    artifacts: Artifacts,
    here: Here,
    stopping: CancellationToken,
}

impl PeerApi {
    /// The service, with the message limits of this protocol. `contacts` are those of this node's [`Links`](super::Links).
    /// Pipelines, which would otherwise stay open for ever, end when `stopping` is cancelled.
    pub fn server(
        handler: Arc<dyn PeerHandler>,
        members: Arc<dyn Members>,
        contacts: Arc<Contacts>,
        artifacts: Artifacts,
        here: Here,
        stopping: CancellationToken,
    ) -> PeerServiceServer<Self> {
        PeerServiceServer::new(Self { handler, members, contacts, artifacts, here, stopping }).max_decoding_message_size(FRAME_BYTES_MAX)
    }

    /// The calling node, which is thereby heard of, unless it was removed.
    fn enter<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let identity = require_node(request)?;
        let PrincipalKind::Node { id } = identity.principal().kind else {
            return Err(Status::permission_denied("this service is for nodes"));
        };
        if self.members.standing(id) == Standing::Removed {
            return Err(status(administration_refused(AdminError::Removed(id)), ""));
        }
        self.contacts.mark(id);
        Ok(id)
    }

    /// The calling node, if it is a member.
    fn enter_as_member<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let id = self.enter(request)?;
        self.require_member(id)?;
        Ok(id)
    }

    /// A node that was added a moment ago is told to try again: this one may not have heard of it yet.
    fn require_member(&self, id: NodeId) -> Result<(), Status> {
        match self.members.standing(id) {
            Standing::Member => Ok(()),
            Standing::Stranger | Standing::Removed => Err(Status::unavailable(format!(
                "node {id} is no member of this cluster yet, as far as this node knows: try again when it is one"
            ))),
        }
    }

    /// A peer's stream of frames. What arrives is a sign of life. A peer that is removed meanwhile is not listened to any more.
    fn requests(&self, from: NodeId, frames: Streaming<PeerFrame>) -> Requests {
        let contacts = self.contacts.clone();
        let members = self.members.clone();
        Box::pin(frames.map(move |frame| match frame {
            Ok(_) if members.standing(from) == Standing::Removed => Err(TransportError::Remote(AdminError::Removed(from).to_string())),
            Ok(frame) => {
                contacts.mark(from);
                Ok(frame.body)
            }
            Err(status) => Err(TransportError::from(Fault::of(status))),
        }))
    }
}

/// Whether a message speaks for the log: a node that lags behind must take it also from a leader of whom it has not heard yet, or it would
/// lag for ever.
fn speaks_for_the_log(method: u32) -> bool {
    matches!(
        Method::from_number(method),
        Some(
            Method::Append
                | Method::Vote
                | Method::PreVote
                | Method::TransferLeader
                | Method::NodeInfo
                | Method::SnapshotOffer
                | Method::WallClock
        )
    )
}

#[tonic::async_trait]
impl PeerService for PeerApi {
    async fn call(&self, request: Request<PeerRequest>) -> Result<Response<PeerResponse>, Status> {
        let from = self.enter(&request)?;
        let PeerRequest { method, body } = request.into_inner();
        if !speaks_for_the_log(method) {
            self.require_member(from)?;
        }
        let body = self.handler.call(from, method, body).await.map_err(refused)?;
        Ok(Response::new(PeerResponse { body }))
    }

    type ReplicateStream = Pin<Box<dyn Stream<Item = Result<PeerFrame, Status>> + Send>>;

    async fn replicate(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<Self::ReplicateStream>, Status> {
        let from = self.enter(&request)?;
        let replies = self.handler.replicate(from, self.requests(from, request.into_inner()));
        let frames = replies.map(|reply| reply.map(|body| PeerFrame { body }).map_err(refused));
        let stopping = self.stopping.clone();
        Ok(Response::new(Box::pin(frames.take_until(stopping.cancelled_owned()))))
    }

    async fn install_snapshot(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<PeerFrame>, Status> {
        let from = self.enter(&request)?;
        let chunks = self.requests(from, request.into_inner());
        let body = self.handler.snapshot(from, chunks).await.map_err(refused)?;
        Ok(Response::new(PeerFrame { body }))
    }

    async fn push_artifact(&self, request: Request<Streaming<PeerArtifactChunk>>) -> Result<Response<PeerArtifactStored>, Status> {
        self.enter_as_member(&request)?;
        self.artifacts.accept_push(request.into_inner()).await.map(Response::new).map_err(artifact_refused)
    }

    type PullArtifactStream = Pin<Box<dyn Stream<Item = Result<PeerArtifactChunk, Status>> + Send>>;

    async fn pull_artifact(&self, request: Request<PeerArtifactWanted>) -> Result<Response<Self::PullArtifactStream>, Status> {
        self.enter_as_member(&request)?;
        let chunks = self.artifacts.answer_pull(request.into_inner()).await.map_err(artifact_refused)?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn list_peer_artifacts(&self, request: Request<PeerArtifactList>) -> Result<Response<PeerArtifactHeld>, Status> {
        self.enter_as_member(&request)?;
        self.artifacts.answer_list(request.into_inner()).await.map(Response::new).map_err(artifact_refused)
    }

    async fn request_membership(&self, request: Request<PeerMembershipRequest>) -> Result<Response<PeerMembership>, Status> {
        let from = self.enter(&request)?;
        let answer = self.here.admissions.request_membership(from, request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| status(refusal, ""))
    }

    async fn admit(&self, request: Request<PeerAdmission>) -> Result<Response<JoinResponse>, Status> {
        self.enter(&request)?;
        let answer = self.here.admissions.admit(request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| status(refusal, ""))
    }

    async fn renew(&self, request: Request<PeerRenewal>) -> Result<Response<PeerRenewed>, Status> {
        let from = self.enter(&request)?;
        let answer = self.here.admissions.renew(from, request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| status(refusal, ""))
    }

    async fn ask_drivers(&self, request: Request<PeerDriversQuestion>) -> Result<Response<PeerDriversAnswer>, Status> {
        self.enter_as_member(&request)?;
        let answer = self.here.drivers.answer(request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| status(refusal, ""))
    }

    async fn ask_federation(&self, request: Request<PeerFederationQuestion>) -> Result<Response<PeerFederationAnswer>, Status> {
        self.enter_as_member(&request)?;
        let answer = self.here.federation.answer(request.into_inner()).await;
        answer.map(Response::new).map_err(|refusal| status(refusal, ""))
    }
}

fn artifact_refused(error: ArtifactError) -> Status {
    status(error.rejection().into(), "")
}

fn refused(error: PeerError) -> Status {
    let text = error.to_string();
    match error {
        PeerError::Malformed(_) => Status::invalid_argument(text),
        PeerError::Impostor { .. } => {
            tracing::error!(%error, "a peer speaks for another");
            Status::permission_denied(text)
        }
        PeerError::Busy(_) | PeerError::Stopped(_) => Status::unavailable(text),
        PeerError::Damaged(_) => Status::data_loss(text),
    }
}

//! `GatewayService`: the door for other clusters, on a port of its own.

use std::pin::Pin;
use std::time::Duration;

use tarn_client::tls::PrincipalKind;
use tarn_crdt::ClusterId;
use tarn_proto::v1::gateway_service_server::GatewayService;
use tarn_proto::v1::{AdmitClusterRequest, AdmitClusterResponse, LinkFrame, LinkHello, link_frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::Federation;
use super::link::{self, FRAMES_WAITING_MAX, Link};
use crate::identity::{PeerIdentity, require_joiner};

/// How long the other end may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone)]
pub struct Gateway {
    federation: Federation,
}

impl Gateway {
    /// The door of this node.
    #[must_use]
    pub fn new(federation: Federation) -> Self {
        Self { federation }
    }

    /// Which member the caller is a node of: by the root that was verified, whatever its name. Trust that was withdrawn since its connection
    /// was made counts.
    fn member<T>(&self, request: &Request<T>) -> Result<(Vec<ClusterId>, [u8; 32], PeerIdentity), Status> {
        let identity = request.extensions().get::<PeerIdentity>().cloned();
        let identity = identity.ok_or_else(|| Status::unauthenticated("the caller is unknown"))?;
        let root = identity.root().copied().filter(|_| matches!(identity.principal().kind, PrincipalKind::Node { .. }));
        let root = root.ok_or_else(|| Status::permission_denied("between clusters only nodes talk"))?;
        match self.federation.members_by(&root) {
            members if members.is_empty() => Err(Status::permission_denied("your cluster is not a member of this federation")),
            members => Ok((members, root, identity)),
        }
    }
}

#[tonic::async_trait]
impl GatewayService for Gateway {
    async fn admit_cluster(&self, request: Request<AdmitClusterRequest>) -> Result<Response<AdmitClusterResponse>, Status> {
        let joiner = require_joiner(&request)?;
        let admitted = self.federation.admit(*joiner.spki_hash(), request.into_inner()).await;
        admitted.map(Response::new).map_err(|refusal| crate::api::status(refusal, ""))
    }

    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkFrame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<LinkFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let (members, root, identity) = self.member(&request)?;
        // Only the leader's node speaks for the cluster: the dialler tries the next address.
        let hub = self.federation.hub().ok_or_else(|| Status::unavailable("this node does not lead its cluster now"))?;
        let mut inbound = request.into_inner();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("say who you are first"))?.transpose()?;
        let cluster = self.federation.check_hello(hello, &members).map_err(Status::failed_precondition)?;
        let (frames, outbound) = mpsc::channel(FRAMES_WAITING_MAX);
        let _ = frames.try_send(self.federation.hello().ok_or_else(|| Status::unavailable("this cluster leaves the federation"))?);
        let (link, ended) = Link::new(cluster, root, self.federation.next_number(), identity.remote_addr().to_string(), frames);
        tokio::spawn(link::carry(hub, link, ended, inbound));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound).map(Ok))))
    }
}

/// The frame by which an end says who it is.
pub(super) fn hello_frame(hello: LinkHello) -> LinkFrame {
    LinkFrame { frame: Some(link_frame::Frame::Hello(hello)) }
}

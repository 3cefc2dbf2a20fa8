//! `FederationService`: this cluster among others.

use tarn_proto::v1;
use tarn_proto::v1::federation_service_server::FederationService;
use tonic::{Request, Response, Status};

use super::{Api, Call};
use crate::federation::Federation;
use crate::gate::{Question, Refusal};

/// The federation service.
#[derive(Clone)]
pub struct FederationApi {
    api: Api,
    federation: Federation,
}

impl FederationApi {
    /// The service over this node's part in the federation.
    #[must_use]
    pub fn new(api: Api, federation: Federation) -> Self {
        Self { api, federation }
    }

    /// Lets a request in that is no command of the kernel's as it stands.
    fn enter<Q: Question>(&self, request: &Request<Q>) -> Result<Call, Status> {
        let call = self.api.enter(request)?;
        self.api.way.admit(&call.caller, request.get_ref().wish()).map_err(|refusal| call.status(refusal))?;
        Ok(call)
    }
}

#[tonic::async_trait]
impl FederationService for FederationApi {
    async fn invite_cluster(&self, request: Request<v1::InviteClusterRequest>) -> Result<Response<v1::InviteClusterResponse>, Status> {
        let call = self.enter(&request)?;
        let invited = self.federation.invite(&call.caller, request.into_inner(), call.deadline).await;
        invited.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn join_federation(&self, request: Request<v1::JoinFederationRequest>) -> Result<Response<v1::JoinFederationResponse>, Status> {
        let call = self.enter(&request)?;
        let joined = self.federation.join(&call.caller, request.into_inner(), call.deadline).await;
        joined.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn leave_federation(
        &self,
        request: Request<v1::LeaveFederationRequest>,
    ) -> Result<Response<v1::LeaveFederationResponse>, Status> {
        let call = self.enter(&request)?;
        let left = self.federation.leave(&call.caller, request.into_inner(), call.deadline).await;
        left.map(|()| Response::new(v1::LeaveFederationResponse {})).map_err(|refusal| call.status(refusal))
    }

    async fn remove_cluster(&self, request: Request<v1::RemoveClusterRequest>) -> Result<Response<v1::RemoveClusterResponse>, Status> {
        let call = self.enter(&request)?;
        let removed = self.federation.remove(&call.caller, &request.into_inner().cluster, call.deadline).await;
        removed.map(|()| Response::new(v1::RemoveClusterResponse {})).map_err(|refusal| call.status(refusal))
    }

    async fn list_clusters(&self, request: Request<v1::ListClustersRequest>) -> Result<Response<v1::ListClustersResponse>, Status> {
        self.api.read(request, |machine, _| Ok(v1::ListClustersResponse { clusters: crate::federation::list(machine) })).await
    }

    async fn get_federation_status(
        &self,
        request: Request<v1::GetFederationStatusRequest>,
    ) -> Result<Response<v1::GetFederationStatusResponse>, Status> {
        let call = self.enter(&request)?;
        self.federation.status().await.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn list_conflicts(&self, request: Request<v1::ListConflictsRequest>) -> Result<Response<v1::ListConflictsResponse>, Status> {
        let call = self.enter(&request)?;
        self.federation.conflicts().await.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn resolve_conflict(
        &self,
        request: Request<v1::ResolveConflictRequest>,
    ) -> Result<Response<v1::ResolveConflictResponse>, Status> {
        let call = self.enter(&request)?;
        let resolved = self.resolved(&call, request.into_inner()).await;
        resolved.map(|()| Response::new(v1::ResolveConflictResponse {})).map_err(|refusal| call.status(refusal))
    }

    async fn share_context(&self, request: Request<v1::ShareContextRequest>) -> Result<Response<v1::ShareContextResponse>, Status> {
        self.api.command(request).await
    }
}

impl FederationApi {
    /// Writes the chosen value as the caller would: into the context, or into the shared section. What is written now supersedes all that is
    /// known of the key.
    async fn resolved(&self, call: &Call, request: v1::ResolveConflictRequest) -> Result<(), Refusal> {
        let v1::ResolveConflictRequest { key, value } = request;
        let known = self.federation.conflicts().await?;
        // Where more are there than are told of, it may be one of those.
        if !known.truncated && known.conflicts.iter().all(|conflict| conflict.key != key) {
            let message = format!("the key {key:?} has no conflict: see `tarn federation conflicts`");
            return Err(crate::federation::refusal(tonic::Code::FailedPrecondition, "NO_CONFLICT", message).field("key"));
        }
        let context: Vec<&str> = key.splitn(4, '/').collect();
        let way = &self.api.way;
        if let ["context", namespace, context, _] = context.as_slice() {
            let here = ((*namespace).to_owned(), (*context).to_owned());
            let shared = way.consensus().read(|machine| machine.shared_contexts().contains(&here)).unwrap_or(false);
            if !shared {
                let message = format!("the context {context:?} is not shared here: share it first, with `tarn federation share`");
                return Err(crate::federation::refusal(tonic::Code::FailedPrecondition, "CONTEXT_NOT_SHARED", message).field("key"));
            }
        }
        match (context.as_slice(), value) {
            (["context", namespace, context, key], Some(value)) => {
                let put = v1::PutKeyRequest {
                    namespace: (*namespace).to_owned(),
                    context: (*context).to_owned(),
                    key: (*key).to_owned(),
                    value,
                    ..v1::PutKeyRequest::default()
                };
                way.command(&call.caller, put, call.deadline).await.map(drop)
            }
            (["context", namespace, context, key], None) => {
                let delete = v1::DeleteKeyRequest {
                    namespace: (*namespace).to_owned(),
                    context: (*context).to_owned(),
                    key: (*key).to_owned(),
                    ..v1::DeleteKeyRequest::default()
                };
                if way.command(&call.caller, delete, call.deadline).await?.deleted {
                    return Ok(());
                }
                let message = "the key is deleted here already, which does not end the conflict: choose a value, and delete it then";
                Err(crate::federation::refusal(tonic::Code::FailedPrecondition, "KEY_IS_DELETED", message).field("key"))
            }
            (_, value) => {
                let writes = vec![v1::SharedEntry { key, value }];
                way.command(&call.caller, v1::WriteShared { writes, ..v1::WriteShared::default() }, call.deadline).await.map(drop)
            }
        }
    }
}

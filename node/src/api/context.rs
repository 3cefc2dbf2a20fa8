//! `ContextService`.

use tarn_proto::v1;
use tarn_proto::v1::context_service_server::ContextService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl ContextService for Api {
    async fn put_key(&self, request: Request<v1::PutKeyRequest>) -> Result<Response<v1::PutKeyResponse>, Status> {
        self.command(request).await
    }

    async fn delete_key(&self, request: Request<v1::DeleteKeyRequest>) -> Result<Response<v1::DeleteKeyResponse>, Status> {
        self.command(request).await
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::GetKeyResponse>, Status> {
        match request.get_ref().stale {
            true => self.glance(request, |machine, question| machine.get_key(question)),
            false => self.read(request, |machine, question| machine.get_key(question)).await,
        }
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.read(request, |machine, question| machine.list_keys(question)).await
    }

    async fn list_versions(&self, request: Request<v1::ListVersionsRequest>) -> Result<Response<v1::ListVersionsResponse>, Status> {
        self.read(request, |machine, question| machine.list_versions(question)).await
    }

    async fn list_contexts(&self, request: Request<v1::ListContextsRequest>) -> Result<Response<v1::ListContextsResponse>, Status> {
        self.read(request, |machine, question| machine.list_contexts(question)).await
    }

    async fn snapshot_context(
        &self,
        request: Request<v1::SnapshotContextRequest>,
    ) -> Result<Response<v1::SnapshotContextResponse>, Status> {
        self.command(request).await
    }

    async fn list_snapshots(&self, request: Request<v1::ListSnapshotsRequest>) -> Result<Response<v1::ListSnapshotsResponse>, Status> {
        self.read(request, |machine, question| machine.list_snapshots(question)).await
    }

    async fn restore_context(&self, request: Request<v1::RestoreContextRequest>) -> Result<Response<v1::RestoreContextResponse>, Status> {
        self.command(request).await
    }

    async fn delete_snapshot(&self, request: Request<v1::DeleteSnapshotRequest>) -> Result<Response<v1::DeleteSnapshotResponse>, Status> {
        self.command(request).await
    }

    async fn delete_context(&self, request: Request<v1::DeleteContextRequest>) -> Result<Response<v1::DeleteContextResponse>, Status> {
        self.command(request).await
    }
}

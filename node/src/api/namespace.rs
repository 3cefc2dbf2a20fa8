//! `NamespaceService`.

use tarn_proto::v1;
use tarn_proto::v1::namespace_service_server::NamespaceService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl NamespaceService for Api {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Status> {
        self.command(request).await
    }

    async fn update_namespace(
        &self,
        request: Request<v1::UpdateNamespaceRequest>,
    ) -> Result<Response<v1::UpdateNamespaceResponse>, Status> {
        self.command(request).await
    }

    async fn get_namespace(&self, request: Request<v1::GetNamespaceRequest>) -> Result<Response<v1::GetNamespaceResponse>, Status> {
        self.read(request, |machine, question| machine.get_namespace(question)).await
    }

    async fn list_namespaces(&self, request: Request<v1::ListNamespacesRequest>) -> Result<Response<v1::ListNamespacesResponse>, Status> {
        self.read(request, |machine, question| machine.list_namespaces(question)).await
    }

    async fn delete_namespace(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Status> {
        self.command(request).await
    }
}

//! `LeaseService`.

use tarn_proto::v1;
use tarn_proto::v1::lease_service_server::LeaseService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl LeaseService for Api {
    async fn acquire_lease(&self, request: Request<v1::AcquireLeaseRequest>) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        self.command(request).await
    }

    async fn renew_lease(&self, request: Request<v1::RenewLeaseRequest>) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        self.command(request).await
    }

    async fn release_lease(&self, request: Request<v1::ReleaseLeaseRequest>) -> Result<Response<v1::ReleaseLeaseResponse>, Status> {
        self.command(request).await
    }

    async fn get_lease(&self, request: Request<v1::GetLeaseRequest>) -> Result<Response<v1::GetLeaseResponse>, Status> {
        self.read(request, |machine, question| machine.get_lease(question)).await
    }

    async fn list_leases(&self, request: Request<v1::ListLeasesRequest>) -> Result<Response<v1::ListLeasesResponse>, Status> {
        self.read(request, |machine, question| machine.list_leases(question)).await
    }
}

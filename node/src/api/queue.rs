//! `QueueService`.

use tarn_proto::v1;
use tarn_proto::v1::queue_service_server::QueueService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl QueueService for Api {
    async fn list_queues(&self, request: Request<v1::ListQueuesRequest>) -> Result<Response<v1::ListQueuesResponse>, Status> {
        self.read(request, |machine, question| machine.list_queues(question)).await
    }

    async fn get_queue(&self, request: Request<v1::GetQueueRequest>) -> Result<Response<v1::GetQueueResponse>, Status> {
        self.read(request, |machine, question| machine.get_queue(question)).await
    }

    async fn requeue_dead(&self, request: Request<v1::RequeueDeadRequest>) -> Result<Response<v1::RequeueDeadResponse>, Status> {
        self.command(request).await
    }

    async fn purge_queue(&self, request: Request<v1::PurgeQueueRequest>) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        self.command(request).await
    }
}

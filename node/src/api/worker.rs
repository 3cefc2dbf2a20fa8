//! `WorkerService`.

use std::time::Duration;

use tarn_proto::v1;
use tarn_proto::v1::worker_service_server::WorkerService;
use tonic::{Request, Response, Status, Streaming};

use super::Api;
use crate::dispatch;
use crate::gate::Reason;

/// Longest wait of `LeaseTasks`.
const WAIT_MS_MAX: u64 = 60_000;

#[tonic::async_trait]
impl WorkerService for Api {
    async fn register_worker(&self, request: Request<v1::RegisterWorkerRequest>) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        self.command(request).await
    }

    async fn heartbeat_worker(
        &self,
        request: Request<v1::HeartbeatWorkerRequest>,
    ) -> Result<Response<v1::HeartbeatWorkerResponse>, Status> {
        self.command(request).await
    }

    async fn drain_worker(&self, request: Request<v1::DrainWorkerRequest>) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        self.command(request).await
    }

    async fn list_workers(&self, request: Request<v1::ListWorkersRequest>) -> Result<Response<v1::ListWorkersResponse>, Status> {
        self.read(request, |machine, question| machine.list_workers(question)).await
    }

    async fn lease_tasks(&self, request: Request<v1::LeaseTasksRequest>) -> Result<Response<v1::LeaseTasksResponse>, Status> {
        let call = self.enter(&request)?;
        let request = request.into_inner();
        if request.wait_ms > WAIT_MS_MAX {
            let refusal = Reason::InvalidArgument.refusal("wait_ms is at most a minute: ask again after it");
            return Err(call.status(refusal.field("wait_ms").limit(WAIT_MS_MAX)));
        }
        let left = call.deadline.saturating_duration_since(tokio::time::Instant::now());
        let wait = Duration::from_millis(request.wait_ms).min(left);
        let granted = self.dispatcher.lease(&call.caller, request, wait, call.deadline).await;
        let granted = granted.map_err(|refusal| call.status(refusal))?;
        let tasks = granted.into_iter().map(|granted| *granted.deliver()).collect();
        Ok(Response::new(v1::LeaseTasksResponse { tasks }))
    }

    async fn heartbeat_tasks(&self, request: Request<v1::HeartbeatTasksRequest>) -> Result<Response<v1::HeartbeatTasksResponse>, Status> {
        self.command(request).await
    }

    async fn complete_task(&self, request: Request<v1::CompleteTaskRequest>) -> Result<Response<v1::CompleteTaskResponse>, Status> {
        self.command(request).await
    }

    async fn fail_task(&self, request: Request<v1::FailTaskRequest>) -> Result<Response<v1::FailTaskResponse>, Status> {
        self.command(request).await
    }

    type WorkStream = dispatch::Responses;

    async fn work(&self, request: Request<Streaming<v1::WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let call = self.enter(&request)?;
        let (way, dispatcher) = (self.way.clone(), self.dispatcher.clone());
        let opened = dispatch::work(way, dispatcher, call.caller.clone(), request.into_inner(), call.deadline).await;
        opened.map(Response::new).map_err(|refusal| call.status(refusal))
    }
}

//! The calls that workers are made of, one by one. [`Worker`](crate::Worker) puts them together.

use std::time::Duration;

use crate::client::{Client, Kind, request_id, rpc};
use crate::error::Error;
use crate::proto::{self, worker_service_client::WorkerServiceClient};
use crate::time::millis;

impl Client {
    /// Lists the registered workers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_workers(&self) -> Result<Vec<proto::Worker>, Error> {
        Ok(self.read(proto::ListWorkersRequest {}, rpc!(WorkerServiceClient.list_workers)).await?.workers)
    }

    /// Has a worker get no more tasks, and returns how many it still holds.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such worker; see [`Error`].
    pub async fn drain_worker(&self, worker_id: impl Into<String>) -> Result<u32, Error> {
        let request = proto::DrainWorkerRequest { request_id: String::new(), worker_id: worker_id.into() };
        Ok(self.command(request, rpc!(WorkerServiceClient.drain_worker)).await?.running)
    }

    /// Registers a worker.
    ///
    /// # Errors
    /// [`Error::Refused`] where its capabilities are malformed; see [`Error`].
    pub async fn register_worker(&self, request: proto::RegisterWorkerRequest) -> Result<proto::RegisterWorkerResponse, Error> {
        self.command(request, rpc!(WorkerServiceClient.register_worker)).await
    }

    /// Keeps a worker's registration alive.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `WORKER_NOT_FOUND` where the registration has ended; see [`Error`].
    pub async fn heartbeat_worker(&self, worker_id: impl Into<String>) -> Result<proto::HeartbeatWorkerResponse, Error> {
        let request = proto::HeartbeatWorkerRequest { worker_id: worker_id.into(), resources: None };
        self.command(request, rpc!(WorkerServiceClient.heartbeat_worker)).await
    }

    /// Leases up to `max_tasks` tasks for a worker, waiting up to `wait` for the first.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `WORKER_NOT_FOUND` where the worker is not registered; see [`Error`].
    pub async fn lease_tasks(
        &self,
        worker_id: impl Into<String>,
        max_tasks: u32,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<proto::LeasedTask>, Error> {
        let request = proto::LeaseTasksRequest {
            request_id: request_id(),
            worker_id: worker_id.into(),
            max_tasks,
            lease_ms: millis(lease),
            wait_ms: millis(wait),
        };
        Ok(self.call(Kind::WRITE.waiting(wait), request, rpc!(WorkerServiceClient.lease_tasks)).await?.tasks)
    }

    /// Extends the leases of running tasks, and tells which were cancelled or lost.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn heartbeat_tasks(&self, request: proto::HeartbeatTasksRequest) -> Result<Vec<proto::LeaseReport>, Error> {
        Ok(self.command(request, rpc!(WorkerServiceClient.heartbeat_tasks)).await?.leases)
    }

    /// Reports that a leased task has succeeded.
    ///
    /// # Errors
    /// [`Error::Refused`] where the lease has been lost; see [`Error`].
    pub async fn complete_task(&self, request: proto::CompleteTaskRequest) -> Result<(), Error> {
        self.command(request, rpc!(WorkerServiceClient.complete_task)).await.map(drop)
    }

    /// Reports that a leased task has failed, and returns what it is now.
    ///
    /// # Errors
    /// As [`Client::complete_task`].
    pub async fn fail_task(&self, request: proto::FailTaskRequest) -> Result<proto::TaskState, Error> {
        Ok(self.command(request, rpc!(WorkerServiceClient.fail_task)).await?.state())
    }
}

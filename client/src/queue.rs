//! Queues: what is in them, and their dead letters.

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::proto::{self, queue_service_client::QueueServiceClient};

impl Client {
    /// Lists the queues of the client's namespace with their counts.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_queues(&self) -> Result<Vec<proto::QueueStats>, Error> {
        self.queues_of(self.ns()).await
    }

    /// Lists the queues of all namespaces with their counts.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_all_queues(&self) -> Result<Vec<proto::QueueStats>, Error> {
        self.queues_of(String::new()).await
    }

    async fn queues_of(&self, namespace: String) -> Result<Vec<proto::QueueStats>, Error> {
        Ok(self.read(proto::ListQueuesRequest { namespace }, rpc!(QueueServiceClient.list_queues)).await?.queues)
    }

    /// Reads one queue's counts.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such queue; see [`Error`].
    pub async fn get_queue(&self, queue: impl Into<String>) -> Result<proto::QueueStats, Error> {
        let request = proto::GetQueueRequest { namespace: self.ns(), queue: queue.into() };
        let answer = self.read(request, rpc!(QueueServiceClient.get_queue)).await?;
        answer.stats.ok_or_else(|| Error::Transport("the node answered without the queue's counts".into()))
    }

    /// Puts dead tasks of a queue back, with their attempts counted from zero: those named, or all where none is named, up to 1,000 a
    /// call. The answer says how many are still dead.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn requeue_dead<I: Into<String>>(
        &self,
        queue: impl Into<String>,
        task_ids: impl IntoIterator<Item = I>,
    ) -> Result<proto::RequeueDeadResponse, Error> {
        let request = proto::RequeueDeadRequest {
            request_id: String::new(),
            namespace: self.ns(),
            queue: queue.into(),
            task_ids: task_ids.into_iter().map(Into::into).collect(),
        };
        self.command(request, rpc!(QueueServiceClient.requeue_dead)).await
    }

    /// Deletes for good a queue's tasks in these states (blocked, delayed, ready or dead), up to 1,000 a call. The answer says how many
    /// are left. Running tasks are never purged.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn purge_queue(
        &self,
        queue: impl Into<String>,
        states: impl IntoIterator<Item = proto::TaskState>,
    ) -> Result<proto::PurgeQueueResponse, Error> {
        let request = proto::PurgeQueueRequest {
            request_id: String::new(),
            namespace: self.ns(),
            queue: queue.into(),
            states: states.into_iter().map(Into::into).collect(),
        };
        self.command(request, rpc!(QueueServiceClient.purge_queue)).await
    }
}

//! `TaskService`.

use std::time::Duration;

use tarn_proto::v1::task_service_server::TaskService;
use tarn_proto::v1::{self, TaskState};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Api;
use crate::gate::{Question, Reason};

/// Longest wait of `GetTask`.
const WAIT_MS_MAX: u64 = 60_000;

#[tonic::async_trait]
impl TaskService for Api {
    async fn enqueue(&self, request: Request<v1::EnqueueRequest>) -> Result<Response<v1::EnqueueResponse>, Status> {
        self.command(request).await
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::GetTaskResponse>, Status> {
        let call = self.enter(&request)?;
        let mut question = request.into_inner();
        question.complete();
        if question.wait_ms > WAIT_MS_MAX {
            let refusal = Reason::InvalidArgument.refusal("wait_ms is at most a minute: ask again after it");
            return Err(call.status(refusal.field("wait_ms").limit(WAIT_MS_MAX)));
        }
        // Before the first look, so that an end between the look and the wait is not missed.
        let mut ended = self.waits.wait(&question.task_id);
        let first = self.way.read(&call.caller, question.wish(), call.deadline, |machine| machine.get_task(&question)).await;
        let mut answer = first.map_err(|refusal| call.status(refusal))?;
        // A wait that cannot end before the deadline ends with it, and with an answer.
        let until = call.deadline.min(Instant::now() + Duration::from_millis(question.wait_ms));
        while !has_ended(&answer) && self.stopping.run_until_cancelled(ended.changed_until(until)).await == Some(true) {
            // Who may not see it any more does not.
            let admitted = self.way.still_may(&call.caller, question.wish());
            let again = admitted.and_then(|()| self.way.look(|machine| machine.get_task(&question)));
            answer = again.map_err(|refusal| call.status(refusal))?;
        }
        Ok(Response::new(answer))
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksResponse>, Status> {
        self.read(request, |machine, question| machine.list_tasks(question)).await
    }

    async fn cancel_task(&self, request: Request<v1::CancelTaskRequest>) -> Result<Response<v1::CancelTaskResponse>, Status> {
        self.command(request).await
    }

    async fn get_task_logs(&self, request: Request<v1::GetTaskLogsRequest>) -> Result<Response<v1::GetTaskLogsResponse>, Status> {
        self.read(request, |machine, question| machine.task_logs(question)).await
    }
}

fn has_ended(answer: &v1::GetTaskResponse) -> bool {
    let state = answer.task.as_ref().map_or(TaskState::Unspecified, v1::Task::state);
    matches!(state, TaskState::Succeeded | TaskState::Dead | TaskState::Cancelled)
}

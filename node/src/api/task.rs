//! `TaskService`.

use std::time::Duration;

use tarn_proto::v1::task_service_server::TaskService;
use tarn_proto::v1::{self, TaskState};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Api;
use crate::gate::{Caller, Question, Reason, Refusal};

/// Longest wait of `GetTask`.
const WAIT_MS_MAX: u64 = 60_000;

/// The end of a wait is kept free for the confirmation that what is said then is not old.
const CERTAIN_WITHIN: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl TaskService for Api {
    async fn enqueue(&self, request: Request<v1::EnqueueRequest>) -> Result<Response<v1::EnqueueResponse>, Status> {
        self.command(request).await
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::GetTaskResponse>, Status> {
        let call = self.enter(&request)?;
        let answer = self.task(&call.caller, request.into_inner(), call.deadline).await;
        answer.map(Response::new).map_err(|refusal| call.status(refusal))
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

impl Api {
    /// The task, as soon as it has ended or the question's patience is over.
    pub(super) async fn task(
        &self,
        caller: &Caller,
        mut question: v1::GetTaskRequest,
        deadline: Instant,
    ) -> Result<v1::GetTaskResponse, Refusal> {
        question.complete();
        if question.wait_ms > WAIT_MS_MAX {
            let refusal = Reason::InvalidArgument.refusal("wait_ms is at most a minute: ask again after it");
            return Err(refusal.field("wait_ms").limit(WAIT_MS_MAX));
        }
        self.wait_for(caller, &question, deadline).await
    }

    /// Success is for ever: whoever waits for it needs nobody's confirmation that this node is not behind. Anything else, an end that a
    /// requeuing may have taken back among them, is answered by a state that has everything that was acknowledged before the call.
    async fn wait_for(&self, caller: &Caller, question: &v1::GetTaskRequest, deadline: Instant) -> Result<v1::GetTaskResponse, Refusal> {
        // Before the first look, so that an end between the look and the wait is not missed.
        let mut ended = self.waits.wait(&question.task_id);
        self.way.admit(caller, question.wish())?;
        let look = || self.way.look(|machine| machine.get_task(question));
        // A wait that cannot end before the deadline ends with it, and with an answer.
        let mut until = deadline.min(Instant::now() + Duration::from_millis(question.wait_ms));
        let mut certain = std::pin::pin!(self.way.barrier(deadline));
        let mut is_certain = false;
        loop {
            let known = look();
            if known.as_ref().is_ok_and(has_succeeded) && question.wait_ms > 0 {
                return known;
            }
            let may_go_on = known.as_ref().is_ok_and(|answer| !has_ended(answer)) && Instant::now() + CERTAIN_WITHIN < until;
            if !is_certain && !may_go_on {
                certain.as_mut().await?;
                is_certain = true;
                continue;
            }
            let answer = known?;
            let patience = if is_certain { until } else { until - CERTAIN_WITHIN };
            if is_certain && (has_ended(&answer) || Instant::now() >= until) {
                return Ok(answer);
            }
            if self.stopping.run_until_cancelled(ended.changed_until(patience)).await.is_none() {
                until = Instant::now();
            }
            // Who may not see it any more does not.
            self.way.still_may(caller, question.wish())?;
        }
    }
}

fn has_ended(answer: &v1::GetTaskResponse) -> bool {
    let state = answer.task.as_ref().map_or(TaskState::Unspecified, v1::Task::state);
    matches!(state, TaskState::Succeeded | TaskState::Dead | TaskState::Cancelled)
}

fn has_succeeded(answer: &v1::GetTaskResponse) -> bool {
    answer.task.as_ref().is_some_and(|task| task.state() == TaskState::Succeeded)
}

//! Questions over streams, and the contexts' service as far as they need it.

use tarn_client::proto::task_service_server::TaskService;
use tarn_client::proto::{answer, question, *};
use tonic::{Code, Request, Response, Status};

use super::pipeline::rejection;
use super::{Fake, refuse};

impl Fake {
    /// Answers questions, or takes them for a command that it does not know.
    pub async fn answer(&self, correlation: u64, questions: Vec<Question>) -> PipelineResponse {
        let knows = self.with(|state| {
            state.asked.push(questions.len());
            state.questions
        });
        let mut response = PipelineResponse { correlation, ..PipelineResponse::default() };
        if !knows {
            let unread = refuse(Code::InvalidArgument, "INVALID_ARGUMENT", "the message has no command that this node knows");
            response.outcome = Some(Outcome { body: Some(outcome::Body::Rejected(rejection(&unread))) });
            return response;
        }
        response.trace = "trace".to_owned();
        for question in questions {
            let found = match question.body.unwrap() {
                question::Body::GetKey(request) => self.find(&request).map(answer::Body::GetKey),
                question::Body::GetTask(request) => {
                    self.get_task(Request::new(request)).await.map(|found| answer::Body::GetTask(found.into_inner()))
                }
            };
            let body = found.unwrap_or_else(|status| answer::Body::Rejected(rejection(&status)));
            response.answers.push(Answer { body: Some(body) });
        }
        response
    }

    fn find(&self, request: &GetKeyRequest) -> Result<GetKeyResponse, Status> {
        self.with(|state| match state.keys.get(&request.key) {
            Some(value) => Ok(GetKeyResponse { value: value.clone(), ..GetKeyResponse::default() }),
            None => Err(refuse(Code::NotFound, "KEY_NOT_FOUND", "there is no such key")),
        })
    }
}

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the fake"))
}

#[tonic::async_trait]
impl context_service_server::ContextService for Fake {
    async fn get_key(&self, request: Request<GetKeyRequest>) -> Result<Response<GetKeyResponse>, Status> {
        let found = self.find(request.get_ref());
        self.carry_out("get_key", "", |_| found).await
    }

    async fn put_key(&self, _: Request<PutKeyRequest>) -> Result<Response<PutKeyResponse>, Status> {
        absent()
    }

    async fn delete_key(&self, _: Request<DeleteKeyRequest>) -> Result<Response<DeleteKeyResponse>, Status> {
        absent()
    }

    async fn list_keys(&self, _: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        absent()
    }

    async fn list_versions(&self, _: Request<ListVersionsRequest>) -> Result<Response<ListVersionsResponse>, Status> {
        absent()
    }

    async fn list_contexts(&self, _: Request<ListContextsRequest>) -> Result<Response<ListContextsResponse>, Status> {
        absent()
    }

    async fn snapshot_context(&self, _: Request<SnapshotContextRequest>) -> Result<Response<SnapshotContextResponse>, Status> {
        absent()
    }

    async fn list_snapshots(&self, _: Request<ListSnapshotsRequest>) -> Result<Response<ListSnapshotsResponse>, Status> {
        absent()
    }

    async fn restore_context(&self, _: Request<RestoreContextRequest>) -> Result<Response<RestoreContextResponse>, Status> {
        absent()
    }

    async fn delete_snapshot(&self, _: Request<DeleteSnapshotRequest>) -> Result<Response<DeleteSnapshotResponse>, Status> {
        absent()
    }

    async fn delete_context(&self, _: Request<DeleteContextRequest>) -> Result<Response<DeleteContextResponse>, Status> {
        absent()
    }
}

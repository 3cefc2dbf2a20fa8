//! The commands' service: commands over streams, and batches of them.

use std::collections::VecDeque;

use prost::Message;
use tarn_client::proto::command::Body;
use tarn_client::proto::{outcome, *};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::services::forbidden;
use super::{Fake, Fault};

/// Carries a request out by its call.
macro_rules! carry {
    ($fake:ident, $request:ident, $service:ident.$method:ident, $variant:ident) => {
        $service::$method($fake, Request::new($request)).await.map(|answer| outcome::Body::$variant(answer.into_inner()))
    };
}

impl Fake {
    /// Carries a command out as if it had come as a call.
    async fn execute(&self, body: Body) -> Result<outcome::Body, Status> {
        use lease_service_server::LeaseService;
        use task_service_server::TaskService;
        match body {
            Body::Enqueue(request) => carry!(self, request, TaskService.enqueue, Enqueue),
            Body::CancelTask(request) => carry!(self, request, TaskService.cancel_task, CancelTask),
            Body::AcquireLease(request) => carry!(self, request, LeaseService.acquire_lease, AcquireLease),
            Body::RenewLease(request) => carry!(self, request, LeaseService.renew_lease, RenewLease),
            Body::ReleaseLease(request) => carry!(self, request, LeaseService.release_lease, ReleaseLease),
            other => Err(Status::unimplemented(format!("{} is not in the fake", other.name()))),
        }
    }

    /// Carries a batch out, each command as it does alone, and remembers the whole by its id. `Err`: the stream breaks.
    async fn batch(&self, batch: CommandBatch) -> Result<Result<outcome::Body, Status>, Status> {
        let fault = self.with(|state| state.faults.get_mut("batch").and_then(VecDeque::pop_front));
        match fault {
            Some(Fault::Fail(status)) => return Ok(Err(status)),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::DoThenFail(_)) | None => {}
        }
        let refused = batch.commands.iter().find_map(|command| match &command.body {
            Some(Body::Enqueue(request)) => forbidden(request),
            _ => None,
        });
        if let Some(refused) = refused {
            return Ok(Err(refused));
        }
        let remembered = self.with(|state| state.answers.get(&batch.request_id).cloned());
        let answer = match remembered {
            Some(answer) => CommandBatchOutcome::decode(answer.as_slice()).unwrap(),
            None => {
                let mut outcomes = Vec::new();
                for command in batch.commands {
                    let body = command.body.unwrap();
                    assert!(body.fits_batches() && body.request_id().is_empty(), "{body:?}");
                    outcomes.push(Outcome { body: Some(told(self.execute(body).await)) });
                }
                let answer = CommandBatchOutcome { outcomes };
                self.with(|state| state.answers.insert(batch.request_id, answer.encode_to_vec()));
                answer
            }
        };
        match fault {
            Some(Fault::DoThenFail(status)) => Err(status),
            _ => Ok(Ok(outcome::Body::Batch(answer))),
        }
    }
}

fn told(outcome: Result<outcome::Body, Status>) -> outcome::Body {
    outcome.unwrap_or_else(|status| outcome::Body::Rejected(rejection(&status)))
}

/// A refusal as streams have it.
pub fn rejection(status: &Status) -> Rejection {
    let info = status.get_details_error_info();
    let fact = |name: &str| info.as_ref().and_then(|info| info.metadata.get(name)).cloned().unwrap_or_default();
    Rejection {
        code: status.code() as u32,
        message: status.message().to_owned(),
        field: fact("field"),
        limit: fact("limit").parse().unwrap_or(0),
        reason: info.as_ref().map(|info| info.reason.clone()).unwrap_or_default(),
        ..Rejection::default()
    }
}

#[tonic::async_trait]
impl command_service_server::CommandService for Fake {
    type PipelineStream = ReceiverStream<Result<PipelineResponse, Status>>;

    async fn pipeline(&self, request: Request<Streaming<PipelineRequest>>) -> Result<Response<Self::PipelineStream>, Status> {
        if !self.with(|state| state.streams) {
            return Err(Status::unimplemented("this node takes commands as calls"));
        }
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let fake = self.clone();
        tokio::spawn(async move {
            let mut cut = fake.cuts.subscribe();
            // Whoever drops these ends the stream.
            let mut answering = tokio::task::JoinSet::new();
            loop {
                let request = tokio::select! {
                    request = requests.message() => request,
                    _ = cut.changed() => return drop(sender.send(Err(Status::unavailable("cut"))).await),
                };
                let Ok(Some(PipelineRequest { correlation, command, questions, .. })) = request else { return };
                let Some(body) = command.and_then(|command| command.body) else {
                    let (fake, sender) = (fake.clone(), sender.clone());
                    answering.spawn(async move {
                        let _ = sender.send(Ok(fake.answer(correlation, questions).await)).await;
                    });
                    continue;
                };
                fake.with(|state| state.messages.push(body.clone()));
                let (fake, sender) = (fake.clone(), sender.clone());
                answering.spawn(async move {
                    let answer = match body {
                        Body::Batch(batch) => fake.batch(batch).await,
                        body => Ok(fake.execute(body).await),
                    };
                    let answer = answer.map(|outcome| {
                        let outcome = Some(Outcome { body: Some(told(outcome)) });
                        PipelineResponse { correlation, outcome, ..PipelineResponse::default() }
                    });
                    let _ = sender.send(answer).await;
                });
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

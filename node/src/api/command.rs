//! `CommandService`: any command over a standing stream.
//!
//! The answers are made by the task that sends them: it reads what has come, gives each command its own way through the gate and the log,
//! and sends what is ready. So a stream costs no task, no header and no time-out frame for each command, and commands that come together
//! are proposed together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tarn_proto::v1::command::Body;
use tarn_proto::v1::command_service_server::CommandService;
use tarn_proto::v1::{self, outcome};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::call::TIMEOUT_MAX;
use super::{Api, Call};
use crate::gate::{Reason, Refusal};

/// Commands of one stream under way at once. When as many are, the stream is read no further.
const COMMANDS_MAX: usize = 1_024;

#[tonic::async_trait]
impl CommandService for Api {
    type PipelineStream = Pin<Box<dyn Stream<Item = Result<v1::PipelineResponse, Status>> + Send>>;

    async fn pipeline(&self, request: Request<Streaming<v1::PipelineRequest>>) -> Result<Response<Self::PipelineStream>, Status> {
        let call = Arc::new(self.enter(&request)?);
        let stopping = self.stopping.clone();
        let api = self.clone();
        // A stream that fails has ended: its client knows better than the node why.
        let commands = futures::StreamExt::take_until(request.into_inner(), stopping.cancelled_owned())
            .map_while(Result::ok)
            .map(move |request| api.clone().answer(call.clone(), request));
        let answers = futures::StreamExt::buffer_unordered(commands, COMMANDS_MAX);
        Ok(Response::new(Box::pin(answers.map(Ok))))
    }
}

impl Api {
    async fn answer(self, call: Arc<Call>, request: v1::PipelineRequest) -> v1::PipelineResponse {
        let timeout = Some(request.timeout_ms).filter(|ms| *ms > 0);
        let deadline = self.deadline(timeout.map(|ms| Duration::from_millis(ms).min(TIMEOUT_MAX)));
        let executed = match accepted(request.command) {
            Ok(body) => self.way.execute(&call.caller, body, deadline).await,
            Err(refusal) => Err(refusal),
        };
        let body = executed.unwrap_or_else(|refusal| outcome::Body::Rejected(refusal.rejection));
        v1::PipelineResponse {
            correlation: request.correlation,
            outcome: Some(v1::Outcome { body: Some(body) }),
            leader: self.way.leader_elsewhere().unwrap_or_default(),
        }
    }
}

/// The command, if it is one that a client may send here.
fn accepted(command: Option<v1::Command>) -> Result<Body, Refusal> {
    let v1::Command { principal, gate, body } = command.unwrap_or_default();
    if !principal.is_empty() {
        let refusal = Reason::InvalidArgument.refusal("leave the principal empty: the connection says who asks");
        return Err(refusal.field("command.principal"));
    }
    if gate.is_some() {
        let refusal = Reason::InvalidArgument.refusal("leave the gate's part empty: the node fills it in");
        return Err(refusal.field("command.gate"));
    }
    match body {
        None => Err(Reason::InvalidArgument.refusal("the message has no command that this node knows").field("command.body")),
        Some(Body::LeaseTasks(_)) => {
            Err(Reason::InvalidArgument.refusal("lease tasks with WorkerService: LeaseTasks, or Work").field("command.body"))
        }
        Some(
            Body::RaiseVersion(_)
            | Body::PutJoinToken(_)
            | Body::ConsumeJoinToken(_)
            | Body::RecordDecisions(_)
            | Body::RecordViolations(_)
            | Body::AcknowledgeEscalations(_)
            | Body::PlaceTasks(_)
            | Body::AdvanceDriver(_),
        ) => Err(Reason::InvalidArgument
            .refusal("this is the cluster's own command: use ClusterService or JoinService")
            .field("command.body")),
        Some(body) => Ok(body),
    }
}

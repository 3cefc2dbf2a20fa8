//! `CommandService`: any command, and some questions, over a standing stream.
//!
//! The answers are made by the task that sends them: it reads what has come, gives each command its own way through the gate and the log,
//! and sends what is ready. So a stream costs no task, no header and no time-out frame for each command, and commands that come together
//! are proposed together.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tarn_proto::v1::command::Body;
use tarn_proto::v1::command_service_server::CommandService;
use tarn_proto::v1::{self, outcome};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::call::TIMEOUT_MAX;
use super::questions::{QUESTIONS_MAX, wait_in};
use super::{Api, Call};
use crate::gate::{Reason, Refusal};

/// Commands of one stream under way at once. When as many are, the stream is read no further.
const COMMANDS_MAX: usize = 1_024;
/// Questions of one stream that wait for something to happen. They are no reason to read no further. Who gives up is not heard of: its wait
/// goes on until its time is up.
const WAITS_MAX: usize = 4_096;
/// The same, before they have begun to wait: those that come at one moment.
const WAITS_QUEUED: usize = 1_024;

#[tonic::async_trait]
impl CommandService for Api {
    type PipelineStream = Pin<Box<dyn Stream<Item = Result<v1::PipelineResponse, Status>> + Send>>;

    async fn pipeline(&self, request: Request<Streaming<v1::PipelineRequest>>) -> Result<Response<Self::PipelineStream>, Status> {
        let call = Arc::new(self.enter(&request)?);
        let stopping = self.stopping.clone();
        let (waits, waiting) = mpsc::channel(WAITS_QUEUED);
        // A stream that fails has ended: its client knows better than the node why.
        let requests = futures::StreamExt::take_until(request.into_inner(), stopping.cancelled_owned()).map_while(Result::ok);
        // With the last request goes the way to wait, and the answers end when all are given.
        let requests = requests.map(Some).chain(tokio_stream::once(None));
        let mut waits = Some(waits);
        let others = requests.filter_map(move |request| match request {
            Some(request) => aside(waits.as_ref()?, request),
            None => {
                waits = None;
                None
            }
        });
        let (api, asking) = (self.clone(), call.clone());
        let others = others.map(move |request| match request {
            Ok(request) => api.clone().answer(asking.clone(), request).left_future(),
            Err(refused) => std::future::ready(refused).right_future(),
        });
        let api = self.clone();
        let waiting = ReceiverStream::new(waiting).map(move |request| api.clone().answer_wait(call.clone(), request));
        let others = futures::StreamExt::buffer_unordered(others, COMMANDS_MAX);
        let waiting = futures::StreamExt::buffer_unordered(waiting, WAITS_MAX);
        Ok(Response::new(Box::pin(futures::stream::select(others, waiting).map(Ok))))
    }
}

/// Sends what waits to where it keeps no command from its turn. `None`: done so. `Err`: there is no room for it.
fn aside(
    waits: &mpsc::Sender<v1::PipelineRequest>,
    request: v1::PipelineRequest,
) -> Option<Result<v1::PipelineRequest, v1::PipelineResponse>> {
    if request.command.is_some() || wait_in(&request.questions).is_none() {
        return Some(Ok(request));
    }
    let full = waits.try_send(request).err()?.into_inner();
    let answers = vec![Api::no_room_to_wait()];
    Some(Err(v1::PipelineResponse { correlation: full.correlation, answers, ..v1::PipelineResponse::default() }))
}

impl Api {
    async fn answer(self, call: Arc<Call>, request: v1::PipelineRequest) -> v1::PipelineResponse {
        let deadline = self.deadline_of(&request);
        let mut response = v1::PipelineResponse { correlation: request.correlation, ..v1::PipelineResponse::default() };
        if request.questions.len() > QUESTIONS_MAX {
            let refusal = Reason::InvalidArgument.refusal("send fewer questions in one message").field("questions");
            let rejection = refusal.limit(QUESTIONS_MAX as u64).rejection;
            response.outcome = Some(v1::Outcome { body: Some(outcome::Body::Rejected(rejection)) });
        } else if !request.questions.is_empty() && request.command.is_none() {
            response.answers = self.answers(&call.caller, request.questions, deadline).await;
            response.trace = call.caller.trace.to_string();
        } else {
            let executed = match accepted(request.command) {
                Ok(body) => self.way.execute(&call.caller, body, deadline).await,
                Err(refusal) => Err(refusal),
            };
            let body = executed.unwrap_or_else(|refusal| outcome::Body::Rejected(refusal.rejection));
            response.outcome = Some(v1::Outcome { body: Some(body) });
        }
        response.leader = self.way.leader_elsewhere().unwrap_or_default();
        response
    }

    /// The same for a question that waits. Apart from the others, because there may be many, which should take little room.
    async fn answer_wait(self, call: Arc<Call>, request: v1::PipelineRequest) -> v1::PipelineResponse {
        let deadline = self.deadline_of(&request);
        let question = wait_in(&request.questions).cloned().unwrap_or_default();
        let answers = vec![self.answer_when_due(&call.caller, question, deadline).await];
        let leader = self.way.leader_elsewhere().unwrap_or_default();
        let trace = call.caller.trace.to_string();
        v1::PipelineResponse { correlation: request.correlation, answers, leader, trace, outcome: None }
    }

    fn deadline_of(&self, request: &v1::PipelineRequest) -> Instant {
        let timeout = Some(request.timeout_ms).filter(|ms| *ms > 0);
        self.deadline(timeout.map(|ms| Duration::from_millis(ms).min(TIMEOUT_MAX)))
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

//! Questions of callers that wait at the same time, sent as one message.
//!
//! The node makes sure once, for all of them, that it is not behind, and nobody pays for a call of its own. Whatever does not work out, a node
//! that does not know such messages among it, is asked again in the way that every node knows.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::client::{Client, Effort, Kind};
use crate::error::Error;
use crate::gather::{Cargo, Gather, Group, Sent, all_gone};
use crate::proto::{self, answer};
use crate::retry::{Failure, Tries};

/// Questions in one message: what a node takes.
const QUESTIONS_MAX: usize = 256;
/// A cluster that takes no questions yet is asked again after this long.
const ALONE_FOR: Duration = Duration::from_secs(60);

type GetTask = Result<tonic::Response<proto::GetTaskResponse>, tonic::Status>;

/// A question as it is sent.
pub(crate) struct Question(pub proto::Question);

/// What a node answered, and the id by which the cluster's records name it.
pub(crate) struct Answer {
    body: answer::Body,
    trace: String,
}

impl Cargo for Question {
    type Answer = Answer;
    const COUNT_MAX: usize = QUESTIONS_MAX;

    fn of(client: &Client) -> &Gather<Self> {
        client.questions()
    }

    async fn carry(client: Client, group: Group<Self>) {
        let Group { members, under_way } = group;
        let Some(end) = members.iter().map(|waiting| waiting.end).min() else { return };
        let (questions, mut callers): (Vec<_>, Vec<_>) = members.into_iter().map(|waiting| (waiting.cargo.0, waiting.answer)).unzip();
        let count = questions.len();
        let asked = tokio::select! {
            biased;
            asked = client.ask_together(questions, end) => asked,
            () = all_gone(&mut callers) => return,
        };
        drop(under_way);
        let answers = match asked {
            Some(answer) if answer.answers.len() == count => answer,
            // A node that knows no questions answers with a refused command.
            Some(_) => {
                client.questions().rest(Instant::now() + ALONE_FOR);
                proto::PipelineResponse::default()
            }
            None => proto::PipelineResponse::default(),
        };
        // Large answers gain nothing by coming together.
        if answers.answers.iter().any(|answer| matches!(&answer.body, Some(answer::Body::Rejected(rejection)) if by_call(rejection))) {
            client.questions().rest(Instant::now() + ALONE_FOR);
        }
        let mut bodies = answers.answers.into_iter().map(|answer| answer.body);
        for caller in callers {
            let sent = match bodies.next().flatten() {
                Some(body) => Sent::Done(Answer { body, trace: answers.trace.clone() }),
                None => Sent::Alone(None),
            };
            // Whoever gave up meanwhile does not want it.
            let _ = caller.send(sent);
        }
    }
}

impl Client {
    /// Reads a key together with what other callers ask, until `end`. `None`: it is to be asked alone.
    pub(crate) async fn get_key_together(
        &self,
        request: &proto::GetKeyRequest,
        end: Instant,
    ) -> Option<Result<proto::GetKeyResponse, Error>> {
        // What needs no majority waits for none.
        if request.stale {
            return None;
        }
        let bytes = request.key.len() + request.context.len();
        let question = || Question(proto::Question { body: Some(proto::question::Body::GetKey(request.clone())) });
        match self.questions().send(self, bytes, end, question).await {
            Sent::Done(Answer { body: answer::Body::GetKey(found), .. }) => Some(Ok(found)),
            Sent::Done(Answer { body: answer::Body::Rejected(rejection), .. }) if by_call(&rejection) => None,
            Sent::Done(Answer { body: answer::Body::Rejected(rejection), trace }) => match Failure::of_rejection(rejection, trace) {
                failure @ Failure::Refused(_) => Some(Err(Tries::new(false).end(failure))),
                Failure::Busy(delay, _) if Instant::now() + delay < end => {
                    tokio::time::sleep(delay).await;
                    None
                }
                failure @ Failure::Busy(..) => Some(Err(Tries::new(false).end(failure))),
                _ => None,
            },
            Sent::Done(Answer { body: answer::Body::GetTask(_), .. }) | Sent::Failed(_) | Sent::Alone(_) => None,
        }
    }

    /// Reads a task, as soon as it has ended if the request says so. It goes over the node's stream of commands, because a call for each of many
    /// who wait would cost a node more than the task; `rpc` is for nodes that answer no questions there.
    pub(crate) async fn ask_for_task<F>(&self, kind: Kind, request: proto::GetTaskRequest, rpc: F) -> Result<proto::GetTaskResponse, Error>
    where
        F: Fn(Channel, tonic::Request<proto::GetTaskRequest>) -> BoxFuture<'static, GetTask>,
    {
        let mut effort = Effort::begin(kind, kind.end(self.deadline()));
        loop {
            let (node, limit) = effort.next(self);
            let attempt = async {
                let questions = vec![proto::Question { body: Some(proto::question::Body::GetTask(request.clone())) }];
                let message = proto::PipelineRequest { questions, ..proto::PipelineRequest::default() };
                let Some(mut answer) = node.pipeline.call(&node.channel, message, limit).await? else {
                    return self.unary(&node, request.clone(), limit, &rpc).await;
                };
                self.turn_to(&answer.leader);
                match answer.answers.pop().and_then(|answer| answer.body) {
                    Some(answer::Body::GetTask(found)) => Ok(found),
                    Some(answer::Body::Rejected(rejection)) if !by_call(&rejection) => Err(Failure::of_rejection(rejection, answer.trace)),
                    _ => self.unary(&node, request.clone(), limit, &rpc).await,
                }
            };
            match tokio::time::timeout(limit, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => effort.failed(self, &node, failure).await?,
                Err(_) => effort.failed(self, &node, Failure::TimedOut).await?,
            }
        }
    }

    /// One try at the node that is spoken to now. `None`: no answer.
    async fn ask_together(&self, questions: Vec<proto::Question>, end: Instant) -> Option<proto::PipelineResponse> {
        let (node, limit) = (self.nodes().pick(), Kind::READ.try_within(end));
        let request = proto::PipelineRequest { questions, ..proto::PipelineRequest::default() };
        match tokio::time::timeout(limit, node.pipeline.call(&node.channel, request, limit)).await {
            Ok(Ok(Some(answer))) => {
                self.turn_to(&answer.leader);
                Some(answer)
            }
            Ok(Ok(None)) => None,
            // Who asks alone now asks another node.
            Ok(Err(_)) | Err(_) => {
                self.nodes().failed(&node);
                None
            }
        }
    }
}

/// Whether a question was refused only because of how it was sent, or because the node does not know it there.
fn by_call(rejection: &proto::Rejection) -> bool {
    matches!(rejection.reason.as_str(), "ANSWERS_TOO_LARGE" | "TOO_MANY_WAITS") || rejection.field == "questions.body"
}

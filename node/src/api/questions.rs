//! Questions that came in one message, answered together.

use tarn_machine::Machine;
use tarn_proto::v1::{self, answer, question};
use tokio::time::Instant;

use super::Api;
use crate::gate::{Caller, Question, Reason, Refusal};

/// Questions in one message.
pub(super) const QUESTIONS_MAX: usize = 256;
/// After so many, others have their turn: each may read a megabyte.
const TURN: usize = 16;
/// When the answers to one message hold more than this, in bytes, the rest is asked for again, alone. With the last of them, a task and its result
/// perhaps, a message is smaller than the 4 MiB that clients of gRPC usually take.
const ANSWERS_BYTES: usize = 1 << 20;

/// A question that has passed the gate.
enum Admitted {
    Key(v1::GetKeyRequest),
    Task(v1::GetTaskRequest),
}

impl Admitted {
    /// Whether the answer must have everything that was acknowledged before.
    fn is_certain(&self) -> bool {
        !matches!(self, Self::Key(question) if question.stale)
    }

    fn look(&self, machine: &Machine) -> Result<answer::Body, tarn_machine::Refusal> {
        match self {
            Self::Key(question) => machine.get_key(question).map(answer::Body::GetKey),
            Self::Task(question) => machine.get_task(question).map(answer::Body::GetTask),
        }
    }
}

/// What somebody waits for, if the questions are that one.
pub(super) fn wait_in(questions: &[v1::Question]) -> Option<&v1::GetTaskRequest> {
    match questions {
        [v1::Question { body: Some(question::Body::GetTask(question)) }] if question.wait_ms > 0 => Some(question),
        _ => None,
    }
}

impl Api {
    /// Answers questions, one by one as far as the gate is concerned. That this node has everything that was acknowledged is made sure of
    /// once for all of them.
    pub(super) async fn answers(&self, caller: &Caller, questions: Vec<v1::Question>, deadline: Instant) -> Vec<v1::Answer> {
        let admitted = questions.into_iter().map(|question| self.admitted(caller, question));
        let mut admitted: Vec<Result<Admitted, Refusal>> = admitted.collect();
        let is_certain = |question: &Result<Admitted, Refusal>| question.as_ref().is_ok_and(Admitted::is_certain);
        if admitted.iter().any(is_certain)
            && let Err(refusal) = self.way.barrier(deadline).await
        {
            let certain = admitted.iter_mut().filter(|question| is_certain(question));
            certain.for_each(|question| *question = Err(refusal.clone()));
        }
        let (mut answers, mut bytes) = (Vec::with_capacity(admitted.len()), 0);
        for question in admitted {
            if answers.len() % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let found = question.and_then(|question| match bytes > ANSWERS_BYTES {
                true => Err(Reason::AnswersTooLarge.refusal("the answers together are too large: ask for this one alone")),
                false => self.way.look(|machine| question.look(machine)),
            });
            bytes += found.as_ref().map_or(0, size);
            answers.push(found.map_or_else(refused, |found| v1::Answer { body: Some(found) }));
        }
        answers
    }

    /// Answers a question when what it waits for has happened, or its time is up.
    pub(super) async fn answer_when_due(&self, caller: &Caller, question: v1::GetTaskRequest, deadline: Instant) -> v1::Answer {
        let answer = self.task(caller, question, deadline).await;
        answer.map_or_else(refused, |found| v1::Answer { body: Some(answer::Body::GetTask(found)) })
    }

    fn admitted(&self, caller: &Caller, question: v1::Question) -> Result<Admitted, Refusal> {
        let invalid = |message: &str, field: &str| Err(Reason::InvalidArgument.refusal(message).field(field));
        match question.body {
            Some(question::Body::GetKey(mut question)) => {
                question.complete();
                self.way.admit(caller, question.wish()).map(|()| Admitted::Key(question))
            }
            Some(question::Body::GetTask(question)) if question.wait_ms > 0 => {
                invalid("send what waits in a message of its own", "questions.get_task.wait_ms")
            }
            Some(question::Body::GetTask(mut question)) => {
                question.complete();
                self.way.admit(caller, question.wish()).map(|()| Admitted::Task(question))
            }
            None => invalid("the message has a question that this node does not know", "questions.body"),
        }
    }

    /// The answer to one who would wait where too many do.
    pub(super) fn no_room_to_wait() -> v1::Answer {
        refused(Reason::TooManyWaits.refusal("too many wait on this stream: ask by a call of its own, or over another connection"))
    }
}

fn size(answer: &answer::Body) -> usize {
    match answer {
        answer::Body::GetKey(found) => found.value.len(),
        answer::Body::GetTask(found) => prost::Message::encoded_len(found),
        answer::Body::Rejected(_) => 0,
    }
}

fn refused(refusal: Refusal) -> v1::Answer {
    v1::Answer { body: Some(answer::Body::Rejected(refusal.rejection)) }
}

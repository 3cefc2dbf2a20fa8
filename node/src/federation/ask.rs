//! What only the node with the hub knows: asked there, from whichever node.

use std::time::Duration;

use async_trait::async_trait;
use tarn_proto::v1::peer_federation_answer::Answer;
use tarn_proto::v1::peer_federation_question::Question;
use tarn_proto::v1::{
    GetFederationStatusRequest, GetFederationStatusResponse, ListConflictsRequest, ListConflictsResponse, PeerFederationAnswer,
    PeerFederationGateway, PeerFederationQuestion,
};
use tokio::sync::oneshot;

use super::Federation;
use super::link::Event;
use crate::api::rejection_of;
use crate::gate::{Reason, Refusal};
use crate::peer::{Fault, FederationHere, Traffic};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What somebody wants to know of the hub.
pub(super) enum Ask {
    /// How the replica and the links are.
    Status(oneshot::Sender<GetFederationStatusResponse>),
    /// Which keys have a conflict, and what was refused.
    Conflicts(oneshot::Sender<ListConflictsResponse>),
}

impl Federation {
    /// How the replica and the links are; empty if this cluster is in no federation.
    ///
    /// # Errors
    /// No leader is known or reached, or it has only just begun.
    pub async fn status(&self) -> Result<GetFederationStatusResponse, Refusal> {
        match self.ask(Question::Status(GetFederationStatusRequest {})).await? {
            Some(Answer::Status(status)) => Ok(status),
            _ => Ok(GetFederationStatusResponse::default()),
        }
    }

    /// Which keys have a conflict, and what was refused.
    ///
    /// # Errors
    /// As [`Federation::status`].
    pub async fn conflicts(&self) -> Result<ListConflictsResponse, Refusal> {
        match self.ask(Question::Conflicts(ListConflictsRequest {})).await? {
            Some(Answer::Conflicts(conflicts)) => Ok(conflicts),
            _ => Ok(ListConflictsResponse::default()),
        }
    }

    async fn ask(&self, question: Question) -> Result<Option<Answer>, Refusal> {
        if !self.is_member() {
            return Ok(None);
        }
        let leadership = self.way().consensus().leadership().borrow().clone();
        if leadership.is_this_node {
            return self.answer_here(question).await.map(Some);
        }
        let Some(leader) = leadership.leader else {
            return Err(Reason::NoLeader.refusal("no node leads now, so none holds the links: try again in a moment"));
        };
        let question = PeerFederationQuestion { question: Some(question) };
        let asked =
            self.links().exchange(&leader, Traffic::Control, PATIENCE, |mut peer| async move { peer.ask_federation(question).await });
        match asked.await {
            Ok(answered) => Ok(answered.body.answer),
            Err(Fault::Refused(status)) => Err(rejection_of(&status).into()),
            Err(_) => Err(Reason::NoLeader.refusal("the node that holds the links gave no answer: try again in a moment")),
        }
    }

    /// It asks nobody else: what is not here is said not to be.
    async fn answer_here(&self, question: Question) -> Result<Answer, Refusal> {
        match question {
            Question::Gateway(_) => {
                let address = self.gateway().unwrap_or_default();
                Ok(Answer::Gateway(PeerFederationGateway { address }))
            }
            Question::Status(_) => self.ask_hub(Ask::Status).await.map(Answer::Status),
            Question::Conflicts(_) => self.ask_hub(Ask::Conflicts).await.map(Answer::Conflicts),
        }
    }

    async fn ask_hub<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Refusal> {
        let starting = || Reason::NoLeader.refusal("the node that holds the links has only just begun, or stops: try again in a moment");
        let hub = self.hub().ok_or_else(starting)?;
        let (answer, answered) = oneshot::channel();
        hub.send(Event::Ask(ask(answer))).await.map_err(|_| starting())?;
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.map_err(|_| starting())?.map_err(|_| starting())
    }
}

#[async_trait]
impl FederationHere for Federation {
    async fn answer(&self, question: PeerFederationQuestion) -> Result<PeerFederationAnswer, Refusal> {
        let question = question.question.ok_or_else(|| Reason::InvalidArgument.refusal("the question is empty"))?;
        Ok(PeerFederationAnswer { answer: Some(self.answer_here(question).await?) })
    }
}

//! Asking the node that runs the drivers: this one, or the leader.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tarn_executor::DriverEngine;
use tarn_proto::v1::peer_drivers_answer::Answer;
use tarn_proto::v1::peer_drivers_question::Question;
use tarn_proto::v1::{
    CallDriverResponse, Driver, DriverSpec, GetDriverLogsResponse, PeerDriverLogs, PeerDriverState, PeerDriverStates, PeerDriversAnswer,
    PeerDriversList, PeerDriversQuestion,
};
use tokio::time::Instant;
use tonic::Code;

use super::Id;
use super::desk::{Desk, refusal};
use super::runner::load;
use super::world::{Cluster, World};
use crate::api::rejection_of;
use crate::artifacts::Artifacts;
use crate::gate::{Reason, Refusal};
use crate::peer::{DriversHere, Fault, Links, Traffic};
use crate::way::Way;

/// How long the states of drivers are waited for: a list is told without them, too.
const STATES: Duration = Duration::from_secs(2);
/// How long a reader of a log waits for the next line, before it asks again.
const LINE: Duration = Duration::from_secs(10);

/// The drivers of this node, and the way to those of the leader's. Clones share it.
#[derive(Clone)]
pub struct Drivers {
    shared: Arc<Shared>,
}

struct Shared {
    way: Way,
    links: Arc<Links>,
    engine: Arc<DriverEngine>,
    world: Arc<dyn World>,
    node_id: u64,
    desks: Mutex<BTreeMap<Id, Arc<Desk>>>,
}

impl Drivers {
    /// None runs yet: see [`Lead`](super::Lead).
    #[must_use]
    pub fn new(way: Way, links: Arc<Links>, artifacts: Artifacts, engine: DriverEngine, node_id: u64) -> Self {
        let world = Arc::new(Cluster { way: way.clone(), artifacts });
        let engine = Arc::new(engine);
        Self { shared: Arc::new(Shared { way, links, engine, world, node_id, desks: Mutex::default() }) }
    }

    pub(super) fn way(&self) -> &Way {
        &self.shared.way
    }

    pub(super) fn world(&self) -> Arc<dyn World> {
        self.shared.world.clone()
    }

    pub(super) fn engine(&self) -> Arc<DriverEngine> {
        self.shared.engine.clone()
    }

    pub(super) fn node_id(&self) -> u64 {
        self.shared.node_id
    }

    pub(super) fn open(&self, desk: Arc<Desk>) {
        self.desks().insert(desk.id.clone(), desk);
    }

    pub(super) fn retain(&self, keep: impl Fn(&Id) -> bool) {
        self.desks().retain(|id, _| keep(id));
    }

    /// This node runs none any more.
    pub(super) fn close(&self) {
        self.desks().clear();
    }

    fn desks(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Arc<Desk>>> {
        self.shared.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self, namespace: &str, name: &str) -> Result<Arc<Desk>, Refusal> {
        self.desks().get(&Id::new(namespace, name)).cloned().ok_or_else(|| {
            let message = "the driver is not running yet, or another node takes over: try again in a moment";
            refusal(Code::Unavailable, "DRIVER_NOT_RUNNING", message)
        })
    }

    /// Tries whether a driver could be loaded, so that who installs it hears of what is wrong: its bytes must be here or at a peer, and
    /// be a driver. What nobody signed is not even looked at; the kernel refuses it.
    ///
    /// # Errors
    /// `DRIVER_ARTIFACT`, with what is wrong.
    pub async fn try_out(&self, spec: &DriverSpec) -> Result<(), Refusal> {
        let unusable = |why: String| refusal(Code::FailedPrecondition, "DRIVER_ARTIFACT", why).field("spec.artifact");
        match load(&*self.shared.world, spec).await {
            Ok((artifact, bytes)) => {
                let tried = self.shared.engine.check(artifact, bytes).await;
                tried.map_err(|error| unusable(format!("{}: {error}", error.reason())))
            }
            Err(why) if why.starts_with("DRIVER_SIGNATURE") => Ok(()),
            Err(why) => Err(unusable(why)),
        }
    }

    /// Fills in how the drivers are, as far as the node that runs them answers.
    pub async fn tell(&self, drivers: &mut [Driver]) {
        let question = PeerDriversQuestion { question: Some(Question::List(PeerDriversList {})), timeout_ms: STATES.as_millis() as u64 };
        let Ok(PeerDriversAnswer { answer: Some(Answer::List(states)) }) = self.ask(question).await else {
            return;
        };
        let known: BTreeMap<Id, _> =
            states.drivers.into_iter().map(|state| (Id::new(&state.namespace, &state.name), state.status)).collect();
        for driver in drivers {
            driver.status = known.get(&Id::new(&driver.namespace, &driver.name)).cloned().flatten();
        }
    }

    /// Asks the node that runs the drivers.
    ///
    /// # Errors
    /// No leader is known or reached; what that node refused.
    pub async fn ask(&self, question: PeerDriversQuestion) -> Result<PeerDriversAnswer, Refusal> {
        let leadership = self.shared.way.consensus().leadership().borrow().clone();
        if leadership.is_this_node {
            return self.answer_here(question).await;
        }
        let Some(leader) = leadership.leader else {
            return Err(Reason::NoLeader.refusal("no node leads now, so none runs drivers: try again in a moment"));
        };
        let limit = Duration::from_millis(question.timeout_ms);
        let asked = self.shared.links.exchange(&leader, Traffic::Log, limit, |mut peer| async move { peer.ask_drivers(question).await });
        match asked.await {
            Ok(answered) => Ok(answered.body),
            Err(Fault::Refused(status)) => Err(rejection_of(&status).into()),
            Err(Fault::Unreachable(_)) => {
                Err(Reason::NoLeader.refusal("the node that runs the drivers cannot be reached: try again in a moment"))
            }
            Err(Fault::Timeout | Fault::Broken(_)) => Err(Reason::OutcomeUnknown
                .refusal("the node that runs the drivers gave no answer in time: the driver may have done what it was asked or not")),
        }
    }

    /// What is asked of this node. It asks nobody else: what is not here is said not to be.
    async fn answer_here(&self, question: PeerDriversQuestion) -> Result<PeerDriversAnswer, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(question.timeout_ms);
        let answer = match question.question {
            Some(Question::List(_)) => Answer::List(self.states()),
            Some(Question::Call(call)) => {
                let desk = self.desk(&call.namespace, &call.name)?;
                let answered = tokio::time::timeout_at(deadline, desk.call(call.method, call.payload)).await;
                let answered = answered
                    .map_err(|_| Reason::OutcomeUnknown.refusal("the driver did not answer in time: it may yet do what it was asked"))??;
                Answer::Call(CallDriverResponse { payload: answered.payload.into(), generation: answered.generation })
            }
            Some(Question::Logs(logs)) => Answer::Logs(self.logs(&logs, deadline).await?),
            None => return Err(Reason::InvalidArgument.refusal("the question is empty")),
        };
        Ok(PeerDriversAnswer { answer: Some(answer) })
    }

    fn states(&self) -> PeerDriverStates {
        let desks = self.desks();
        let states = desks.values().map(|desk| PeerDriverState {
            namespace: desk.id.namespace.clone(),
            name: desk.id.name.clone(),
            status: Some(desk.status()),
        });
        PeerDriverStates { drivers: states.collect() }
    }

    async fn logs(&self, asked: &PeerDriverLogs, deadline: Instant) -> Result<GetDriverLogsResponse, Refusal> {
        let desk = self.desk(&asked.namespace, &asked.name)?;
        if asked.wait {
            let by = deadline.min(Instant::now() + LINE);
            // Without a line, the answer is empty, and the reader asks again.
            let _ = tokio::time::timeout_at(by, desk.logs.arrived(asked.after)).await;
        }
        Ok(GetDriverLogsResponse { lines: desk.logs.after(asked.after), node: self.shared.node_id })
    }
}

#[async_trait]
impl DriversHere for Drivers {
    async fn answer(&self, question: PeerDriversQuestion) -> Result<PeerDriversAnswer, Refusal> {
        self.answer_here(question).await
    }
}

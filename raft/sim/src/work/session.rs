//! A client's way to the cluster, as the SDK would go it: to one node, to another when that does not answer, with one request id for all tries.

use std::time::Duration;

use futures::FutureExt;
use prost::Message;
use tarn_proto::v1::{Command, Rejection, command, outcome};
use tarn_raft::{Instant, Machine, ProposeError};
use tokio::time::{sleep, timeout};

use super::ledger::Ledger;
use super::{PRINCIPAL, Phase};
use crate::dice::{Dice, hash};
use crate::net::{Lost, Net, Party};
use crate::trace::Trace;

/// What a client knows of a command in the end.
pub enum Said {
    /// It was applied, with this outcome.
    Done(outcome::Body),
    /// It was refused, and has no effect.
    Refused(Rejection),
    /// It certainly has no effect.
    NotDone,
    /// It may have an effect.
    Unknown,
}

/// How long one try may take.
const TRY: Duration = Duration::from_millis(2_500);

/// One client's session.
pub struct Session {
    /// Its number.
    pub me: Party,
    /// Its name in traces.
    pub name: String,
    /// Its own dice.
    pub dice: Dice,
    /// What it was told.
    pub ledger: Ledger,
    /// What everybody does.
    pub phase: Phase,
    net: Net,
    trace: Trace,
    nodes: Nodes,
    node: Party,
    requests: u64,
}

/// The nodes that clients know. Clones share them.
#[derive(Clone, Default)]
pub struct Nodes(std::sync::Arc<std::sync::Mutex<Vec<Party>>>);

impl Nodes {
    /// Replaces the list.
    pub fn set(&self, nodes: Vec<Party>) {
        *self.0.lock().expect("no holder of this lock panics") = nodes;
    }

    fn pick(&self, dice: &mut Dice) -> Party {
        let nodes = self.0.lock().expect("no holder of this lock panics");
        dice.pick(&nodes).copied().unwrap_or(1)
    }
}

/// What sessions have in common.
#[derive(Clone)]
pub struct Scene {
    /// The network.
    pub net: Net,
    /// The trace.
    pub trace: Trace,
    /// The nodes that clients know.
    pub nodes: Nodes,
    /// The ledger.
    pub ledger: Ledger,
    /// What everybody does.
    pub phase: Phase,
}

impl Session {
    /// A session that has not spoken yet.
    pub fn new(scene: &Scene, me: Party, name: &str, seed: u64) -> Self {
        let mut dice = Dice::new(seed, name);
        let node = scene.nodes.pick(&mut dice);
        Self {
            me,
            name: name.to_owned(),
            dice,
            ledger: scene.ledger.clone(),
            phase: scene.phase.clone(),
            net: scene.net.clone(),
            trace: scene.trace.clone(),
            nodes: scene.nodes.clone(),
            node,
            requests: 0,
        }
    }

    /// A request id that nobody has used.
    pub fn request_id(&mut self) -> String {
        self.requests += 1;
        format!("{}-{}", self.name, self.requests)
    }

    /// Sends a command until its fate is known or the patience is over. Without a request id in it, once.
    pub async fn propose(&mut self, body: command::Body, patience: Duration) -> Said {
        let kind = kind(&body);
        let deadline = Instant::now() + patience;
        let repeatable = !body.request_id().is_empty();
        let command = Command { principal: PRINCIPAL.into(), gate: None, body: Some(body) };
        self.trace.note(format!("{} invokes {kind} {:016x} at node {}", self.name, hash(&command.encode_to_vec()), self.node));
        let mut maybe = false;
        let said = loop {
            match self.attempt(command.clone(), kind).await {
                Some(Ok(outcome)) => match outcome.body {
                    Some(outcome::Body::Rejected(rejection)) => break Said::Refused(rejection),
                    Some(body) => break Said::Done(body),
                    None => break Said::Unknown,
                },
                Some(Err(ProposeError::NotProposed)) => {}
                Some(Err(ProposeError::Stopped { maybe_applied })) => maybe |= maybe_applied,
                Some(Err(ProposeError::TooLarge { .. })) => break Said::NotDone,
                Some(Err(ProposeError::OutcomeUnknown)) | None => maybe = true,
            }
            if Instant::now() >= deadline || (maybe && !repeatable) {
                break match maybe {
                    true => Said::Unknown,
                    false => Said::NotDone,
                };
            }
            self.node = self.nodes.pick(&mut self.dice);
            let pause = self.dice.between(5, 200);
            sleep(Duration::from_millis(pause)).await;
        };
        let said = match (said, maybe) {
            // An earlier try may have had the effect that this one is refused for.
            (Said::Refused(rejection), true) if rejection.reason != "STALE_TOKEN" => {
                self.trace.note(format!("{} {kind}: {} after an unknown try", self.name, rejection.reason));
                Said::Unknown
            }
            (said, _) => said,
        };
        self.report(kind, &said);
        said
    }

    async fn attempt(&mut self, command: Command, kind: &'static str) -> Option<Result<tarn_proto::v1::Outcome, ProposeError>> {
        let answer = self.net.request(self.me, self.node, kind, move |door| {
            async move { door.consensus.propose(command, Instant::now() + TRY).await }.boxed()
        });
        match timeout(TRY * 2, answer).await {
            Ok(Ok(Ok(answer))) => Some(answer),
            // Nobody was there: nothing happened.
            Ok(Ok(Err(Lost::Refused))) => Some(Err(ProposeError::NotProposed)),
            Ok(Ok(Err(Lost::Broken)) | Err(_)) | Err(_) => None,
        }
    }

    fn report(&self, kind: &str, said: &Said) {
        let what = match said {
            Said::Done(body) => {
                format!("done {:016x}", hash(&tarn_proto::v1::Outcome { body: Some(body.clone()) }.encode_to_vec()))
            }
            Said::Refused(rejection) => format!("refused {}", rejection.reason),
            Said::NotDone => "not done".to_owned(),
            Said::Unknown => "unknown".to_owned(),
        };
        self.trace.note(format!("{} {kind}: {what}", self.name));
        self.ledger.count(match said {
            Said::Done(_) => format!("{kind} done"),
            Said::Refused(rejection) => format!("{kind} refused {}", rejection.reason),
            Said::NotDone => format!("{kind} not done"),
            Said::Unknown => format!("{kind} unknown"),
        });
    }

    /// Reads linearizably at any node. `None`: no answer.
    pub async fn read<T: Send + 'static>(&mut self, what: &'static str, read: impl FnOnce(&Machine) -> T + Send + 'static) -> Option<T> {
        let node = self.nodes.pick(&mut self.dice);
        let answer = self.net.request(self.me, node, what, move |door| {
            async move {
                door.consensus.read_barrier(Instant::now() + TRY).await.ok()?;
                door.consensus.read(read).ok()
            }
            .boxed()
        });
        timeout(TRY * 2, answer).await.ok()?.ok()?.ok()?
    }
}

fn kind(body: &command::Body) -> &'static str {
    use command::Body as B;
    match body {
        B::Enqueue(_) => "enqueue",
        B::CancelTask(_) => "cancel task",
        B::RequeueDead(_) => "requeue dead",
        B::PurgeQueue(_) => "purge queue",
        B::LeaseTasks(_) => "lease tasks",
        B::HeartbeatTasks(_) => "heartbeat tasks",
        B::CompleteTask(_) => "complete",
        B::FailTask(_) => "fail",
        B::RegisterWorker(_) => "register worker",
        B::HeartbeatWorker(_) => "heartbeat worker",
        B::DrainWorker(_) => "drain worker",
        B::AcquireLease(_) => "acquire lease",
        B::RenewLease(_) => "renew lease",
        B::ReleaseLease(_) => "release lease",
        B::ScheduleTimer(_) => "schedule timer",
        B::CancelTimer(_) => "cancel timer",
        _ => "other",
    }
}

//! Tasks of other clusters that run here: what those ask, answered; and what they should hear, told.
//!
//! A cluster hands tasks over only if whoever let it in said so (the part `tasks` of its scope), only those of its own, and only to namespaces
//! that are here. What it hands over passes the gate as if `cluster/NAME` had submitted it: policies, quotas and limits of this cluster count.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_crdt::{ClusterId, Scope};
use tarn_machine::Machine;
use tarn_proto::v1::hand_over::Message;
use tarn_proto::v1::{
    AcceptTransfer, CloseTransfer, ConfirmTransfer, EventKind, ExtendTransfer, GetTaskRequest, OfferTask, Rejection, TaskEnded, TaskSpec,
    Transfer, TransferAnswer, TransferStatus,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::Code;

use super::super::{Federation, members};
use super::artifact::{self, Offered};
use super::capacity;
use super::exchange::{Exchange, Heard};
use crate::artifacts::Artifacts;
use crate::gate::Refusal;

/// Questions that are answered at once; and offers, which take long where artifacts are fetched.
const ANSWERS_MAX: usize = 32;
const OFFERS_MAX: usize = 8;

/// How long an offer may take: whoever made it waits no longer.
const OFFER: Duration = Duration::from_secs(110);

/// Limit on one command.
const COMMAND: Duration = Duration::from_secs(5);

/// How often clusters are told again of their tasks that have ended here, and those of clusters that are no members any more are closed.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Transfers that are read at once, and told of in one sweep: fewer than a link's frames.
const PAGE: usize = 256;
const SWEEP_MAX: usize = 32;

/// What answers.
#[derive(Clone)]
pub(super) struct Guests {
    pub federation: Federation,
    pub exchange: Exchange,
    pub artifacts: Artifacts,
    pub offered: Offered,
}

impl Guests {
    /// Answers what is heard, until it is dropped; notices go on to `notices`.
    pub async fn answer(self, mut heard: mpsc::Receiver<Heard>, notices: mpsc::Sender<(ClusterId, TaskEnded)>) {
        let (places, offers) = (Arc::new(Semaphore::new(ANSWERS_MAX)), Arc::new(Semaphore::new(OFFERS_MAX)));
        // Dropped, it ends them.
        let mut answering = JoinSet::new();
        while let Some(Heard { cluster, correlation, message }) = heard.recv().await {
            if let Message::Ended(ended) = message {
                let _ = notices.try_send((cluster, ended));
                continue;
            }
            while answering.try_join_next().is_some() {}
            let place = match message {
                // More than that are made again.
                Message::Offer(_) => match offers.clone().try_acquire_owned() {
                    Ok(place) => place,
                    Err(_) => {
                        let busy =
                            super::refused(Code::Unavailable, "CLUSTER_BUSY", "so many tasks are on offer here that this one has to wait");
                        self.exchange.say(cluster, correlation, Message::Refused(busy));
                        continue;
                    }
                },
                _ => match places.clone().acquire_owned().await {
                    Ok(place) => place,
                    Err(_) => return,
                },
            };
            let guests = self.clone();
            answering.spawn(async move {
                let late = || super::refused(Code::Unavailable, "CLUSTER_BUSY", "it took too long to fetch what the task needs");
                let answer = timeout(OFFER, guests.answer_to(cluster, message)).await.unwrap_or_else(|_| Err(late()));
                let answer = answer.unwrap_or_else(Message::Refused);
                guests.exchange.say(cluster, correlation, answer);
                drop(place);
            });
        }
    }

    async fn answer_to(&self, cluster: ClusterId, question: Message) -> Result<Message, Rejection> {
        match question {
            Message::Offer(offer) => self.offered_by(cluster, offer).await,
            Message::Confirm(asked) => {
                own(cluster, &asked.transfer_id)?;
                let confirmed = self.command(ConfirmTransfer { transfer_id: asked.transfer_id, run_until_ms: asked.run_until_ms }).await?;
                Ok(Message::Transfer(TransferAnswer { now_ms: self.now_ms(), task_id: confirmed.task_id, ..TransferAnswer::default() }))
            }
            Message::Extend(asked) => {
                let id = asked.transfer_id.clone();
                own(cluster, &id)?;
                let extended = self.command(ExtendTransfer { transfer_id: asked.transfer_id, run_until_ms: asked.run_until_ms }).await?;
                // This node's state may be behind: what the command said counts.
                let known = self.status(&id).ok().filter(|known| !known.ended).unwrap_or_default();
                let answer = TransferAnswer { now_ms: self.now_ms(), run_until_ms: extended.run_until_ms, ..known };
                Ok(Message::Transfer(answer))
            }
            Message::Fetch(asked) => {
                own(cluster, &asked.transfer_id)?;
                self.federation.way().barrier(Instant::now() + COMMAND).await.map_err(|refusal| refusal.rejection)?;
                self.status(&asked.transfer_id).map(Message::Transfer)
            }
            Message::Close(asked) => {
                own(cluster, &asked.transfer_id)?;
                self.command(CloseTransfer { transfer_id: asked.transfer_id }).await?;
                Ok(Message::Transfer(TransferAnswer { now_ms: self.now_ms(), ended: true, ..TransferAnswer::default() }))
            }
            Message::GetArtifactPart(asked) => self.offered.part(cluster, &self.artifacts, asked).await.map(Message::ArtifactPart),
            _ => Err(refused("QUESTION_UNKNOWN", "this cluster does not know such a question: it is of an older version")),
        }
    }

    async fn offered_by(&self, cluster: ClusterId, offer: OfferTask) -> Result<Message, Rejection> {
        let transfer = offer.transfer.unwrap_or_default();
        own(cluster, &transfer.transfer_id)?;
        let name = self.sender(cluster, &transfer)?;
        let known = self.read(|machine| machine.transfer(&transfer.transfer_id).ok().flatten())?.is_some();
        if !known {
            self.require_room(&transfer)?;
            let names = artifact::named_in(transfer.spec.as_ref());
            artifact::gather(&self.artifacts, &self.exchange, cluster, names).await?;
        }
        let hold_until_ms = self.now_ms() + offer.hold_ms.clamp(1, tarn_machine::limits::TRANSFER_HOLD_MS_MAX / 2);
        let transfer = Transfer { origin_name: name.clone(), ..transfer };
        let accept = AcceptTransfer { transfer: Some(Box::new(transfer)), hold_until_ms };
        let accepted = self.federation.way().accept_transfer(self.federation.node_id(), &name, accept, Instant::now() + COMMAND).await;
        accepted.map_err(|refusal| refusal.rejection)?;
        Ok(Message::Transfer(TransferAnswer { now_ms: self.now_ms(), ..TransferAnswer::default() }))
    }

    /// The name of the cluster that hands a task over, if it may.
    fn sender(&self, cluster: ClusterId, transfer: &Transfer) -> Result<String, Rejection> {
        if transfer.origin_cluster.as_ref() != cluster.0 {
            return Err(refused("TRANSFER_NOT_YOURS", "a cluster hands over tasks of its own"));
        }
        let clusters = self.read(members::clusters)?;
        let known = clusters.into_iter().find(|known| known.id == cluster && !known.removed);
        match known {
            Some(known) if known.scope.holds(Scope::TASKS) => Ok(members::card(&known).name),
            _ => Err(refused("OUT_OF_SCOPE", "whoever let your cluster into the federation did not allow it to hand over tasks")),
        }
    }

    /// Refuses what could not begin soon, or would not find here what it was granted.
    fn require_room(&self, transfer: &Transfer) -> Result<(), Rejection> {
        let spec = transfer.spec.clone().unwrap_or_default();
        let runtime = spec.runtime.clone();
        let open = |machine: &Machine| !machine.is_strict(&transfer.namespace);
        if !self.read(open)? {
            return Err(refused("NAMESPACE_STRICT", "the namespace has workers of its own here, which run nobody else's tasks"));
        }
        if !self.read(|machine| may_travel(machine, &transfer.namespace, &spec))? {
            return Err(refused("TASK_IS_BOUND", "the task needs something of its own cluster: a context, or results of other tasks"));
        }
        match self.read(|machine| capacity::free_slots(machine, &runtime))? {
            0 => Err(super::refused(Code::Unavailable, "CLUSTER_BUSY", "there is no free slot for it here now")),
            _ => Ok(()),
        }
    }

    /// What became of a transfer, as the state has it.
    fn status(&self, id: &str) -> Result<TransferAnswer, Rejection> {
        let read = self.read(|machine| {
            let status = machine.transfer(id).ok().flatten()?;
            let namespace = status.transfer.as_ref().map(|transfer| transfer.namespace.clone()).unwrap_or_default();
            let question =
                GetTaskRequest { namespace, task_id: status.task_id.clone(), omit_bytes: !status.ended, ..GetTaskRequest::default() };
            let task = machine.get_task(&question).ok().and_then(|answer| answer.task).unwrap_or_default();
            Some(TransferAnswer {
                now_ms: machine.now_ms(),
                task_id: status.task_id,
                state: status.state,
                ended: status.ended,
                run_until_ms: status.run_until_ms,
                progress: task.progress,
                result: if status.ended { task.result } else { Bytes::new() },
                error: task.error,
            })
        })?;
        read.ok_or_else(|| super::refused(Code::NotFound, "TRANSFER_NOT_FOUND", "there is no such transfer here"))
    }

    /// Tells other clusters of their tasks that have ended here, at once and from time to time; until it is dropped.
    pub async fn tell(self) {
        let mut events = self.federation.way().consensus().events();
        let mut tick = interval(SWEEP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                heard = events.recv() => match heard {
                    Ok(batch) => {
                        let ended = batch.events.iter().filter(|event| event.kind() == EventKind::TransferEnded);
                        ended.for_each(|event| self.tell_of(&event.subject));
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = tick.tick() => self.sweep().await,
            }
        }
    }

    fn tell_of(&self, transfer_id: &str) {
        if let Some(cluster) = origin_of(transfer_id) {
            self.exchange.say(cluster, 0, Message::Ended(TaskEnded { transfer_id: transfer_id.to_owned() }));
        }
    }

    /// What was told once may not have arrived. And who is no member any more gets no answer, so its tasks need not run.
    async fn sweep(&self) {
        let Ok((trusted, mut page)) = self.read(|machine| {
            let trusted: Vec<ClusterId> = members::clusters(machine).iter().filter(|known| !known.removed).map(|known| known.id).collect();
            (trusted, machine.transfers("", PAGE).unwrap_or_default())
        }) else {
            return;
        };
        let mut told = 0;
        while let Some(last) = page.last().map(id_of) {
            for status in page {
                let id = id_of(&status);
                let known = origin_of(&id).is_some_and(|cluster| trusted.contains(&cluster));
                if !known && !trusted.is_empty() {
                    if let Err(rejection) = self.command(CloseTransfer { transfer_id: id.clone() }).await {
                        tracing::debug!(
                            transfer = id,
                            reason = rejection.reason,
                            "a transfer of a cluster that is no member is not closed"
                        );
                    }
                } else if status.ended && told < SWEEP_MAX && origin_of(&id).is_some_and(|cluster| self.exchange.is_up(cluster)) {
                    told += 1;
                    self.tell_of(&id);
                }
            }
            page = self.read(|machine| machine.transfers(&last, PAGE).unwrap_or_default()).unwrap_or_default();
        }
    }

    fn now_ms(&self) -> u64 {
        self.federation.way().consensus().read(Machine::now_ms).unwrap_or_default()
    }

    fn read<T>(&self, read: impl FnOnce(&Machine) -> T) -> Result<T, Rejection> {
        self.federation
            .way()
            .consensus()
            .read(read)
            .map_err(|_| super::refused(Code::Unavailable, "NODE_STOPPING", "this node is stopping: ask again in a moment"))
    }

    async fn command<R: tarn_proto::CommandBody>(&self, request: R) -> Result<R::Response, Rejection> {
        let done = self.federation.way().command(&self.federation.caller(), request, Instant::now() + COMMAND).await;
        done.map_err(|Refusal { rejection, .. }| rejection)
    }
}

/// Whether a task can be done in another cluster: nothing of what it needs is only in this one.
pub(crate) fn may_travel(machine: &Machine, namespace: &str, spec: &TaskSpec) -> bool {
    let feeds = spec.wasm.as_ref().is_some_and(|part| part.feed_dependency_results)
        || spec.native.as_ref().is_some_and(|part| part.feed_dependency_results);
    let context = spec.grants.as_ref().and_then(|grants| grants.context.as_ref());
    let shared = |name: &str| machine.shared_contexts().iter().any(|(ns, shared)| ns == namespace && shared == name);
    !feeds && context.is_none_or(|context| shared(&context.name))
}

/// A transfer's id: `CLUSTER/TASK/TOKEN`, so that no cluster can take another's.
pub(super) fn transfer_id(origin: ClusterId, task_id: &str, token: u64) -> String {
    format!("{origin}/{task_id}/{token}")
}

fn origin_of(transfer_id: &str) -> Option<ClusterId> {
    transfer_id.split_once('/')?.0.parse().ok()
}

fn own(cluster: ClusterId, transfer_id: &str) -> Result<(), Rejection> {
    match origin_of(transfer_id) {
        Some(origin) if origin == cluster => Ok(()),
        _ => Err(refused("TRANSFER_NOT_YOURS", "a transfer's id begins with the id of the cluster that hands it over")),
    }
}

fn id_of(status: &TransferStatus) -> String {
    status.transfer.as_ref().map(|transfer| transfer.transfer_id.clone()).unwrap_or_default()
}

/// What lasts, unless somebody does something about it.
fn refused(reason: &str, message: &str) -> Rejection {
    super::refused(Code::FailedPrecondition, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_of_the_cluster_that_its_id_names() {
        let (ours, theirs) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let id = transfer_id(ours, "0a", 7);
        assert!(id.len() <= tarn_machine::limits::TRANSFER_ID_BYTES_MAX);
        assert_eq!(own(ours, &id), Ok(()));
        for bad in [id.as_str(), "", "/0a/7", "zz/0a/7"] {
            assert_eq!(own(theirs, bad).unwrap_err().reason, "TRANSFER_NOT_YOURS", "{bad}");
        }
    }
}

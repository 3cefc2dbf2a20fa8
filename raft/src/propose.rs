//! From a command to its outcome, on any node.
//!
//! ```text
//!   propose ─┬─ this node leads ──► appender ── groups commands into one entry ──► log ─► machine ─► outcome
//!            └─ another leads ────► forwarder ─ groups commands into one call ──► the leader's appender
//! ```
//!
//! Both group what is queued while earlier groups are under way. Whatever happens to a group, each of its commands
//! learns one of three things: its outcome; that it is certainly not in the log; or that it may be. The first ends the
//! matter, the second is tried again until the deadline, the third only if the command is safe to repeat.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use prost::Message;
use tarn_proto::v1::{self, command::Body};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::consensus::Tasks;
use crate::leadership::{self, LeaderTime, Leadership};
use crate::options::ProposalLimits;
use crate::state_machine::Applied;
use crate::transport::{MESSAGE_BYTES_MAX, Method, Peer, Transport, TransportError};
use crate::types::{Payload, Raft};
use crate::wire::{self, ProposeOutcome};

/// The longest command, encoded, in bytes: the kernel's limit, checked before the log.
pub const COMMAND_BYTES_MAX: usize = tarn_machine::limits::COMMAND_BYTES_MAX;

/// The longest answer to a forwarded group. What does not fit is left unanswered and asked for again, which gives the same
/// outcome: a few hundred commands that lease large tasks, together in one group, could fill any message.
const REPLY_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// The longest that a group waits for the leader's answer: less than most deadlines, so that there is time for another try.
const FORWARD_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// How long the first group of a leadership waits until the leader knows what time it is.
const TIME_KNOWN_WITHIN: Duration = Duration::from_millis(500);
/// How long a command of unknown fate is repeated, whatever its deadline: half of what its request id is remembered, because a repeat that
/// comes after that would take effect a second time.
const REPEAT_WITHIN: Duration = Duration::from_millis(tarn_machine::limits::REQUEST_RETENTION_MS / 2);

/// The gRPC status code of a request that no state allows.
const INVALID_ARGUMENT: u32 = 3;

/// Why a command has no outcome.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Never send it again like this.
    #[error("the command has {bytes} bytes, and at most {limit} are taken")]
    TooLarge {
        /// Its length, encoded.
        bytes: usize,
        /// [`COMMAND_BYTES_MAX`].
        limit: usize,
    },
    /// It is not in the log and never will be: sending it again is safe. There was no leader, or no room, before the
    /// deadline.
    #[error("the cluster did not take the command before its deadline; it has no effect and can be sent again")]
    NotProposed,
    /// It may or may not take effect. Give it a request id to make it safe to send again.
    #[error("the outcome of the command is unknown: it may have taken effect, or still may")]
    OutcomeUnknown,
    /// This node has stopped; another will take the command. Whether this one had any effect is unknown if
    /// `maybe_applied`.
    #[error("this node is stopping; ask another one")]
    Stopped {
        /// Whether an earlier attempt may have taken effect.
        maybe_applied: bool,
    },
}

/// What became of one attempt.
#[expect(clippy::large_enum_variant, reason = "it lives from one call to the next, and a box for every command would cost more")]
enum Attempt {
    Applied(v1::Outcome),
    NotProposed,
    Unknown,
}

/// A command on its way.
struct Pending {
    /// Taken when its group is encoded. A tick has none: time passes.
    command: Option<v1::Command>,
    is_tick: bool,
    bytes: usize,
    deadline: Instant,
    /// Set before the command can possibly reach a log.
    submitted: Arc<AtomicBool>,
    answer: oneshot::Sender<Attempt>,
}

impl Pending {
    fn answer(self, attempt: Attempt) {
        // Whoever asked may have given up.
        let _ = self.answer.send(attempt);
    }
}

/// The way to propose. Clones share it.
#[derive(Clone)]
pub(crate) struct Proposer {
    appender: mpsc::Sender<Pending>,
    forwarder: mpsc::Sender<Pending>,
    leadership: watch::Receiver<Leadership>,
}

impl Proposer {
    pub fn spawn(
        raft: Raft,
        applied: watch::Receiver<Applied>,
        transport: Arc<dyn Transport>,
        leadership: watch::Receiver<Leadership>,
        time: Arc<Mutex<LeaderTime>>,
        limits: ProposalLimits,
        tasks: &mut Tasks,
    ) -> Self {
        let (appender, appends) = mpsc::channel(limits.queued_commands);
        let (forwarder, forwards) = mpsc::channel(limits.queued_commands);
        let append = Appender { raft, applied, leadership: leadership.clone(), time };
        tasks.spawn(append.run(appends, limits));
        let forward = Forwarder { transport, leadership: leadership.clone() };
        tasks.spawn(forward.run(forwards, limits));
        Self { appender, forwarder, leadership }
    }

    /// Proposes until there is an outcome, an error that repeating cannot mend, or the deadline.
    pub async fn propose(&self, command: v1::Command, mut deadline: Instant) -> Result<v1::Outcome, ProposeError> {
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            let limit = COMMAND_BYTES_MAX;
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let repeatable = is_repeatable(&command);
        let (mut maybe_applied, mut under_way) = (false, false);
        let mut leadership = self.leadership.clone();
        loop {
            let seen = leadership.borrow_and_update().clone();
            let queue = match (seen.is_this_node, &seen.leader) {
                (true, _) => Some(&self.appender),
                (false, Some(_)) => Some(&self.forwarder),
                (false, None) => None,
            };
            let attempt = match queue {
                None => Attempt::NotProposed,
                Some(queue) => match attempt(queue, Some(command.clone()), bytes, deadline).await {
                    Some(attempt) => attempt,
                    None => return Err(ProposeError::Stopped { maybe_applied }),
                },
            };
            match attempt {
                // An attempt whose answer is missing may still be on its way to a leader, which carries it out if the state allows it by then.
                Attempt::Applied(outcome) if under_way && depends_on_state(&outcome) => {
                    return Err(ProposeError::OutcomeUnknown);
                }
                Attempt::Applied(outcome) => return Ok(outcome),
                Attempt::NotProposed => {}
                Attempt::Unknown if repeatable => {
                    if !maybe_applied {
                        deadline = deadline.min(Instant::now() + REPEAT_WITHIN);
                    }
                    maybe_applied = true;
                    under_way |= !seen.is_this_node;
                }
                Attempt::Unknown => return Err(ProposeError::OutcomeUnknown),
            }
            if !leadership::pause(&mut leadership, &seen, deadline).await {
                return Err(match maybe_applied {
                    true => ProposeError::OutcomeUnknown,
                    false => ProposeError::NotProposed,
                });
            }
        }
    }

    /// Proposes an entry without commands, if this node leads. True if it was applied.
    pub async fn tick(&self, deadline: Instant) -> bool {
        matches!(attempt(&self.appender, None, 0, deadline).await, Some(Attempt::Applied(_)))
    }

    /// Serves a group that another node forwarded: each command gets one attempt here, and is never forwarded again.
    pub async fn serve(&self, request: wire::ProposeRequest) -> wire::ProposeReply {
        let timeout = Duration::from_millis(request.timeout_ms).min(FORWARD_TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let attempts = request.commands.into_iter().map(|command| {
            let bytes = command.encoded_len();
            attempt(&self.appender, Some(command), bytes, deadline)
        });
        let mut bytes = 0;
        let results = futures::future::join_all(attempts).await.into_iter().map(|attempt| {
            let outcome = match attempt {
                Some(Attempt::Applied(outcome)) => {
                    bytes += outcome.encoded_len();
                    match bytes <= REPLY_BYTES_MAX {
                        true => ProposeOutcome::Applied(outcome),
                        false => ProposeOutcome::Unknown(wire::Empty {}),
                    }
                }
                Some(Attempt::NotProposed) | None => ProposeOutcome::NotProposed(wire::Empty {}),
                Some(Attempt::Unknown) => ProposeOutcome::Unknown(wire::Empty {}),
            };
            wire::ProposeResult { outcome: Some(outcome) }
        });
        wire::ProposeReply { results: results.collect() }
    }
}

/// One attempt through a queue. `None`: the queue's owner is gone, and the command went nowhere.
async fn attempt(queue: &mpsc::Sender<Pending>, command: Option<v1::Command>, bytes: usize, deadline: Instant) -> Option<Attempt> {
    let (answer, answered) = oneshot::channel();
    let submitted = Arc::new(AtomicBool::new(false));
    let pending = Pending { is_tick: command.is_none(), command, bytes, deadline, submitted: submitted.clone(), answer };
    match timeout_at(deadline, queue.send(pending)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return None,
        Err(_) => return Some(Attempt::NotProposed),
    }
    let unanswered = || match submitted.load(Ordering::Acquire) {
        true => Attempt::Unknown,
        false => Attempt::NotProposed,
    };
    Some(match timeout_at(deadline, answered).await {
        Ok(Ok(attempt)) => attempt,
        Ok(Err(_)) | Err(_) => unanswered(),
    })
}

/// Whether a command that may have been applied may be sent again: because its request id finds the first outcome, or
/// because a second application changes nothing.
fn is_repeatable(command: &v1::Command) -> bool {
    let Some(body) = &command.body else { return false };
    if !body.request_id().is_empty() {
        return true;
    }
    match body {
        Body::HeartbeatTasks(_)
        | Body::HeartbeatWorker(_)
        | Body::CompleteTask(_)
        | Body::FailTask(_)
        | Body::RenewLease(_)
        | Body::ReleaseLease(_)
        | Body::CancelTask(_)
        | Body::DrainWorker(_)
        | Body::RaiseVersion(_)
        | Body::ConsumeJoinToken(_)
        | Body::RevokeCertificate(_)
        | Body::AcknowledgeEscalations(_)
        | Body::PlaceTasks(_)
        | Body::StartFederation(_)
        | Body::AcceptTransfer(_)
        | Body::ConfirmTransfer(_)
        | Body::ExtendTransfer(_)
        | Body::CloseTransfer(_)
        | Body::ConsumeInvitation(_)
        // A second time it is refused, and changes nothing.
        | Body::CommitReplica(_) => true,
        Body::Enqueue(_)
        | Body::RequeueDead(_)
        | Body::PurgeQueue(_)
        | Body::LeaseTasks(_)
        | Body::RegisterWorker(_)
        | Body::AcquireLease(_)
        | Body::ScheduleTimer(_)
        | Body::CancelTimer(_)
        | Body::CreateNamespace(_)
        | Body::DeleteNamespace(_)
        | Body::UpdateNamespace(_)
        | Body::PutJoinToken(_)
        // What somebody else did in between would be undone, or be the answer.
        | Body::PutRole(_)
        | Body::DeleteRole(_)
        | Body::PutBinding(_)
        | Body::DeleteBinding(_)
        | Body::PutToken(_)
        | Body::RevokeToken(_)
        | Body::PutBundle(_)
        | Body::ActivateBundle(_)
        | Body::RollbackBundle(_)
        | Body::DeactivateBundle(_)
        | Body::DeleteBundle(_)
        | Body::PutPolicyHandler(_)
        | Body::DeletePolicyHandler(_)
        | Body::PutPolicySettings(_)
        | Body::RecordViolations(_)
        | Body::RecordDecisions(_)
        | Body::PutSchedulerSettings(_)
        | Body::PutAuditSettings(_)
        | Body::PutKey(_)
        | Body::DeleteKey(_)
        | Body::SnapshotContext(_)
        | Body::RestoreContext(_)
        | Body::DeleteSnapshot(_)
        | Body::DeleteContext(_)
        | Body::InstallDriver(_)
        | Body::UpgradeDriver(_)
        | Body::RemoveDriver(_)
        | Body::AdvanceDriver(_)
        | Body::PutDriverSettings(_)
        | Body::LeaveFederation(_)
        | Body::WriteShared(_)
        | Body::PutInvitation(_)
        | Body::ShareContext(_) => false,
    }
}

/// Whether this refuses a command that another moment's state would allow.
fn depends_on_state(outcome: &v1::Outcome) -> bool {
    match &outcome.body {
        Some(v1::outcome::Body::Rejected(rejection)) => rejection.code != INVALID_ARGUMENT,
        _ => false,
    }
}

/// Collects what is queued into groups.
struct Groups {
    queue: mpsc::Receiver<Pending>,
    /// The command that did not fit into the last group.
    left_over: Option<Pending>,
    limits: ProposalLimits,
}

impl Groups {
    /// The next group, at least one command. `None`: all senders are gone.
    async fn next(&mut self) -> Option<Vec<Pending>> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while group.is_empty() {
            let first = match self.left_over.take() {
                Some(first) => first,
                None => self.queue.recv().await?,
            };
            let mut next = Some(first);
            while let Some(pending) = next.take() {
                if pending.answer.is_closed() || pending.deadline <= Instant::now() {
                    // Nobody waits any more, and nothing has happened: leave it so.
                    pending.answer(Attempt::NotProposed);
                } else if !group.is_empty() && bytes + pending.bytes > self.limits.group_bytes {
                    self.left_over = Some(pending);
                    break;
                } else {
                    bytes += pending.bytes;
                    group.push(pending);
                }
                if group.len() < self.limits.group_commands {
                    next = self.queue.try_recv().ok();
                }
            }
        }
        Some(group)
    }
}

fn submit(group: &[Pending]) {
    for pending in group {
        pending.submitted.store(true, Ordering::Release);
    }
}

fn answer_all(group: Vec<Pending>, attempt: fn() -> Attempt) {
    for pending in group {
        pending.answer(attempt());
    }
}

/// Writes groups into the log of this node, the leader.
struct Appender {
    raft: Raft,
    applied: watch::Receiver<Applied>,
    leadership: watch::Receiver<Leadership>,
    time: Arc<Mutex<LeaderTime>>,
}

impl Appender {
    async fn run(self, queue: mpsc::Receiver<Pending>, limits: ProposalLimits) {
        let slots = Arc::new(Semaphore::new(limits.entries_in_flight));
        let mut groups = Groups { queue, left_over: None, limits };
        let mut agreed = self.time.lock().expect("no holder of this lock panics").agreed();
        let mut waited_in = 0;
        loop {
            // First a slot, then a group: while all slots are taken, the next group grows.
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Some(group) = groups.next().await else { return };
            self.know_the_time(&mut agreed, &mut waited_in).await;
            let Some((group, entry)) = self.entry(group) else {
                continue;
            };
            submit(&group);
            let (responder, applied) = ProgressResponder::complete_only();
            if self.raft.client_write_ff(entry, Some(responder)).await.is_err() {
                answer_all(group, || Attempt::Unknown);
                continue;
            }
            tokio::spawn(async move {
                let result = applied.await;
                drop(slot);
                match result {
                    Ok(Ok(response)) => distribute(group, response.data.outcomes),
                    Ok(Err(ClientWriteError::ForwardToLeader(_))) => answer_all(group, || Attempt::NotProposed),
                    // Discarded with a leadership, or openraft has stopped: another leader may have kept the entry.
                    Ok(Err(_)) | Err(_) => answer_all(group, || Attempt::Unknown),
                }
            });
        }
    }

    /// A leadership begins with the machine's time, which stood still since the last leader's last entry. What is due "in ten seconds" would be due
    /// too early if it were counted from there, so the first group waits until the voters' clocks are known. Once in a term, and not for long:
    /// the voters may be of a build that cannot tell.
    async fn know_the_time(&self, agreed: &mut watch::Receiver<u64>, waited_in: &mut u64) {
        let term = self.leadership.borrow().term;
        if !self.leadership.borrow().is_this_node || *waited_in == term {
            return;
        }
        *waited_in = term;
        // In vain, or without the other side, which is going away: the time is as good as it can be.
        let _ = tokio::time::timeout(TIME_KNOWN_WITHIN, agreed.wait_for(|known| *known >= term)).await;
    }

    /// Encodes a group as one entry with the leader's time. `None`, and everybody answered, if this node does not lead.
    fn entry(&self, mut group: Vec<Pending>) -> Option<(Vec<Pending>, Payload)> {
        let (term, is_leader) = {
            let leadership = self.leadership.borrow();
            (leadership.term, leadership.is_this_node)
        };
        if !is_leader {
            answer_all(group, || Attempt::NotProposed);
            return None;
        }
        let now_ms = self.time.lock().expect("no holder of this lock panics").now_ms(term);
        let entry = v1::Entry {
            version: self.applied.borrow().version,
            now_ms,
            commands: group.iter_mut().filter_map(|pending| pending.command.take()).collect(),
        };
        Some((group, Payload(Bytes::from(entry.encode_to_vec()))))
    }
}

/// Gives each command its outcome. A tick has none, and is content with any answer.
fn distribute(group: Vec<Pending>, outcomes: Vec<v1::Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for pending in group {
        let outcome = match pending.is_tick {
            true => Some(v1::Outcome::default()),
            false => outcomes.next(),
        };
        pending.answer(outcome.map_or(Attempt::Unknown, Attempt::Applied));
    }
}

/// Sends groups to another node, the leader.
struct Forwarder {
    transport: Arc<dyn Transport>,
    leadership: watch::Receiver<Leadership>,
}

impl Forwarder {
    async fn run(self, queue: mpsc::Receiver<Pending>, limits: ProposalLimits) {
        let slots = Arc::new(Semaphore::new(limits.forwards_in_flight));
        let mut groups = Groups { queue, left_over: None, limits };
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Some(group) = groups.next().await else { return };
            let leader = {
                let leadership = self.leadership.borrow();
                leadership.leader.clone().filter(|_| !leadership.is_this_node)
            };
            let Some(leader) = leader else {
                answer_all(group, || Attempt::NotProposed);
                continue;
            };
            let transport = self.transport.clone();
            let leadership = self.leadership.clone();
            tokio::spawn(async move {
                forward(transport, leader, leadership, group).await;
                drop(slot);
            });
        }
    }
}

async fn forward(transport: Arc<dyn Transport>, leader: Peer, mut leadership: watch::Receiver<Leadership>, mut group: Vec<Pending>) {
    let now = Instant::now();
    let longest = group.iter().map(|pending| pending.deadline).max().unwrap_or(now);
    let timeout = longest.saturating_duration_since(now).min(FORWARD_TIMEOUT_MAX);
    let request = wire::ProposeRequest {
        commands: group.iter_mut().filter_map(|pending| pending.command.take()).collect(),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
    submit(&group);
    let call = transport.call(&leader, Method::Propose, wire::encode(&request), timeout);
    let answer = tokio::select! {
        answer = call => answer,
        // Somebody else leads: the old leader may never answer.
        _ = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|now| *now != leader)) => Err(TransportError::Timeout),
    };
    let reply =
        answer.and_then(|reply| wire::decode::<wire::ProposeReply>(reply).map_err(|error| TransportError::Remote(error.to_string())));
    match reply {
        Ok(reply) => {
            let mut results = reply.results.into_iter();
            for pending in group {
                pending.answer(match results.next().and_then(|result| result.outcome) {
                    Some(ProposeOutcome::Applied(outcome)) => Attempt::Applied(outcome),
                    Some(ProposeOutcome::NotProposed(wire::Empty {})) => Attempt::NotProposed,
                    Some(ProposeOutcome::Unknown(wire::Empty {})) | None => Attempt::Unknown,
                });
            }
        }
        Err(error) if error.certainly_undelivered() => answer_all(group, || Attempt::NotProposed),
        Err(error) => {
            tracing::debug!(leader = leader.id, %error, "a forwarded group has no answer");
            answer_all(group, || Attempt::Unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(body: Body) -> v1::Command {
        v1::Command { principal: String::new(), gate: None, body: Some(body) }
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        let enqueue = v1::EnqueueRequest::default();
        assert!(!is_repeatable(&command(Body::Enqueue(enqueue.clone()))));
        let named = v1::EnqueueRequest { request_id: "r".into(), ..enqueue };
        assert!(is_repeatable(&command(Body::Enqueue(named))));
        assert!(is_repeatable(&command(Body::CompleteTask(v1::CompleteTaskRequest::default()))));
        assert!(!is_repeatable(&v1::Command::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_of_unknown_fate_is_repeated_while_its_request_id_is_remembered_for_certain() {
        let (appender, mut attempts) = mpsc::channel::<Pending>(1);
        let (_leadership, leadership) = watch::channel(Leadership { is_this_node: true, ..Leadership::default() });
        let proposer = Proposer { forwarder: appender.clone(), appender, leadership };
        let answering = tokio::spawn(async move {
            let mut last = Instant::now();
            while let Some(pending) = attempts.recv().await {
                last = Instant::now();
                tokio::time::sleep(Duration::from_secs(20)).await;
                pending.answer(Attempt::Unknown);
            }
            last
        });
        let began = Instant::now();
        let named = v1::EnqueueRequest { request_id: "r".into(), ..v1::EnqueueRequest::default() };
        let deadline = began + Duration::from_secs(24 * 3_600);
        let outcome = proposer.propose(command(Body::Enqueue(named)), deadline).await;
        assert_eq!(outcome, Err(ProposeError::OutcomeUnknown));
        drop(proposer);
        let repeated_for = answering.await.unwrap() - began;
        let remembered = Duration::from_millis(tarn_machine::limits::REQUEST_RETENTION_MS);
        assert!(repeated_for > REPEAT_WITHIN / 2 && repeated_for < remembered - Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_no_answer_while_an_earlier_attempt_is_under_way() {
        const ALREADY_EXISTS: u32 = 6;
        for (code, known) in [(ALREADY_EXISTS, false), (INVALID_ARGUMENT, true)] {
            let (forwarder, mut attempts) = mpsc::channel::<Pending>(1);
            let (_leadership, leadership) =
                watch::channel(Leadership { leader: Some(Peer { id: 2, address: String::new() }), ..Leadership::default() });
            let proposer = Proposer { appender: forwarder.clone(), forwarder, leadership };
            let refusal = v1::Outcome { body: Some(v1::outcome::Body::Rejected(v1::Rejection { code, ..v1::Rejection::default() })) };
            let answers = [Attempt::NotProposed, Attempt::Unknown, Attempt::Applied(refusal.clone())];
            let answering = tokio::spawn(async move {
                for answer in answers {
                    attempts.recv().await.unwrap().answer(answer);
                }
            });
            let named = v1::CreateNamespaceRequest { request_id: "r".into(), ..v1::CreateNamespaceRequest::default() };
            let deadline = Instant::now() + Duration::from_secs(10);
            let outcome = proposer.propose(command(Body::CreateNamespace(named)), deadline).await;
            assert_eq!(outcome, if known { Ok(refusal) } else { Err(ProposeError::OutcomeUnknown) });
            answering.await.unwrap();
        }
    }

    fn pending(bytes: usize, deadline: Instant) -> (Pending, oneshot::Receiver<Attempt>) {
        let (answer, answered) = oneshot::channel();
        let submitted = Arc::new(AtomicBool::new(false));
        let command = Some(v1::Command::default());
        (Pending { command, is_tick: false, bytes, deadline, submitted, answer }, answered)
    }

    #[tokio::test]
    async fn groups_respect_count_and_bytes_and_skip_the_late() {
        let limits = ProposalLimits { group_commands: 3, group_bytes: 100, ..ProposalLimits::default() };
        let (sender, queue) = mpsc::channel(16);
        let later = Instant::now() + Duration::from_secs(60);
        let mut answers = Vec::new();
        for bytes in [40, 40, 40, 500, 1, 1, 1, 1] {
            let (pending, answered) = pending(bytes, later);
            sender.send(pending).await.unwrap();
            answers.push(answered);
        }
        let (late, late_answer) = pending(1, Instant::now());
        sender.send(late).await.unwrap();
        drop(sender);

        let mut groups = Groups { queue, left_over: None, limits };
        let mut sizes = Vec::new();
        while let Some(group) = groups.next().await {
            sizes.push(group.iter().map(|pending| pending.bytes).collect::<Vec<_>>());
        }
        assert_eq!(sizes, [vec![40, 40], vec![40], vec![500], vec![1, 1, 1], vec![1]]);
        assert!(matches!(late_answer.await, Ok(Attempt::NotProposed)));
    }
}

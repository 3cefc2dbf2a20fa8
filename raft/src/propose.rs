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

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use prost::Message;
use tarn_proto::v1::{self, command::Body};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::consensus::Tasks;
use crate::leadership::{self, LeaderTime, Leadership};
use crate::options::ProposalLimits;
use crate::state_machine::Applied;
use crate::transport::{MESSAGE_BYTES_MAX, Method, Peer, PeerError, Transport, TransportError};
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
/// How often a group lets everybody else have a turn before it goes: so often that streams with many commands at hand have sent them.
const TURNS: usize = 2;
/// How long a command waits for one that was said to follow it. That one is made by a task that runs already; the clock's steps are as long.
const FOLLOWED_WITHIN: Duration = Duration::from_millis(1);
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
    /// The command as it will lie in the log, encoded once for all its tries. A tick has none: time passes.
    command: Option<Bytes>,
    /// How many commands it stands for.
    commands: usize,
    /// Whether another command comes right behind it.
    followed: bool,
    deadline: Instant,
    /// Whether it may go, and whether it has.
    ticket: Arc<Ticket>,
    answer: oneshot::Sender<Attempt>,
}

impl Pending {
    fn is_tick(&self) -> bool {
        self.command.is_none()
    }

    fn bytes(&self) -> usize {
        self.command.as_ref().map_or(0, Bytes::len)
    }

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

    /// Proposes until there is an outcome, an error that repeating cannot mend, or the deadline. A command that is `followed` by another one waits a
    /// moment for it, so that both meet in one entry.
    pub async fn propose(&self, command: v1::Command, followed: bool, mut deadline: Instant) -> Result<v1::Outcome, ProposeError> {
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            let limit = COMMAND_BYTES_MAX;
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let (repeatable, remembered, commands) = (is_repeatable(&command), is_remembered(&command), commands_in(&command));
        let encoded = Bytes::from(command.encode_to_vec());
        drop(command);
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
                Some(queue) => match attempt(queue, Some(encoded.clone()), commands, followed, deadline).await {
                    Some(attempt) => attempt,
                    None => return Err(ProposeError::Stopped { maybe_applied }),
                },
            };
            match attempt {
                // An attempt whose answer is missing may still be on its way to a leader, which carries it out if the state allows it by then.
                Attempt::Applied(outcome) if under_way && !remembered && depends_on_state(&outcome) => {
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
        matches!(attempt(&self.appender, None, 1, false, deadline).await, Some(Attempt::Applied(_)))
    }

    /// Serves a group that another node forwarded: each command gets one attempt here, and is never forwarded again.
    ///
    /// # Errors
    /// This build does not understand one of the commands; none of them has any effect then.
    pub async fn serve(&self, request: wire::ProposeRequest) -> Result<wire::ProposeReply, PeerError> {
        let commands = request.commands.into_iter().map(|command| Ok((understood(&command)?, command)));
        let commands: Vec<_> = commands.collect::<Result<_, PeerError>>()?;
        let timeout = Duration::from_millis(request.timeout_ms).min(FORWARD_TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let attempts = commands.into_iter().map(|(commands, command)| attempt(&self.appender, Some(command), commands, false, deadline));
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
        Ok(wire::ProposeReply { results: results.collect() })
    }
}

/// One attempt through a queue. `None`: the queue's owner is gone, and the command went nowhere.
async fn attempt(
    queue: &mpsc::Sender<Pending>,
    command: Option<Bytes>,
    commands: usize,
    followed: bool,
    deadline: Instant,
) -> Option<Attempt> {
    let (answer, answered) = oneshot::channel();
    let ticket = Arc::new(Ticket::default());
    let pending = Pending { command, commands, followed, deadline, ticket: ticket.clone(), answer };
    match timeout_at(deadline, queue.send(pending)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return None,
        Err(_) => return Some(Attempt::NotProposed),
    }
    let unanswered = || match ticket.withdraw() {
        true => Attempt::NotProposed,
        false => Attempt::Unknown,
    };
    Some(match timeout_at(deadline, answered).await {
        Ok(Ok(attempt)) => attempt,
        Ok(Err(_)) | Err(_) => unanswered(),
    })
}

/// Refuses a command of another node that this build cannot carry out: in the log it would stop every node of this build. Says how many
/// commands it stands for.
fn understood(command: &Bytes) -> Result<usize, PeerError> {
    wire::decode(command.clone()).map(|command| commands_in(&command))
}

/// Whether a command that may have been applied may be sent again: because its request id finds the first outcome, or
/// because a second application changes nothing.
fn is_repeatable(command: &v1::Command) -> bool {
    let Some(body) = &command.body else { return false };
    if let Body::Batch(batch) = body
        && batch.request_id.is_empty()
    {
        return batch.commands.iter().all(is_repeatable);
    }
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
        | Body::ShareContext(_)
        // With an id it was let through before.
        | Body::Batch(_) => false,
    }
}

/// Whether this refuses a command that another moment's state would allow.
fn depends_on_state(outcome: &v1::Outcome) -> bool {
    match &outcome.body {
        Some(v1::outcome::Body::Rejected(rejection)) => rejection.code != INVALID_ARGUMENT,
        Some(v1::outcome::Body::Batch(batch)) => batch.outcomes.iter().any(depends_on_state),
        _ => false,
    }
}

/// How many commands a command stands for.
fn commands_in(command: &v1::Command) -> usize {
    match &command.body {
        Some(Body::Batch(batch)) => batch.commands.len().max(1),
        _ => 1,
    }
}

/// Whether the cluster remembers what became of a command, whatever it was: then the answer to a repeat is the answer.
fn is_remembered(command: &v1::Command) -> bool {
    matches!(&command.body, Some(Body::Batch(batch)) if !batch.request_id.is_empty())
}

/// Collects what is queued into groups.
struct Groups {
    queue: mpsc::Receiver<Pending>,
    /// The command that did not fit into the last group.
    left_over: Option<Pending>,
    limits: ProposalLimits,
}

/// A group that grows.
#[derive(Default)]
struct Group {
    pending: Vec<Pending>,
    commands: usize,
    bytes: usize,
    full: bool,
}

impl Groups {
    /// The next group, at least one command. `None`: all senders are gone.
    ///
    /// A group grows while more commands are under way than it has. Its entry costs every node a flush, a message and a few changes of
    /// thread, however few commands are in it, and as many as are under way will soon be followed by as many more. Where nothing is
    /// under way nothing is waited for, but those about to send a command have their turn first.
    async fn next(&mut self, under_way: &UnderWay) -> Option<Vec<Pending>> {
        let mut group = Group::default();
        while group.pending.is_empty() {
            match self.left_over.take() {
                Some(first) => self.admit(&mut group, first),
                None => {
                    let first = self.queue.recv().await?;
                    self.admit(&mut group, first);
                }
            }
        }
        for _ in 0..TURNS {
            self.take_queued(&mut group);
            tokio::task::yield_now().await;
        }
        self.take_queued(&mut group);
        if let [only] = &group.pending[..]
            && only.followed
            && let Ok(Some(follower)) = tokio::time::timeout(FOLLOWED_WITHIN, self.queue.recv()).await
        {
            self.admit(&mut group, follower);
        }
        loop {
            self.take_queued(&mut group);
            if group.full || group.commands >= under_way.commands() {
                return Some(group.pending);
            }
            tokio::select! {
                more = self.queue.recv() => match more {
                    Some(pending) => self.admit(&mut group, pending),
                    None => return Some(group.pending),
                },
                () = under_way.fewer.notified() => {}
            }
        }
    }

    fn take_queued(&mut self, group: &mut Group) {
        while !group.full
            && let Ok(pending) = self.queue.try_recv()
        {
            self.admit(group, pending);
        }
    }

    fn admit(&mut self, group: &mut Group, pending: Pending) {
        if pending.answer.is_closed() || pending.deadline <= Instant::now() {
            // Nobody waits any more, and nothing has happened: leave it so.
            pending.answer(Attempt::NotProposed);
        } else if !group.pending.is_empty() && group.bytes + pending.bytes() > self.limits.group_bytes {
            self.left_over = Some(pending);
            group.full = true;
        } else {
            group.bytes += pending.bytes();
            group.commands += pending.commands;
            group.pending.push(pending);
            group.full = group.commands >= self.limits.group_commands;
        }
    }
}

/// How many commands have left in groups whose fate is not known yet.
#[derive(Default)]
struct UnderWay {
    commands: AtomicUsize,
    fewer: Notify,
}

impl UnderWay {
    fn commands(&self) -> usize {
        self.commands.load(Ordering::Acquire)
    }

    /// So many more are under way until the result is dropped.
    fn begin(self: &Arc<Self>, commands: usize) -> Departed {
        self.commands.fetch_add(commands, Ordering::AcqRel);
        Departed { under_way: self.clone(), commands }
    }
}

/// A group under way.
struct Departed {
    under_way: Arc<UnderWay>,
    commands: usize,
}

impl Drop for Departed {
    fn drop(&mut self) {
        self.under_way.commands.fetch_sub(self.commands, Ordering::AcqRel);
        self.under_way.fewer.notify_one();
    }
}

/// Decides once for all whether a command goes or its caller, who has waited long enough, is told that it never will.
#[derive(Default)]
struct Ticket(AtomicU8);

impl Ticket {
    const WAITING: u8 = 0;
    const SUBMITTED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// The command is about to go. False: it must not.
    fn submit(&self) -> bool {
        self.decide(Self::SUBMITTED)
    }

    /// The caller gives up. False: the command may be in a log.
    fn withdraw(&self) -> bool {
        self.decide(Self::WITHDRAWN)
    }

    fn decide(&self, what: u8) -> bool {
        self.0.compare_exchange(Self::WAITING, what, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Before the commands can possibly reach a log: leaves out those whose callers gave up while the group grew.
fn submit(group: &mut Vec<Pending>) {
    group.retain(|pending| pending.ticket.submit());
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
        let under_way = Arc::new(UnderWay::default());
        let mut groups = Groups { queue, left_over: None, limits };
        let mut agreed = self.time.lock().expect("no holder of this lock panics").agreed();
        let mut waited_in = 0;
        loop {
            // First a slot, then a group: while all slots are taken, the next group grows.
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Some(group) = groups.next(&under_way).await else { return };
            self.know_the_time(&mut agreed, &mut waited_in).await;
            let Some((group, entry)) = self.entry(group) else {
                continue;
            };
            let departed = under_way.begin(group.iter().map(|pending| pending.commands).sum());
            let (responder, applied) = ProgressResponder::complete_only();
            if self.raft.client_write_ff(entry, Some(responder)).await.is_err() {
                answer_all(group, || Attempt::Unknown);
                continue;
            }
            tokio::spawn(async move {
                let result = applied.await;
                drop((departed, slot));
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

    /// Encodes a group as one entry with the leader's time. `None`, and everybody answered, if this node does not lead, or nobody
    /// waits any more.
    fn entry(&self, mut group: Vec<Pending>) -> Option<(Vec<Pending>, Payload)> {
        let (term, is_leader) = {
            let leadership = self.leadership.borrow();
            (leadership.term, leadership.is_this_node)
        };
        if !is_leader {
            answer_all(group, || Attempt::NotProposed);
            return None;
        }
        submit(&mut group);
        if group.is_empty() {
            return None;
        }
        let now_ms = self.time.lock().expect("no holder of this lock panics").now_ms(term);
        let commands = group.iter().filter_map(|pending| pending.command.clone()).collect();
        let entry = wire::EncodedEntry { version: self.applied.borrow().version, now_ms, commands };
        Some((group, Payload(Bytes::from(entry.encode_to_vec()))))
    }
}

/// Gives each command its outcome. A tick has none, and is content with any answer.
fn distribute(group: Vec<Pending>, outcomes: Vec<v1::Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for pending in group {
        let outcome = match pending.is_tick() {
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
        // The leader gathers: here they only share a call.
        let none = UnderWay::default();
        let mut groups = Groups { queue, left_over: None, limits };
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let Some(group) = groups.next(&none).await else { return };
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
    submit(&mut group);
    if group.is_empty() {
        return;
    }
    let now = Instant::now();
    let longest = group.iter().map(|pending| pending.deadline).max().unwrap_or(now);
    let timeout = longest.saturating_duration_since(now).min(FORWARD_TIMEOUT_MAX);
    let request = wire::ProposeRequest {
        commands: group.iter().filter_map(|pending| pending.command.clone()).collect(),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
    };
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
        let outcome = proposer.propose(command(Body::Enqueue(named)), false, deadline).await;
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
            let outcome = proposer.propose(command(Body::CreateNamespace(named)), false, deadline).await;
            assert_eq!(outcome, if known { Ok(refusal) } else { Err(ProposeError::OutcomeUnknown) });
            answering.await.unwrap();
        }
    }

    fn pending(bytes: usize, deadline: Instant) -> (Pending, oneshot::Receiver<Attempt>) {
        let (answer, answered) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let command = Some(Bytes::from(vec![0; bytes]));
        (Pending { command, commands: 1, followed: false, deadline, ticket, answer }, answered)
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
        while let Some(group) = groups.next(&UnderWay::default()).await {
            sizes.push(group.iter().map(|pending| pending.bytes()).collect::<Vec<_>>());
        }
        assert_eq!(sizes, [vec![40, 40], vec![40], vec![500], vec![1, 1, 1], vec![1]]);
        assert!(matches!(late_answer.await, Ok(Attempt::NotProposed)));
    }

    #[tokio::test]
    async fn whoever_was_told_that_it_never_goes_is_right() {
        let later = Instant::now() + Duration::from_secs(60);
        let ((gone, _), (there, _)) = (pending(1, later), pending(2, later));
        assert!(gone.ticket.withdraw(), "its caller is told that it is not proposed");
        let ticket = there.ticket.clone();
        let mut group = vec![gone, there];
        submit(&mut group);
        assert_eq!(group.iter().map(Pending::bytes).collect::<Vec<_>>(), [2]);
        assert!(!ticket.withdraw(), "it may be in a log");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_grows_while_more_is_under_way() {
        let (sender, queue) = mpsc::channel(16);
        let mut groups = Groups { queue, left_over: None, limits: ProposalLimits::default() };
        let under_way = Arc::new(UnderWay::default());
        let mut answers = Vec::new();
        let mut send = async |count: usize| {
            for _ in 0..count {
                let (pending, answered) = pending(1, Instant::now() + Duration::from_secs(60));
                sender.send(pending).await.unwrap();
                answers.push(answered);
            }
        };
        send(1).await;
        let first = groups.next(&under_way).await.unwrap();
        assert_eq!(first.len(), 1, "alone, it goes at once");
        let departed = under_way.begin(3);
        send(2).await;
        let waited = tokio::time::timeout(Duration::from_secs(1), groups.next(&under_way)).await;
        assert!(waited.is_err(), "three are under way, and two wait");

        // Those two went with the call that was given up; their callers are told so by the end of their channels.
        send(2).await;
        let leaves = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(departed);
        };
        let (group, ()) = tokio::join!(groups.next(&under_way), leaves);
        assert_eq!(group.unwrap().len(), 2, "none is under way any more");
        let _departed = under_way.begin(3);
        send(3).await;
        assert_eq!(groups.next(&under_way).await.unwrap().len(), 3, "as many wait as are under way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_waits_a_moment_for_the_one_that_was_said_to_follow() {
        let (sender, queue) = mpsc::channel(16);
        let mut groups = Groups { queue, left_over: None, limits: ProposalLimits::default() };
        let none = Arc::new(UnderWay::default());
        let later = Instant::now() + Duration::from_secs(60);
        let mut answers = Vec::new();
        let mut make = |bytes, followed| {
            let (pending, answered) = pending(bytes, later);
            answers.push(answered);
            Pending { followed, ..pending }
        };
        let (first, second, alone) = (make(1, true), make(2, false), make(3, true));
        sender.send(first).await.unwrap();
        let follows = async {
            // Longer than the turns that everybody has.
            for _ in 0..=2 * TURNS {
                tokio::task::yield_now().await;
            }
            sender.send(second).await.unwrap();
        };
        let (group, ()) = tokio::join!(groups.next(&none), follows);
        assert_eq!(group.unwrap().iter().map(Pending::bytes).collect::<Vec<_>>(), [1, 2]);

        // Nothing comes: it goes nevertheless.
        sender.send(alone).await.unwrap();
        let began = Instant::now();
        assert_eq!(groups.next(&none).await.unwrap().len(), 1);
        assert!(began.elapsed() <= 3 * FOLLOWED_WITHIN);
    }
}

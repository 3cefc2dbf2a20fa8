//! Commands of callers that wait at the same time, sent as one batch.
//!
//! ```text
//!   callers ── waiting ──► group ──► one CommandBatch, with one request id ──► outcomes, one for each
//!                │ grows while as many are under way, for PATIENCE at most
//! ```
//!
//! A command that finds nobody else goes alone, as it always did. A batch that is refused as a whole has had no effect: its commands then
//! go one by one, so that each caller learns what is wrong with its own.
//!
//! A group is taken and carried by a task of its own, so that a caller who gives up disturbs nobody. No caller relies on that task, nor on
//! any other caller, to be let out: after [`PATIENCE`] it takes a group itself. So nothing is stuck where a runtime stops, where a future
//! is dropped outside of one or is no longer polled, or where what is under way gets no answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::client::{Client, Kind, request_id};
use crate::error::{Error, Fate, Refusal};
use crate::proto::{self, command, outcome};

/// Commands in one batch: what the cluster takes.
const COMMANDS_MAX: usize = 256;
/// Tasks that the commands of one batch enqueue together: what the cluster takes.
const TASKS_MAX: usize = 1_000;
/// Larger commands go alone: they gain nothing.
const COMMAND_BYTES_MAX: usize = 64 << 10;
/// The size from which a batch is not made larger.
const BATCH_BYTES: usize = 1 << 20;
/// Groups under way at once. More commands wait for one of them, if not for long.
const GROUPS_MAX: usize = 8;
/// Commands that may wait, and their bytes. What finds no room goes alone, and then waits where each node's stream bounds what waits.
const WAITING_MAX: usize = 16 << 10;
const WAITING_BYTES_MAX: usize = 16 << 20;
/// The longest that a command waits for others. Then it leaves with whoever is there, whatever is under way, so that one slow batch holds
/// up nobody. Long enough that groups are large where the cluster is slow because it has much to do.
const PATIENCE: Duration = Duration::from_millis(25);
/// A command waits for no larger part of its time than this. The commands of a group have the time of the one that has least.
const PATIENCE_PART: u32 = 8;
/// A cluster that takes no batches yet is asked again after this long.
const ALONE_FOR: Duration = Duration::from_secs(60);

/// The commands of one client's callers. Clones of a client share it.
#[derive(Default)]
pub(crate) struct Together {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they came, which is that of their tickets.
    waiting: VecDeque<Waiting>,
    /// The size of all that wait.
    bytes: usize,
    /// The ticket of the next that comes.
    ticket: u64,
    /// Commands in groups that have left, and how many groups that are.
    commands: usize,
    groups: usize,
    /// A group is about to leave: there is a [`Departure`].
    departing: bool,
    /// The cluster takes no batches before this.
    alone_until: Option<Instant>,
}

/// A command, and who waits for its outcome. It waits for as long as its caller has its [`Place`].
struct Waiting {
    ticket: u64,
    body: command::Body,
    bytes: usize,
    tasks: usize,
    /// When its caller's time is up.
    end: Instant,
    answer: oneshot::Sender<Sent>,
}

/// What became of a command.
#[allow(clippy::large_enum_variant)] // The large one is the usual one.
pub(crate) enum Sent {
    /// The cluster carried it out or refused it.
    Done {
        /// Its own outcome.
        outcome: outcome::Body,
        /// The id of the batch that it was in, by which the cluster's records name it.
        request_id: Arc<str>,
    },
    /// The batch that it was in has no answer.
    Failed(Error),
    /// It has had no effect, and is to be sent alone. As long as this is held it counts as under way.
    Alone(Option<UnderWay>),
}

/// Commands that have left together.
struct Group {
    members: Vec<Waiting>,
    under_way: UnderWay,
}

/// Commands under way. Dropped, it lets those leave that waited for them.
pub(crate) struct UnderWay {
    client: Client,
    commands: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let due = {
            let mut state = self.client.together().state();
            state.commands -= self.commands;
            state.groups -= 1;
            state.depart()
        };
        if due {
            Departure { client: self.client.clone() }.begin();
        }
    }
}

/// The right to have the next group leave. Dropped, however that comes about, it is another's.
struct Departure {
    client: Client,
}

impl Drop for Departure {
    fn drop(&mut self) {
        // Nobody is called here: a runtime that stops would drop each departure at once. Who waits goes when its patience ends.
        self.client.together().state().departing = false;
    }
}

impl Departure {
    /// Has a task take a group. Never called with the state locked: a runtime that stops drops the task at once, and this with it.
    fn begin(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // Whoever is about to send a command joins.
                tokio::task::yield_now().await;
                let client = self.client.clone();
                drop(self);
                if let Some(group) = leave(&client, None) {
                    carry(client, group).await;
                }
            });
        }
    }
}

/// A caller's place among those that wait. Gone with the caller, and its command with it unless that has left.
struct Place<'a> {
    together: &'a Together,
    ticket: u64,
    left: bool,
}

impl Place<'_> {
    /// Takes the command back. Whether it was still there; otherwise it has left.
    fn withdraw(&mut self) -> bool {
        if std::mem::replace(&mut self.left, true) {
            return false;
        }
        // Freed after the lock is.
        let withdrawn = self.together.state().withdraw(self.ticket);
        withdrawn.is_some()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl Together {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Sends a command of this size with others, and says what became of it before `end`, the end of its caller's time. Whether the caller
    /// gives up early makes no difference to the others.
    pub(crate) async fn send(&self, client: &Client, bytes: usize, end: Instant, body: impl FnOnce() -> command::Body) -> Sent {
        if bytes > COMMAND_BYTES_MAX || self.goes_alone(bytes) {
            return Sent::Alone(None);
        }
        let body = body();
        let tasks = tasks_in(&body);
        if tasks > TASKS_MAX {
            return Sent::Alone(None);
        }
        let (answer, mut answered) = oneshot::channel();
        let (mut place, due) = {
            let mut state = self.state();
            let ticket = state.ticket;
            state.ticket += 1;
            state.bytes += bytes;
            state.waiting.push_back(Waiting { ticket, body, bytes, tasks, end, answer });
            (Place { together: self, ticket, left: false }, state.depart())
        };
        if due {
            Departure { client: client.clone() }.begin();
        }
        let step = PATIENCE.min(client.deadline() / PATIENCE_PART);
        let mut patience = Instant::now() + step;
        loop {
            match tokio::time::timeout_at(patience.min(end), &mut answered).await {
                Ok(Ok(sent)) => {
                    place.left = true;
                    return sent;
                }
                Ok(Err(_)) => {
                    let message = "the runtime that carried the command has stopped".to_owned();
                    return Sent::Failed(Error::Unavailable { message, tries: 1, fate: Fate::Unknown });
                }
                Err(_) if Instant::now() >= end => {
                    return Sent::Failed(match place.withdraw() {
                        true => Error::DeadlineExceeded { tries: 0, fate: Fate::NotDone },
                        false => Error::DeadlineExceeded { tries: 1, fate: Fate::Unknown },
                    });
                }
                // As many groups as there are before it, until one has taken it.
                Err(_) => {
                    while let Some(group) = leave(client, Some(place.ticket)) {
                        tokio::spawn(carry(client.clone(), group));
                    }
                    place.left = true;
                    patience = end;
                }
            }
        }
    }

    /// Whether a command of this size is to go alone: the cluster takes no batches, or too much waits.
    fn goes_alone(&self, bytes: usize) -> bool {
        let state = self.state();
        let full = state.waiting.len() >= WAITING_MAX || state.bytes + bytes > WAITING_BYTES_MAX;
        full || state.alone_until.is_some_and(|until| until > Instant::now())
    }
}

impl State {
    /// Whether it is time for a group to leave: nothing is under way, or as much waits as is. If so the caller makes the [`Departure`].
    #[must_use]
    fn depart(&mut self) -> bool {
        let due = self.groups < GROUPS_MAX && self.waiting.len() >= self.commands.clamp(1, COMMANDS_MAX);
        let begins = due && !self.departing;
        self.departing |= begins;
        begins
    }

    fn position(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }

    fn withdraw(&mut self, ticket: u64) -> Option<Waiting> {
        let withdrawn = self.waiting.remove(self.position(ticket)?)?;
        self.bytes -= withdrawn.bytes;
        Some(withdrawn)
    }

    /// The group that leaves now: those who came first, as many as fit. Not empty where anybody waits, as one alone always fits.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut bytes, mut tasks) = (0, 0);
        let fits = |waiting: &&Waiting| {
            bytes += waiting.bytes;
            tasks += waiting.tasks;
            bytes <= BATCH_BYTES && tasks <= TASKS_MAX
        };
        let count = self.waiting.iter().take(COMMANDS_MAX).take_while(fits).count();
        let group: Vec<Waiting> = self.waiting.drain(..count).collect();
        self.bytes -= group.iter().map(|waiting| waiting.bytes).sum::<usize>();
        self.commands += group.len();
        self.groups += usize::from(!group.is_empty());
        group
    }
}

fn tasks_in(body: &command::Body) -> usize {
    match body {
        command::Body::Enqueue(request) => request.tasks.len(),
        _ => 0,
    }
}

/// Takes a group, if anybody waits: with a ticket, if that one does.
fn leave(client: &Client, ticket: Option<u64>) -> Option<Group> {
    let (members, due) = {
        let mut state = client.together().state();
        if ticket.is_some_and(|ticket| state.position(ticket).is_none()) {
            return None;
        }
        // What does not fit goes with the next.
        (state.take(), state.depart())
    };
    if due {
        Departure { client: client.clone() }.begin();
    }
    let commands = members.len();
    (commands > 0).then(|| Group { members, under_way: UnderWay { client: client.clone(), commands } })
}

/// Sends a group and answers everybody in it.
async fn carry(client: Client, group: Group) {
    let Group { mut members, under_way } = group;
    if let [_] = members.as_slice()
        && let Some(only) = members.pop()
    {
        // Where its caller has given up, this drops what was under way.
        let _ = only.answer.send(Sent::Alone(Some(under_way)));
        return;
    }
    // The least that any has. They came within the patience of one another, so that nobody loses much.
    let Some(end) = members.iter().map(|waiting| waiting.end).min() else {
        return;
    };
    let (bodies, mut callers): (Vec<_>, Vec<_>) = members.into_iter().map(|waiting| (waiting.body, waiting.answer)).unzip();
    let commands = bodies.into_iter().map(|body| proto::Command { body: Some(body), ..proto::Command::default() });
    let request_id: Arc<str> = request_id().into();
    let batch = proto::CommandBatch { request_id: request_id.to_string(), commands: commands.collect() };
    let sending = client.command_alone(Kind::BATCH, end, batch, |_, _| Box::pin(async { Err(Status::unimplemented("no batches")) }));
    let sent = tokio::select! {
        biased;
        sent = sending => sent,
        // Nobody is left for whom to try again.
        () = all_gone(&mut callers) => return,
    };
    drop(under_way);
    match sent {
        Ok(answer) => {
            let mut outcomes = answer.outcomes.into_iter();
            for caller in callers {
                let sent = match outcomes.next().and_then(|outcome| outcome.body) {
                    Some(outcome) => Sent::Done { outcome, request_id: request_id.clone() },
                    None => {
                        let message = "the node answered a batch with too few outcomes".to_owned();
                        Sent::Failed(Error::Unavailable { message, tries: 1, fate: Fate::Unknown })
                    }
                };
                let _ = caller.send(sent);
            }
        }
        Err(Error::Refused(refusal)) if had_no_effect(&refusal) => {
            if knows_no_batches(&refusal) {
                client.together().state().alone_until = Some(Instant::now() + ALONE_FOR);
            }
            callers.into_iter().for_each(|caller| drop(caller.send(Sent::Alone(None))));
        }
        Err(error) => callers.into_iter().for_each(|caller| drop(caller.send(Sent::Failed(error.clone())))),
    }
}

/// Waits until no caller waits any more. One is watched at a time, so that this costs the same for any number.
async fn all_gone(callers: &mut [oneshot::Sender<Sent>]) {
    for caller in callers {
        caller.closed().await;
    }
}

/// Whether a batch that was refused so was certainly not carried out. A node that met a fault of its own does not know.
fn had_no_effect(refusal: &Refusal) -> bool {
    !matches!(refusal.code, Code::Internal | Code::Unknown | Code::DataLoss)
}

/// Whether the node, or the cluster, is older than batches. The node that reads no command in a message names the message's field.
fn knows_no_batches(refusal: &Refusal) -> bool {
    let unread = refusal.reason == "INVALID_ARGUMENT" && refusal.field.as_deref() == Some("command.body");
    unread || refusal.code == Code::Unimplemented || refusal.reason == "CLUSTER_VERSION_TOO_LOW"
}

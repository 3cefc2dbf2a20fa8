//! What callers of one client send at the same time, gathered into one message.
//!
//! ```text
//!   callers ── waiting ──► group ──► one message ──► answers, one for each
//!                │ grows while as many are under way, for PATIENCE at most
//! ```
//!
//! A group is taken and carried by a task of its own, so that a caller who gives up disturbs nobody. No caller relies on that task, nor on
//! any other caller, to be let out: after [`PATIENCE`] it takes a group itself. So nothing is stuck where a runtime stops, where a future
//! is dropped outside of one or is no longer polled, or where what is under way gets no answer.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Fate};

/// The size from which a group is not made larger, in bytes.
const GROUP_BYTES: usize = 1 << 20;
/// Groups under way at once. More wait for one of them, if not for long.
const GROUPS_MAX: usize = 8;
/// How many may wait, and their bytes. What finds no room goes alone, and then waits where each node's stream bounds what waits.
const WAITING_MAX: usize = 16 << 10;
const WAITING_BYTES_MAX: usize = 16 << 20;
/// The longest that anybody waits for others. Then it leaves with whoever is there, whatever is under way, so that one slow group holds
/// up nobody. Long enough that groups are large where the cluster is slow because it has much to do.
const PATIENCE: Duration = Duration::from_millis(25);
/// Nobody waits for a larger part of its time than this. A group has the time of the one that has least.
const PATIENCE_PART: u32 = 8;

/// What is gathered.
pub(crate) trait Cargo: Sized + Send + 'static {
    /// What one caller gets back.
    type Answer: Send;
    /// How many go in one message.
    const COUNT_MAX: usize;

    /// Where a client gathers this.
    fn of(client: &Client) -> &Gather<Self>;

    /// Tasks that it submits, of which a group has at most [`Cargo::TASKS_MAX`].
    fn tasks(&self) -> usize {
        0
    }
    /// See [`Cargo::tasks`].
    const TASKS_MAX: usize = usize::MAX;

    /// Sends a group and answers everybody in it.
    fn carry(client: Client, group: Group<Self>) -> impl Future<Output = ()> + Send;
}

/// What one client's callers have sent and not had answered. Clones of a client share it.
pub(crate) struct Gather<C: Cargo> {
    state: Mutex<State<C>>,
}

impl<C: Cargo> Default for Gather<C> {
    fn default() -> Self {
        let (waiting, bytes, ticket, count, groups) = (VecDeque::new(), 0, 0, 0, 0);
        Self { state: Mutex::new(State { waiting, bytes, ticket, count, groups, departing: false, alone_until: None }) }
    }
}

struct State<C: Cargo> {
    /// In the order in which they came, which is that of their tickets.
    waiting: VecDeque<Waiting<C>>,
    /// The size of all that wait.
    bytes: usize,
    /// The ticket of the next that comes.
    ticket: u64,
    /// How many have left in groups and have no answer yet, and how many groups that are.
    count: usize,
    groups: usize,
    /// A group is about to leave: there is a [`Departure`].
    departing: bool,
    /// The cluster takes no groups before this.
    alone_until: Option<Instant>,
}

/// What one caller sends, and who waits for the answer. It waits for as long as its caller has its [`Place`].
pub(crate) struct Waiting<C: Cargo> {
    ticket: u64,
    pub cargo: C,
    bytes: usize,
    /// When its caller's time is up.
    pub end: Instant,
    pub answer: oneshot::Sender<Sent<C>>,
}

/// What became of it.
pub(crate) enum Sent<C: Cargo> {
    /// There is an answer.
    Done(C::Answer),
    /// The group that it was in has no answer.
    Failed(Error),
    /// It has had no effect, and is to be sent alone. As long as this is held it counts as under way.
    Alone(Option<UnderWay<C>>),
}

/// Those who have left together.
pub(crate) struct Group<C: Cargo> {
    pub members: Vec<Waiting<C>>,
    pub under_way: UnderWay<C>,
}

/// A group under way. Dropped, it lets those leave that waited for it.
pub(crate) struct UnderWay<C: Cargo> {
    client: Client,
    count: usize,
    _cargo: std::marker::PhantomData<fn(C)>,
}

impl<C: Cargo> Drop for UnderWay<C> {
    fn drop(&mut self) {
        let due = {
            let mut state = C::of(&self.client).state();
            state.count -= self.count;
            state.groups -= 1;
            state.depart()
        };
        if due {
            Departure::<C>::of(&self.client).begin();
        }
    }
}

/// The right to have the next group leave. Dropped, however that comes about, it is another's.
struct Departure<C: Cargo> {
    client: Client,
    _cargo: std::marker::PhantomData<fn(C)>,
}

impl<C: Cargo> Drop for Departure<C> {
    fn drop(&mut self) {
        // Nobody is called here: a runtime that stops would drop each departure at once. Who waits goes when its patience ends.
        C::of(&self.client).state().departing = false;
    }
}

impl<C: Cargo> Departure<C> {
    fn of(client: &Client) -> Self {
        Departure { client: client.clone(), _cargo: std::marker::PhantomData }
    }

    /// Has a task take a group. Never called with the state locked: a runtime that stops drops the task at once, and this with it.
    fn begin(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // Whoever is about to send something joins.
                tokio::task::yield_now().await;
                let client = self.client.clone();
                drop(self);
                if let Some(group) = leave(&client, None) {
                    C::carry(client, group).await;
                }
            });
        }
    }
}

/// A caller's place among those that wait. Gone with the caller, and what it sends with it unless that has left.
struct Place<'a, C: Cargo> {
    gather: &'a Gather<C>,
    ticket: u64,
    left: bool,
}

impl<C: Cargo> Place<'_, C> {
    /// Takes it back. Whether it was still there; otherwise it has left.
    fn withdraw(&mut self) -> bool {
        if std::mem::replace(&mut self.left, true) {
            return false;
        }
        // Freed after the lock is.
        let withdrawn = self.gather.state().withdraw(self.ticket);
        withdrawn.is_some()
    }
}

impl<C: Cargo> Drop for Place<'_, C> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl<C: Cargo> Gather<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Has everything go alone for a while: the cluster takes no groups yet.
    pub(crate) fn rest(&self, until: Instant) {
        self.state().alone_until = Some(until);
    }

    /// Sends something of this size with others, and says what became of it before `end`, the end of its caller's time. Whether the caller
    /// gives up early makes no difference to the others.
    pub(crate) async fn send(&self, client: &Client, bytes: usize, end: Instant, cargo: impl FnOnce() -> C) -> Sent<C> {
        if self.goes_alone(bytes) {
            return Sent::Alone(None);
        }
        let cargo = cargo();
        if cargo.tasks() > C::TASKS_MAX {
            return Sent::Alone(None);
        }
        let (answer, mut answered) = oneshot::channel();
        let (mut place, due) = {
            let mut state = self.state();
            let ticket = state.ticket;
            state.ticket += 1;
            state.bytes += bytes;
            state.waiting.push_back(Waiting { ticket, cargo, bytes, end, answer });
            (Place { gather: self, ticket, left: false }, state.depart())
        };
        if due {
            Departure::<C>::of(client).begin();
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
                    let message = "the runtime that carried the call has stopped".to_owned();
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
                        tokio::spawn(C::carry(client.clone(), group));
                    }
                    place.left = true;
                    patience = end;
                }
            }
        }
    }

    /// Whether something of this size is to go alone: the cluster takes no groups, or too much waits.
    fn goes_alone(&self, bytes: usize) -> bool {
        let state = self.state();
        let full = state.waiting.len() >= WAITING_MAX || state.bytes + bytes > WAITING_BYTES_MAX;
        full || state.alone_until.is_some_and(|until| until > Instant::now())
    }
}

impl<C: Cargo> State<C> {
    /// Whether it is time for a group to leave: nothing is under way, or as much waits as is. If so the caller makes the [`Departure`].
    #[must_use]
    fn depart(&mut self) -> bool {
        let due = self.groups < GROUPS_MAX && self.waiting.len() >= self.count.clamp(1, C::COUNT_MAX);
        let begins = due && !self.departing;
        self.departing |= begins;
        begins
    }

    fn position(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }

    fn withdraw(&mut self, ticket: u64) -> Option<Waiting<C>> {
        let withdrawn = self.waiting.remove(self.position(ticket)?)?;
        self.bytes -= withdrawn.bytes;
        Some(withdrawn)
    }

    /// The group that leaves now: those who came first, as many as fit. Not empty where anybody waits, as one alone always fits.
    fn take(&mut self) -> Vec<Waiting<C>> {
        let (mut bytes, mut tasks) = (0, 0);
        let fits = |waiting: &&Waiting<C>| {
            bytes += waiting.bytes;
            tasks += waiting.cargo.tasks();
            bytes <= GROUP_BYTES && tasks <= C::TASKS_MAX
        };
        let count = self.waiting.iter().take(C::COUNT_MAX).take_while(fits).count();
        let group: Vec<Waiting<C>> = self.waiting.drain(..count).collect();
        self.bytes -= group.iter().map(|waiting| waiting.bytes).sum::<usize>();
        self.count += group.len();
        self.groups += usize::from(!group.is_empty());
        group
    }
}

/// Takes a group, if anybody waits: with a ticket, if that one does.
fn leave<C: Cargo>(client: &Client, ticket: Option<u64>) -> Option<Group<C>> {
    let (members, due) = {
        let mut state = C::of(client).state();
        if ticket.is_some_and(|ticket| state.position(ticket).is_none()) {
            return None;
        }
        // What does not fit goes with the next.
        (state.take(), state.depart())
    };
    if due {
        Departure::<C>::of(client).begin();
    }
    let count = members.len();
    (count > 0).then(|| Group { members, under_way: UnderWay { client: client.clone(), count, _cargo: std::marker::PhantomData } })
}

/// Waits until no caller waits any more. One is watched at a time, so that this costs the same for any number.
pub(crate) async fn all_gone<C: Cargo>(callers: &mut [oneshot::Sender<Sent<C>>]) {
    for caller in callers {
        caller.closed().await;
    }
}

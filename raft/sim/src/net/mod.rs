//! The network: everything that goes from one party to another waits here for its time, arrives late, twice, or never.
//!
//! ```text
//!   request ──► fate: arrives at some time, or is lost ──► delivered to a running party ──► its answer goes the same way back
//! ```
//!
//! Links have a direction: each of the two can be cut, slow, or lossy by itself. What is lost stays unanswered, or its sender is told after a
//! while, as a broken connection would.

pub mod link;
mod stream;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::BoxFuture;
use tarn_raft::Consensus;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::dice::Dice;
use crate::trace::Trace;

/// A node, by its id, or a client, from [`FIRST_CLIENT`] on.
pub type Party = u64;

/// The first client's number.
pub const FIRST_CLIENT: Party = 1_000;

/// How long what is lost keeps its sender waiting, if the sender does not give up before, in milliseconds.
const LIMBO_MS: u64 = 60_000;

/// The way into a running node.
#[derive(Clone)]
pub struct Door {
    /// Where its tasks run.
    pub handle: Handle,
    /// What it serves.
    pub consensus: Consensus,
}

/// Something that arrives. `None`: nobody is there.
pub type Delivery = Box<dyn FnOnce(Option<&Door>) + Send>;

/// How a direction between two parties is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    /// Nothing passes.
    pub cut: bool,
    /// The shortest and the longest delay, in milliseconds.
    pub delay: (u64, u64),
    /// Lost messages in a million.
    pub loss: u64,
    /// Calls that arrive twice, in a million.
    pub duplicates: u64,
}

impl Default for Quality {
    /// A good local network.
    fn default() -> Self {
        Self { cut: false, delay: (0, 2), loss: 0, duplicates: 0 }
    }
}

/// Why a request got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// It certainly never arrived.
    Refused,
    /// It may have arrived.
    Broken,
}

enum Fate {
    Arrives(u64),
    /// The sender is told then, if it is told at all.
    Lost(Option<u64>),
}

/// The network of one cluster. Clones share it.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    now_ms: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), (Party, Delivery)>,
    links: BTreeMap<(Party, Party), Quality>,
    usual: Quality,
    /// Parties whose machine has died in the middle of what it did: nothing more comes from them.
    mute: Vec<Party>,
    dice: Dice,
    messages: u64,
    lost: u64,
}

impl Net {
    /// A network in which every link is good.
    pub fn new(dice: Dice, trace: Trace) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                now_ms: 0,
                sequence: 0,
                queue: BTreeMap::new(),
                links: BTreeMap::new(),
                usual: Quality::default(),
                mute: Vec::new(),
                dice,
                messages: 0,
                lost: 0,
            })),
            trace,
        }
    }

    /// What arrives at this time, in milliseconds since the run began, in order.
    pub fn due(&self, now_ms: u64) -> Vec<(Party, Delivery)> {
        let mut state = self.lock();
        state.now_ms = now_ms;
        let later = state.queue.split_off(&(now_ms + 1, 0));
        std::mem::replace(&mut state.queue, later).into_values().collect()
    }

    /// How all links are that are not set apart.
    pub fn set_usual(&self, quality: Quality) {
        self.lock().usual = quality;
    }

    /// Changes one direction.
    pub fn change(&self, from: Party, to: Party, change: impl FnOnce(&mut Quality)) {
        let mut state = self.lock();
        let usual = state.usual;
        change(state.links.entry((from, to)).or_insert(usual));
    }

    /// One direction is as usual again.
    pub fn restore(&self, from: Party, to: Party) {
        self.lock().links.remove(&(from, to));
    }

    /// Every link is as usual again.
    pub fn heal(&self) {
        self.lock().links.clear();
    }

    /// Nothing comes from this party any more, or again.
    pub fn set_mute(&self, party: Party, mute: bool) {
        let mut state = self.lock();
        state.mute.retain(|muted| *muted != party);
        if mute {
            state.mute.push(party);
        }
    }

    /// Messages sent, and how many of them were lost.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.messages, state.lost)
    }

    /// Runs `work` at a node, and brings back what it returns.
    pub fn request<T: Send + 'static>(
        &self,
        from: Party,
        to: Party,
        what: &str,
        work: impl FnOnce(Door) -> BoxFuture<'static, T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, Lost>> {
        let (sender, receiver) = oneshot::channel();
        // The answer travels the other way.
        let reply = Reply { net: self.clone(), from: to, to: from, sender: Some(sender) };
        match self.fate(from, to, what) {
            Fate::Arrives(at_ms) => self.schedule(
                at_ms,
                to,
                Box::new(move |door| match door {
                    Some(door) => {
                        let door = door.clone();
                        let handle = door.handle.clone();
                        handle.spawn(async move {
                            let answer = work(door).await;
                            reply.send(answer);
                        });
                    }
                    None => reply.give_up(Lost::Refused),
                }),
            ),
            Fate::Lost(told) => {
                let at_ms = told.unwrap_or(self.now_ms() + LIMBO_MS);
                // Not through the network: it is the sender's own system that notices.
                self.schedule(at_ms, from, Box::new(move |_| reply.deliver(Err(Lost::Broken))));
            }
        }
        receiver
    }

    /// Whether the next call on this way arrives twice.
    fn duplicates(&self, from: Party, to: Party) -> bool {
        let mut state = self.lock();
        let chance = state.quality(from, to).duplicates;
        state.dice.ppm(chance)
    }

    /// What becomes of a message.
    fn fate(&self, from: Party, to: Party, what: &str) -> Fate {
        let mut state = self.lock();
        let quality = state.quality(from, to);
        state.messages += 1;
        let now_ms = state.now_ms;
        let lost = quality.cut || state.mute.contains(&from) || state.dice.ppm(quality.loss);
        let fate = match lost {
            true => {
                state.lost += 1;
                let told = state.dice.percent(40).then(|| now_ms + state.dice.between(1, 1_500));
                Fate::Lost(told)
            }
            false => {
                let (shortest, longest) = quality.delay;
                Fate::Arrives(now_ms + state.dice.between(shortest, longest))
            }
        };
        drop(state);
        match &fate {
            Fate::Arrives(at_ms) => self.trace.note(format!("net {from}>{to} {what} at {at_ms}")),
            Fate::Lost(_) => self.trace.note(format!("net {from}>{to} {what} lost")),
        }
        fate
    }

    fn schedule(&self, at_ms: u64, to: Party, delivery: Delivery) {
        let mut state = self.lock();
        state.sequence += 1;
        // What was sent in this millisecond arrives in the next one at the earliest: parties run one after another.
        let key = (at_ms.max(state.now_ms + 1), state.sequence);
        state.queue.insert(key, (to, delivery));
    }

    fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn quality(&self, from: Party, to: Party) -> Quality {
        self.links.get(&(from, to)).copied().unwrap_or(self.usual)
    }
}

/// The way back of an answer. Dropped with the process that should have given it, it breaks.
struct Reply<T: Send + 'static> {
    net: Net,
    from: Party,
    to: Party,
    sender: Option<oneshot::Sender<Result<T, Lost>>>,
}

impl<T: Send + 'static> Reply<T> {
    fn send(mut self, answer: T) {
        self.travel(Ok(answer));
    }

    fn give_up(mut self, lost: Lost) {
        self.travel(Err(lost));
    }

    /// At once.
    fn deliver(mut self, answer: Result<T, Lost>) {
        if let Some(sender) = self.sender.take() {
            // Whoever asked may have given up.
            let _ = sender.send(answer);
        }
    }

    fn travel(&mut self, answer: Result<T, Lost>) {
        let Some(sender) = self.sender.take() else { return };
        let what = match &answer {
            Ok(_) => "answer",
            Err(_) => "no answer",
        };
        let (at_ms, answer) = match self.net.fate(self.from, self.to, what) {
            Fate::Arrives(at_ms) => (at_ms, answer),
            Fate::Lost(told) => (told.unwrap_or(self.net.now_ms() + LIMBO_MS), Err(Lost::Broken)),
        };
        let delivery: Delivery = Box::new(move |_| {
            let _ = sender.send(answer);
        });
        self.net.schedule(at_ms, self.to, delivery);
    }
}

impl<T: Send + 'static> Drop for Reply<T> {
    fn drop(&mut self) {
        self.travel(Err(Lost::Broken));
    }
}

//! The threads that policies are evaluated on.
//!
//! They have a large stack, since what a policy nests is only bounded by its time. And whoever waits for one can leave: the interpreter
//! ends by itself when its time is over, but only between its steps, and a policy can build two values in a few steps whose comparison
//! takes forever. Such a thread is left behind and replaced. Its number is bounded, and the bundle that holds it is not asked again before
//! it has ended, so a bad policy costs one processor at most, and never the process.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{
    limits::{GRACE, LOST_MAX, MEMORY_BYTES, STACK_BYTES, TRYING_MEMORY_BYTES, WAITING_MAX},
    ration,
};

/// How a piece of work ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    /// With a result.
    Done(T),
    /// With a panic, and what it said.
    Panicked(String),
    /// It did not end in time, and its thread was left behind.
    Stuck,
    /// It never began.
    Busy,
}

/// Where one piece of work stands.
#[derive(Clone, Copy)]
enum Phase {
    Waiting,
    Running(Instant),
    Ended,
    /// The caller has left. Nobody reads the result.
    Left,
}

type Ticket = Arc<Mutex<Phase>>;

struct Job {
    ticket: Ticket,
    work: Box<dyn FnOnce() + Send>,
    /// Called when the work has ended after the caller had left.
    freed: Box<dyn FnOnce() + Send>,
}

struct State {
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
    lost: usize,
}

struct Pool {
    state: Mutex<State>,
    wake: Condvar,
    size: usize,
}

/// What a piece of work is for. Each purpose has threads of its own, so that a bundle that is tried out cannot hold up the gate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Judging what active bundles are asked.
    Judging,
    /// Compiling, testing and comparing bundles that may never become active.
    Trying,
}

impl Purpose {
    fn memory(self) -> usize {
        match self {
            Self::Judging => MEMORY_BYTES,
            Self::Trying => TRYING_MEMORY_BYTES,
        }
    }
}

/// Runs `work` on a thread with a large stack and waits until it has ended, or is over `budget` by more than the grace. `freed` is
/// called, on that thread, if it ends after that.
pub(crate) fn run<T: Send + 'static>(
    purpose: Purpose,
    budget: Duration,
    work: impl FnOnce() -> T + Send + 'static,
    freed: impl FnOnce() + Send + 'static,
) -> Outcome<T> {
    let pool = pool(purpose);
    let ticket = Arc::new(Mutex::new(Phase::Waiting));
    let (sender, receiver) = sync_channel(1);
    let job = Job { ticket: Arc::clone(&ticket), work: Box::new(reporting(sender, purpose.memory(), work)), freed: Box::new(freed) };
    if !pool.submit(job) {
        return Outcome::Busy;
    }
    pool.wait(&receiver, &ticket, budget + GRACE)
}

fn reporting<T: Send + 'static>(
    sender: SyncSender<Outcome<T>>,
    memory: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() + Send + 'static {
    move || {
        let outcome = match catch_unwind(AssertUnwindSafe(|| ration::within(memory, work))) {
            Ok(value) => Outcome::Done(value),
            Err(panic) => Outcome::Panicked(said(panic.as_ref())),
        };
        // Nobody listens if the caller has left.
        let _ = sender.send(outcome);
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn pool(purpose: Purpose) -> &'static Pool {
    static JUDGING: OnceLock<Pool> = OnceLock::new();
    static TRYING: OnceLock<Pool> = OnceLock::new();
    let pool = if purpose == Purpose::Judging { &JUDGING } else { &TRYING };
    pool.get_or_init(|| Pool {
        state: Mutex::new(State { waiting: VecDeque::new(), idle: 0, threads: 0, lost: 0 }),
        wake: Condvar::new(),
        size: std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8)),
    })
}

/// What a lock protects here is changed in single steps, so a panic leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Queues a job, with one more thread if all are at work.
    fn submit(&'static self, job: Job) -> bool {
        let mut state = lock(&self.state);
        if state.lost >= LOST_MAX || state.waiting.len() >= WAITING_MAX {
            return false;
        }
        state.waiting.push_back(job);
        if state.waiting.len() > state.idle && state.threads < self.size && !self.grow(&mut state) && state.threads == 0 {
            state.waiting.pop_back();
            return false;
        }
        self.wake.notify_one();
        true
    }

    /// Starts a thread. Without one there are those that there were.
    fn grow(&'static self, state: &mut State) -> bool {
        let thread = std::thread::Builder::new().name("policy".into()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || self.work()).is_ok();
        state.threads += usize::from(started);
        started
    }

    fn work(&'static self) {
        loop {
            let Job { ticket, work, freed } = self.next();
            {
                let mut phase = lock(&ticket);
                // Its caller has left before it began.
                if matches!(*phase, Phase::Left) {
                    continue;
                }
                *phase = Phase::Running(Instant::now());
            }
            work();
            let left = {
                let mut phase = lock(&ticket);
                let left = matches!(*phase, Phase::Left);
                *phase = Phase::Ended;
                left
            };
            if left {
                // Another thread has taken this one's place.
                lock(&self.state).lost -= 1;
                freed();
                return;
            }
        }
    }

    fn next(&self) -> Job {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.waiting.pop_front() {
                return job;
            }
            state.idle += 1;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn wait<T>(&'static self, receiver: &Receiver<Outcome<T>>, ticket: &Ticket, patience: Duration) -> Outcome<T> {
        let mut until = patience;
        loop {
            match receiver.recv_timeout(until) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Outcome::Panicked("its thread ended".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut phase = lock(ticket);
            match *phase {
                Phase::Waiting => {
                    *phase = Phase::Left;
                    return Outcome::Busy;
                }
                // It had to wait for its turn: its time counts from when it began.
                Phase::Running(since) if since.elapsed() < patience => until = patience - since.elapsed(),
                Phase::Running(_) => {
                    *phase = Phase::Left;
                    self.leave_behind();
                    return Outcome::Stuck;
                }
                // The result is on its way.
                Phase::Ended | Phase::Left => until = GRACE,
            }
        }
    }

    /// Counts a thread as lost and starts another in its place.
    fn leave_behind(&'static self) {
        let mut state = lock(&self.state);
        state.lost += 1;
        state.threads -= 1;
        if !state.waiting.is_empty() {
            self.grow(&mut state);
        }
    }
}

//! What is wrong with a disk at the moment.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::glob;

/// A thing that processes do to files and that can fail or take long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading a file's bytes; what lies in the page cache is read without asking the disk. A process meets an error only when two reads in
    /// a row fail: the kernel reads ahead, and tries again in silence.
    Read,
    /// Writing a file's bytes.
    Write,
    /// `fsync`, `fdatasync`, and a write to a file that was opened with `O_SYNC` or `O_DSYNC`.
    Sync,
}

/// How often something fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum How {
    /// The next so many times.
    Next(u32),
    /// With this probability from 0 to 1, drawn from this seed.
    Chance(f64, u64),
}

/// Errors (`EIO`) to be met.
#[derive(Debug, Clone, PartialEq)]
pub struct IoErrors {
    /// What fails.
    pub operations: Vec<Operation>,
    /// For files whose path from the top of the disk fits: `?`, `*`, and `**` that crosses folders.
    pub files: String,
    /// How often.
    pub how: How,
}

/// Time added to operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slowness {
    /// To each read that the page cache cannot serve.
    pub read: Duration,
    /// To each write.
    pub write: Duration,
    /// To each sync.
    pub sync: Duration,
}

/// The faults of one disk.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Whether anything is wrong: a healthy disk is as fast as it can be.
    armed: AtomicBool,
    state: Mutex<State>,
    struck: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    errors: Option<(IoErrors, StdRng)>,
    slowness: Slowness,
    room: Option<u64>,
    lying: bool,
}

impl Faults {
    pub(super) fn set_errors(&self, errors: Option<IoErrors>) {
        self.change(|state| {
            state.errors = errors.map(|errors| {
                let seed = match errors.how {
                    How::Chance(_, seed) => seed,
                    How::Next(_) => 0,
                };
                (errors, StdRng::seed_from_u64(seed))
            });
        });
    }

    pub(super) fn set_slowness(&self, slowness: Slowness) {
        self.change(|state| state.slowness = slowness);
    }

    pub(super) fn set_room(&self, room: Option<u64>) {
        self.change(|state| state.room = room);
    }

    pub(super) fn set_lying(&self, lying: bool) {
        self.change(|state| state.lying = lying);
    }

    /// Whether syncs do nothing and say that they did.
    pub(super) fn lies(&self) -> bool {
        self.armed.load(Ordering::Acquire) && self.state.lock().expect("nobody panics while holding faults").lying
    }

    /// How many operations failed because of a fault, since the disk was made.
    pub(super) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    pub(super) fn strike(&self) {
        self.struck.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this operation fails.
    pub(super) fn fails(&self, operation: Operation, path: &Path) -> bool {
        if !self.armed.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state.lock().expect("nobody panics while holding faults");
        let Some((errors, rng)) = &mut state.errors else {
            return false;
        };
        if !errors.operations.contains(&operation) || !glob::fits(&errors.files, &path.to_string_lossy()) {
            return false;
        }
        let fails = match &mut errors.how {
            How::Next(0) => false,
            How::Next(left) => {
                *left -= 1;
                true
            }
            How::Chance(probability, _) => rng.random_bool(probability.clamp(0.0, 1.0)),
        };
        if fails {
            self.strike();
        }
        fails
    }

    /// Waits as long as this operation takes longer.
    pub(super) fn wait(&self, operation: Operation) {
        if !self.armed.load(Ordering::Acquire) {
            return;
        }
        let slowness = self.state.lock().expect("nobody panics while holding faults").slowness;
        let time = match operation {
            Operation::Read => slowness.read,
            Operation::Write => slowness.write,
            Operation::Sync => slowness.sync,
        };
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }

    /// How many bytes are free, if that is limited.
    pub(super) fn room(&self) -> Option<u64> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        self.state.lock().expect("nobody panics while holding faults").room
    }

    /// Takes up to so many bytes of what is free, and returns how many there were.
    pub(super) fn take_room(&self, wanted: u64) -> u64 {
        if !self.armed.load(Ordering::Acquire) {
            return wanted;
        }
        let mut state = self.state.lock().expect("nobody panics while holding faults");
        let Some(room) = &mut state.room else { return wanted };
        let taken = wanted.min(*room);
        *room -= taken;
        if taken < wanted {
            self.strike();
        }
        taken
    }

    /// Gives bytes back that are no longer used.
    pub(super) fn give_room(&self, bytes: u64) {
        if self.armed.load(Ordering::Acquire)
            && let Some(room) = &mut self.state.lock().expect("nobody panics while holding faults").room
        {
            *room += bytes;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().expect("nobody panics while holding faults");
        change(&mut state);
        let ill = state.errors.is_some() || state.slowness != Slowness::default();
        let armed = ill || state.room.is_some() || state.lying;
        self.armed.store(armed, Ordering::Release);
    }
}

//! What the scheduler answers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Miss, Parts};

/// The most kinds of misses that a [`Shortage`] counts, and the most runtimes that an [`Explanation`] speaks of.
pub const LISTED_MAX: usize = 16;

/// What was decided on one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The task's position in the batch.
    pub task: usize,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A worker is to have it.
    Placed(Placement),
    /// It waits.
    Waits(Waiting),
}

/// A worker is to have the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The worker's id.
    pub worker: String,
    /// Its runtime, which is one of the task's.
    pub runtime: String,
    /// For each device that the task needs on this runtime, the position of one of the worker's.
    pub devices: Vec<usize>,
    /// Why.
    pub explanation: Explanation,
}

/// Why a worker was chosen: what a decision record keeps. Its size is bounded by [`CANDIDATES_MAX`](crate::CANDIDATES_MAX) and
/// [`LISTED_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The priority as which the task counted, having waited so long.
    pub level: u8,
    /// The score of a worker that is perfect in every part.
    pub score_max: u32,
    /// The best candidates, the chosen one first. Empty if the tuning wants none.
    pub candidates: Vec<Candidate>,
    /// Workers of the chosen runtime that satisfy every requirement, with room or without.
    pub eligible: u32,
    /// Registered workers.
    pub registered: u32,
    /// Runtimes that the task would have liked better.
    pub passed_over: Vec<PassedOver>,
    /// Of `runtime: auto`: what the runtimes were expected to cost, the cheapest first.
    pub prices: Vec<Price>,
    /// The worker where the task would have gone, had it not made room for one that could go nowhere else.
    pub moved_from: Option<String>,
}

/// A worker that could have had the task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its id.
    pub worker: String,
    /// Its node.
    pub node: String,
    /// The weighted sum of the parts.
    pub score: u32,
    /// The parts.
    pub parts: Parts,
}

/// A runtime that was not taken although the task prefers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Its name.
    pub runtime: String,
    /// Why.
    pub why: Obstacle,
}

/// What keeps a task from a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Obstacle {
    /// No worker of it could run the task, not even an idle one.
    Lost,
    /// It was lost, and is not back for long enough.
    Returning,
    /// It has no room, and the task's patience is over.
    Busy,
}

impl Obstacle {
    /// Stable and machine-readable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Lost => "LOST",
            Self::Returning => "RETURNING",
            Self::Busy => "BUSY",
        }
    }
}

/// What a task is expected to cost on a runtime: (expected run time) × (cost per second + the value of time) ÷ (expected success), on the
/// eligible worker where that is least. Runtimes that cost alike are taken in the order wasm, native, cuda, microvm, others by
/// name: what starts soonest and binds least comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Its name.
    pub runtime: String,
    /// The expected run time on that worker, in milliseconds.
    pub run_ms: u64,
    /// In thousandths of the operator's unit.
    pub price: u64,
}

/// The task waits. Displayed as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whether waiting helps.
    pub prospect: Prospect,
    /// What is missing, as it stood when the first such task of the batch could not be placed.
    pub shortage: Arc<Shortage>,
    /// Of a task that holds out for a busy runtime: when it takes the next one of its list, if it is still busy then.
    pub falls_back_at_ms: Option<u64>,
}

/// Whether waiting helps a task, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Prospect {
    /// Yes: a worker that could run it is busy.
    Busy,
    /// Only if a lost device comes back.
    Recovery,
    /// No: nothing that is registered, and not draining, could ever run it.
    Never,
}

impl Prospect {
    /// Stable and machine-readable.
    pub fn code(self) -> &'static str {
        match self {
            Self::Busy => "BUSY",
            Self::Recovery => "RECOVERY",
            Self::Never => "NEVER",
        }
    }
}

/// What the workers miss of a task's requirements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// Registered workers.
    pub registered: u32,
    /// Each requirement that some of them miss, the most missed first, up to [`LISTED_MAX`]. A worker counts at each that it misses.
    pub missing: Vec<Missing>,
    /// The worker from which the least keeps the task: of those that miss something, one whose misses pass by waiting, else one whose device may
    /// come back, else any; among these the one with the fewest.
    pub closest: Option<Closest>,
}

/// A requirement, and how many workers miss it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The requirement.
    pub miss: Miss,
    /// How many.
    pub workers: u32,
}

/// The worker that misses least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closest {
    /// Its id.
    pub worker: String,
    /// What it misses.
    pub misses: Vec<Miss>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.falls_back_at_ms, self.prospect) {
            (Some(at_ms), _) => write!(f, "it holds out for the runtime that it likes best until {at_ms}")?,
            (None, Prospect::Busy) => write!(f, "every worker that could run it is busy")?,
            (None, Prospect::Recovery) => write!(f, "the devices on which it could run are lost")?,
            (None, Prospect::Never) => write!(f, "no registered worker could ever run it")?,
        }
        match &self.shortage.closest {
            None => Ok(()),
            Some(closest) => {
                let misses: Vec<String> = closest.misses.iter().map(Miss::to_string).collect();
                write!(f, "; closest is worker {}: {}", closest.worker, misses.join(", and "))
            }
        }
    }
}

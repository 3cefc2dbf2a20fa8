//! What must always hold in a cluster, as named functions over plain observations.
//!
//! Nothing here knows tarn's types: an observation is numbers, names and slices, so that the same sentence can be asked of
//! the simulation, which sees everything; of the shipped code in a debug build, which sees one step of one node; and of a
//! history that clients of real processes wrote down.
//!
//! ```text
//!   raft      who led, what the logs held, what was committed and applied     simulation, debug assertions
//!   tasks     accepted, leased, completed, ended                              simulation, jepsen, debug assertions
//!   leases    named leases: who held which, from when, until when             simulation, jepsen, debug assertions
//!   timers    when they were due and when they fired                          simulation, jepsen, debug assertions
//!   watch     the order in which events reach whoever watches                 simulation, jepsen
//! ```
//!
//! Each invariant comes in one or two shapes. A **function** is pure: it compares what it is given and keeps nothing. A
//! **monitor** is for observations that arrive one after another: it remembers what the next one must be compared with, and
//! gives the verdict at the first that breaks the rule. Both return a [`Violation`], which names the [`Invariant`] with its
//! source. [`ALL`] lists the invariants.
//!
//! ```
//! use tarn_invariants::raft::Elections;
//!
//! let mut elections = Elections::default();
//! elections.observe(7, 1)?;
//! elections.observe(7, 1)?; // the same leader again
//! let violation = elections.observe(7, 3).unwrap_err();
//! assert_eq!(violation.invariant.name, "election safety");
//! # Ok::<(), tarn_invariants::Violation>(())
//! ```

pub mod leases;
pub mod raft;
pub mod tasks;
pub mod timers;
pub mod watch;

use std::fmt;

/// Panics in a build with debug assertions if a check gives a [`Violation`]; in any other build the check is not compiled in.
#[macro_export]
macro_rules! debug_holds {
    ($check:expr) => {
        if cfg!(debug_assertions)
            && let Err(violation) = $check
        {
            panic!("{violation}");
        }
    };
}

/// A rule that no execution may break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invariant {
    /// Its name, in lower case, for reports.
    pub name: &'static str,
    /// The rule, as one sentence.
    pub rule: &'static str,
    /// Where the rule comes from: a section of the Raft paper, or of tarn's design.
    pub source: &'static str,
}

/// All invariants, in the order of the modules.
pub const ALL: &[Invariant] = &[
    raft::ELECTION_SAFETY,
    raft::LOG_MATCHING,
    raft::LEADER_COMPLETENESS,
    raft::STATE_MACHINE_SAFETY,
    raft::MONOTONIC_COMMIT,
    raft::DURABLE_ACKNOWLEDGEMENT,
    raft::EQUAL_DIGESTS,
    tasks::NO_TASK_LOST,
    tasks::COMPLETED_ONCE,
    tasks::LEASED_ONCE,
    tasks::FENCED,
    tasks::EVERY_TASK_ENDS,
    leases::NO_OVERLAP,
    timers::NEVER_EARLY,
    timers::FIRES_ONCE,
    watch::CONTINUOUS,
];

/// An observation that breaks an [`Invariant`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule that is broken.
    pub invariant: Invariant,
    /// What was seen, as one sentence.
    pub detail: String,
}

/// What every check returns: nothing, or the first violation found.
pub type Verdict = Result<(), Violation>;

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invariant { name, rule, source } = self.invariant;
        write!(f, "{name} is violated: {} (the rule: {rule}; {source})", self.detail)
    }
}

impl std::error::Error for Violation {}

impl Invariant {
    /// A violation of this rule.
    pub fn violated(self, detail: impl Into<String>) -> Violation {
        Violation {
            invariant: self,
            detail: detail.into(),
        }
    }

    /// No violation if `holds`, else one with this detail.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn require(self, holds: bool, detail: impl FnOnce() -> String) -> Verdict {
        match holds {
            true => Ok(()),
            false => Err(self.violated(detail())),
        }
    }
}

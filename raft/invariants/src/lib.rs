//! What must always hold in a cluster, as named functions over plain observations.
//!
//! Nothing here knows tarn's types: an observation is numbers, names and slices, so that the same sentence can be asked of
//! the simulation, which sees everything; of the shipped code in a debug build, which sees one step of one node; and of a
//! history that clients of real processes wrote down.
//!
//! ```text
//!   raft      who led, what the logs held, what was committed and applied
//!   tasks     accepted, leased, completed, ended
//!   leases    named leases: who held which, from when, until when
//!   timers    when they were due and when they fired
//!   watch     the order in which events reach whoever watches
//! ```
//!
//! # Who asks what
//!
//! The simulation sees every write of every node, jepsen only what clients are told and what nodes say of themselves, and a debug assertion one
//! step of one node. So not everybody can ask everything; what nobody but one can see is asked by that one.
//!
//! | invariant | simulation | debug assertion | jepsen |
//! | --- | --- | --- | --- |
//! | election safety | every vote as it is written and found again, every leader | a vote is saved; another leader is followed | the leaders that each node names |
//! | log matching | every entry as it is written; all logs at the end | an entry is appended | |
//! | leader completeness | whenever somebody begins to lead | | |
//! | state-machine safety | every entry as it is applied | | |
//! | monotonic commit | every status, every entry as it is applied | an entry is applied, the log is cut, the commit mark is saved | |
//! | durable acknowledgement | whenever an entry is first applied anywhere | the log's writer confirms an append | |
//! | equal digests | every entry as it is applied, all nodes at the end | | all nodes at the end |
//! | no task lost | linearizable reads, the final state | | the final state |
//! | completed once | every accepted report, the final state | a completion is accepted | every accepted report |
//! | leased once | every lease that a worker gets | an attempt begins | every lease that a worker gets |
//! | fenced | every accepted report, the final state | a report is accepted | every accepted report |
//! | every task ends | after the drain | | after the drain |
//! | no overlap of named leases | all that was held, at the end | a lease is acquired | all that was held, and protected writes |
//! | timers never fire early | every firing, the final state | a timer fires | every firing |
//! | timers fire once | every firing | | every firing |
//! | continuous watch | every node's stream of events | | every watcher, across reconnections |
//!
//! Each invariant comes in one or two shapes. A **function** is pure: it compares what it is given and keeps nothing. A
//! **monitor** is for observations that arrive one after another: it remembers what the next one must be compared with, and
//! gives the verdict at the first that breaks the rule. Both return a [`Violation`], which names the [`Invariant`] with its
//! source. [`ALL`] lists the invariants.
//!
//! ```
//! use tarn_invariants::raft::{Elections, Leadership};
//!
//! let mut elections = Elections::default();
//! elections.voted(1, Leadership { term: 7, node: 2 }, true)?;
//! elections.voted(1, Leadership { term: 7, node: 3 }, true)?; // a higher id in the same term
//! let violation = elections.voted(1, Leadership { term: 7, node: 2 }, true).unwrap_err();
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
        Violation { invariant: self, detail: detail.into() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_of_every_invariant_who_asks_it() {
        let page = include_str!("lib.rs");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("//! | ")).collect();
        for Invariant { name, .. } in ALL {
            let row = format!("//! | {name} | ");
            assert_eq!(rows.iter().filter(|line| line.starts_with(&row)).count(), 1, "{name}");
        }
        assert_eq!(rows.len(), ALL.len() + 2, "a head, a line, and one row for each");
    }
}

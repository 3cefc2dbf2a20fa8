//! Judges a history: could any correct cluster have shown this to its clients?
//!
//! Each checker is a function from a history to a [`Check`]; it looks at nothing else, so that a stored history can be judged again, and so
//! that the checkers themselves are tested on histories that are known to be good or bad.
//!
//! Where a rule is one of `tarn_invariants`, it is that function which decides, the same that the simulation and debug builds ask; a checker
//! finds out what is certain enough to be asked, because clients do not see everything, and each [`Check`] says which invariants it asked.
//! Rules without a counterpart there are those that only clients can see, such as linearizability.
//!
//! ```text
//!   linear        is there an order of the operations in which every answer is right?       register      named leases as such an object
//!   facts         what a history says about tasks                                            tasks         each accepted task ends exactly once
//!   order         first in first out, and strict priorities, at the moment of assignment     dependencies  nothing runs before what it waits for
//!   fencing       tokens that only grow, writes that never interleave                        timers        never early, once, not after a cancel
//!   watch         no gap, no repeat, no reorder                                              members       leaders only advance, equal digests, members
//!   session       a client that was cut off is served again                                   deadlines    no call takes much longer than it may
//!   lives         the states of each task, as the log tells them                              lost         work that nobody does comes back
//!   completion    one success, by who did it, under a current token
//!   federation    clusters that share keys agree, and keep what was acknowledged
//!   limits        as many attempts as a task has, and no more                                 quiet        when a run was left alone
//! ```

pub mod completion;
pub mod deadlines;
pub mod dependencies;
pub mod facts;
pub mod federation;
pub mod fencing;
pub mod limits;
pub mod linear;
pub mod lives;
pub mod lost;
pub mod members;
pub mod order;
pub mod quiet;
pub mod register;
pub mod session;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod timers;
pub mod watch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tarn_invariants::Invariant;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything that was seen is possible.
    Valid,
    /// The run proves nothing: it did not drain, or the search was given up.
    Unknown,
    /// Something was seen that no correct cluster shows.
    Invalid,
}

/// One question that was asked of a history, and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked, as a short name.
    pub name: String,
    /// The names of the invariants of `tarn_invariants` that were asked of the history. Empty where the rule is none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invariants: Vec<String>,
    /// What was found.
    pub outcome: Outcome,
    /// For people: what was looked at, or the evidence of a violation with the indices of its events.
    pub detail: String,
    /// Figures, such as how many operations were looked at.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
}

/// What a run has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst outcome of the checks.
    pub outcome: Outcome,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Verdict {
    /// Puts checks together: invalid if one is, else unknown if one is or if there are none, else valid.
    pub fn of(checks: Vec<Check>) -> Self {
        let outcome = checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Unknown);
        Self { outcome, checks }
    }
}

/// How many pieces of evidence a check quotes. More would not help a person; their number is always told.
const QUOTED: usize = 8;

/// Collects what a check finds.
#[derive(Debug)]
pub struct Findings {
    name: String,
    invariants: Vec<String>,
    violations: Vec<String>,
    doubts: Vec<String>,
    needed: Vec<String>,
    counts: BTreeMap<String, u64>,
}

impl Findings {
    /// For the check of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            invariants: Vec::new(),
            violations: Vec::new(),
            doubts: Vec::new(),
            needed: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Names the invariants that the check asks.
    pub fn asking(mut self, invariants: &[Invariant]) -> Self {
        self.invariants.extend(invariants.iter().map(|invariant| invariant.name.to_owned()));
        self
    }

    /// Notes what an invariant says of the history, if it is broken, with the evidence.
    pub fn judge(&mut self, verdict: tarn_invariants::Verdict, evidence: impl FnOnce() -> String) {
        if let Err(violation) = verdict {
            self.violation(told(&violation, &evidence()));
        }
    }

    /// Notes something that no correct cluster shows.
    pub fn violation(&mut self, evidence: impl Into<String>) {
        self.violations.push(evidence.into());
    }

    /// Notes why the check proves nothing, unless there is a violation besides.
    pub fn doubt(&mut self, why: impl Into<String>) {
        self.doubts.push(why.into());
    }

    /// Says that the check proves nothing while this figure is 0: there was nothing to look at. To be asked of figures that no run of the
    /// workload leaves at 0.
    pub fn needs(&mut self, what: &str) {
        self.needed.push(what.to_owned());
    }

    /// Adds to a figure.
    pub fn count(&mut self, what: &str, more: usize) {
        *self.counts.entry(what.to_owned()).or_default() += more as u64;
    }

    /// Raises a figure to at least this.
    pub fn at_least(&mut self, what: &str, value: u64) {
        let count = self.counts.entry(what.to_owned()).or_default();
        *count = (*count).max(value);
    }

    /// The check: invalid with a violation, else unknown with a doubt, else valid with this sentence.
    pub fn finish(mut self, valid: &str) -> Check {
        let missing = self.needed.iter().filter(|what| self.counts.get(*what).is_none_or(|count| *count == 0));
        self.doubts.extend(missing.map(|what| format!("there was nothing to look at: {what} is 0")));
        let (outcome, texts) = if !self.violations.is_empty() {
            (Outcome::Invalid, &self.violations)
        } else if !self.doubts.is_empty() {
            (Outcome::Unknown, &self.doubts)
        } else {
            (Outcome::Valid, &self.violations)
        };
        let mut detail = texts.iter().take(QUOTED).cloned().collect::<Vec<_>>().join("; ");
        if texts.len() > QUOTED {
            detail.push_str(&format!("; and {} more", texts.len() - QUOTED));
        }
        if outcome == Outcome::Valid {
            detail = valid.to_owned();
        }
        if !self.violations.is_empty() {
            self.counts.insert("violations".to_owned(), self.violations.len() as u64);
        }
        Check { name: self.name, invariants: self.invariants, outcome, detail, counts: self.counts }
    }
}

/// A violation with its evidence, as one piece of a check's detail. The rule and its source stand with the check.
pub fn told(violation: &tarn_invariants::Violation, evidence: &str) -> String {
    format!("{} is violated: {}: {evidence}", violation.invariant.name, violation.detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_looked_at_nothing_is_no_proof() {
        let mut findings = Findings::new("vacuous");
        findings.needs("tasks");
        findings.count("tasks", 0);
        let check = findings.finish("all is well");
        assert_eq!(check.outcome, Outcome::Unknown);
        assert!(check.detail.contains("tasks is 0"), "{}", check.detail);
        let mut findings = Findings::new("looked");
        findings.needs("tasks");
        findings.count("tasks", 1);
        assert_eq!(findings.finish("all is well").outcome, Outcome::Valid);
        let mut findings = Findings::new("broken");
        findings.needs("tasks");
        findings.violation("a lie");
        assert_eq!(findings.finish("all is well").outcome, Outcome::Invalid);
    }
}

//! What another policy would have said.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{FailureKind, Input, Policies, input, limits::CHANGES_MAX};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredOutcome {
    /// Policies let it pass.
    Allowed,
    /// Policies refused.
    Refused,
}

impl StoredOutcome {
    fn of(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

/// A decision as it was kept.
#[derive(Clone, Debug)]
pub struct StoredDecision {
    /// What identifies it for whoever reads the result, such as a request id or a position in the log.
    pub id: String,
    /// The input that was judged, as [`Input::json`] gave it. None, or empty, if it was not kept.
    pub facts: Option<Vec<u8>>,
    /// What was decided.
    pub outcome: StoredOutcome,
}

/// A decision that would have been another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The decision's id.
    pub id: String,
    /// What was decided.
    pub was: StoredOutcome,
    /// What would be decided.
    pub would_be: StoredOutcome,
    /// The candidate's reason, if it would refuse: `POLICY_DENIED` or why it gave no answer.
    pub reason: String,
    /// The candidate's sentence, if it would refuse.
    pub message: String,
}

/// What a replay found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Decisions that were read.
    pub decisions: u64,
    /// Decisions that would be the same.
    pub same: u64,
    /// Decisions that were allowed and would be refused.
    pub newly_refused: u64,
    /// Decisions that were refused and would be allowed.
    pub newly_allowed: u64,
    /// Of `newly_refused` and `same`: those to which the candidate gave no answer, and so would refuse, by the reason.
    pub failures: BTreeMap<String, u64>,
    /// Decisions whose facts do not suffice: they were not kept, cannot be read, or lack a field that the candidate reads. They were not
    /// judged.
    pub missing: u64,
    /// How many of these lack which field. What was not kept at all counts as `input`.
    pub missing_fields: BTreeMap<String, u64>,
    /// The first changes in the order of the decisions, up to [`CHANGES_MAX`].
    pub changes: Vec<Change>,
    /// The time it took, in milliseconds.
    pub elapsed_ms: u64,
}

impl Summary {
    /// Decisions that would be others.
    pub fn changed(&self) -> u64 {
        self.newly_refused + self.newly_allowed
    }
}

/// Judges stored decisions by `candidate`, with `budget` for each bundle and decision, on as many threads as there are processors.
///
/// Only decisions that rested on policies belong here: what a role had refused, policies were never asked about. The result does not
/// depend on the number of threads, except where time runs out. The iterator is read from one thread at a time, a few hundred decisions
/// ahead of what is judged, so it may read from a store and be of any length.
pub fn replay(candidate: &Policies, decisions: impl Iterator<Item = StoredDecision> + Send, budget: Duration) -> Summary {
    let start = Instant::now();
    let source = Mutex::new(Source { decisions, next: 0 });
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8);
    let parts: Vec<Part> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| Part::of(candidate, &source, budget))).collect();
        workers.into_iter().map(|worker| worker.join().expect("nothing in a replay panics")).collect()
    });
    let mut summary = Summary::default();
    let mut changes = Vec::new();
    for part in parts {
        part.add_to(&mut summary, &mut changes);
    }
    changes.sort_by_key(|(position, _)| *position);
    summary.changes = changes.into_iter().map(|(_, change)| change).take(CHANGES_MAX).collect();
    summary.elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    summary
}

/// Decisions that a thread takes at once.
const TAKEN: usize = 64;

struct Source<I> {
    decisions: I,
    next: u64,
}

impl<I: Iterator<Item = StoredDecision>> Source<I> {
    fn take(&mut self, taken: &mut Vec<(u64, StoredDecision)>) {
        taken.clear();
        for decision in self.decisions.by_ref().take(TAKEN) {
            taken.push((self.next, decision));
            self.next += 1;
        }
    }
}

/// What one thread found.
#[derive(Default)]
struct Part {
    summary: Summary,
    /// The first ones of this thread; the first ones of all are among them.
    changes: Vec<(u64, Change)>,
}

impl Part {
    fn of<I: Iterator<Item = StoredDecision>>(candidate: &Policies, source: &Mutex<Source<I>>, budget: Duration) -> Self {
        let mut part = Self::default();
        let mut taken = Vec::with_capacity(TAKEN);
        loop {
            source.lock().unwrap_or_else(PoisonError::into_inner).take(&mut taken);
            if taken.is_empty() {
                return part;
            }
            for (position, decision) in taken.drain(..) {
                part.judge(candidate, position, decision, budget);
            }
        }
    }

    fn judge(&mut self, candidate: &Policies, position: u64, decision: StoredDecision, budget: Duration) {
        self.summary.decisions += 1;
        let Some(input) = facts(&decision) else {
            return self.missing(vec!["input".into()]);
        };
        let missing = candidate.reads().missing(input::known(), input.value());
        if !missing.is_empty() {
            return self.missing(missing);
        }
        let would = answer(candidate, &input, budget);
        if let Some(kind) = would.failure() {
            *self.summary.failures.entry(kind.reason().into()).or_default() += 1;
        }
        let would_be = StoredOutcome::of(would.allowed());
        match (decision.outcome, would_be) {
            (StoredOutcome::Allowed, StoredOutcome::Refused) => self.summary.newly_refused += 1,
            (StoredOutcome::Refused, StoredOutcome::Allowed) => self.summary.newly_allowed += 1,
            _ => return self.summary.same += 1,
        }
        if self.changes.len() < CHANGES_MAX {
            let refusal = would.refusal();
            let change = Change {
                id: decision.id,
                was: decision.outcome,
                would_be,
                reason: refusal.and_then(|verdict| verdict.reason()).unwrap_or_default().into(),
                message: refusal.and_then(|verdict| verdict.sentence()).unwrap_or_default(),
            };
            self.changes.push((position, change));
        }
    }

    fn missing(&mut self, fields: Vec<String>) {
        self.summary.missing += 1;
        for field in fields {
            *self.summary.missing_fields.entry(field).or_default() += 1;
        }
    }

    fn add_to(self, summary: &mut Summary, changes: &mut Vec<(u64, Change)>) {
        let Self { summary: part, changes: mut more } = self;
        summary.decisions += part.decisions;
        summary.same += part.same;
        summary.newly_refused += part.newly_refused;
        summary.newly_allowed += part.newly_allowed;
        summary.missing += part.missing;
        for (from, to) in [(part.failures, &mut summary.failures), (part.missing_fields, &mut summary.missing_fields)] {
            for (name, count) in from {
                *to.entry(name).or_default() += count;
            }
        }
        changes.append(&mut more);
    }
}

fn facts(decision: &StoredDecision) -> Option<Input> {
    let facts = decision.facts.as_deref().filter(|facts| !facts.is_empty())?;
    Input::from_json(facts).ok()
}

/// Asks a few times while all threads are busy: that says nothing about the candidate.
fn answer(candidate: &Policies, input: &Input, budget: Duration) -> crate::Decision {
    const ATTEMPTS: usize = 20;
    let ask = || candidate.decide(input, budget);
    let answers = std::iter::repeat_with(ask).take(ATTEMPTS);
    let mut last = None;
    for decision in answers {
        let busy = decision.failure() == Some(FailureKind::PolicyBusy);
        last = Some(decision);
        if !busy {
            break;
        }
    }
    last.expect("it is asked at least once")
}

//! What clients and workers were told, which is what the cluster must stand by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tarn_invariants::tasks::{Completion, Completions, FENCED, Grant, Grants, fenced};
use tarn_invariants::{Verdict, Violation};
use tarn_proto::v1::LeasedTask;

use crate::dice::hash;

/// A named lease that somebody was told to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The lease's name.
    pub name: String,
    /// Who held it.
    pub holder: String,
    /// Its token.
    pub token: u64,
    /// When it was acquired, by the cluster's time.
    pub from_ms: u64,
    /// When it ends, by the last renewal that was confirmed.
    pub until_ms: u64,
    /// Whether it may have ended before: it was given up, or the fate of a renewal is unknown, which may have given it less time than it had. Then
    /// the cluster's events tell when it did.
    pub may_have_ended: bool,
}

/// The ledger of one run. Clones share it.
#[derive(Clone, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

/// What is in the ledger.
#[derive(Default)]
pub struct Inner {
    /// Accepted tasks with a hash of their payload.
    pub accepted: BTreeMap<String, u64>,
    /// Tasks whose deletion or forced end was asked for are accepted like others; these need no check of their own.
    pub cancelled: BTreeSet<String>,
    /// Completions that were accepted.
    pub completions: Completions,
    /// Leases on tasks that were given out.
    pub grants: Grants,
    /// The highest token of each task that any worker was given.
    pub highest: BTreeMap<String, u64>,
    /// Named leases.
    pub held: Vec<Held>,
    /// Timers whose scheduling was confirmed, with their due time, not yet told to the watcher.
    pub scheduled: Vec<(String, u64)>,
    /// All of them.
    pub timers: BTreeMap<String, u64>,
    /// Timers whose cancellation was confirmed, not yet told to the watcher.
    pub timers_cancelled: Vec<String>,
    /// All of them.
    pub no_longer_due: BTreeSet<String>,
    /// Operations by what became of them.
    pub outcomes: BTreeMap<String, u64>,
    /// Clients that have not heard yet what became of their last operation under faults: it may still be accepted.
    pub at_work: u64,
    /// Writes that were confirmed during the drain.
    pub probes: u64,
    violations: Vec<Violation>,
}

impl Ledger {
    /// Opens the book.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    /// Counts an operation.
    pub fn count(&self, outcome: impl Into<String>) {
        *self.lock().outcomes.entry(outcome.into()).or_default() += 1;
    }

    /// The violations found since the last call.
    pub fn violations(&self) -> Vec<Violation> {
        std::mem::take(&mut self.lock().violations)
    }

    /// A verdict on what somebody was told.
    pub fn judge(&self, verdict: Verdict) {
        if let Err(violation) = verdict {
            self.lock().violations.push(violation);
        }
    }

    /// A task was accepted.
    pub fn accepted(&self, task: &str, payload: &[u8]) {
        self.lock().accepted.insert(task.to_owned(), hash(payload));
    }

    /// A worker was given a task.
    pub fn granted(&self, task: &LeasedTask, worker: &str) {
        let verdict = {
            let mut inner = self.lock();
            let highest = inner.highest.entry(task.task_id.clone()).or_default();
            *highest = task.token.max(*highest);
            inner.grants.observe(Grant { task: &task.task_id, token: task.token, attempt: task.attempt, worker })
        };
        self.judge(verdict);
    }

    /// The highest token of a task that any worker was given so far; 0 if none was.
    pub fn highest_token(&self, task: &str) -> u64 {
        self.lock().highest.get(task).copied().unwrap_or(0)
    }

    /// A completion was accepted. `highest_before` is what [`Ledger::highest_token`] said before it was sent.
    pub fn completed(&self, task: &str, token: u64, result: &[u8], highest_before: u64) {
        self.judge(fenced(task, Some(highest_before.max(token)), token));
        let verdict = self.lock().completions.observe(Completion { task, token, result: hash(result) });
        self.judge(verdict);
    }

    /// At the end: a task is recorded as succeeded by the attempt of this token, with this result.
    ///
    /// # Errors
    ///
    /// A report under another token was accepted, or the result is not what that attempt answers.
    pub fn succeeded(&self, task: &str, token: u64, result: &[u8]) -> Verdict {
        let inner = self.lock();
        if let Some(told) = inner.completions.token(task) {
            fenced(task, Some(token), told)?;
        }
        let expected = inner.accepted.get(task).map(|payload| {
            let mut expected = token.to_be_bytes().to_vec();
            expected.extend_from_slice(&payload.to_be_bytes());
            expected
        });
        FENCED.require(expected.is_none_or(|expected| expected == result), || {
            format!("task {task} succeeded under token {token}, and its result is another attempt's")
        })
    }
}

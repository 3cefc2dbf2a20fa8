//! What a history says about tasks: the words in which workloads write it down, and the facts put together per item.
//!
//! An *item* is a unit of work as the workload sees it, with a name that no other item has; a *task* is what the cluster makes of it. Each
//! task carries its item as its payload, so that an item that became two tasks, or a task that nobody submitted, cannot hide.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::history::{Event, Kind, Operation, infos, operations};

/// The operation of submitting items: its value is a list of [`Item`]s, its answer the list of the tasks' ids.
pub const ENQUEUE: &str = "enqueue";
/// A worker has begun an attempt: an [`Attempt`].
pub const ATTEMPT: &str = "attempt";
/// A worker's handler is through, before anything is reported: an [`Attempt`].
pub const HANDLED: &str = "handled";
/// The operation of reporting a success: its value is a [`Report`].
pub const COMPLETE: &str = "complete";
/// The operation of reporting a failure: its value is a [`Report`]. Answered with the task's state.
pub const FAIL: &str = "fail";
/// A task as it is at the end: a [`Final`].
pub const FINAL: &str = "final";
/// The final read has seen everything: a [`Closing`].
pub const CLOSING: &str = "closing";

/// What a worker should do with an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Succeed.
    #[default]
    Succeed,
    /// Fail this many attempts, as tries that may be repeated, then succeed.
    Retry(u32),
    /// Fail for good, however often it is tried.
    Final,
    /// Fail for good the first time, and succeed once it was put back from the dead letters.
    FinalOnce,
}

/// A unit of work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// Its name, which no other has.
    pub name: String,
    /// Who submits it.
    pub producer: u32,
    /// Its place among the producer's items.
    pub place: u64,
    /// From 1, critical, to 5, background.
    pub priority: u32,
    /// What a worker should do with it.
    pub fate: Fate,
    /// How many attempts its task has.
    pub max_attempts: u32,
    /// The items that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// It runs even if one that it waits for dies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub run_anyway: bool,
    /// How many bytes its payload carries besides it.
    #[serde(skip_serializing_if = "is_zero")]
    pub padding: u32,
}

impl Item {
    /// Whether its attempts are used up before it would succeed: a worker fails at least as many of them as it has.
    pub fn is_exhausted(&self) -> bool {
        matches!(self.fate, Fate::Retry(times) if times >= self.max_attempts)
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An attempt at a task, as a worker sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The task's id.
    pub task: String,
    /// The item in its payload.
    pub item: String,
    /// The fencing token.
    pub token: u64,
    /// From 1.
    pub number: u32,
    /// Who attempts it.
    pub worker: String,
}

/// What a worker reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The task's id.
    pub task: String,
    /// The attempt's fencing token.
    pub token: u64,
    /// The result, of a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Whether the failure is for good.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
}

/// A task as it is at the end of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Final {
    /// The task's id.
    pub task: String,
    /// The item in its payload.
    pub item: String,
    /// Its state in lower case, such as `succeeded`.
    pub state: String,
    /// The result of one that succeeded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// Why it died or was cancelled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Attempts begun, since it was put back last.
    pub attempts_begun: u32,
    /// The token of the last attempt.
    pub last_token: u64,
    /// When the oldest attempt that is kept began, by the cluster's time.
    pub started_at_ms: u64,
    /// When it ended, by the cluster's time.
    pub ended_at_ms: u64,
    /// Its payload is not what an item's is: cut, changed or another's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
}

/// The words in which a final read ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Closing {
    /// Every task was read.
    pub complete: bool,
    /// The queue's own counts of tasks that are blocked, delayed, ready, running and dead, where they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<BTreeMap<String, u64>>,
    /// How many tasks the list of each state has, where they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtered: Option<BTreeMap<String, u64>>,
}

/// An item and what became of its submission.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The item.
    pub item: Item,
    /// How its submission ended.
    pub outcome: Kind,
    /// The index of the event that ended it.
    pub ended: Option<u64>,
    /// The task's id, where the submission was acknowledged.
    pub task: Option<String>,
}

/// An attempt and when it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The index of the event.
    pub index: u64,
    /// The attempt.
    pub attempt: Attempt,
}

/// A report and what became of it.
#[derive(Debug, Clone)]
pub struct Reported<'a> {
    /// The operation.
    pub operation: Operation<'a>,
    /// The report.
    pub report: Report,
}

/// All that a history says about tasks.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// By the item's name.
    pub submitted: BTreeMap<String, Submitted>,
    /// Names under which more than one submission went out: a mistake of the workload, not of the cluster.
    pub reused: Vec<String>,
    /// In the order in which they began.
    pub attempts: Vec<Seen>,
    /// In the order in which the handlers were through.
    pub handled: Vec<Seen>,
    /// Reports of success.
    pub completions: Vec<Reported<'a>>,
    /// Reports of failure.
    pub failures: Vec<Reported<'a>>,
    /// By the task's id.
    pub finals: BTreeMap<String, Final>,
    /// What the last final read said of itself.
    pub closing: Option<Closing>,
}

impl<'a> Facts<'a> {
    /// Puts together what the history says.
    pub fn of(history: &'a [Event]) -> Self {
        let mut facts = Facts::default();
        for operation in operations(history, ENQUEUE) {
            facts.submit(&operation);
        }
        facts.attempts = seen(history, ATTEMPT);
        facts.handled = seen(history, HANDLED);
        facts.completions = reported(history, COMPLETE);
        facts.failures = reported(history, FAIL);
        for (_, task) in infos::<Final>(history, FINAL) {
            facts.finals.insert(task.task.clone(), task);
        }
        facts.closing = infos(history, CLOSING).pop().map(|(_, closing)| closing);
        facts
    }

    fn submit(&mut self, operation: &Operation<'_>) {
        let items: Vec<Item> = operation.invoke.read().unwrap_or_default();
        let ids: Vec<String> = operation.answer().unwrap_or_default();
        for (at, item) in items.into_iter().enumerate() {
            let name = item.name.clone();
            let submitted = Submitted { item, outcome: operation.outcome(), ended: operation.ended_by(), task: ids.get(at).cloned() };
            if self.submitted.insert(name.clone(), submitted).is_some() {
                self.reused.push(name);
            }
        }
    }

    /// Whether the final read saw everything.
    pub fn is_complete(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.complete)
    }

    /// The tasks of each item, as the final read found them.
    pub fn tasks_by_item(&self) -> BTreeMap<&str, Vec<&Final>> {
        let mut items: BTreeMap<&str, Vec<&Final>> = BTreeMap::new();
        for task in self.finals.values() {
            items.entry(task.item.as_str()).or_default().push(task);
        }
        items
    }

    /// The index of the event in which a worker was first through with each token of each task.
    pub fn handled_at(&self) -> HashMap<(&str, u64), u64> {
        let mut at = HashMap::new();
        for seen in &self.handled {
            at.entry((seen.attempt.task.as_str(), seen.attempt.token)).or_insert(seen.index);
        }
        at
    }

    /// The attempts of each task, in the order in which they began.
    pub fn attempts_by_task(&self) -> HashMap<&str, Vec<&Seen>> {
        let mut tasks: HashMap<&str, Vec<&Seen>> = HashMap::new();
        for seen in &self.attempts {
            tasks.entry(&seen.attempt.task).or_default().push(seen);
        }
        tasks
    }

    /// What was submitted as this task, as far as the final read or an acknowledgement tells.
    pub fn items_by_task(&self) -> HashMap<&str, &Item> {
        let acknowledged = self.submitted.values().filter_map(|submitted| {
            let task = submitted.task.as_deref()?;
            Some((task, &submitted.item))
        });
        let read = self.finals.values().filter_map(|task| {
            let submitted = self.submitted.get(&task.item)?;
            Some((task.task.as_str(), &submitted.item))
        });
        acknowledged.chain(read).collect()
    }

    /// The final state of an item's task, where its submission was acknowledged.
    pub fn acknowledged(&self, item: &str) -> Option<&Final> {
        self.finals.get(self.submitted.get(item)?.task.as_ref()?)
    }
}

fn seen(history: &[Event], op: &str) -> Vec<Seen> {
    infos(history, op).into_iter().map(|(event, attempt)| Seen { index: event.index, attempt }).collect()
}

fn reported<'a>(history: &'a [Event], op: &str) -> Vec<Reported<'a>> {
    operations(history, op).into_iter().filter_map(|operation| Some(Reported { operation, report: operation.invoke.read()? })).collect()
}

/// The result of an item: a function of its name and of the results that it waited for, in their order. 64 bits of FNV-1a, in hexadecimal:
/// anybody can compute it again, and no two inputs of a run share it by chance.
pub fn result_of(item: &str, inputs: &[&str]) -> String {
    let hash = hash_of(std::iter::once(item).chain(inputs.iter().copied()));
    format!("{hash:016x}")
}

/// 64 bits of FNV-1a over these texts, each with its end.
pub fn hash_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Whether a task in this state will change no more by itself.
pub fn has_ended(state: &str) -> bool {
    matches!(state, "succeeded" | "dead" | "cancelled")
}

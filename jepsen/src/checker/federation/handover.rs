//! Tasks that may move to another cluster end once, by the acceptance of one result.
//!
//! ```text
//!   offer     a client submits a task that any cluster may run: an [`Offer`], answered with the task's id
//!   log       an event of a cluster's log, as a watcher of that cluster wrote it down: a [`Line`]
//! ```
//! A task belongs to the cluster that took it, its *home*; another one runs it for it under a transfer, which ends there in its own way. What
//! counts is the home's log: one end, and one success at most. A history without such tasks is not judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checker::{Check, Findings};
use crate::history::{Event, Kind, infos, operations};

/// A client submits a task that any cluster may run.
pub const OFFER: &str = "offer";
/// An event of a cluster's log.
pub const LOG: &str = "log";

/// What a client submits, and where; the answer has the task's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// The client's cluster: the task's home.
    pub cluster: String,
    /// The task's id, in the answer.
    pub task: String,
}

/// An event of a cluster's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// The cluster.
    pub cluster: String,
    /// The kind, such as `TASK_SUCCEEDED` or `TRANSFER_CONFIRMED`.
    pub kind: String,
    /// The task's or the transfer's id.
    pub subject: String,
    /// Of a confirmed transfer, the task that was made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How tasks end.
const ENDS: [&str; 3] = ["TASK_SUCCEEDED", "TASK_DEAD", "TASK_CANCELLED"];

/// Each task that its home has accepted ends there exactly once, and each transfer makes one task at one cluster, at most. `None` where the
/// history has no such tasks.
pub fn once(history: &[Event]) -> Option<Check> {
    let offers = operations(history, OFFER);
    if offers.is_empty() {
        return None;
    }
    let mut findings = Findings::new("tasks that move end once");
    let lines = infos::<Line>(history, LOG);
    let mut ends: BTreeMap<(String, String), Vec<(u64, &'static str)>> = BTreeMap::new();
    let mut made: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for (event, line) in lines {
        if let Some(end) = ENDS.into_iter().find(|end| *end == line.kind) {
            ends.entry((line.cluster, line.subject)).or_default().push((event.index, end));
        } else if line.kind == "TRANSFER_CONFIRMED" {
            made.entry(line.subject).or_default().push((event.index, line.cluster));
        }
    }
    for offer in offers.iter().filter(|offer| offer.outcome() == Kind::Ok) {
        let Offer { cluster, .. } = offer.invoke.read().unwrap_or_default();
        let Offer { task, .. } = offer.answer().unwrap_or_default();
        findings.count("accepted", 1);
        match ends.get(&(cluster.clone(), task.clone())).map(Vec::as_slice) {
            Some([_]) => findings.count("ended", 1),
            None | Some([]) => findings.violation(format!("{task} of {cluster} has not ended (event {})", offer.invoke.index)),
            Some(several) => findings.violation(format!("{task} of {cluster} has ended more than once: {several:?}")),
        }
    }
    for (transfer, several) in made.iter().filter(|(_, made)| made.len() > 1) {
        findings.violation(format!("the transfer {transfer} was made a task more than once: {several:?}"));
    }
    findings.count("transfers", made.len());
    findings.needs("accepted");
    Some(findings.finish("each ended once in the cluster that took it, and no transfer became two tasks"))
}

//! Clusters that share a context: what their clients wrote, and what became of it everywhere.
//!
//! ```text
//!   put, delete, get    operations of clients, each at its own cluster     converged   how the clusters' copies came to be equal
//!   content             all that a cluster has of the context at the end   conflict    a key that was written in two clusters at once
//! ```
//! A value is written once in a run, so that it says which write it is of. A write *has seen* another if a correct cluster knew of that one
//! when it took this one: the same cluster had acknowledged it before, or had shown it to somebody. A write that an acknowledged one has seen
//! is *superseded*, and nobody may have it at the end. Of those that have not seen each other any may win, and nobody outside knows which saw
//! which unless a client did.
//!
//! - [`converged`]: all have the same at the end. - [`kept`]: what they have is right. - [`forward`]: nobody sees a writer's key go back.
//! - [`handover`]: tasks that move between clusters end once.

pub mod converged;
pub mod forward;
pub mod handover;
pub mod kept;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{Event, Kind, Operation, Process, operations};

/// A client sets a key: a [`Write`]; the event's key is the context's.
pub const PUT: &str = "put";
/// A client removes a key: a [`Write`] without a value.
pub const DELETE: &str = "delete";
/// A client reads a key: a [`Write`] without a value asks, a [`Found`] answers.
pub const GET: &str = "get";
/// The end, seen from all clusters: a [`Copies`].
pub const CONVERGED: &str = "converged";
/// All that a cluster has at the end: a [`Content`].
pub const CONTENT: &str = "content";
/// A key that was written in two clusters at once, as one of them tells it: a [`Told`].
pub const CONFLICT: &str = "conflict";

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Write {
    /// The client's cluster.
    pub cluster: String,
    /// What is written, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What a client was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// The key's value, if it had one.
    pub value: Option<String>,
}

/// How the clusters' copies of the document came to be equal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Copies {
    /// How long it took after the last fault was taken back and the clients had stopped.
    pub seconds: f64,
    /// The digest of each cluster's copy, as it last said; those that did not answer are missing.
    pub digests: BTreeMap<String, String>,
    /// Writes that a cluster had not signed yet, likewise.
    pub unsigned: BTreeMap<String, u64>,
    /// What was missing when the time was up; empty if nothing was.
    pub missing: String,
}

/// What a cluster has of the context.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Content {
    /// The cluster.
    pub cluster: String,
    /// Values by key.
    pub entries: BTreeMap<String, String>,
}

/// A conflict, as a cluster tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The cluster that tells it.
    pub cluster: String,
    /// The context's key.
    pub key: String,
    /// What the key has now; `None`: nothing.
    pub winner: Option<String>,
    /// What else it could have.
    pub losers: Vec<Option<String>>,
}

/// A write of a client, as the checkers look at it.
#[derive(Debug, Clone)]
pub(super) struct Wrote {
    pub cluster: String,
    pub process: Process,
    pub value: Option<String>,
    /// The index of the event with which it began.
    pub begun: u64,
    /// The index of the event before which it took effect; `None` if it may do so at any time, or never.
    pub done: Option<u64>,
}

/// A read of a client that was answered.
#[derive(Debug, Clone)]
pub(super) struct Saw {
    pub cluster: String,
    pub value: Option<String>,
    pub begun: u64,
    pub done: u64,
}

/// What happened to one key.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// In the order of their beginnings, without those that certainly had no effect.
    pub writes: Vec<Wrote>,
    pub reads: Vec<Saw>,
}

/// All keys of the history.
pub(super) fn keys(history: &[Event]) -> BTreeMap<String, Key> {
    let mut keys: BTreeMap<String, Key> = BTreeMap::new();
    let key_of = |operation: &Operation<'_>| operation.invoke.key.clone().unwrap_or_default();
    let mut writes: Vec<Operation<'_>> = operations(history, PUT);
    writes.extend(operations(history, DELETE));
    writes.sort_by_key(|operation| operation.invoke.index);
    for operation in writes.iter().filter(|operation| operation.outcome() != Kind::Fail) {
        let asked: Write = operation.invoke.read().unwrap_or_default();
        keys.entry(key_of(operation)).or_default().writes.push(Wrote {
            cluster: asked.cluster,
            process: operation.invoke.process,
            value: asked.value,
            begun: operation.invoke.index,
            done: operation.ended_by(),
        });
    }
    for operation in operations(history, GET) {
        let (Some(found), Some(done)) = (operation.answer::<Found>(), operation.ended_by()) else { continue };
        let asked: Write = operation.invoke.read().unwrap_or_default();
        let saw = Saw { cluster: asked.cluster, value: found.value, begun: operation.invoke.index, done };
        keys.entry(key_of(&operation)).or_default().reads.push(saw);
    }
    keys
}

impl Key {
    /// Whether `late` has certainly seen `early`.
    pub fn has_seen(&self, late: &Wrote, early: &Wrote) -> bool {
        let before = early.done.is_some_and(|done| early.cluster == late.cluster && done < late.begun);
        // A deletion leaves nothing by which a reader could tell it.
        before
            || early.value.is_some()
                && self.reads.iter().any(|saw| saw.cluster == late.cluster && saw.done < late.begun && saw.value == early.value)
    }

    /// Whether an acknowledged write has certainly seen this one.
    pub fn is_superseded(&self, wrote: &Wrote) -> bool {
        self.writes.iter().any(|late| late.done.is_some() && late.begun != wrote.begun && self.has_seen(late, wrote))
    }

    /// Whether the key may have this value at the end.
    pub fn may_have(&self, value: Option<&str>) -> bool {
        let left = |wrote: &&Wrote| wrote.value.as_deref() == value && !self.is_superseded(wrote);
        // Without a value: also a key that certainly nobody has ever set.
        let untouched = value.is_none() && self.writes.iter().all(|wrote| wrote.done.is_none());
        untouched || self.writes.iter().any(|wrote| left(&wrote))
    }
}

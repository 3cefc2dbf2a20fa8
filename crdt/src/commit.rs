//! What a transition of the replica changed.

use std::collections::BTreeMap;

use crate::base::Version;
use crate::refusal::Refusal;

/// A row to put, or (`None`) to delete.
pub type Row = (Vec<u8>, Option<Vec<u8>>);

/// What changed. The rows must be stored, in one piece, before anything that the replica then says leaves the cluster: otherwise a crash
/// could take back a number that the cluster has already signed, and its next change set would look like a second history.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Commit {
    /// Rows from which `Replica::load` makes the same replica again.
    pub rows: Vec<Row>,
    /// Keys whose value is another than before, and the value; `None` where the key is gone.
    pub entries: Vec<(String, Option<Vec<u8>>)>,
    /// What was refused.
    pub refusals: Vec<Refusal>,
    /// Keys that came into conflict, or whose conflict changed.
    pub conflicts: Vec<Conflict>,
}

impl Commit {
    /// Did anything change?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.entries.is_empty() && self.refusals.is_empty() && self.conflicts.is_empty()
    }
}

/// A key that clusters wrote without knowing of each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The key.
    pub key: String,
    /// What readers see. The higher epoch wins, then the higher number of automerge's operation, then the higher cluster id.
    pub winner: Version,
    /// What else was written. It stays until somebody writes the key who knows of it: see `Replica::resolve`.
    pub losers: Vec<Version>,
}

impl Conflict {
    pub(crate) fn of(key: &str, versions: &[Version]) -> Option<Self> {
        let (winner, losers) = versions.split_first().filter(|(_, losers)| !losers.is_empty())?;
        Some(Self { key: key.to_owned(), winner: winner.clone(), losers: losers.to_vec() })
    }
}

/// A commit in the making.
#[derive(Default)]
pub(crate) struct Draft {
    pub rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Keys that may have changed, with what they held before.
    pub before: BTreeMap<String, Vec<Version>>,
    pub refusals: Vec<Refusal>,
}

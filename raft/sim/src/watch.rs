//! Watches a whole cluster from outside, and compares everything it sees with the invariants.

use std::collections::BTreeMap;

use tarn_invariants::raft::{
    AppliedEntries, Elections, EntryId, Leadership, LogEntry, LogMatching, applied_in_order, durable_acknowledgement, leader_completeness,
    log_matching, monotonic_commit,
};
use tarn_invariants::timers::Firings;
use tarn_invariants::watch::{self, Place};
use tarn_invariants::{Verdict, Violation};
use tarn_proto::v1::{Event, EventKind};
use tarn_raft::{EventBatch, NodeId, Status};

use crate::dice::hash;
use crate::tap::{NODES_MAX, Told, number};
use crate::trace::Trace;

/// What is known of one node.
#[derive(Default)]
struct Node {
    log: BTreeMap<u64, LogEntry>,
    /// The log's last entry that a power cut would leave, and how far the log is purged into a durable snapshot.
    durable: u64,
    purged: u64,
    applied: Option<EntryId>,
    committed: u64,
    last_event: Option<Place>,
    leadership: u64,
    /// Processes so far.
    life: u64,
}

/// The observer of a cluster.
pub struct Watcher {
    trace: Trace,
    nodes: BTreeMap<NodeId, Node>,
    elections: Elections,
    logs: LogMatching,
    applied: AppliedEntries,
    contents: BTreeMap<EntryId, u64>,
    /// By index, the highest leadership that could have begun when the entry was first applied: it was committed under that one or an earlier one.
    committed_by: BTreeMap<u64, u64>,
    highest: u64,
    events: BTreeMap<u64, Vec<Event>>,
    /// Due times of timers, from whoever scheduled them.
    firings: Firings,
    due: BTreeMap<String, u64>,
    fired: BTreeMap<String, u64>,
    /// A majority of the founders, as long as nobody has changed the members.
    majority: Option<usize>,
}

impl Watcher {
    /// Watches a cluster that is founded with so many voters.
    pub fn new(voters: usize, trace: Trace) -> Self {
        Self {
            trace,
            nodes: BTreeMap::new(),
            elections: Elections::default(),
            logs: LogMatching::default(),
            applied: AppliedEntries::default(),
            contents: BTreeMap::new(),
            committed_by: BTreeMap::new(),
            highest: 0,
            events: BTreeMap::new(),
            firings: Firings::default(),
            due: BTreeMap::new(),
            fired: BTreeMap::new(),
            majority: Some(voters / 2 + 1),
        }
    }

    /// From now on the members may change, and nobody can say from outside what a majority is.
    pub fn members_change(&mut self) {
        self.majority = None;
        if let Some(vote) = self.elections.highest_vote() {
            self.highest = self.highest.max(number(vote));
        }
    }

    /// Whether the members may have changed.
    pub fn members_changed(&self) -> bool {
        self.majority.is_none()
    }

    /// The last entry that anybody has applied.
    pub fn last_applied(&self) -> u64 {
        self.applied.last()
    }

    /// Events of the whole run, by revision.
    pub fn events(&self) -> &BTreeMap<u64, Vec<Event>> {
        &self.events
    }

    /// A timer was scheduled, and somebody was told so.
    ///
    /// # Errors
    ///
    /// It has fired already, too early.
    pub fn timer_scheduled(&mut self, timer: &str, due_at_ms: u64) -> Verdict {
        self.due.insert(timer.to_owned(), due_at_ms);
        match self.fired.get(timer) {
            Some(fired_at_ms) => tarn_invariants::timers::never_early(timer, due_at_ms, *fired_at_ms),
            None => Ok(()),
        }
    }

    /// A timer was cancelled, and somebody was told so.
    ///
    /// # Errors
    ///
    /// It had fired.
    pub fn timer_cancelled(&mut self, timer: &str) -> Verdict {
        self.firings.cancelled(timer)
    }

    /// A node's engine was told something.
    ///
    /// # Errors
    ///
    /// An invariant is broken.
    pub fn told(&mut self, id: NodeId, told: Told) -> Verdict {
        match told {
            Told::Opened { entries, purged, vote } => {
                self.elections.restarted(id, vote)?;
                self.opened(id, &entries, purged)
            }
            Told::Voted { vote, grants } => self.voted(id, vote, grants),
            Told::Appended { entries } => entries.into_iter().try_for_each(|entry| self.appended(id, entry)),
            Told::Truncated(from) => {
                self.trace.note(format!("node {id} log truncated from {from}"));
                let node = self.nodes.entry(id).or_default();
                node.log.split_off(&from);
                node.durable = node.durable.min(from.saturating_sub(1));
                Ok(())
            }
            Told::Purged(to) => {
                self.trace.note(format!("node {id} log purged to {to}"));
                let node = self.nodes.entry(id).or_default();
                node.log = node.log.split_off(&(to + 1));
                node.purged = node.purged.max(to);
                Ok(())
            }
            Told::Synced => {
                let node = self.nodes.entry(id).or_default();
                node.durable = node.log.last_key_value().map_or(node.purged, |(index, _)| *index);
                Ok(())
            }
            Told::Applied { id: entry, digest } => self.applied(id, entry, &digest),
        }
    }

    fn voted(&mut self, id: NodeId, vote: Leadership, grants: bool) -> Verdict {
        let what = if grants { "grants" } else { "follows" };
        self.trace.note(format!("node {id} {what} {vote}"));
        self.elections.voted(id, vote, grants)?;
        // Nobody leads, and so commits, before a majority has granted it.
        let may_begin = self.majority.is_none_or(|majority| self.elections.granted(vote) >= majority);
        if may_begin {
            self.highest = self.highest.max(number(vote));
        }
        Ok(())
    }

    fn opened(&mut self, id: NodeId, entries: &[LogEntry], purged: u64) -> Verdict {
        let last = entries.last().map(|entry| entry.id);
        let end = last.map_or_else(|| "nothing".to_owned(), shown);
        self.trace.note(format!("node {id} log opened: {} entries to {end}", entries.len()));
        let node = self.nodes.entry(id).or_default();
        // The process is new: what it knew in memory is gone.
        node.committed = 0;
        node.applied = None;
        node.last_event = None;
        node.life += 1;
        node.purged = node.purged.max(purged);
        node.log.clear();
        node.durable = last.map_or(node.purged, |last| last.index);
        entries.iter().try_for_each(|entry| self.appended(id, *entry))
    }

    fn appended(&mut self, id: NodeId, entry: LogEntry) -> Verdict {
        let node = self.nodes.entry(id).or_default();
        let previous = entry.id.index.checked_sub(1).and_then(|below| node.log.get(&below));
        let previous = previous.map(|previous| previous.id);
        node.log.insert(entry.id.index, entry);
        self.contents.insert(entry.id, entry.content);
        self.logs.observe(id, previous, entry)
    }

    fn applied(&mut self, id: NodeId, entry: EntryId, digest: &[u8]) -> Verdict {
        let first = entry.index > self.applied.last();
        if first {
            self.committed_by.insert(entry.index, self.highest);
        }
        self.trace.note(format!("node {id} applied {} {:016x}", shown(entry), hash(digest)));
        let node = self.nodes.entry(id).or_default();
        // One batch may hold several entries, and an installed snapshot holds many: then only the order can be asked for.
        match node.applied.filter(|before| before.index + 1 == entry.index) {
            Some(before) => applied_in_order(Some(before), entry)?,
            None => monotonic_commit(id, node.applied.map_or(0, |before| before.index), entry.index)?,
        }
        node.applied = Some(entry);
        let content = self.contents.get(&entry).copied().unwrap_or(0);
        self.applied.entry(id, LogEntry { id: entry, content })?;
        if !digest.is_empty() {
            self.applied.digest(id, entry.index, digest)?;
        }
        match first {
            true => self.on_a_majority(entry),
            false => Ok(()),
        }
    }

    /// What is applied anywhere is committed, and what is committed must be on the disks of a majority.
    fn on_a_majority(&self, entry: EntryId) -> Verdict {
        let Some(majority) = self.majority else { return Ok(()) };
        let has = |node: &&Node| {
            let in_log = node.log.get(&entry.index).is_some_and(|held| held.id == entry);
            (in_log && node.durable >= entry.index) || node.purged >= entry.index
        };
        if self.nodes.values().filter(has).count() >= majority {
            return Ok(());
        }
        let (behind, node) = self
            .nodes
            .iter()
            .find(|(_, node)| !has(node) && node.log.contains_key(&entry.index))
            .map_or((0, 0), |(id, node)| (*id, node.durable));
        durable_acknowledgement(behind, entry.index, node)
    }

    /// A node's status, some time.
    ///
    /// # Errors
    ///
    /// An invariant is broken.
    pub fn status(&mut self, status: &Status) -> Verdict {
        let id = status.node_id;
        let node = self.nodes.entry(id).or_default();
        monotonic_commit(id, node.committed, status.committed_index)?;
        node.committed = status.committed_index;
        match status.applied.index {
            // Nothing is applied, or the log's very first entry, which has number 0: a status does not tell.
            0 => Ok(()),
            index => self.applied.digest(id, index, &status.digest),
        }
    }

    /// A node says that it leads.
    ///
    /// # Errors
    ///
    /// An invariant is broken.
    pub fn leads(&mut self, leadership: Leadership) -> Verdict {
        let Leadership { term, node: id } = leadership;
        let node = self.nodes.entry(id).or_default();
        let number = number(leadership);
        self.highest = self.highest.max(number);
        self.elections.leads(leadership, node.life, self.majority)?;
        if node.leadership >= number {
            return Ok(());
        }
        node.leadership = number;
        self.trace.note(format!("node {id} leads term {term}"));
        let committed_by = &self.committed_by;
        let earlier = |entry: &EntryId| committed_by.get(&entry.index).is_some_and(|by| *by < number);
        let committed = self.applied.above(node.purged).filter(earlier);
        leader_completeness(id, number, committed, |index| node.log.get(&index).map(|entry| entry.id.term))
    }

    /// A node tells what happened at an entry.
    ///
    /// # Errors
    ///
    /// Another node told something else, or an invariant is broken.
    pub fn told_events(&mut self, id: NodeId, batch: &EventBatch) -> Verdict {
        let node = self.nodes.entry(id).or_default();
        for event in batch.events.iter() {
            let place = Place { revision: event.revision, ordinal: event.ordinal };
            watch::continuous(node.last_event, place)?;
            node.last_event = Some(place);
        }
        match self.events.get(&batch.revision) {
            Some(known) => watch::CONTINUOUS.require(known[..] == batch.events[..], || {
                format!("node {id} tells other events at revision {} than another node", batch.revision)
            }),
            None => {
                self.events.insert(batch.revision, batch.events.to_vec());
                batch.events.iter().try_for_each(|event| self.happened(event))
            }
        }
    }

    fn happened(&mut self, event: &Event) -> Verdict {
        if event.kind() != EventKind::TimerFired {
            return Ok(());
        }
        self.fired.insert(event.subject.clone(), event.at_ms);
        let due = self.due.get(&event.subject).copied().unwrap_or(0);
        self.firings.fired(&event.subject, due, event.at_ms)
    }

    /// Compares what is left of all logs, as they are now.
    ///
    /// # Errors
    ///
    /// Two of them do not match.
    pub fn logs_match(&self) -> Verdict {
        let logs: Vec<Vec<LogEntry>> = self.nodes.values().map(|node| node.log.values().copied().collect()).collect();
        let pairs = logs.iter().enumerate().flat_map(|(at, a)| logs[at + 1..].iter().map(move |b| (a, b)));
        pairs.into_iter().try_for_each(|(a, b)| log_matching(a, b))
    }

    /// A violation that was found elsewhere goes into the trace.
    pub fn note(&self, violation: &Violation) {
        self.trace.note(format!("VIOLATION {violation}"));
    }
}

/// An entry's place for people: Raft term, node, index.
fn shown(entry: EntryId) -> String {
    let EntryId { term, index } = entry;
    format!("{}-{}.{index}", term / NODES_MAX, term % NODES_MAX)
}

#[cfg(test)]
mod tests {
    use tarn_invariants::raft::{ELECTION_SAFETY, LEADER_COMPLETENESS};

    use super::*;

    fn leadership(term: u64, node: u64) -> Leadership {
        Leadership { term, node }
    }

    fn grants(term: u64, node: u64) -> Told {
        Told::Voted { vote: leadership(term, node), grants: true }
    }

    fn watcher() -> Watcher {
        Watcher::new(3, Trace::new(None).unwrap())
    }

    #[test]
    fn a_leader_without_a_majority_and_a_vote_that_is_lost_are_found() {
        let mut watcher = watcher();
        watcher.told(1, grants(1, 1)).unwrap();
        let violation = watcher.leads(leadership(1, 1)).unwrap_err();
        assert_eq!(violation.invariant, ELECTION_SAFETY, "one vote of three");
        watcher.told(2, grants(1, 1)).unwrap();
        watcher.leads(leadership(1, 1)).unwrap();
        watcher.told(2, grants(1, 2)).unwrap();
        assert_eq!(watcher.told(2, grants(1, 1)).unwrap_err().invariant, ELECTION_SAFETY);
        let opened = Told::Opened { entries: Vec::new(), purged: 0, vote: None };
        assert_eq!(watcher.told(1, opened).unwrap_err().invariant, ELECTION_SAFETY);
    }

    #[test]
    fn a_second_leader_of_one_term_must_have_what_the_first_one_committed() {
        let mut watcher = watcher();
        let id = EntryId { term: number(leadership(1, 1)), index: 1 };
        let entries = vec![LogEntry { id, content: 7 }];
        for node in [1, 3] {
            watcher.told(node, grants(1, 1)).unwrap();
        }
        watcher.leads(leadership(1, 1)).unwrap();
        for node in [1, 3] {
            let entries = entries.clone();
            watcher.told(node, Told::Appended { entries }).unwrap();
            watcher.told(node, Told::Synced).unwrap();
        }
        watcher.told(1, Told::Applied { id, digest: Vec::new() }).unwrap();
        for node in [2, 3] {
            watcher.told(node, grants(1, 2)).unwrap();
        }
        let violation = watcher.leads(leadership(1, 2)).unwrap_err();
        assert_eq!(violation.invariant, LEADER_COMPLETENESS);
    }
}

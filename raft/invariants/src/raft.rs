//! Consensus: the five properties of figure 3 of the Raft paper, and what tarn adds to them.
//!
//! "The Raft paper" is Diego Ongaro and John Ousterhout, *In Search of an Understandable Consensus Algorithm (Extended
//! Version)*, 2014; "the dissertation" is Diego Ongaro, *Consensus: Bridging Theory and Practice*, 2014.

use std::collections::BTreeMap;

use crate::{Invariant, Verdict};

/// See [`election_safety`].
pub const ELECTION_SAFETY: Invariant = Invariant {
    name: "election safety",
    rule: "at most one leader can be elected in a given term",
    source: "Raft paper, figure 3 and section 5.2",
};

/// See [`log_matching`].
pub const LOG_MATCHING: Invariant = Invariant {
    name: "log matching",
    rule: "if two logs contain an entry with the same index and term, they are identical in all entries up to that index",
    source: "Raft paper, figure 3 and section 5.3",
};

/// See [`leader_completeness`].
pub const LEADER_COMPLETENESS: Invariant = Invariant {
    name: "leader completeness",
    rule: "an entry committed in a term is in the logs of the leaders of all higher terms",
    source: "Raft paper, figure 3 and section 5.4",
};

/// See [`state_machine_safety`].
pub const STATE_MACHINE_SAFETY: Invariant = Invariant {
    name: "state-machine safety",
    rule: "if a node has applied an entry at an index, no node ever applies another entry at that index",
    source: "Raft paper, figure 3 and section 5.4.3",
};

/// See [`monotonic_commit`].
pub const MONOTONIC_COMMIT: Invariant = Invariant {
    name: "monotonic commit",
    rule: "while a node runs, its commit index and its applied index only grow, and entries are applied without a gap",
    source: "Raft paper, figure 2 (\"increases monotonically\") and section 5.3",
};

/// See [`durable_acknowledgement`].
pub const DURABLE_ACKNOWLEDGEMENT: Invariant = Invariant {
    name: "durable acknowledgement",
    rule: "a committed entry is on the disks of a majority: what a node has confirmed survives its power cut",
    source: "Raft paper, figure 2 (\"updated on stable storage before responding\"); design, the way of one request, step 5",
};

/// See [`equal_digests`].
pub const EQUAL_DIGESTS: Invariant = Invariant {
    name: "equal digests",
    rule: "nodes that have applied the same index have the same digest of their state",
    source: "design, the kernel's rules: provable",
};

/// A place in a log: what Raft compares entries by.
///
/// openraft tells leaderships apart by term *and* node, ordered by both: a higher node id may be elected in the same term. There, `term` stands
/// for the pair as one number, in every observation of this module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EntryId {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// Its index, from 0 or 1 on without a gap.
    pub index: u64,
}

/// An entry of a node's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its place.
    pub id: EntryId,
    /// Any hash of its content. Equal contents have equal hashes.
    pub content: u64,
}

/// A node was elected for `term`; `known` led that term before, if anybody did.
///
/// # Errors
///
/// Two different leaders of one term ([`ELECTION_SAFETY`]).
pub fn election_safety(term: u64, known: Option<u64>, leader: u64) -> Verdict {
    let other = known.filter(|known| *known != leader);
    ELECTION_SAFETY.require(other.is_none(), || {
        format!("nodes {} and {leader} both lead term {term}", other.unwrap_or_default())
    })
}

/// A node names a leader and its term, after it named another, `before`. A node that has accepted a leader accepts no earlier one, across all its
/// restarts: it is what election safety rests on, and all of it that the words of single nodes can contradict, because a node may believe in a
/// leader of the past for long. Here the term is the term alone and stands beside the leader's id: where openraft elects a second leader in
/// a term, it is one with a higher id. (Raft paper, section 5.2, and `currentTerm` and `votedFor` in figure 2.)
///
/// # Errors
///
/// The node goes back to an earlier term, or within a term to a lower id ([`ELECTION_SAFETY`]).
pub fn leaders_only_advance(node: u64, before: Option<(u64, u64)>, now: (u64, u64)) -> Verdict {
    ELECTION_SAFETY.require(before.is_none_or(|before| before <= now), || {
        let (term, leader) = before.unwrap_or_default();
        format!(
            "node {node} follows leader {} of term {} after leader {leader} of term {term}",
            now.1, now.0
        )
    })
}

/// Compares two logs, each ascending and without a gap; they may begin at different indexes.
///
/// # Errors
///
/// An index at which both have the same term, and a difference at or below it ([`LOG_MATCHING`]).
pub fn log_matching(a: &[LogEntry], b: &[LogEntry]) -> Verdict {
    let (Some(first_a), Some(first_b)) = (a.first(), b.first()) else {
        return Ok(());
    };
    let first = first_a.id.index.max(first_b.id.index);
    let from = |log: &[LogEntry]| {
        log.iter()
            .copied()
            .skip_while(|entry| entry.id.index < first)
            .collect::<Vec<_>>()
    };
    let pairs: Vec<(LogEntry, LogEntry)> = from(a).into_iter().zip(from(b)).collect();
    let Some(last_equal) = pairs.iter().rposition(|(a, b)| a.id == b.id) else {
        return Ok(());
    };
    let odd = pairs[..=last_equal].iter().find(|(a, b)| a != b);
    LOG_MATCHING.require(odd.is_none(), || {
        let (a, b) = odd.expect("the closure runs only where there is one");
        format!(
            "two logs agree at {:?} and differ below: {a:?} and {b:?}",
            pairs[last_equal].0.id
        )
    })
}

/// A node leads `term`; `committed` are entries known to be committed in earlier terms, and `term_at` says which term the
/// leader's log has at an index: `None` beyond its end. What the leader has purged into a snapshot must be left out of
/// `committed`.
///
/// # Errors
///
/// The first committed entry that the leader lacks ([`LEADER_COMPLETENESS`]).
pub fn leader_completeness(
    leader: u64,
    term: u64,
    committed: impl IntoIterator<Item = EntryId>,
    term_at: impl Fn(u64) -> Option<u64>,
) -> Verdict {
    for entry in committed.into_iter().filter(|entry| entry.term < term) {
        let has = term_at(entry.index);
        LEADER_COMPLETENESS.require(has == Some(entry.term), || {
            format!("node {leader} leads term {term}, entry {entry:?} is committed, and the leader's log has term {has:?} there")
        })?;
    }
    Ok(())
}

/// A node applies `entry`; `known` is what some node applied at the same index before, if anybody did.
///
/// # Errors
///
/// Two different entries at one index ([`STATE_MACHINE_SAFETY`]).
pub fn state_machine_safety(node: u64, known: Option<LogEntry>, entry: LogEntry) -> Verdict {
    STATE_MACHINE_SAFETY.require(known.is_none_or(|known| known == entry), || {
        format!("node {node} applies {entry:?}, and {known:?} was applied there before")
    })
}

/// The commit index or the applied index of one running node, before and after a step. For the applied index, the caller
/// passes each entry: it must be the next one.
///
/// # Errors
///
/// It fell ([`MONOTONIC_COMMIT`]).
pub fn monotonic_commit(node: u64, before: u64, after: u64) -> Verdict {
    MONOTONIC_COMMIT.require(after >= before, || {
        format!("what node {node} has committed or applied falls from {before} to {after}")
    })
}

/// An entry is applied after another on one node: it must be the next, from the same term or a later one. `before` is
/// `None` for an empty state.
///
/// # Errors
///
/// A gap, a repeat, or an earlier term ([`MONOTONIC_COMMIT`]).
pub fn applied_in_order(before: Option<EntryId>, next: EntryId) -> Verdict {
    let follows = match before {
        None => next.index <= 1,
        Some(before) => next.index == before.index + 1 && next.term >= before.term,
    };
    MONOTONIC_COMMIT.require(follows, || format!("{next:?} is applied after {before:?}"))
}

/// The log is cut after `keep`, while everything up to `committed` is known to be committed.
///
/// # Errors
///
/// The cut takes a committed entry ([`MONOTONIC_COMMIT`]).
pub fn committed_stays(committed: Option<EntryId>, keep: Option<EntryId>) -> Verdict {
    MONOTONIC_COMMIT.require(keep.map(|id| id.index) >= committed.map(|id| id.index), || {
        format!("the log is cut after {keep:?}, and {committed:?} is committed")
    })
}

/// Somebody was told that the log up to `confirmed` is on this node's disk; a power cut at this moment would leave the log
/// up to `durable`.
///
/// # Errors
///
/// More was confirmed than is there ([`DURABLE_ACKNOWLEDGEMENT`]).
pub fn durable_acknowledgement(node: u64, confirmed: u64, durable: u64) -> Verdict {
    DURABLE_ACKNOWLEDGEMENT.require(confirmed <= durable, || {
        format!("node {node} has confirmed its log up to {confirmed}, and a power cut would leave {durable}")
    })
}

/// Two nodes' digests at the same index.
///
/// # Errors
///
/// They differ ([`EQUAL_DIGESTS`]).
pub fn equal_digests(index: u64, a: (u64, &[u8]), b: (u64, &[u8])) -> Verdict {
    EQUAL_DIGESTS.require(a.1 == b.1, || {
        format!("nodes {} and {} differ after entry {index}", a.0, b.0)
    })
}

/// Monitor of [`election_safety`]: who led which term.
#[derive(Clone, Default, Debug)]
pub struct Elections {
    leaders: BTreeMap<u64, u64>,
}

impl Elections {
    /// A node says that it leads a term. May be said again.
    ///
    /// # Errors
    ///
    /// As [`election_safety`].
    pub fn observe(&mut self, term: u64, leader: u64) -> Verdict {
        election_safety(term, self.leaders.get(&term).copied(), leader)?;
        self.leaders.insert(term, leader);
        Ok(())
    }

    /// The leader of a term, if one was seen.
    pub fn leader(&self, term: u64) -> Option<u64> {
        self.leaders.get(&term).copied()
    }
}

/// Monitor of [`log_matching`]: every entry that any log ever held, by its place.
///
/// By induction it is enough that one place always holds the same content and always follows the same place: then two logs
/// that agree at an index agree at the one below it, and so on.
#[derive(Clone, Default, Debug)]
pub struct LogMatching {
    entries: BTreeMap<EntryId, (u64, Option<EntryId>)>,
}

impl LogMatching {
    /// A node's log has `entry`, and `previous` below it; `None` where the log begins or the entry below is gone.
    ///
    /// # Errors
    ///
    /// The same place held something else, or followed another ([`LOG_MATCHING`]).
    pub fn observe(&mut self, node: u64, previous: Option<EntryId>, entry: LogEntry) -> Verdict {
        let known = self.entries.entry(entry.id).or_insert((entry.content, previous));
        LOG_MATCHING.require(known.0 == entry.content, || {
            format!("node {node} has another content at {:?} than another node", entry.id)
        })?;
        match (known.1, previous) {
            (None, previous) => known.1 = previous,
            (Some(before), Some(previous)) => LOG_MATCHING.require(before == previous, || {
                format!(
                    "node {node} has {previous:?} below {:?}, and another node has {before:?}",
                    entry.id
                )
            })?,
            (Some(_), None) => {}
        }
        Ok(())
    }

    /// Forgets what lies at or below an index: no log holds it any more.
    pub fn forget(&mut self, index: u64) {
        self.entries.retain(|id, _| id.index > index);
    }
}

/// Monitor of [`state_machine_safety`] and [`equal_digests`]: what was applied at each index, and what came of it.
#[derive(Clone, Default, Debug)]
pub struct AppliedEntries {
    entries: BTreeMap<u64, LogEntry>,
    digests: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl AppliedEntries {
    /// A node applied an entry.
    ///
    /// # Errors
    ///
    /// As [`state_machine_safety`].
    pub fn entry(&mut self, node: u64, entry: LogEntry) -> Verdict {
        state_machine_safety(node, self.entries.get(&entry.id.index).copied(), entry)?;
        self.entries.insert(entry.id.index, entry);
        Ok(())
    }

    /// A node's state after an index.
    ///
    /// # Errors
    ///
    /// As [`equal_digests`].
    pub fn digest(&mut self, node: u64, index: u64, digest: &[u8]) -> Verdict {
        match self.digests.get(&index) {
            Some((other, known)) => equal_digests(index, (*other, known), (node, digest)),
            None => {
                self.digests.insert(index, (node, digest.to_vec()));
                Ok(())
            }
        }
    }

    /// What was applied above an index, ascending: all of it is committed.
    pub fn above(&self, index: u64) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.range(index + 1..).map(|(_, entry)| entry.id)
    }

    /// The highest index that any node has applied; 0 before the first.
    pub fn last(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64, content: u64) -> LogEntry {
        LogEntry {
            id: EntryId { term, index },
            content,
        }
    }

    #[test]
    fn a_term_has_one_leader() {
        let mut elections = Elections::default();
        elections.observe(1, 1).unwrap();
        elections.observe(2, 3).unwrap();
        elections.observe(1, 1).unwrap();
        assert_eq!(elections.leader(2), Some(3));
        assert_eq!(elections.observe(2, 1).unwrap_err().invariant, ELECTION_SAFETY);
    }

    #[test]
    fn a_node_never_goes_back_to_an_earlier_leader() {
        leaders_only_advance(1, None, (3, 2)).unwrap();
        for now in [(3, 2), (3, 5), (4, 1)] {
            leaders_only_advance(1, Some((3, 2)), now).unwrap();
        }
        for now in [(3, 1), (2, 9)] {
            let violation = leaders_only_advance(1, Some((3, 2)), now).unwrap_err();
            assert_eq!(violation.invariant, ELECTION_SAFETY);
        }
    }

    #[test]
    fn logs_may_differ_only_above_their_last_equal_entry() {
        let a = [entry(1, 1, 10), entry(1, 2, 20), entry(2, 3, 30)];
        let b = [entry(1, 2, 20), entry(3, 3, 31), entry(3, 4, 40)];
        log_matching(&a, &b).unwrap();
        log_matching(&a, &[]).unwrap();
        let c = [entry(1, 1, 10), entry(1, 2, 99), entry(2, 3, 30)];
        assert_eq!(log_matching(&a, &c).unwrap_err().invariant, LOG_MATCHING);
        let d = [entry(1, 1, 10), entry(2, 2, 20), entry(2, 3, 30)];
        log_matching(&a, &d).unwrap_err();
    }

    #[test]
    fn the_monitor_of_logs_finds_what_the_function_finds() {
        let mut logs = LogMatching::default();
        let id = |term, index| Some(EntryId { term, index });
        logs.observe(1, None, entry(1, 2, 20)).unwrap();
        logs.observe(2, id(1, 1), entry(1, 2, 20)).unwrap();
        logs.observe(3, None, entry(1, 2, 20)).unwrap();
        assert!(logs.observe(3, None, entry(1, 2, 21)).is_err(), "another content");
        assert!(
            logs.observe(3, id(2, 1), entry(1, 2, 20)).is_err(),
            "another predecessor"
        );
        logs.forget(2);
        logs.observe(3, None, entry(1, 2, 21)).unwrap();
    }

    #[test]
    fn a_leader_has_what_was_committed_before_its_term() {
        let log = BTreeMap::from([(1, 1), (2, 1), (3, 4)]);
        let committed = |term, index| EntryId { term, index };
        let check = |entries: &[EntryId]| leader_completeness(9, 5, entries.iter().copied(), |i| log.get(&i).copied());
        check(&[committed(1, 1), committed(1, 2), committed(4, 3), committed(5, 7)]).unwrap();
        assert_eq!(check(&[committed(2, 2)]).unwrap_err().invariant, LEADER_COMPLETENESS);
        assert!(check(&[committed(4, 4)]).is_err());
    }

    #[test]
    fn one_entry_and_one_digest_for_an_index() {
        let mut applied = AppliedEntries::default();
        applied.entry(1, entry(1, 1, 10)).unwrap();
        applied.entry(2, entry(1, 1, 10)).unwrap();
        assert_eq!(
            applied.entry(2, entry(2, 1, 10)).unwrap_err().invariant,
            STATE_MACHINE_SAFETY
        );
        applied.digest(1, 1, b"a").unwrap();
        applied.digest(2, 1, b"a").unwrap();
        assert_eq!(applied.digest(3, 1, b"b").unwrap_err().invariant, EQUAL_DIGESTS);
        assert_eq!(
            (applied.last(), applied.above(0).count(), applied.above(1).count()),
            (1, 1, 0)
        );
    }

    #[test]
    fn what_is_committed_neither_falls_nor_jumps_nor_is_cut() {
        monotonic_commit(1, 5, 5).unwrap();
        assert!(monotonic_commit(1, 5, 4).is_err());
        let id = |term, index| EntryId { term, index };
        applied_in_order(None, id(1, 0)).unwrap();
        applied_in_order(Some(id(1, 4)), id(2, 5)).unwrap();
        for next in [id(1, 4), id(1, 6), id(0, 5)] {
            assert!(applied_in_order(Some(id(1, 4)), next).is_err(), "{next:?}");
        }
        committed_stays(Some(id(1, 4)), Some(id(1, 4))).unwrap();
        committed_stays(None, None).unwrap();
        assert!(committed_stays(Some(id(1, 4)), Some(id(1, 3))).is_err());
        assert!(committed_stays(Some(id(1, 4)), None).is_err());
        durable_acknowledgement(1, 4, 4).unwrap();
        assert_eq!(
            durable_acknowledgement(1, 5, 4).unwrap_err().invariant,
            DURABLE_ACKNOWLEDGEMENT
        );
    }
}

//! Consensus: the five properties of figure 3 of the Raft paper, and what tarn adds to them.
//!
//! "The Raft paper" is Diego Ongaro and John Ousterhout, *In Search of an Understandable Consensus Algorithm (Extended
//! Version)*, 2014; "the dissertation" is Diego Ongaro, *Consensus: Bridging Theory and Practice*, 2014.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{Invariant, Verdict};

/// What the Raft paper calls a term is a pair here, because openraft's leader ids (`leader_id_adv`, its default) are ordered by term *and* node: a
/// node that has voted in a term may vote in it once more, for a candidate with a higher id, and so several nodes may lead one term, one after
/// another. "One leader in a term" would be false of a sound cluster. What holds is what the paper's proof needs: leaderships are in one order, each
/// belongs to one process, a majority has granted it, and nobody grants one that is not above all that he granted before. Of two leaderships
/// the later one has then heard from a node that the earlier one can no longer commit anything with.
///
/// See [`election_safety`], [`votes_only_grow`], [`granted_by_majority`] and [`leaders_only_advance`].
pub const ELECTION_SAFETY: Invariant = Invariant {
    name: "election safety",
    rule: "a leadership, which is a term and a node, ordered by both, belongs to one process and was granted by a majority, and a node's vote only grows",
    source: "Raft paper, figure 3 and section 5.2, with openraft's leader ids (leader_id_adv) in the place of terms",
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

/// A vote, or the leadership that it is for: openraft's leader id. Ordered by term, then by node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// Who leads, or wants to.
    pub node: u64,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} in term {}", self.node, self.term)
    }
}

/// A process leads; `known` is the process that led under the same leadership before, if any did. A node that was started anew is another process:
/// it does not know what the first one said under that leadership.
///
/// # Errors
///
/// Two different processes ([`ELECTION_SAFETY`]).
pub fn election_safety(leadership: Leadership, known: Option<u64>, process: u64) -> Verdict {
    let other = known.filter(|known| *known != process);
    ELECTION_SAFETY.require(other.is_none(), || {
        let other = other.unwrap_or_default();
        format!("{leadership} leads as process {process}, and led as process {other} before")
    })
}

/// A node grants or accepts a leadership, after it granted or accepted another, `before`, in this life or an earlier one.
///
/// # Errors
///
/// The new one is lower: the node has voted twice, or forgotten its vote ([`ELECTION_SAFETY`]).
pub fn votes_only_grow(node: u64, before: Option<Leadership>, vote: Leadership) -> Verdict {
    ELECTION_SAFETY.require(before.is_none_or(|before| before <= vote), || {
        let before = before.unwrap_or(vote);
        format!("node {node} has the vote for {vote} after one for {before}")
    })
}

/// A leadership begins; so many nodes have written down that they grant it, and a majority is so many.
///
/// # Errors
///
/// Too few ([`ELECTION_SAFETY`]).
pub fn granted_by_majority(leadership: Leadership, granted: usize, majority: usize) -> Verdict {
    ELECTION_SAFETY.require(granted >= majority, || format!("{leadership} leads, {granted} have granted it, and a majority is {majority}"))
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
        format!("node {node} follows leader {} of term {} after leader {leader} of term {term}", now.1, now.0)
    })
}

/// An entry is appended to a node's log; `last` is the log's last entry, if it has one.
///
/// # Errors
///
/// It leaves a gap, overwrites what is there, or comes from an earlier leadership ([`LOG_MATCHING`]).
pub fn log_continues(last: Option<EntryId>, next: EntryId) -> Verdict {
    let continues = last.is_none_or(|last| next.index == last.index + 1 && next.term >= last.term);
    LOG_MATCHING.require(continues, || format!("{next:?} is appended after {last:?}"))
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
    let from = |log: &[LogEntry]| log.iter().copied().skip_while(|entry| entry.id.index < first).collect::<Vec<_>>();
    let pairs: Vec<(LogEntry, LogEntry)> = from(a).into_iter().zip(from(b)).collect();
    let Some(last_equal) = pairs.iter().rposition(|(a, b)| a.id == b.id) else {
        return Ok(());
    };
    let odd = pairs[..=last_equal].iter().find(|(a, b)| a != b);
    LOG_MATCHING.require(odd.is_none(), || {
        let (a, b) = odd.expect("the closure runs only where there is one");
        format!("two logs agree at {:?} and differ below: {a:?} and {b:?}", pairs[last_equal].0.id)
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
    MONOTONIC_COMMIT.require(after >= before, || format!("what node {node} has committed or applied falls from {before} to {after}"))
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
    EQUAL_DIGESTS.require(a.1 == b.1, || format!("nodes {} and {} differ after entry {index}", a.0, b.0))
}

/// Monitor of [`ELECTION_SAFETY`]: who voted for whom, and who led.
#[derive(Clone, Default, Debug)]
pub struct Elections {
    votes: BTreeMap<u64, Leadership>,
    granted: BTreeMap<Leadership, BTreeSet<u64>>,
    processes: BTreeMap<Leadership, u64>,
}

impl Elections {
    /// A node has written a vote down. `grants`: before the leadership began, so that it counts; else it only follows who leads already.
    ///
    /// # Errors
    ///
    /// As [`votes_only_grow`].
    pub fn voted(&mut self, node: u64, vote: Leadership, grants: bool) -> Verdict {
        let before = self.votes.insert(node, vote);
        if grants {
            self.granted.entry(vote).or_default().insert(node);
        }
        votes_only_grow(node, before, vote)
    }

    /// A node starts with the vote that it finds on its disk; `None` if there is none.
    ///
    /// # Errors
    ///
    /// It wrote another one down, and has lost it ([`ELECTION_SAFETY`]).
    pub fn restarted(&mut self, node: u64, vote: Option<Leadership>) -> Verdict {
        let before = self.votes.get(&node).copied();
        let Some(vote) = vote else {
            return ELECTION_SAFETY.require(before.is_none(), || format!("node {node} has lost its vote"));
        };
        self.votes.insert(node, vote);
        votes_only_grow(node, before, vote)
    }

    /// How many nodes have granted a leadership.
    pub fn granted(&self, leadership: Leadership) -> usize {
        self.granted.get(&leadership).map_or(0, BTreeSet::len)
    }

    /// The highest leadership that anybody has voted for.
    pub fn highest_vote(&self) -> Option<Leadership> {
        self.votes.values().copied().max()
    }

    /// A process says that it leads. May be said again. `majority` is how many must have granted it, where that is known.
    ///
    /// # Errors
    ///
    /// As [`election_safety`] and [`granted_by_majority`].
    pub fn leads(&mut self, leadership: Leadership, process: u64, majority: Option<usize>) -> Verdict {
        let known = self.processes.get(&leadership).copied();
        election_safety(leadership, known, process)?;
        if let Some(majority) = majority.filter(|_| known.is_none()) {
            granted_by_majority(leadership, self.granted(leadership), majority)?;
        }
        self.processes.insert(leadership, process);
        Ok(())
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
        LOG_MATCHING
            .require(known.0 == entry.content, || format!("node {node} has another content at {:?} than another node", entry.id))?;
        match (known.1, previous) {
            (None, previous) => known.1 = previous,
            (Some(before), Some(previous)) => LOG_MATCHING.require(before == previous, || {
                format!("node {node} has {previous:?} below {:?}, and another node has {before:?}", entry.id)
            })?,
            (Some(_), None) => {}
        }
        Ok(())
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
        LogEntry { id: EntryId { term, index }, content }
    }

    fn leadership(term: u64, node: u64) -> Leadership {
        Leadership { term, node }
    }

    #[test]
    fn a_leadership_has_one_process_that_a_majority_granted() {
        let mut elections = Elections::default();
        elections.voted(1, leadership(1, 1), true).unwrap();
        assert_eq!(elections.leads(leadership(1, 1), 7, Some(2)).unwrap_err().invariant, ELECTION_SAFETY, "one vote of three");
        // Who learns of a leader from the leader has not elected it.
        elections.voted(3, leadership(1, 1), false).unwrap();
        assert!(elections.leads(leadership(1, 1), 7, Some(2)).is_err());
        elections.voted(2, leadership(1, 1), true).unwrap();
        elections.leads(leadership(1, 1), 7, Some(2)).unwrap();
        elections.leads(leadership(1, 1), 7, Some(2)).unwrap();
        assert!(elections.leads(leadership(1, 1), 8, Some(2)).is_err(), "started anew under the same leadership");
        elections.leads(leadership(1, 2), 7, None).unwrap();
        assert_eq!(elections.granted(leadership(1, 1)), 2);
        assert_eq!(elections.granted(leadership(1, 2)), 0);
    }

    #[test]
    fn a_vote_is_neither_taken_back_nor_given_twice_nor_lost() {
        let mut elections = Elections::default();
        elections.restarted(1, None).unwrap();
        elections.voted(1, leadership(2, 2), true).unwrap();
        elections.voted(1, leadership(2, 2), false).unwrap();
        elections.restarted(1, Some(leadership(2, 2))).unwrap();
        // In the same term, for a higher id: openraft allows it.
        elections.voted(1, leadership(2, 3), true).unwrap();
        assert_eq!(elections.highest_vote(), Some(leadership(2, 3)));
        for lower in [leadership(2, 2), leadership(1, 9)] {
            let mut other = elections.clone();
            assert_eq!(other.voted(1, lower, true).unwrap_err().invariant, ELECTION_SAFETY);
            assert!(elections.clone().restarted(1, Some(lower)).is_err());
        }
        assert_eq!(elections.restarted(1, None).unwrap_err().invariant, ELECTION_SAFETY);
    }

    #[test]
    fn a_log_goes_on_where_it_ends() {
        let id = |term, index| EntryId { term, index };
        log_continues(None, id(1, 5)).unwrap();
        log_continues(Some(id(1, 5)), id(2, 6)).unwrap();
        for next in [id(1, 5), id(1, 7), id(0, 6)] {
            assert_eq!(log_continues(Some(id(1, 5)), next).unwrap_err().invariant, LOG_MATCHING);
        }
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
        assert!(logs.observe(3, id(2, 1), entry(1, 2, 20)).is_err(), "another predecessor");
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
        assert_eq!(applied.entry(2, entry(2, 1, 10)).unwrap_err().invariant, STATE_MACHINE_SAFETY);
        applied.digest(1, 1, b"a").unwrap();
        applied.digest(2, 1, b"a").unwrap();
        assert_eq!(applied.digest(3, 1, b"b").unwrap_err().invariant, EQUAL_DIGESTS);
        assert_eq!((applied.last(), applied.above(0).count(), applied.above(1).count()), (1, 1, 0));
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
        assert_eq!(durable_acknowledgement(1, 5, 4).unwrap_err().invariant, DURABLE_ACKNOWLEDGEMENT);
    }
}

//! The workers that one class of tasks can choose from, the best on top.
//!
//! Only *balance* depends on load, and it only falls as a worker fills up. So a score that was worked out earlier in the batch is never too
//! low, and it is enough to work out again what has come to the top of the heap (lazy evaluation, Minoux 1978): the choice is
//! the same as if every worker were scored for every task. Where a worker gives something back, because a task is moved, it is put on the
//! heap anew.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use crate::books::Books;
use crate::class::Link;
use crate::estimate::Estimate;
use crate::history::History;
use crate::pressure::Pressure;
use crate::score::{PART_MAX, balance, expense, hash, learned, placed, share, tie, unneeded_devices};
use crate::{Cluster, Parts, Task, Tuning};

/// The heap, and what does not change within the batch.
pub struct Pool {
    members: Vec<Member>,
    heap: BinaryHeap<Entry>,
}

/// An eligible worker. The members are in the order of their ids, and those without room are not in the heap.
struct Member {
    at: usize,
    parts: Parts,
    /// The weighted sum of all parts but *balance*.
    fixed: u32,
    tie: u64,
}

/// The best first: by score, then whoever was given least in this batch, then by the tie-breaker, then by id.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Entry {
    score: u32,
    taken: Reverse<u32>,
    tie: u64,
    member: Reverse<usize>,
    /// As of which state of the worker; see [`Books::changes`].
    changes: u32,
}

/// Everything that scoring rests on.
pub struct Facts<'a> {
    pub cluster: &'a Cluster,
    pub history: &'a History,
    pub tuning: &'a Tuning,
    pub pressure: &'a Pressure,
    /// Of each worker's node, for its runtime; see [`History`].
    pub paces: Vec<u64>,
}

/// A worker and the parts of its score, as it stands now.
#[derive(Clone, Copy)]
pub struct Choice {
    pub at: usize,
    pub score: u32,
    pub parts: Parts,
}

impl Pool {
    pub fn new(task: &Task, level: u8, link: &Link<'_>, facts: &Facts<'_>, books: &Books) -> Self {
        let workers = facts.cluster.workers();
        let expected = estimates(task, link, facts);
        let fastest_ms = expected.iter().map(|(_, e)| e.run_ms).min().unwrap_or(1);
        let cost = |at: usize, expected: Estimate| expense(expected, workers[at].cost_per_second);
        let cheapest = expected.iter().map(|(at, e)| cost(*at, *e)).min().unwrap_or(0);
        let (low, high) = facts.pressure.range(link.eligible.iter());
        let weights = &facts.tuning.weights;
        let task_hash = hash(&task.id);
        let mut pool = Self { members: Vec::with_capacity(expected.len()), heap: BinaryHeap::new() };
        let mut entries = Vec::with_capacity(expected.len());
        for (at, expected) in expected {
            let mut parts = Parts::default();
            learned(&mut parts, expected, fastest_ms, cheapest, level, &workers[at]);
            placed(&mut parts, task, facts.cluster, at);
            let pressed = share((facts.pressure.of(at) - low).into(), high.into()) / 2;
            let unneeded = if unneeded_devices(task, &workers[at]) { PART_MAX / 2 } else { 0 };
            parts.thrift = PART_MAX - unneeded - pressed;
            pool.members.push(Member { at, fixed: parts.score(weights), parts, tie: tie(task_hash, facts.cluster.hash(at)) });
            entries.extend(pool.entry(pool.members.len() - 1, task, facts, books));
        }
        pool.heap = entries.into();
        pool
    }

    /// The best workers with room, at most `count` of them, the best first.
    pub fn best(&mut self, count: usize, task: &Task, facts: &Facts<'_>, books: &Books) -> Vec<Choice> {
        let mut found: Vec<Entry> = Vec::with_capacity(count);
        while let Some(top) = self.freshest(task, facts, books) {
            // Twice in the heap if it was refreshed.
            if found.iter().all(|entry| entry.member != top.member) {
                found.push(top);
            }
            if found.len() == count {
                break;
            }
            self.heap.pop();
        }
        // The last one was left on the heap, and what is given a task is found out of date when it next comes to the top.
        let popped = if found.len() == count { count - 1 } else { found.len() };
        self.heap.extend(&found[..popped]);
        found.iter().map(|entry| self.choice(entry, task, facts, books)).collect()
    }

    /// Brings a worker up to date that may have become better, because it gave something back.
    pub fn refresh(&mut self, at: usize, task: &Task, facts: &Facts<'_>, books: &Books) {
        if let Ok(number) = self.members.binary_search_by_key(&at, |member| member.at) {
            self.heap.extend(self.entry(number, task, facts, books));
        }
    }

    /// An eligible worker as it stands now.
    pub fn member(&self, at: usize, task: &Task, facts: &Facts<'_>, books: &Books) -> Option<Choice> {
        let number = self.members.binary_search_by_key(&at, |member| member.at).ok()?;
        let entry = self.entry(number, task, facts, books)?;
        Some(self.choice(&entry, task, facts, books))
    }

    /// Whether any worker has room.
    pub fn has_room(&mut self, task: &Task, facts: &Facts<'_>, books: &Books) -> bool {
        self.freshest(task, facts, books).is_some()
    }

    /// The best worker, which stays on the heap, its score brought up to date.
    fn freshest(&mut self, task: &Task, facts: &Facts<'_>, books: &Books) -> Option<Entry> {
        loop {
            let mut top = self.heap.peek_mut()?;
            let member = &self.members[top.member.0];
            if top.changes == books.changes(member.at) {
                return Some(*top);
            }
            match member.entry(top.member.0, task, facts, books) {
                // Written over in place, for it mostly sinks by a little.
                Some(entry) => *top = entry,
                None => drop(PeekMut::pop(top)),
            }
        }
    }

    /// How a member stands now; none if it has no room.
    fn entry(&self, number: usize, task: &Task, facts: &Facts<'_>, books: &Books) -> Option<Entry> {
        self.members[number].entry(number, task, facts, books)
    }

    fn choice(&self, entry: &Entry, task: &Task, facts: &Facts<'_>, books: &Books) -> Choice {
        let member = &self.members[entry.member.0];
        let worker = &facts.cluster.workers()[member.at];
        Choice { at: member.at, score: entry.score, parts: Parts { balance: balance(task, worker, member.at, books), ..member.parts } }
    }
}

impl Member {
    fn entry(&self, number: usize, task: &Task, facts: &Facts<'_>, books: &Books) -> Option<Entry> {
        let worker = &facts.cluster.workers()[self.at];
        books.has_room(self.at, worker, &task.requires).then(|| {
            let balance = balance(task, worker, self.at, books);
            Entry {
                score: self.fixed + u32::from(balance) * u32::from(facts.tuning.weights.balance),
                taken: Reverse(books.taken(self.at)),
                tie: self.tie,
                member: Reverse(number),
                changes: books.changes(self.at),
            }
        })
    }
}

/// What to expect of the task on each eligible worker.
pub fn estimates(task: &Task, link: &Link<'_>, facts: &Facts<'_>) -> Vec<(usize, Estimate)> {
    let (general, by_node) = facts.history.on_runtime(&task.artifact, link.runtime, facts.tuning);
    let on = |at: usize| {
        let node = facts.cluster.workers()[at].node.as_str();
        // Mostly nothing is known of a node, and then there is nothing to look for.
        let record = if by_node.is_empty() { None } else { by_node.get(node) };
        general.on(facts.paces[at], record.copied()).estimate()
    };
    link.eligible.iter().map(|at| (at, on(at))).collect()
}

//! Which task a worker gets next.
//!
//! Between namespaces, stride scheduling: each has a *pass*, the lowest is served, and being served raises it by a stride, which is the
//! shorter the greater the weight. Within a namespace: the task with the lowest [`Rank`] among the heads of all groups that the worker can
//! run. A namespace's groups are looked at when its turn comes, once per command; each further task costs the logarithm of their number,
//! and nothing depends on how long a queue is, or on how many namespaces wait: [`lanes`] says which is next. For a worker that serves only
//! some namespaces all of those are looked at; for one that serves only some queues, each time that a namespace is looked at, one bit of each
//! that stands before it and has nothing in them.
//!
//! Namespaces without isolation share one *lane*: their tasks compete with each other by rank alone, and the lane has the pass of whichever
//! of them stands highest. Every other namespace is a lane of its own. Which of the shared lane's tasks comes first depends on how each has
//! aged, so when its turn comes all its members are looked at.
//!
//! Where all workers serve all namespaces, no pass is ever more than one stride above the lowest. Workers that serve only some of them, and
//! namespaces that have been idle, would break that: whoever had much for itself would stand far above the others, and get nothing until
//! they caught up. So whoever meets at a lease is brought within one stride of the lowest of them first: the past gives neither credit nor
//! debt beyond one task, and nobody starves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use tarn_proto::v1::WorkerCapabilities;

use super::lanes::{self, View};
use super::{Indices, NamespaceIndex, Rank};
use crate::rows::Class;

/// Whether a worker with these capabilities serves a namespace or a queue: an empty list means all.
pub fn serves(list: &[String], name: &str) -> bool {
    list.is_empty() || list.iter().any(|entry| entry == name)
}

/// Whether a worker with these capabilities can run tasks of this class.
pub fn matches_class(capabilities: &WorkerCapabilities, class: &Class) -> bool {
    let runtime = match capabilities.runtimes.is_empty() {
        true => class.runtime.is_empty(),
        false => capabilities.runtimes.contains(&class.runtime),
    };
    runtime && serves(&capabilities.handlers, &class.handler) && class.requires.iter().all(|label| capabilities.labels.contains(label))
}

/// The lane of all namespaces without isolation: a number that no namespace has.
const COMMON: u64 = 0;

/// Tasks that follow each other, as (namespace, queue, class). Without a class: one task alone.
type Candidates = (u64, u64, Option<Arc<Class>>);

/// The candidates of one lease command.
pub struct Pick<'a> {
    now: u64,
    groups: Vec<Candidates>,
    /// Heads of groups by lane, best first. Lanes that were not looked at are absent.
    heads: BTreeMap<u64, BinaryHeap<Reverse<(Rank, usize)>>>,
    /// Lanes that have heads, by pass.
    order: BTreeSet<(u64, u64)>,
    /// `None` if everything was looked at to begin with.
    rest: Option<Rest<'a>>,
}

/// The lanes that were not looked at yet. None of them stands before the first of those that were.
struct Rest<'a> {
    capabilities: &'a WorkerCapabilities,
    /// The classes of tasks that they have for the worker.
    classes: Vec<Arc<Class>>,
    /// Where the last lane of its own stood that was looked at.
    after: (u64, u64),
    /// The one that stands next, if it was found already: those that are not looked at stay where they are.
    next: Option<(u64, u64)>,
    lanes: usize,
}

impl<'a> Pick<'a> {
    /// Gives the candidates, and the namespaces whose pass is lowered by their meeting: to be lowered before the first
    /// [`Pick::advance`].
    pub fn new(indices: &Indices, capabilities: &'a WorkerCapabilities, now: u64) -> (Self, Vec<(u64, u64)>) {
        if !capabilities.namespaces.is_empty() {
            return Pick::looking_at(indices, indices.named(capabilities), capabilities, now);
        }
        let (classes, lines): (Vec<_>, Vec<_>) = indices.lanes.of(capabilities).map(|(class, line)| (class.clone(), line)).unzip();
        let rest = Rest { capabilities, after: (0, 0), next: None, lanes: lanes::count(&lines), classes };
        let mut pick = Pick { now, groups: Vec::new(), heads: BTreeMap::new(), order: BTreeSet::new(), rest: Some(rest) };
        pick.look(indices, &lines);
        (pick, lowered(indices, &lines))
    }

    /// The same where all these namespaces are looked at to begin with.
    fn looking_at(indices: &Indices, all: BTreeSet<u64>, capabilities: &WorkerCapabilities, now: u64) -> (Self, Vec<(u64, u64)>) {
        let mut heads = Vec::new();
        for ns in all {
            visit(indices, ns, capabilities, |queue, class, group| {
                heads.extend(group.head(now).map(|rank| (rank, (ns, queue, Some(class.clone())))));
                false
            });
        }
        Pick::of(indices, heads, now)
    }

    /// The same for a worker that gets nothing but these tasks, each as its rank and its namespace.
    pub fn among(indices: &Indices, tasks: Vec<(Rank, u64)>, now: u64) -> (Self, Vec<(u64, u64)>) {
        let is_open = |ns: &u64| indices.namespaces.get(ns).is_some_and(|namespace| !namespace.is_full());
        let open = tasks.into_iter().filter(|(_, ns)| is_open(ns));
        Pick::of(indices, open.map(|(rank, ns)| (rank, (ns, 0, None))).collect(), now)
    }

    fn of(indices: &Indices, heads: Vec<(Rank, Candidates)>, now: u64) -> (Self, Vec<(u64, u64)>) {
        let mut pick = Pick { now, groups: Vec::new(), heads: BTreeMap::new(), order: BTreeSet::new(), rest: None };
        for (rank, group) in heads {
            let lane = indices.namespaces.get(&group.0).map_or(group.0, |namespace| lane(group.0, namespace));
            pick.add(lane, rank, group);
        }
        let met: BTreeSet<u64> = pick.groups.iter().map(|(ns, _, _)| *ns).collect();
        let present = || met.iter().filter_map(|ns| Some((*ns, indices.namespaces.get(ns)?)));
        let mut passes = BTreeMap::new();
        for (ns, namespace) in present() {
            raise(&mut passes, lane(ns, namespace), namespace.pass);
        }
        let lowest = passes.values().copied().min().unwrap_or(0);
        let mut lowered = Vec::new();
        passes.clear();
        for (ns, namespace) in present() {
            let pass = namespace.pass.min(lowest.saturating_add(namespace.stride()));
            if pass < namespace.pass {
                lowered.push((ns, pass));
            }
            raise(&mut passes, lane(ns, namespace), pass);
        }
        pick.order = passes.into_iter().map(|(lane, pass)| (pass, lane)).collect();
        (pick, lowered)
    }

    fn add(&mut self, lane: u64, rank: Rank, group: Candidates) {
        self.heads.entry(lane).or_default().push(Reverse((rank, self.groups.len())));
        self.groups.push(group);
    }

    /// Looks at the next lane that was not looked at yet, if it stands before all that were.
    fn look(&mut self, indices: &Indices, lines: &[View<'_>]) {
        self.find_next(lines);
        let Some(rest) = &mut self.rest else { return };
        let Some(next) = rest.next.filter(|next| self.order.first().is_none_or(|first| next < first)) else { return };
        let able = rest.capabilities;
        rest.next = None;
        rest.lanes -= 1;
        self.order.insert(next);
        match next.1 {
            COMMON => lanes::common(lines).into_iter().for_each(|ns| self.look_at(indices, able, COMMON, ns)),
            ns => self.look_at(indices, able, ns, ns),
        }
    }

    /// Adds what a namespace has for the worker.
    fn look_at(&mut self, indices: &Indices, able: &WorkerCapabilities, lane: u64, ns: u64) {
        visit(indices, ns, able, |queue, class, group| {
            if let Some(rank) = group.head(self.now) {
                self.add(lane, rank, (ns, queue, Some(class.clone())));
            }
            false
        });
    }

    /// Finds where that lane stands, as (pass, lane).
    fn find_next(&mut self, lines: &[View<'_>]) {
        let Some(rest) = self.rest.as_mut().filter(|rest| rest.lanes > 0 && rest.next.is_none()) else { return };
        let mut own = lanes::next(lines, rest.after);
        // Who was looked at and has anything left is met again where it stands now.
        while let Some(place) = own.filter(|(_, ns)| self.heads.contains_key(ns)) {
            rest.after = place;
            own = lanes::next(lines, place);
        }
        let unseen = !self.heads.contains_key(&COMMON);
        let common = unseen.then(|| lanes::common_pass(lines)).flatten().map(|pass| (pass, COMMON));
        rest.next = own.into_iter().chain(common).min();
    }

    /// The next task, as (namespace, task).
    pub fn peek(&self) -> Option<(u64, u64)> {
        let (_, lane) = self.order.first()?;
        let Reverse((rank, number)) = self.heads.get(lane)?.peek()?;
        let (ns, _, _) = self.groups.get(*number)?;
        Some((*ns, rank.id))
    }

    /// The pass of the lane whose task [`Pick::peek`] gives.
    pub fn pass(&self) -> u64 {
        self.order.first().map_or(0, |(pass, _)| *pass)
    }

    /// How many lanes, which mostly are namespaces, have a task for this worker.
    pub fn namespaces(&self) -> usize {
        self.order.len() + self.rest.as_ref().map_or(0, |rest| rest.lanes)
    }

    /// Goes on after the task that [`Pick::peek`] gave has left the ready list.
    pub fn advance(&mut self, indices: &Indices) {
        self.leave(indices);
        let Some(rest) = self.rest.as_ref().filter(|rest| rest.lanes > 0) else { return };
        let stays = |next: &(u64, u64)| self.order.first().is_some_and(|first| first < next);
        if !rest.next.as_ref().is_some_and(stays) {
            self.look(indices, &indices.lanes.among(&rest.classes, rest.capabilities));
        }
    }

    /// The first lane goes to where it stands now, if it has anything left.
    fn leave(&mut self, indices: &Indices) {
        let Some((mut pass, lane)) = self.order.pop_first() else {
            return;
        };
        let Some(heads) = self.heads.get_mut(&lane) else { return };
        if let Some(Reverse((_, number))) = heads.pop() {
            let (ns, queue, class) = &self.groups[number];
            let namespace = indices.namespaces.get(ns);
            pass = pass.max(namespace.map_or(0, |namespace| namespace.pass));
            let queue = namespace.and_then(|namespace| namespace.queues.get(queue));
            let group = queue.zip(class.as_ref()).and_then(|(queue, class)| queue.groups.get(class));
            if let Some(rank) = group.and_then(|group| group.head(self.now)) {
                heads.push(Reverse((rank, number)));
            }
        }
        // Whoever has as many running as it may has nothing to offer any more.
        let full = |number: usize| indices.namespaces.get(&self.groups[number].0).is_none_or(NamespaceIndex::is_full);
        while heads.peek().is_some_and(|Reverse((_, number))| full(*number)) {
            heads.pop();
        }
        if !heads.is_empty() {
            self.order.insert((pass, lane));
        }
    }
}

fn lane(ns: u64, namespace: &NamespaceIndex) -> u64 {
    if namespace.is_common() { COMMON } else { ns }
}

fn raise(passes: &mut BTreeMap<u64, u64>, lane: u64, pass: u64) {
    let highest = passes.entry(lane).or_default();
    *highest = pass.max(*highest);
}

/// The namespaces in these lines that stand too far above the lowest, and the passes that they get.
fn lowered(indices: &Indices, lines: &[View<'_>]) -> Vec<(u64, u64)> {
    let Some(lowest) = lanes::lowest(lines) else { return Vec::new() };
    let pass = |ns| Some((ns, lowest.saturating_add(indices.namespaces.get(&ns)?.stride())));
    lanes::above(lines, lowest).into_iter().filter_map(pass).collect()
}

impl Indices {
    /// Whether a worker with these capabilities could be given a task now.
    pub fn has_ready_for(&self, capabilities: &WorkerCapabilities) -> bool {
        if capabilities.namespaces.is_empty() {
            return lanes::any(self.lanes.of(capabilities).map(|(_, line)| line));
        }
        let ready = |ns| visit(self, ns, capabilities, |_, _, group| group.oldest_ms().is_some());
        self.named(capabilities).into_iter().any(ready)
    }

    /// The same of one that gets only what was placed at it.
    pub fn has_placed_for(&self, worker: u64, capabilities: &WorkerCapabilities) -> bool {
        let open = |namespace: &NamespaceIndex| !namespace.is_full() && namespace.is_served_by(capabilities);
        let placed = self.placed.get(&worker).into_iter().flatten();
        placed.map(|(ns, _)| ns).any(|ns| self.namespaces.get(ns).is_some_and(open))
    }

    /// The namespaces in a worker's list, as far as they are there.
    fn named(&self, capabilities: &WorkerCapabilities) -> BTreeSet<u64> {
        capabilities.namespaces.iter().filter_map(|name| self.namespace_ids.get(name.as_str()).copied()).collect()
    }
}

/// Calls `see` with every group of a namespace that a worker with these capabilities can run, until it returns true; says whether it did.
fn visit(indices: &Indices, ns: u64, able: &WorkerCapabilities, mut see: impl FnMut(u64, &Arc<Class>, &super::Group) -> bool) -> bool {
    let namespace = indices.namespaces.get(&ns);
    let Some(namespace) = namespace.filter(|namespace| namespace.ready > 0 && !namespace.is_full() && namespace.is_served_by(able)) else {
        return false;
    };
    let queues = namespace.queues.iter().filter(|(_, queue)| queue.ready > 0 && serves(&able.queues, &queue.name));
    let mut groups = queues.flat_map(|(id, queue)| queue.groups.iter().map(move |(class, group)| (*id, class, group)));
    groups.any(|(id, class, group)| matches_class(able, class) && see(id, class, group))
}

#[cfg(test)]
mod tests;

//! Which task a worker gets next.
//!
//! Between namespaces, stride scheduling: each has a *pass*, the lowest is served, and being served raises it by a stride, which is the
//! shorter the greater the weight. Within a namespace: the task with the lowest [`Rank`] among the heads of all groups that the worker can
//! run. Looking at the groups costs time once per command; each further task costs the logarithm of their number, and nothing depends on
//! how long a queue is.
//!
//! Namespaces without isolation share one *lane*: their tasks compete with each other by rank alone, and the lane has the pass of whichever
//! of them stands highest. Every other namespace is a lane of its own.
//!
//! Where all workers serve all namespaces, no pass is ever more than one stride above the lowest. Workers that serve only some of them, and
//! namespaces that have been idle, would break that: whoever had much for itself would stand far above the others, and get nothing until
//! they caught up. So whoever meets at a lease is brought within one stride of the lowest of them first: the past gives neither credit nor
//! debt beyond one task, and nobody starves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use tarn_proto::v1::{Isolation, WorkerCapabilities};

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
pub struct Pick {
    now: u64,
    groups: Vec<Candidates>,
    /// Heads of groups by lane, best first. Lanes without any are absent.
    heads: BTreeMap<u64, BinaryHeap<Reverse<(Rank, usize)>>>,
    /// Lanes that have heads, by pass.
    order: BTreeSet<(u64, u64)>,
}

impl Pick {
    /// Looks at every group with ready tasks. Gives the candidates, and the namespaces whose pass is lowered by their meeting.
    pub fn new(indices: &Indices, capabilities: &WorkerCapabilities, now: u64) -> (Self, Vec<(u64, u64)>) {
        let mut heads = Vec::new();
        visit(indices, capabilities, |ns, queue, class, group| {
            heads.extend(group.head(now).map(|rank| (rank, (ns, queue, Some(class.clone())))));
            false
        });
        Pick::of(indices, heads, now)
    }

    /// The same for a worker that gets nothing but these tasks, each as its rank and its namespace.
    pub fn among(indices: &Indices, tasks: Vec<(Rank, u64)>, now: u64) -> (Self, Vec<(u64, u64)>) {
        let is_open = |ns: &u64| indices.namespaces.get(ns).is_some_and(|namespace| !namespace.is_full());
        let open = tasks.into_iter().filter(|(_, ns)| is_open(ns));
        Pick::of(indices, open.map(|(rank, ns)| (rank, (ns, 0, None))).collect(), now)
    }

    fn of(indices: &Indices, heads: Vec<(Rank, Candidates)>, now: u64) -> (Self, Vec<(u64, u64)>) {
        let mut pick = Pick { now, groups: Vec::new(), heads: BTreeMap::new(), order: BTreeSet::new() };
        for (rank, group) in heads {
            let lane = indices.namespaces.get(&group.0).map_or(group.0, |namespace| lane(group.0, namespace));
            pick.heads.entry(lane).or_default().push(Reverse((rank, pick.groups.len())));
            pick.groups.push(group);
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
        self.order.len()
    }

    /// Goes on after the task that [`Pick::peek`] gave has left the ready list.
    pub fn advance(&mut self, indices: &Indices) {
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
    match namespace.row.isolation() {
        Isolation::None => COMMON,
        Isolation::Unspecified | Isolation::Strict | Isolation::Shared => ns,
    }
}

fn raise(passes: &mut BTreeMap<u64, u64>, lane: u64, pass: u64) {
    let highest = passes.entry(lane).or_default();
    *highest = pass.max(*highest);
}

impl Indices {
    /// Whether a worker with these capabilities could be given a task now.
    pub fn has_ready_for(&self, capabilities: &WorkerCapabilities) -> bool {
        visit(self, capabilities, |_, _, _, group| group.oldest_ms().is_some())
    }

    /// The same of one that gets only what was placed at it.
    pub fn has_placed_for(&self, worker: u64, capabilities: &WorkerCapabilities) -> bool {
        let open = |namespace: &NamespaceIndex| !namespace.is_full() && namespace.is_served_by(capabilities);
        let placed = self.placed.get(&worker).into_iter().flatten();
        placed.map(|(ns, _)| ns).any(|ns| self.namespaces.get(ns).is_some_and(open))
    }
}

/// Calls `see` with every group that a worker with these capabilities can run, until it returns true; says whether it did.
fn visit(indices: &Indices, capabilities: &WorkerCapabilities, mut see: impl FnMut(u64, u64, &Arc<Class>, &super::Group) -> bool) -> bool {
    for (ns, namespace) in &indices.namespaces {
        if namespace.ready == 0 || namespace.is_full() || !namespace.is_served_by(capabilities) {
            continue;
        }
        for (id, queue) in &namespace.queues {
            if queue.ready == 0 || !serves(&capabilities.queues, &queue.name) {
                continue;
            }
            for (class, group) in &queue.groups {
                if matches_class(capabilities, class) && see(*ns, *id, class, group) {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn a_class_matches_by_runtime_handler_and_labels() {
        let class = |runtime: &str, handler: &str, requires: &[&str]| Class {
            runtime: runtime.into(),
            handler: handler.into(),
            requires: strings(requires),
        };
        let sdk = WorkerCapabilities { handlers: strings(&["resize"]), labels: strings(&["gpu"]), ..Default::default() };
        assert!(matches_class(&sdk, &class("", "resize", &["gpu"])));
        assert!(!matches_class(&sdk, &class("", "resize", &["gpu", "zone=a"])));
        assert!(!matches_class(&sdk, &class("", "other", &[])));
        assert!(!matches_class(&sdk, &class("", "", &[])), "it announced handlers, and this task names none of them");
        assert!(!matches_class(&sdk, &class("wasm", "resize", &[])));
        let wasm = WorkerCapabilities { runtimes: strings(&["wasm"]), ..Default::default() };
        assert!(matches_class(&wasm, &class("wasm", "", &[])));
        assert!(!matches_class(&wasm, &class("", "", &[])));
        assert!(matches_class(&WorkerCapabilities::default(), &class("", "anything", &[])));
    }
}

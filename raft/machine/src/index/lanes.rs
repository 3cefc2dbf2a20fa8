//! Where namespaces stand in line: what finds the next one to be served without looking at the others.
//!
//! One line for each class of which anything is ready. In it stand the namespaces that have such tasks and are open: not full, and not
//! reserved for workers of their own. A namespace moves when it is served, and comes or goes when it gets its first ready task of the class
//! or loses its last: how many tasks it has is nothing to the line. A worker that serves all namespaces and queues sees the lines of the
//! classes that it can run, which are few, and of each its ends.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use tarn_proto::v1::WorkerCapabilities;

use super::{Indices, NamespaceIndex, matches_class};
use crate::error::Fatal;
use crate::rows::Class;

/// Where a namespace stands, in every line that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    pass: u64,
    /// It is lowered where the lowest pass is below this.
    floor: u64,
    /// Whether it shares the lane of those without isolation.
    common: bool,
}

/// The lines of all classes.
#[derive(Debug, Default, PartialEq)]
pub struct Lanes {
    /// All namespaces, sorted: the place of each here is that of its bit in every line.
    places: Vec<u64>,
    /// Lines in which somebody stands.
    lines: BTreeMap<Arc<Class>, Line>,
}

/// The namespaces that have ready tasks of one class and are open.
#[derive(Debug, Default, PartialEq)]
pub struct Line {
    /// Those that are lanes of their own, as (pass, namespace).
    own: BTreeSet<(u64, u64)>,
    /// The same as bits, without zeros at the end: lines that have members in common are counted together.
    bits: Vec<u64>,
    /// Those that share a lane, as (pass, namespace).
    common: BTreeSet<(u64, u64)>,
    /// All, as (pass less one stride, namespace).
    floors: BTreeSet<(u64, u64)>,
}

impl Line {
    /// A namespace goes from one place to another.
    fn step(&mut self, places: &[u64], ns: u64, from: Option<Seat>, to: Option<Seat>) {
        if let Some(from) = from {
            self.floors.remove(&(from.floor, ns));
            self.beside(from).remove(&(from.pass, ns));
        }
        if let Some(to) = to {
            self.floors.insert((to.floor, ns));
            self.beside(to).insert((to.pass, ns));
        }
        let own = |seat: Option<Seat>| seat.is_some_and(|seat| !seat.common);
        if own(from) != own(to) {
            mark(&mut self.bits, places, ns, own(to));
        }
    }

    fn beside(&mut self, seat: Seat) -> &mut BTreeSet<(u64, u64)> {
        if seat.common { &mut self.common } else { &mut self.own }
    }
}

/// Sets the bit of a namespace, or clears it.
fn mark(bits: &mut Vec<u64>, places: &[u64], ns: u64, set: bool) {
    let Ok(place) = places.binary_search(&ns) else { return };
    bits.resize(bits.len().max(place / 64 + 1), 0);
    let bit = 1 << (place % 64);
    bits[place / 64] = if set { bits[place / 64] | bit } else { bits[place / 64] & !bit };
    while bits.last() == Some(&0) {
        bits.pop();
    }
}

impl Lanes {
    /// The lines of the classes that a worker with these capabilities can run.
    pub fn of(&self, capabilities: &WorkerCapabilities) -> impl Iterator<Item = (&Arc<Class>, &Line)> {
        self.lines.iter().filter(|(class, _)| matches_class(capabilities, class))
    }

    /// The lines of these classes that are there still.
    pub fn among(&self, classes: &[Arc<Class>]) -> Vec<&Line> {
        classes.iter().filter_map(|class| self.lines.get(class)).collect()
    }

    /// A namespace goes from one place in a line to another, or comes, or goes.
    fn step(&mut self, ns: u64, class: &Arc<Class>, from: Option<Seat>, to: Option<Seat>) {
        if from.or(to).is_none() {
            return;
        }
        match self.lines.get_mut(class) {
            Some(line) => {
                line.step(&self.places, ns, from, to);
                if line.floors.is_empty() {
                    self.lines.remove(class);
                }
            }
            None => self.lines.entry(class.clone()).or_default().step(&self.places, ns, from, to),
        }
    }

    /// Notes that there is a namespace, or that it is gone: it has left every line, for it held nothing.
    pub(super) fn note(&mut self, ns: u64, there: bool) {
        match (self.places.binary_search(&ns), there) {
            (Err(place), true) => self.places.insert(place, ns),
            (Ok(place), false) => drop(self.places.remove(place)),
            _ => return,
        }
        // Newer ones come last. Else whoever is after it has another place now.
        if self.places.last() != Some(&ns) {
            for Line { own, bits, .. } in self.lines.values_mut() {
                bits.clear();
                own.iter().for_each(|(_, ns)| mark(bits, &self.places, *ns, true));
            }
        }
    }
}

/// The lowest pass of all lanes in these lines.
pub fn lowest(lines: &[&Line]) -> Option<u64> {
    let own = lines.iter().filter_map(|line| line.own.first()).map(|(pass, _)| *pass).min();
    own.into_iter().chain(common_pass(lines)).min()
}

/// The pass of the common lane: the highest of its members.
pub fn common_pass(lines: &[&Line]) -> Option<u64> {
    lines.iter().filter_map(|line| line.common.last()).map(|(pass, _)| *pass).max()
}

/// The members of the common lane.
pub fn common(lines: &[&Line]) -> BTreeSet<u64> {
    lines.iter().flat_map(|line| &line.common).map(|(_, ns)| *ns).collect()
}

/// Everybody.
pub fn members(lines: &[&Line]) -> BTreeSet<u64> {
    lines.iter().flat_map(|line| &line.floors).map(|(_, ns)| *ns).collect()
}

/// Those whose pass is more than their stride above this one.
pub fn above(lines: &[&Line], pass: u64) -> BTreeSet<u64> {
    let far = lines.iter().flat_map(|line| line.floors.range((Excluded((pass, u64::MAX)), Unbounded)));
    far.map(|(_, ns)| *ns).collect()
}

/// The lane of its own that stands next after this place.
pub fn next(lines: &[&Line], after: (u64, u64)) -> Option<(u64, u64)> {
    lines.iter().filter_map(|line| line.own.range((Excluded(after), Unbounded)).next()).min().copied()
}

/// How many lanes these lines have together.
pub fn count(lines: &[&Line]) -> usize {
    let shared = usize::from(lines.iter().any(|line| !line.common.is_empty()));
    let words = lines.iter().map(|line| line.bits.len()).max().unwrap_or(0);
    let word = |place: usize| lines.iter().filter_map(|line| line.bits.get(place)).fold(0, |all, word| all | word);
    shared + (0..words).map(|place| word(place).count_ones() as usize).sum::<usize>()
}

impl NamespaceIndex {
    /// Where it stands while it has ready tasks; `None` if nobody who comes along is given any.
    fn seat(&self) -> Option<Seat> {
        let open = !self.is_full() && !self.is_strict();
        open.then(|| Seat { pass: self.pass, floor: self.pass.saturating_sub(self.stride()), common: self.is_common() })
    }
}

impl Indices {
    /// Changes what decides where a namespace stands: its pass, its row, how many of its tasks run.
    pub fn move_namespace(&mut self, ns: u64, change: impl FnOnce(&mut NamespaceIndex)) -> Result<(), Fatal> {
        let namespace = find(&mut self.namespaces, ns)?;
        let before = namespace.seat();
        change(namespace);
        let after = namespace.seat();
        if before != after {
            for class in namespace.ready_in.keys() {
                self.lanes.step(ns, class, before, after);
            }
        }
        Ok(())
    }

    /// Notes that a queue has its first ready task of a class.
    pub(super) fn begin_ready(&mut self, ns: u64, class: &Arc<Class>) -> Result<(), Fatal> {
        let namespace = find(&mut self.namespaces, ns)?;
        let queues = namespace.ready_in.entry(class.clone()).or_default();
        *queues += 1;
        if *queues == 1 {
            self.lanes.step(ns, class, None, namespace.seat());
        }
        Ok(())
    }

    /// Notes that a queue has lost its last ready task of a class.
    pub(super) fn end_ready(&mut self, ns: u64, class: &Class) -> Result<(), Fatal> {
        let namespace = find(&mut self.namespaces, ns)?;
        let queues = namespace.ready_in.get_mut(class).ok_or_else(|| Fatal::assertion("a queue lost tasks that nobody counted"))?;
        *queues -= 1;
        if *queues == 0
            && let Some((class, _)) = namespace.ready_in.remove_entry(class)
        {
            self.lanes.step(ns, &class, namespace.seat(), None);
        }
        Ok(())
    }
}

fn find(namespaces: &mut BTreeMap<u64, NamespaceIndex>, ns: u64) -> Result<&mut NamespaceIndex, Fatal> {
    namespaces.get_mut(&ns).ok_or_else(|| Fatal::assertion(format!("a row names the unknown namespace {ns}")))
}

//! Where namespaces stand in line: what finds the next one to be served without looking at the others.
//!
//! One line for each class of which anything is ready. In it stand the namespaces that have such tasks and are open: not full, and not
//! reserved for workers of their own. A namespace moves when it is served, and comes or goes when it gets its first ready task of the class
//! or loses its last: how many tasks it has is nothing to the line. A worker that serves all namespaces sees the lines of the
//! classes that it can run, which are few, and of each its ends. One that serves only some queues passes over namespaces that have nothing in
//! those, each known by one bit.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{self, Excluded, Unbounded};
use std::sync::Arc;

use tarn_proto::v1::WorkerCapabilities;

use super::bits::Bits;
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
    /// All namespaces, sorted: the place of each here is that of its bit.
    places: Vec<u64>,
    /// Lines in which somebody stands.
    lines: BTreeMap<Arc<Class>, Line>,
    /// Which namespaces, open or not, have ready tasks of a class in a queue of this name.
    queues: BTreeMap<Arc<Class>, BTreeMap<Arc<str>, Bits>>,
}

/// The namespaces that have ready tasks of one class and are open.
#[derive(Debug, Default, PartialEq)]
pub struct Line {
    /// Those that are lanes of their own, as (pass, namespace).
    own: BTreeSet<(u64, u64)>,
    /// The same: lines that have members in common are counted together.
    bits: Bits,
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
fn mark(bits: &mut Bits, places: &[u64], ns: u64, there: bool) {
    if let Ok(place) = places.binary_search(&ns) {
        bits.set(place, there);
    }
}

impl Lanes {
    /// What a worker with these capabilities sees of the lines of the classes that it can run.
    pub fn of<'a>(&'a self, capabilities: &'a WorkerCapabilities) -> impl Iterator<Item = (&'a Arc<Class>, View<'a>)> {
        let able = self.lines.iter().filter(|(class, _)| matches_class(capabilities, class));
        able.filter_map(|(class, line)| Some((class, self.view(class, line, &capabilities.queues)?)))
    }

    /// The same of these classes, as far as their lines are there still.
    pub fn among(&self, classes: &[Arc<Class>], capabilities: &WorkerCapabilities) -> Vec<View<'_>> {
        classes.iter().filter_map(|class| self.view(class, self.lines.get(class)?, &capabilities.queues)).collect()
    }

    /// `None` if nobody has anything in these queues.
    fn view<'a>(&'a self, class: &Class, line: &'a Line, queues: &[String]) -> Option<View<'a>> {
        let places = &self.places;
        if queues.is_empty() {
            return Some(View { line, places, seen: None });
        }
        let by_name = self.queues.get(class)?;
        let mut found = queues.iter().filter_map(|name| by_name.get(name.as_str()));
        let first = Cow::Borrowed(found.next()?);
        Some(View { line, places, seen: Some(found.fold(first, |all, more| Cow::Owned(all.union(more)))) })
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

    /// Notes that a namespace has ready tasks of a class in the queue of this name.
    fn begin(&mut self, ns: u64, class: &Arc<Class>, queue: &Arc<str>) {
        let by_name = self.queues.entry(class.clone()).or_default();
        mark(by_name.entry(queue.clone()).or_default(), &self.places, ns, true);
    }

    /// Notes that it has none any more.
    fn end(&mut self, ns: u64, class: &Class, queue: &str) {
        let Some(by_name) = self.queues.get_mut(class) else { return };
        let Some(bits) = by_name.get_mut(queue) else { return };
        mark(bits, &self.places, ns, false);
        if bits.is_empty() {
            by_name.remove(queue);
        }
        if by_name.is_empty() {
            self.queues.remove(class);
        }
    }

    /// Notes that there is a namespace, or that it is gone: it has left every line, for it held nothing.
    pub(super) fn note(&mut self, ns: u64, there: bool) {
        let place = match (self.places.binary_search(&ns), there) {
            (Err(place), true) => {
                self.places.insert(place, ns);
                place
            }
            (Ok(place), false) => {
                self.places.remove(place);
                place
            }
            _ => return,
        };
        let lines = self.lines.values_mut().map(|line| &mut line.bits);
        let queues = self.queues.values_mut().flat_map(BTreeMap::values_mut);
        lines.chain(queues).for_each(|bits| bits.shift(place, there));
    }
}

/// What a worker sees of a line: all of it, or those that have something in the queues that it serves.
pub struct View<'a> {
    line: &'a Line,
    places: &'a [u64],
    /// `None`: everybody.
    seen: Option<Cow<'a, Bits>>,
}

impl View<'_> {
    fn sees(&self, ns: u64) -> bool {
        let has = |seen: &Bits| self.places.binary_search(&ns).is_ok_and(|place| seen.contains(place));
        self.seen.as_ref().is_none_or(|seen| has(seen))
    }

    /// The first lane of its own behind this place.
    fn own(&self, after: Bound<(u64, u64)>) -> Option<(u64, u64)> {
        self.line.own.range((after, Unbounded)).find(|(_, ns)| self.sees(*ns)).copied()
    }

    /// The members of the common lane, the highest pass first.
    fn common(&self) -> impl Iterator<Item = (u64, u64)> {
        self.line.common.iter().rev().filter(|(_, ns)| self.sees(*ns)).copied()
    }

    /// One word of the bits of lanes of their own.
    fn word(&self, number: usize) -> u64 {
        self.line.bits.word(number) & self.seen.as_ref().map_or(u64::MAX, |seen| seen.word(number))
    }
}

/// The lowest pass of all lanes in these lines.
pub fn lowest(lines: &[View<'_>]) -> Option<u64> {
    let own = lines.iter().filter_map(|line| line.own(Unbounded)).map(|(pass, _)| pass).min();
    own.into_iter().chain(common_pass(lines)).min()
}

/// The pass of the common lane: the highest of its members.
pub fn common_pass(lines: &[View<'_>]) -> Option<u64> {
    lines.iter().filter_map(|line| line.common().next()).map(|(pass, _)| pass).max()
}

/// The members of the common lane.
pub fn common(lines: &[View<'_>]) -> BTreeSet<u64> {
    lines.iter().flat_map(View::common).map(|(_, ns)| ns).collect()
}

/// Whether anybody stands in these lines.
pub fn any<'a>(mut lines: impl Iterator<Item = View<'a>>) -> bool {
    let own = |line: &View<'_>| (0..line.line.bits.words()).any(|number| line.word(number) != 0);
    lines.any(|line| own(&line) || line.common().next().is_some())
}

/// Those whose pass is more than their stride above this one.
pub fn above(lines: &[View<'_>], pass: u64) -> BTreeSet<u64> {
    let far = |line: &View<'_>| -> Vec<u64> {
        let far = line.line.floors.range((Excluded((pass, u64::MAX)), Unbounded));
        far.map(|(_, ns)| *ns).filter(|ns| line.sees(*ns)).collect()
    };
    lines.iter().flat_map(far).collect()
}

/// The lane of its own that stands next after this place.
pub fn next(lines: &[View<'_>], after: (u64, u64)) -> Option<(u64, u64)> {
    lines.iter().filter_map(|line| line.own(Excluded(after))).min()
}

/// How many lanes these lines have together.
pub fn count(lines: &[View<'_>]) -> usize {
    let shared = usize::from(lines.iter().any(|line| line.common().next().is_some()));
    let words = lines.iter().map(|line| line.line.bits.words()).max().unwrap_or(0);
    let word = |number: usize| lines.iter().fold(0, |all, line| all | line.word(number));
    shared + (0..words).map(|number| word(number).count_ones() as usize).sum::<usize>()
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
    pub(super) fn begin_ready(&mut self, ns: u64, class: &Arc<Class>, queue: &Arc<str>) -> Result<(), Fatal> {
        self.lanes.begin(ns, class, queue);
        let namespace = find(&mut self.namespaces, ns)?;
        let queues = namespace.ready_in.entry(class.clone()).or_default();
        *queues += 1;
        if *queues == 1 {
            self.lanes.step(ns, class, None, namespace.seat());
        }
        Ok(())
    }

    /// Notes that a queue has lost its last ready task of a class.
    pub(super) fn end_ready(&mut self, ns: u64, class: &Class, queue: &str) -> Result<(), Fatal> {
        self.lanes.end(ns, class, queue);
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

//! Who waits for whom.
//!
//! An edge leads from a dependency to a task that has not ended, or is dead and might be requeued. It is *waiting* until the dependency has
//! ended and the dependent knows; then it is *settled*, and only keeps the dependency's result from being swept.

use std::collections::{BTreeMap, BTreeSet};

/// All edges, as (dependency, dependent).
#[derive(Debug, Default, PartialEq)]
pub struct Edges {
    waiting: BTreeSet<(u64, u64)>,
    settled: BTreeSet<(u64, u64)>,
    /// Waiting edges by dependent; absent if none.
    waits: BTreeMap<u64, u32>,
    /// All edges by dependency; absent if none.
    fanout: BTreeMap<u64, u32>,
}

impl Edges {
    /// Makes an edge waiting; true if it is new.
    pub fn wait(&mut self, dependency: u64, dependent: u64) -> bool {
        let known = self.settled.remove(&(dependency, dependent));
        if !self.waiting.insert((dependency, dependent)) {
            return false;
        }
        *self.waits.entry(dependent).or_default() += 1;
        if !known {
            *self.fanout.entry(dependency).or_default() += 1;
        }
        !known
    }

    /// Makes an edge settled; true if it is new.
    pub fn settle(&mut self, dependency: u64, dependent: u64) -> bool {
        let known = self.stop_waiting(dependency, dependent);
        if !self.settled.insert((dependency, dependent)) || known {
            return false;
        }
        *self.fanout.entry(dependency).or_default() += 1;
        true
    }

    /// Removes an edge; false if there was none.
    pub fn remove(&mut self, dependency: u64, dependent: u64) -> bool {
        if !self.stop_waiting(dependency, dependent) && !self.settled.remove(&(dependency, dependent)) {
            return false;
        }
        count_down(&mut self.fanout, dependency);
        true
    }

    /// A dependent that still waits for this task: the one with the lowest id.
    pub fn first_waiting(&self, dependency: u64) -> Option<u64> {
        let (found, dependent) = *self.waiting.range((dependency, 0)..).next()?;
        (found == dependency).then_some(dependent)
    }

    /// Whether this edge is waiting.
    pub fn is_waiting(&self, dependency: u64, dependent: u64) -> bool {
        self.waiting.contains(&(dependency, dependent))
    }

    /// Whether a task waits for anything.
    pub fn waits(&self, dependent: u64) -> bool {
        self.waits.contains_key(&dependent)
    }

    /// How many edges lead from this task.
    pub fn dependents(&self, dependency: u64) -> u32 {
        self.fanout.get(&dependency).copied().unwrap_or(0)
    }

    fn stop_waiting(&mut self, dependency: u64, dependent: u64) -> bool {
        if !self.waiting.remove(&(dependency, dependent)) {
            return false;
        }
        count_down(&mut self.waits, dependent);
        true
    }
}

/// Takes one off a count, and the count away with the last.
fn count_down(counts: &mut BTreeMap<u64, u32>, key: u64) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_waits_then_is_settled_then_gone() {
        let mut edges = Edges::default();
        assert!(edges.wait(1, 9) && edges.wait(2, 9) && edges.wait(1, 5));
        assert!(!edges.wait(1, 9), "an edge is counted once");
        assert_eq!(edges.first_waiting(1), Some(5));
        assert!(edges.waits(9) && edges.waits(5) && !edges.waits(1));
        assert!(!edges.settle(1, 5), "it was there before");
        assert_eq!(edges.first_waiting(1), Some(9));
        edges.settle(1, 9);
        assert!(edges.waits(9), "task 9 still waits for 2");
        edges.settle(2, 9);
        assert!(!edges.waits(9) && edges.dependents(1) == 2 && edges.dependents(2) == 1);
        assert!(edges.remove(1, 9) && edges.remove(2, 9) && edges.remove(1, 5) && !edges.remove(1, 5));
        assert_eq!(edges, Edges::default());
    }
}

//! How much a batch presses for each worker.

use crate::books::Books;
use crate::class::Class;

/// One task for each free slot.
const ONE: u64 = 1000;

/// For each worker the sum, over the classes of tasks that it is eligible for, of (tasks of the class) ÷ (free slots that they have to choose
/// from), in thousandths: what would fall on each of its slots if every class spread evenly over its most preferred runtime. A
/// worker that few others can stand in for is pressed for most.
pub struct Pressure {
    by_worker: Vec<u64>,
}

impl Pressure {
    pub fn new(classes: &[Class<'_>], books: &Books, workers: usize) -> Self {
        let mut by_worker = vec![0_u64; workers];
        for class in classes {
            let Some(link) = class.links.iter().find(|link| link.count > 0) else {
                continue;
            };
            let room: u64 = link.eligible.iter().map(|at| u64::from(books.slots(at))).sum();
            let share = class.tasks * ONE / room.max(1);
            for at in link.eligible.iter() {
                by_worker[at] = by_worker[at].saturating_add(share);
            }
        }
        Self { by_worker }
    }

    /// Of one worker.
    pub fn of(&self, worker: usize) -> u64 {
        self.by_worker[worker]
    }

    /// The lowest, and the highest but at least that of a task for each slot, among these workers. A class presses alike for all workers
    /// that are eligible for it: what a worker stands above the lowest is the others' doing.
    pub fn range(&self, workers: impl Iterator<Item = usize>) -> (u64, u64) {
        workers.fold((u64::MAX, ONE), |(low, high), at| (low.min(self.by_worker[at]), high.max(self.by_worker[at])))
    }
}

//! How well a worker suits a task.
//!
//! Every part is a whole number from 0 to 1,000, and the score is the sum of the parts, each times its weight. No floating point: two
//! nodes with the same input reach the same score.

use serde::{Deserialize, Serialize};

use crate::books::{Books, binding};
use crate::estimate::Estimate;
use crate::{Cluster, Task, Tuning, Weighed, Weights, Worker};

/// The best that a part can be.
pub const PART_MAX: u16 = 1000;
/// More failures on a node make it no worse.
const FAILURES_MAX: usize = 10;

/// The parts of a score. *Eligible* are the workers of the chosen runtime that satisfy every requirement, with room or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// 1000 × the shortest expected run time of any eligible worker ÷ this one's.
    pub performance: u16,
    /// 1000 × the least expected cost of any eligible worker ÷ this one's, where the cost of an attempt is its expected run time × the
    /// worker's cost per second, and it takes 1 ÷ success attempts. Both costs are raised by one, for some are zero.
    pub cost: u16,
    /// The expected success in thousandths × the worker's quality, halved for each time that the task has failed on this node.
    pub quality: u16,
    /// Performance × urgency: 1 for a critical task, then ¾, ½, ¼, and 0 for a background one.
    pub priority: u16,
    /// 1000 × the share of bytes of wanted data that lie on the node, and 1000 × the share of preferred labels that the worker carries;
    /// where a task has both, their mean; where it has neither, 1000.
    pub locality: u16,
    /// 1000 × the share of bytes of the dependencies' results that lie on the node; 1000 where there are none.
    pub dependencies: u16,
    /// 1000 × what would be left free of the scarcest of slots, memory and memory of needed devices, once the task has its part.
    pub balance: u16,
    /// 1000, less 500 if the worker has a device that the task does not need, and less up to 500 by how much the rest of the batch presses
    /// for it: 500 × (its pressure − the lowest among the eligible) ÷ the highest among them, but at least 1. A worker's pressure is the sum,
    /// over the classes of alike tasks that it is eligible for, of (tasks of the class) ÷ (free slots that these can choose from).
    pub thrift: u16,
}

impl Parts {
    /// Names and values, in the order of [`Weights::all`].
    pub fn all(&self) -> [(&'static str, u16); 8] {
        [
            ("performance", self.performance),
            ("cost", self.cost),
            ("quality", self.quality),
            ("priority", self.priority),
            ("locality", self.locality),
            ("dependencies", self.dependencies),
            ("balance", self.balance),
            ("thrift", self.thrift),
        ]
    }

    /// The weighted sum.
    pub fn score(&self, weights: &Weights) -> u32 {
        let parts = self.all().into_iter().zip(weights.all());
        parts.map(|((_, part), (_, weight))| u32::from(part) * u32::from(weight)).sum()
    }
}

/// `1000 × part ÷ whole`, at most 1000.
pub fn share(part: u128, whole: u128) -> u16 {
    let thousandths = part.saturating_mul(PART_MAX.into()).checked_div(whole);
    thousandths.map_or(PART_MAX, |share| share.min(PART_MAX.into()) as u16)
}

/// What a task is expected to cost on a worker until it has succeeded: (run time) × (rate) ÷ (success), in thousandths of the operator's
/// unit. A time value is part of the rate where runtimes are compared, and not where workers are.
pub fn expense(expected: Estimate, rate: u64) -> u64 {
    let expense = u128::from(expected.run_ms) * u128::from(rate);
    u64::try_from(expense.saturating_mul(1000) / u128::from(expected.success.max(1))).unwrap_or(u64::MAX)
}

/// What a task level is worth: 1000 for 1, the most urgent, and 0 for 5.
pub fn urgency(level: u8) -> u32 {
    250 * u32::from(5 - level.clamp(1, 5))
}

/// The parts that rest on history.
pub fn learned(parts: &mut Parts, expected: Estimate, fastest_ms: u64, cheapest: u64, level: u8, worker: &Worker) {
    parts.performance = share(fastest_ms.into(), expected.run_ms.into());
    let cost = expense(expected, worker.cost_per_second);
    parts.cost = share(u128::from(cheapest) + 1, u128::from(cost) + 1);
    parts.quality = share(u128::from(expected.success) * u128::from(worker.quality), 1_000_000);
    parts.priority = (u32::from(parts.performance) * urgency(level) / u32::from(PART_MAX)) as u16;
}

/// The parts that rest on where things lie, and the loss of quality where the task failed before.
pub fn placed(parts: &mut Parts, task: &Task, cluster: &Cluster, at: usize) {
    let worker = &cluster.workers()[at];
    let failed = task.failed_on.iter().filter(|node| **node == worker.node).count();
    parts.quality >>= failed.min(FAILURES_MAX);
    let data = near(&task.near, |name| cluster.holds(at, name));
    let carried = task.prefers.iter().filter(|label| worker.labels.contains(label)).count();
    let labels = share(carried as u128, task.prefers.len() as u128);
    parts.locality = match (task.near.is_empty(), task.prefers.is_empty()) {
        (true, _) => labels,
        (false, true) => data,
        (false, false) => (data + labels) / 2,
    };
    parts.dependencies = near(&task.results, |node| node == worker.node);
}

fn near(wanted: &[Weighed], is_near: impl Fn(&str) -> bool) -> u16 {
    // Something of no size still counts a little.
    let size = |thing: &Weighed| u128::from(thing.bytes) + 1;
    let there = wanted.iter().filter(|thing| is_near(&thing.name)).map(size).sum();
    share(there, wanted.iter().map(size).sum())
}

/// The half of *thrift* that rests on the worker alone.
pub fn unneeded_devices(task: &Task, worker: &Worker) -> bool {
    let needs = binding(&task.requires, &worker.runtime);
    let mut devices = worker.devices.iter().filter(|device| !device.lost);
    devices.any(|device| needs.iter().all(|need| need.kind != device.kind))
}

/// What would be left free of the scarcest resource. It falls with everything that the worker is given, which is what makes lazy
/// rescoring exact: a score that was worked out earlier is never too low.
pub fn balance(task: &Task, worker: &Worker, at: usize, books: &Books) -> u16 {
    let left = |free: u64, taken: u64, of: u64| share(free.saturating_sub(taken).into(), of.into());
    let mut least = left(books.slots(at).into(), 1, worker.slots.into());
    if worker.memory_bytes > 0 {
        let requires = &task.requires;
        least = least.min(left(books.memory(at), requires.memory_bytes, worker.memory_bytes));
    }
    if task.requires.devices.is_empty() {
        return least;
    }
    let needs = binding(&task.requires, &worker.runtime);
    for need in &needs {
        let same = || worker.devices.iter().enumerate().filter(|(_, d)| d.kind == need.kind && !d.lost);
        let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
        let free = sum(&mut same().map(|(device, _)| books.device(at, device)));
        let of = sum(&mut same().map(|(_, device)| device.memory_bytes));
        let taken = sum(&mut needs.iter().filter(|n| n.kind == need.kind).map(|n| n.memory_bytes));
        least = least.min(left(free, taken, of));
    }
    least
}

/// A number for a name: FNV-1a (Fowler, Noll, Vo).
pub fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// How equal scores are told apart, from the hashes of both names: differently for each task, so that equal workers share load. The
/// finaliser of MurmurHash3 (Appleby).
pub fn tie(task: u64, worker: u64) -> u64 {
    let mut hash = task.rotate_left(32) ^ worker;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The level at which a task counts: its priority, one higher for each ageing time that it has waited.
pub fn level(task: &Task, tuning: &Tuning) -> u8 {
    let raised = task.waited_ms.checked_div(tuning.ageing_ms).unwrap_or(0).min(4) as u8;
    (task.priority as u8).saturating_sub(raised).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Priority;

    fn estimate(run_ms: u64, success: u64) -> Estimate {
        Estimate { run_ms, success }
    }

    #[test]
    fn a_share_is_whole_where_there_is_nothing_to_share() {
        assert_eq!(share(0, 0), 1000);
        assert_eq!(share(1, 3), 333);
        assert_eq!(share(5, 3), 1000);
        assert_eq!(share(u128::MAX, 1), 1000);
    }

    #[test]
    fn what_often_fails_costs_more() {
        assert_eq!(expense(estimate(1000, 1000), 5), 5_000);
        assert_eq!(expense(estimate(1000, 500), 5), 10_000);
        assert_eq!(expense(estimate(u64::MAX, 50), u64::MAX), u64::MAX);
    }

    #[test]
    fn urgent_tasks_mind_speed_and_background_ones_do_not() {
        let worker = Worker { quality: 800, cost_per_second: 1, ..Worker::default() };
        let mut parts = Parts::default();
        learned(&mut parts, estimate(200, 900), 100, 0, 1, &worker);
        assert_eq!((parts.performance, parts.quality, parts.priority), (500, 720, 500));
        learned(&mut parts, estimate(200, 900), 100, 0, 5, &worker);
        assert_eq!(parts.priority, 0);
    }

    #[test]
    fn waiting_raises_the_level_up_to_critical() {
        let mut tuning = Tuning::default();
        let task = Task { priority: Priority::Low, waited_ms: 2_500, ..Task::default() };
        assert_eq!(level(&task, &tuning), 4, "nothing ages unless the operator says so");
        tuning.ageing_ms = 1_000;
        assert_eq!(level(&task, &tuning), 2);
        tuning.ageing_ms = 1;
        assert_eq!(level(&task, &tuning), 1);
    }

    #[test]
    fn ties_differ_by_task_and_by_worker() {
        let of = |task, worker| tie(hash(task), hash(worker));
        assert_ne!(of("t1", "w1"), of("t2", "w1"));
        assert_ne!(of("t1", "w1"), of("t1", "w2"));
        assert_ne!(of("a", "b"), of("b", "a"));
    }
}

//! Tasks that are alike are scored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bits::Bits;
use crate::chain::Standing;
use crate::decision::{Prospect, Shortage};
use crate::pool::Pool;
use crate::score::level;
use crate::{Cluster, Price, Requirements, Task, Tuning, Weighed};

/// What makes two tasks of a batch alike: every worker suits the one as well as the other.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'t> {
    artifact: &'t str,
    level: u8,
    patience_ms: Option<u64>,
    requires: &'t Requirements,
    prefers: &'t [String],
    near: &'t [Weighed],
    results: &'t [Weighed],
    failed_on: &'t [String],
}

impl<'t> Shape<'t> {
    fn of(task: &'t Task, level: u8) -> Self {
        Self {
            artifact: &task.artifact,
            level,
            patience_ms: task.patience_ms,
            requires: &task.requires,
            prefers: &task.prefers,
            near: &task.near,
            results: &task.results,
            failed_on: &task.failed_on,
        }
    }
}

/// Tasks of a batch that are alike.
pub struct Class<'t> {
    /// The first of them. Ties between workers are decided for all of them by its id.
    pub task: &'t Task,
    pub level: u8,
    /// How many.
    pub tasks: u64,
    /// The runtimes, the best first.
    pub links: Vec<Link<'t>>,
    /// Of `runtime: auto`.
    pub prices: Vec<Price>,
    /// What the first that was not placed missed.
    pub shortage: Option<(Prospect, Arc<Shortage>)>,
    /// Room was sought for one of them by moving others, in vain.
    pub stuck: bool,
}

/// A runtime of a class.
pub struct Link<'t> {
    pub runtime: &'t str,
    /// Workers that satisfy every requirement, with room or without.
    pub eligible: Bits,
    pub count: u32,
    pub standing: Standing,
    pub full_since_ms: Option<u64>,
    /// None while nothing is to be chosen, or where it was dropped to save memory: then it is made again.
    pub pool: Option<Pool>,
}

/// The classes of a batch, and which of them each task is of, in the order in which tasks are decided: by level, then as given, or
/// as given alone.
pub struct Classes<'t> {
    pub classes: Vec<Class<'t>>,
    /// As (task, class).
    pub order: Vec<(usize, usize)>,
}

impl<'t> Classes<'t> {
    pub fn new(tasks: &'t [Task], cluster: &Cluster, tuning: &Tuning) -> Self {
        let mut by_shape = BTreeMap::new();
        let mut classes: Vec<Class<'t>> = Vec::new();
        let mut levelled: Vec<(u8, usize)> = tasks.iter().map(|task| level(task, tuning)).zip(0..).collect();
        if !tuning.in_given_order {
            levelled.sort_unstable();
        }
        let mut order = Vec::with_capacity(tasks.len());
        for (level, number) in levelled {
            let task = &tasks[number];
            let class = *by_shape.entry(Shape::of(task, level)).or_insert_with(|| {
                classes.push(Class::new(task, level, cluster));
                classes.len() - 1
            });
            classes[class].tasks += 1;
            order.push((number, class));
        }
        Self { classes, order }
    }
}

impl<'t> Class<'t> {
    fn new(task: &'t Task, level: u8, cluster: &Cluster) -> Self {
        let mut links: Vec<Link<'t>> = Vec::new();
        for runtime in task.requires.runtimes.names() {
            if links.iter().all(|link| link.runtime != runtime) {
                links.push(Link::new(&task.requires, runtime, cluster));
            }
        }
        Self { task, level, tasks: 0, links, prices: Vec::new(), shortage: None, stuck: false }
    }
}

impl<'t> Link<'t> {
    fn new(requires: &Requirements, runtime: &'t str, cluster: &Cluster) -> Self {
        let mut eligible = Bits::none(cluster.workers().len());
        let mut count = 0;
        for at in cluster.shortlist(requires, runtime).iter() {
            if crate::require::eligible(requires, &cluster.workers()[at]) {
                eligible.insert(at);
                count += 1;
            }
        }
        Self {
            runtime,
            eligible,
            count,
            standing: if count > 0 { Standing::Steady } else { Standing::Lost },
            full_since_ms: None,
            pool: None,
        }
    }
}

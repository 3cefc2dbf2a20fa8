//! Placing a batch.

use crate::batch::Batch;
use crate::books::Books;
use crate::chain::{Chains, Watch};
use crate::class::{Class, Classes};
use crate::decision::{Decision, LISTED_MAX};
use crate::history::{Finished, History};
use crate::pool::{Facts, estimates};
use crate::pressure::Pressure;
use crate::require::misses;
use crate::score::expense;
use crate::{Cluster, Miss, Price, Requirements, Runtimes, Task, Tuning, TuningError};

/// Places tasks. It remembers how attempts went, and which runtimes were lost or full; nothing else of one batch reaches the next.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    tuning: Tuning,
    history: History,
    chains: Chains,
    now_ms: u64,
}

impl Scheduler {
    /// With what is known so far of attempts.
    ///
    /// # Errors
    /// The tuning is out of range.
    pub fn new(tuning: Tuning, history: History) -> Result<Self, TuningError> {
        tuning.check()?;
        Ok(Self { tuning, history, ..Self::default() })
    }

    /// What the operator has set.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Takes what the operator sets, from the next batch on.
    ///
    /// # Errors
    /// It is out of range; then nothing changes.
    pub fn tune(&mut self, tuning: Tuning) -> Result<(), TuningError> {
        tuning.check()?;
        self.tuning = tuning;
        Ok(())
    }

    /// What was learned from attempts.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Learns from an attempt that has ended.
    pub fn record(&mut self, finished: Finished<'_>) {
        self.history.record(finished);
    }

    /// Decides on every task, by level and then in the order given (or [in that alone](Tuning::in_given_order)), and gives the decisions in that order. Any of them can be carried out
    /// without the others.
    ///
    /// What is placed is taken off what is free for the rest of the batch; the next batch must be given a cluster that knows of it.
    /// Where `now_ms` is less than it was, the greater one counts.
    pub fn place(&mut self, tasks: &[Task], cluster: &Cluster, now_ms: u64) -> Vec<Decision> {
        self.now_ms = self.now_ms.max(now_ms);
        let books = Books::new(cluster);
        let mut classes = Classes::new(tasks, cluster, &self.tuning);
        let pressure = Pressure::new(&classes.classes, &books, cluster.workers().len());
        let workers = cluster.workers().iter();
        let paces = workers.map(|worker| self.history.pace(&worker.runtime, &worker.node)).collect();
        let facts = Facts { cluster, history: &self.history, tuning: &self.tuning, pressure: &pressure, paces };
        for class in &mut classes.classes {
            meet(class, &mut self.chains, self.now_ms, &facts);
        }
        Batch::new(facts, books, tasks, classes, self.now_ms).run(&mut self.chains)
    }
}

/// Every worker, by id, with every requirement that it misses as the cluster stands; with none, it could be given the task now.
pub fn compare<'c>(requires: &Requirements, cluster: &'c Cluster) -> impl Iterator<Item = (&'c str, Vec<Miss>)> {
    let books = Books::new(cluster);
    let workers = cluster.workers().iter().enumerate();
    let found: Vec<_> = workers.map(|(at, worker)| (worker.id.as_str(), misses(requires, cluster, at, &books))).collect();
    found.into_iter()
}

/// Asks the memory how a class's runtimes stand, and orders those of `runtime: auto` by price.
fn meet(class: &mut Class<'_>, chains: &mut Chains, now_ms: u64, facts: &Facts<'_>) {
    if let Runtimes::Auto(_) = class.task.requires.runtimes {
        order_by_price(class, facts);
    }
    if class.links.len() < 2 {
        return;
    }
    let watch = watch(class.task, now_ms, facts.tuning);
    for link in &mut class.links {
        (link.standing, link.full_since_ms) = chains.meet(&watch, link.runtime, link.count > 0);
    }
}

pub fn patience_ms(task: &Task, tuning: &Tuning) -> u64 {
    let general_ms = match task.requires.runtimes {
        Runtimes::Chain(_) => tuning.chain_patience_ms,
        Runtimes::Auto(_) => tuning.auto_patience_ms,
    };
    task.patience_ms.unwrap_or(general_ms)
}

pub fn watch<'t>(task: &'t Task, now_ms: u64, tuning: &Tuning) -> Watch<'t> {
    Watch {
        requires: &task.requires,
        now_ms,
        settle_ms: tuning.settle_ms,
        horizon_ms: tuning.settle_ms.saturating_add(patience_ms(task, tuning)),
    }
}

fn order_by_price(class: &mut Class<'_>, facts: &Facts<'_>) {
    let workers = facts.cluster.workers();
    let price = |at: usize, expected| {
        let rate = workers[at].cost_per_second;
        expense(expected, rate.saturating_add(facts.tuning.time_value_per_second))
    };
    for link in &class.links {
        let prices = estimates(class.task, link, facts).into_iter();
        let least = prices.map(|(at, expected)| (price(at, expected), expected.run_ms)).min();
        class.prices.extend(least.map(|(price, run_ms)| Price { runtime: link.runtime.to_owned(), run_ms, price }));
    }
    class.prices.sort_by(|a, b| (a.price, usual_place(&a.runtime), &a.runtime).cmp(&(b.price, usual_place(&b.runtime), &b.runtime)));
    let place = |runtime: &str| class.prices.iter().position(|price| price.runtime == runtime);
    class.links.sort_by_key(|link| place(link.runtime).unwrap_or(usize::MAX));
    class.prices.truncate(LISTED_MAX);
}

/// Where a runtime stands among those that cost alike. See [`Price`].
fn usual_place(runtime: &str) -> usize {
    const ORDER: [&str; 4] = ["wasm", "native", "cuda", "microvm"];
    ORDER.iter().position(|name| *name == runtime).unwrap_or(ORDER.len())
}

//! Placing a batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::books::Books;
use crate::chain::{Chains, Standing, Watch};
use crate::class::{Class, Classes};
use crate::decision::{
    Candidate, Closest, Decision, Explanation, LISTED_MAX, Missing, Obstacle, Outcome, PassedOver, Placement, Prospect,
    Shortage, Waiting,
};
use crate::history::{Finished, History};
use crate::pool::{Choice, Facts, Pool, estimates};
use crate::pressure::Pressure;
use crate::require::{Cure, misses};
use crate::score::expense;
use crate::{Cluster, Miss, Price, Requirements, Runtimes, Task, Tuning, TuningError};

/// Pools that are kept at once, some 100 kB each with a thousand workers. Beyond it all are dropped and made again as they are needed.
const POOLS_MAX: usize = 512;

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
        Ok(Self {
            tuning,
            history,
            ..Self::default()
        })
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

    /// Decides on every task, by level and then in the order given, and gives the decisions in the order in which they were made: a
    /// caller that carries out only the first few has carried out what would have come of those tasks alone, but for *thrift*.
    ///
    /// What is placed is taken off what is free for the rest of the batch; the next batch must be given a cluster that knows of it.
    /// Where `now_ms` is less than it was, the greater one counts.
    pub fn place(&mut self, tasks: &[Task], cluster: &Cluster, now_ms: u64) -> Vec<Decision> {
        self.now_ms = self.now_ms.max(now_ms);
        let books = Books::new(cluster);
        let Classes { mut classes, order } = Classes::new(tasks, cluster, &self.tuning);
        let pressure = Pressure::new(&classes, &books, cluster.workers().len());
        let facts = Facts {
            cluster,
            history: &self.history,
            tuning: &self.tuning,
            pressure: &pressure,
        };
        for class in &mut classes {
            meet(class, &mut self.chains, self.now_ms, &facts);
        }
        let mut batch = Batch {
            facts,
            books,
            now_ms: self.now_ms,
            pools: 0,
        };
        let mut decisions = Vec::with_capacity(tasks.len());
        for (task, number) in order {
            if batch.pools > POOLS_MAX {
                batch.drop_pools(&mut classes);
            }
            let class = &mut classes[number];
            let outcome = batch.decide(class, &tasks[task]);
            decisions.push(Decision { task, outcome });
            class.tasks -= 1;
            if class.tasks == 0 {
                batch.leave(class, &mut self.chains);
            }
        }
        decisions
    }
}

/// Every worker, by id, with every requirement that it misses as the cluster stands; with none, it could be given the task now.
pub fn compare<'c>(requires: &Requirements, cluster: &'c Cluster) -> impl Iterator<Item = (&'c str, Vec<Miss>)> {
    let books = Books::new(cluster);
    let workers = cluster.workers().iter().enumerate();
    let found: Vec<_> = workers
        .map(|(at, worker)| (worker.id.as_str(), misses(requires, cluster, at, &books)))
        .collect();
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

fn patience_ms(task: &Task, tuning: &Tuning) -> u64 {
    let general_ms = match task.requires.runtimes {
        Runtimes::Chain(_) => tuning.chain_patience_ms,
        Runtimes::Auto(_) => tuning.auto_patience_ms,
    };
    task.patience_ms.unwrap_or(general_ms)
}

fn watch<'t>(task: &'t Task, now_ms: u64, tuning: &Tuning) -> Watch<'t> {
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
        let least = prices
            .map(|(at, expected)| (price(at, expected), expected.run_ms))
            .min();
        class.prices.extend(least.map(|(price, run_ms)| Price {
            runtime: link.runtime.to_owned(),
            run_ms,
            price,
        }));
    }
    class.prices.sort_by(|a, b| {
        (a.price, usual_place(&a.runtime), &a.runtime).cmp(&(b.price, usual_place(&b.runtime), &b.runtime))
    });
    let place = |runtime: &str| class.prices.iter().position(|price| price.runtime == runtime);
    class
        .links
        .sort_by_key(|link| place(link.runtime).unwrap_or(usize::MAX));
    class.prices.truncate(LISTED_MAX);
}

/// Where a runtime stands among those that cost alike. See [`Price`].
fn usual_place(runtime: &str) -> usize {
    const ORDER: [&str; 4] = ["wasm", "native", "cuda", "microvm"];
    ORDER.iter().position(|name| *name == runtime).unwrap_or(ORDER.len())
}

/// A batch while it is placed.
struct Batch<'a> {
    facts: Facts<'a>,
    books: Books,
    now_ms: u64,
    /// Pools that were made since they were last dropped.
    pools: usize,
}

/// What came of trying a class's runtimes in order.
enum Search {
    /// This link has room.
    Found(usize),
    /// The task holds out for a busy runtime until then.
    HoldsOut(u64),
    Nothing,
}

impl Batch<'_> {
    fn decide(&mut self, class: &mut Class<'_>, task: &Task) -> Outcome {
        let mut passed_over = Vec::new();
        match self.search(class, task, &mut passed_over) {
            Search::Found(link) => {
                passed_over.truncate(LISTED_MAX);
                Outcome::Placed(self.take(class, link, passed_over))
            }
            Search::HoldsOut(at_ms) => Outcome::Waits(Waiting {
                falls_back_at_ms: Some(at_ms),
                prospect: Prospect::Busy,
                shortage: self.shortage(class).1,
            }),
            Search::Nothing => {
                let (prospect, shortage) = self.shortage(class);
                Outcome::Waits(Waiting {
                    prospect,
                    shortage,
                    falls_back_at_ms: None,
                })
            }
        }
    }

    /// Goes down the chain to the first runtime that is steady and has room; past a busy one only once the task's patience with it is
    /// over. A runtime that is only returning serves where the alternative is to wait.
    fn search(&mut self, class: &mut Class<'_>, task: &Task, passed_over: &mut Vec<PassedOver>) -> Search {
        let mut returning = None;
        let mut until_ms = None;
        for link in 0..class.links.len() {
            let standing = class.links[link].standing;
            let why = match standing {
                Standing::Lost => Obstacle::Lost,
                Standing::Returning => {
                    if returning.is_none() && self.has_room(class, link) {
                        returning = Some((link, passed_over.len()));
                    }
                    Obstacle::Returning
                }
                Standing::Steady if self.has_room(class, link) => return Search::Found(link),
                Standing::Steady => {
                    until_ms = self.holds_out_until(class, link, task);
                    if until_ms.is_some() {
                        break;
                    }
                    Obstacle::Busy
                }
            };
            passed_over.push(PassedOver {
                runtime: class.links[link].runtime.to_owned(),
                why,
            });
        }
        match (returning, until_ms) {
            (Some((link, before)), _) => {
                passed_over.truncate(before);
                Search::Found(link)
            }
            (None, Some(at_ms)) => Search::HoldsOut(at_ms),
            (None, None) => Search::Nothing,
        }
    }

    /// Until when the task holds out for this busy runtime; none if its patience is over or there is nothing to fall back to.
    ///
    /// Its patience is over once the runtime has been full for that long, or once the task has waited that long for it and as long for
    /// each before it.
    fn holds_out_until(&self, class: &Class<'_>, link: usize, task: &Task) -> Option<u64> {
        if class.links[link + 1..]
            .iter()
            .all(|later| later.standing == Standing::Lost)
        {
            return None;
        }
        let patience_ms = patience_ms(task, self.facts.tuning);
        let patient_ms = patience_ms
            .saturating_mul(link as u64 + 1)
            .saturating_sub(task.waited_ms);
        let full_since_ms = class.links[link].full_since_ms.unwrap_or(self.now_ms);
        let full_ms = patience_ms.saturating_sub(self.now_ms.saturating_sub(full_since_ms));
        let left_ms = patient_ms.min(full_ms);
        (left_ms > 0).then(|| self.now_ms.saturating_add(left_ms))
    }

    fn has_room(&mut self, class: &mut Class<'_>, link: usize) -> bool {
        self.fill(class, link);
        let pool = class.links[link].pool.as_mut();
        pool.is_some_and(|pool| pool.has_room(class.task, &self.facts, &self.books))
    }

    /// Makes the pool of a link if there is none.
    fn fill(&mut self, class: &mut Class<'_>, link: usize) {
        if class.links[link].pool.is_none() {
            let pool = Pool::new(class.task, class.level, &class.links[link], &self.facts, &self.books);
            class.links[link].pool = Some(pool);
            self.pools += 1;
        }
    }

    fn drop_pools(&mut self, classes: &mut [Class<'_>]) {
        for link in classes.iter_mut().flat_map(|class| &mut class.links) {
            link.pool = None;
        }
        self.pools = 0;
    }

    /// Gives the task to the best worker of a link that has room.
    fn take(&mut self, class: &mut Class<'_>, link: usize, passed_over: Vec<PassedOver>) -> Placement {
        let Class { task, links, .. } = &mut *class;
        let task = *task;
        let wanted = self.facts.tuning.candidates;
        let pool = links[link]
            .pool
            .as_mut()
            .expect("a link that was found to have room has its pool");
        let choices = pool.best(wanted.max(1), task, &self.facts, &self.books);
        let best = choices
            .first()
            .expect("a link that was found to have room has a best worker");
        let worker = &self.facts.cluster.workers()[best.at];
        let devices = self.books.devices_for(best.at, worker, &task.requires);
        let devices = devices.expect("a worker that was found to have room has the devices");
        self.books.take(best.at, worker, &task.requires, &devices);
        Placement {
            worker: worker.id.clone(),
            runtime: worker.runtime.clone(),
            devices,
            explanation: Explanation {
                level: class.level,
                score_max: self.facts.tuning.weights.score_max(),
                candidates: choices
                    .iter()
                    .take(wanted)
                    .map(|choice| self.candidate(choice))
                    .collect(),
                eligible: class.links[link].count,
                registered: self.facts.cluster.workers().len() as u32,
                passed_over,
                prices: class.prices.clone(),
            },
        }
    }

    fn candidate(&self, choice: &Choice) -> Candidate {
        let worker = &self.facts.cluster.workers()[choice.at];
        Candidate {
            worker: worker.id.clone(),
            node: worker.node.clone(),
            score: choice.score,
            parts: choice.parts,
        }
    }

    /// What the workers miss, worked out once for each class.
    fn shortage(&self, class: &mut Class<'_>) -> (Prospect, Arc<Shortage>) {
        if let Some((prospect, shortage)) = &class.shortage {
            return (*prospect, shortage.clone());
        }
        let (prospect, shortage) = self.survey(&class.task.requires);
        let shortage = Arc::new(shortage);
        class.shortage = Some((prospect, shortage.clone()));
        (prospect, shortage)
    }

    fn survey(&self, requires: &Requirements) -> (Prospect, Shortage) {
        let workers = self.facts.cluster.workers();
        let mut counts: BTreeMap<Miss, u32> = BTreeMap::new();
        let mut closest: Option<((Cure, usize), Closest)> = None;
        let mut prospect = Prospect::Never;
        for (at, worker) in workers.iter().enumerate() {
            let misses = misses(requires, self.facts.cluster, at, &self.books);
            for miss in &misses {
                *counts.entry(miss.clone()).or_default() += 1;
            }
            // One that misses nothing has room, on a runtime that the task likes less than the one that it holds out for.
            let Some(cure) = misses.iter().map(|miss| miss.reason.cure()).max() else {
                continue;
            };
            prospect = prospect.min(cure.prospect());
            let distance = (cure, misses.len());
            if closest.as_ref().is_none_or(|(least, _)| distance < *least) {
                let worker = worker.id.clone();
                closest = Some((distance, Closest { worker, misses }));
            }
        }
        let mut missing: Vec<Missing> = counts
            .into_iter()
            .map(|(miss, workers)| Missing { miss, workers })
            .collect();
        missing.sort_by(|a, b| (b.workers, &a.miss).cmp(&(a.workers, &b.miss)));
        missing.truncate(LISTED_MAX);
        let shortage = Shortage {
            registered: workers.len() as u32,
            missing,
            closest: closest.map(|(_, closest)| closest),
        };
        (prospect, shortage)
    }

    /// Tells the memory which of a class's runtimes are full, and lets go of its pools: no more of its tasks come.
    fn leave(&mut self, class: &mut Class<'_>, chains: &mut Chains) {
        if class.links.len() > 1 {
            let watch = watch(class.task, self.now_ms, self.facts.tuning);
            for link in 0..class.links.len() {
                // A link whose pool was never made was not needed: nothing is known of its room.
                if class.links[link].count > 0 && class.links[link].pool.is_some() {
                    let full = !self.has_room(class, link);
                    chains.leave(&watch, class.links[link].runtime, full);
                }
            }
        }
        for link in &mut class.links {
            self.pools -= usize::from(link.pool.take().is_some());
        }
    }
}

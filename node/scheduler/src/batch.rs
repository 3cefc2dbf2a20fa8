//! One batch while it is placed.

use std::collections::BTreeMap;

use crate::books::Books;
use crate::chain::{Chains, Standing};
use crate::class::{Class, Classes, Link};
use crate::decision::{Candidate, Decision, Explanation, LISTED_MAX, Obstacle, Outcome, PassedOver, Placement, Prospect, Waiting};
use crate::place::{patience_ms, watch};
use crate::pool::{Choice, Facts, Pool};
use crate::{Task, Tuning};

/// Pools that are kept at once, some 100 kB each with a thousand workers. Beyond it all are dropped and made again as they are needed.
const POOLS_MAX: usize = 512;

pub struct Batch<'a> {
    pub facts: Facts<'a>,
    pub books: Books,
    pub tasks: &'a [Task],
    pub classes: Vec<Class<'a>>,
    /// As (task, class), in the order in which they are decided on: the decisions' own.
    pub order: Vec<(usize, usize)>,
    pub decisions: Vec<Decision>,
    /// The decisions that placed something on a worker.
    pub placed_on: BTreeMap<usize, Vec<usize>>,
    /// Tasks that may still be moved.
    pub moves: usize,
    now_ms: u64,
    /// Pools that were made and not dropped since.
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

impl<'a> Batch<'a> {
    pub fn new(facts: Facts<'a>, books: Books, tasks: &'a [Task], classes: Classes<'a>, now_ms: u64) -> Self {
        Self {
            moves: facts.tuning.moves,
            facts,
            books,
            tasks,
            classes: classes.classes,
            order: classes.order,
            decisions: Vec::with_capacity(tasks.len()),
            placed_on: BTreeMap::new(),
            now_ms,
            pools: 0,
        }
    }

    /// Decides on every task.
    pub fn run(mut self, chains: &mut Chains) -> Vec<Decision> {
        for number in 0..self.order.len() {
            if self.pools > POOLS_MAX {
                self.drop_pools();
            }
            let (task, class) = self.order[number];
            let outcome = self.decide(class, &self.tasks[task]);
            self.decisions.push(Decision { task, outcome });
            self.classes[class].tasks -= 1;
            if self.classes[class].tasks == 0 {
                self.leave(class, chains);
            }
        }
        self.decisions
    }

    fn decide(&mut self, class: usize, task: &Task) -> Outcome {
        let mut passed_over = Vec::new();
        let falls_back_at_ms = match self.search(class, task, &mut passed_over) {
            Search::Found(link) => {
                return Outcome::Placed(self.take_best(class, link, passed_over));
            }
            Search::HoldsOut(at_ms) => Some(at_ms),
            Search::Nothing => match self.make_room(class) {
                Some(placement) => return Outcome::Placed(placement),
                None => None,
            },
        };
        let (prospect, shortage) = self.shortage(class);
        Outcome::Waits(Waiting { prospect: falls_back_at_ms.map_or(prospect, |_| Prospect::Busy), shortage, falls_back_at_ms })
    }

    /// Goes down the chain to the first runtime that is steady and has room; past a busy one only once the task's patience with it is
    /// over. A runtime that is only returning serves where the alternative is to wait.
    fn search(&mut self, class: usize, task: &Task, passed_over: &mut Vec<PassedOver>) -> Search {
        let mut returning = None;
        let mut until_ms = None;
        for link in 0..self.classes[class].links.len() {
            let standing = self.classes[class].links[link].standing;
            match standing {
                Standing::Lost => {}
                Standing::Returning if returning.is_none() && self.has_room(class, link) => {
                    returning = Some((link, passed_over.len()));
                }
                Standing::Returning => {}
                Standing::Steady if self.has_room(class, link) => return Search::Found(link),
                Standing::Steady => {
                    until_ms = self.holds_out_until(class, link, task);
                    if until_ms.is_some() {
                        break;
                    }
                }
            }
            passed_over.push(self.passed_over(class, link));
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

    /// Why a link was not taken, given that one after it was.
    pub fn passed_over(&self, class: usize, link: usize) -> PassedOver {
        let link = &self.classes[class].links[link];
        PassedOver {
            runtime: link.runtime.to_owned(),
            why: match link.standing {
                Standing::Lost => Obstacle::Lost,
                Standing::Returning => Obstacle::Returning,
                Standing::Steady => Obstacle::Busy,
            },
        }
    }

    /// Until when the task holds out for this busy runtime; none if its patience is over or there is nothing to fall back to.
    ///
    /// Its patience is over once the runtime has been full for that long, or once the task has waited that long for it and as long for
    /// each before it.
    pub fn holds_out_until(&self, class: usize, link: usize, task: &Task) -> Option<u64> {
        let links = &self.classes[class].links;
        if links[link + 1..].iter().all(|later| later.standing == Standing::Lost) {
            return None;
        }
        let patience_ms = patience_ms(task, self.facts.tuning);
        let patient_ms = patience_ms.saturating_mul(link as u64 + 1).saturating_sub(task.waited_ms);
        let full_since_ms = links[link].full_since_ms.unwrap_or(self.now_ms);
        let full_ms = patience_ms.saturating_sub(self.now_ms.saturating_sub(full_since_ms));
        let left_ms = patient_ms.min(full_ms);
        (left_ms > 0).then(|| self.now_ms.saturating_add(left_ms))
    }

    fn has_room(&mut self, class: usize, link: usize) -> bool {
        self.fill(class, link);
        let Class { task, links, .. } = &mut self.classes[class];
        let pool = links[link].pool.as_mut();
        pool.is_some_and(|pool| pool.has_room(task, &self.facts, &self.books))
    }

    /// The best workers of a link that have room, the best first.
    pub fn best(&mut self, class: usize, link: usize, count: usize) -> Vec<Choice> {
        self.fill(class, link);
        let Class { task, links, .. } = &mut self.classes[class];
        let pool = links[link].pool.as_mut();
        pool.map_or(Vec::new(), |pool| pool.best(count, task, &self.facts, &self.books))
    }

    /// Makes the pool of a link if there is none.
    pub fn fill(&mut self, class: usize, link: usize) {
        let class = &mut self.classes[class];
        if class.links[link].pool.is_none() {
            let pool = Pool::new(class.task, class.level, &class.links[link], &self.facts, &self.books);
            class.links[link].pool = Some(pool);
            self.pools += 1;
        }
    }

    fn drop_pools(&mut self) {
        for link in self.classes.iter_mut().flat_map(|class| &mut class.links) {
            link.pool = None;
        }
        self.pools = 0;
    }

    /// Gives the task to the best worker of a link that has room.
    fn take_best(&mut self, class: usize, link: usize, passed_over: Vec<PassedOver>) -> Placement {
        let wanted = self.tuning().candidates.max(1);
        let choices = self.best(class, link, wanted);
        self.list(choices.first().map(|choice| choice.at), self.decisions.len());
        self.take(class, link, &choices, passed_over)
    }

    /// Gives the next task of a class to the first of these workers, which has room.
    pub fn take(&mut self, class: usize, link: usize, choices: &[Choice], passed_over: Vec<PassedOver>) -> Placement {
        let at = choices.first().expect("a link that was found to have room has a worker that has it").at;
        let worker = &self.facts.cluster.workers()[at];
        let class = &self.classes[class];
        let requires = &class.task.requires;
        let devices = self.books.devices_for(at, worker, requires);
        let devices = devices.expect("a worker that was found to have room has the devices");
        self.books.take(at, worker, requires, &devices);
        let mut passed_over = passed_over;
        passed_over.truncate(LISTED_MAX);
        Placement {
            worker: worker.id.clone(),
            runtime: worker.runtime.clone(),
            devices,
            explanation: Explanation {
                level: class.level,
                score_max: self.tuning().weights.score_max(),
                candidates: choices.iter().take(self.tuning().candidates).map(|choice| self.candidate(choice)).collect(),
                eligible: class.links[link].count,
                registered: self.facts.cluster.workers().len() as u32,
                passed_over,
                prices: class.prices.clone(),
                moved_from: None,
            },
        }
    }

    /// Notes that a decision placed a task on this worker.
    pub fn list(&mut self, at: Option<usize>, decision: usize) {
        if let Some(at) = at {
            self.placed_on.entry(at).or_default().push(decision);
        }
    }

    fn tuning(&self) -> &'a Tuning {
        self.facts.tuning
    }

    fn candidate(&self, choice: &Choice) -> Candidate {
        let worker = &self.facts.cluster.workers()[choice.at];
        Candidate { worker: worker.id.clone(), node: worker.node.clone(), score: choice.score, parts: choice.parts }
    }

    /// Tells the memory which of a class's runtimes are full, and lets go of its pools: no more of its tasks come.
    fn leave(&mut self, class: usize, chains: &mut Chains) {
        let links = self.classes[class].links.len();
        if links > 1 {
            let watch = watch(self.classes[class].task, self.now_ms, self.facts.tuning);
            for link in 0..links {
                // A link whose pool was never made was not needed: nothing is known of its room.
                let Link { runtime, count, pool, .. } = &self.classes[class].links[link];
                if *count > 0 && pool.is_some() {
                    let runtime = *runtime;
                    chains.leave(&watch, runtime, !self.has_room(class, link));
                }
            }
        }
        for link in &mut self.classes[class].links {
            self.pools -= usize::from(link.pool.take().is_some());
        }
    }
}

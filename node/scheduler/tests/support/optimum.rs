//! What the best of all assignments is worth, found by trying all of them, and how much less a batch comes to.

use tarn_scheduler::{Candidate, Outcome, Parts, Placement, Runtimes, Scheduler, Task, Tuning, Weights};

use super::cases::Case;
use super::ledger::Ledger;

/// What was lost in one case next to the best assignment.
#[derive(Debug, Clone, Copy)]
pub struct Regret {
    /// (best − ours) ÷ best.
    pub share: f64,
    /// Tasks that the best assignment places and ours does not; below zero where ours places more of less worth.
    pub unplaced: i64,
}

/// What a placement is worth: its score without *thrift*, which is a means and no end.
fn worth(parts: &Parts, weights: &Weights) -> u64 {
    let ends = Weights { thrift: 0, ..*weights };
    parts.score(&ends).into()
}

/// Places the case as a batch, and compares.
pub fn regret(case: &Case, tuning: &Tuning) -> Regret {
    let ledger = Ledger::new(&case.workers, &Default::default());
    let decisions = scheduler(case, tuning).place(&case.tasks, &ledger.cluster(), 1);
    let order = decisions.iter().map(|decision| &case.tasks[decision.task]).collect();
    let mut search = Search::new(case, order, tuning);
    let mut ours = 0;
    let mut placed = 0;
    // Worked out along the way, as that of the exhaustive choice is: a task that was moved scored when later ones were placed already.
    let mut now = ledger.clone();
    for decision in decisions {
        let task = &case.tasks[decision.task];
        if let Outcome::Placed(placement) = decision.outcome {
            let options = search.options(task, &now);
            let option = options.iter().find(|(_, option)| option.worker == placement.worker);
            ours += option.expect("where it was placed it could be placed").0;
            placed += 1;
            now.take(&task.requires, &placement).expect("there is room");
        }
    }
    search.go(0, &ledger, 0, 0);
    assert!(search.best >= ours, "the exhaustive choice is one of those that we could have made");
    Regret { share: (search.best - ours) as f64 / search.best.max(1) as f64, unplaced: search.placed - placed }
}

fn scheduler(case: &Case, tuning: &Tuning) -> Scheduler {
    Scheduler::new(tuning.clone(), case.history.clone()).expect("the tuning is in range")
}

/// Depth first, the best candidate first, and no further where even the best for each of the rest could not make up for it.
struct Search<'a> {
    case: &'a Case,
    order: Vec<&'a Task>,
    tuning: Tuning,
    /// What the tasks from each position on are worth at most: load only makes workers worse.
    rest: Vec<u64>,
    best: u64,
    placed: i64,
}

impl<'a> Search<'a> {
    fn new(case: &'a Case, order: Vec<&'a Task>, tuning: &Tuning) -> Self {
        let tuning = Tuning { candidates: tarn_scheduler::CANDIDATES_MAX, ..tuning.clone() };
        let mut search = Self { case, rest: vec![0; order.len() + 1], order, tuning, best: 0, placed: 0 };
        let idle = Ledger::new(&case.workers, &Default::default());
        for at in (0..search.order.len()).rev() {
            let best = search.options(search.order[at], &idle).first().map_or(0, |(worth, _)| *worth);
            search.rest[at] = search.rest[at + 1] + best;
        }
        search
    }

    fn go(&mut self, at: usize, ledger: &Ledger, worth: u64, placed: i64) {
        if worth > self.best {
            self.best = worth;
            self.placed = placed;
        }
        if at == self.order.len() || worth + self.rest[at] <= self.best {
            return;
        }
        for (value, placement) in self.options(self.order[at], ledger) {
            let mut next = ledger.clone();
            next.take(&self.order[at].requires, &placement).expect("a candidate has room");
            self.go(at + 1, &next, worth + value, placed + 1);
        }
        self.go(at + 1, ledger, worth, placed);
    }

    /// Every way to place a task, the best first: all candidates of all its runtimes.
    fn options(&self, task: &Task, ledger: &Ledger) -> Vec<(u64, Placement)> {
        let mut options = Vec::new();
        for runtime in task.requires.runtimes.names() {
            let mut task = task.clone();
            task.requires.runtimes = Runtimes::only(runtime);
            let outcome = scheduler(self.case, &self.tuning).place(std::slice::from_ref(&task), &ledger.cluster(), 1).remove(0).outcome;
            let Outcome::Placed(placement) = outcome else { continue };
            assert!(placement.explanation.candidates.len() < tarn_scheduler::CANDIDATES_MAX);
            for candidate in &placement.explanation.candidates {
                options.push((worth(&candidate.parts, &self.tuning.weights), on(&task, candidate, ledger)));
            }
        }
        options.sort_by_key(|(worth, _)| std::cmp::Reverse(*worth));
        options
    }
}

/// The placement on a candidate that was not chosen. A case's workers have one device at most.
fn on(task: &Task, candidate: &Candidate, ledger: &Ledger) -> Placement {
    let worker = &ledger.workers[&candidate.worker];
    let needs = task.requires.devices.iter().filter(|need| need.binds(&worker.runtime));
    Placement {
        worker: worker.id.clone(),
        runtime: worker.runtime.clone(),
        devices: needs.map(|_| 0).collect(),
        explanation: tarn_scheduler::Explanation {
            level: 0,
            score_max: 0,
            candidates: Vec::new(),
            eligible: 0,
            registered: 0,
            passed_over: Vec::new(),
            prices: Vec::new(),
            moved_from: None,
        },
    }
}

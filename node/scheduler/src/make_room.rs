//! Making room for a task that could go nowhere else, by moving one that can.
//!
//! Placing task by task gives a worker away to whoever comes first, also to a task that would have been served elsewhere as well. Where a
//! later task finds nothing, one placed task of the same level is moved, if that alone makes room: an augmenting path of length two in
//! the matching of tasks to workers. Nothing has been carried out yet, so that moving costs nothing but the score.

use crate::batch::Batch;
use crate::chain::Standing;
use crate::decision::{Outcome, Placement};
use crate::pool::Choice;

/// Tasks that are tried for one that finds no room. If none of them can give way, no more is tried for its like in the batch.
const TRIES_MAX: usize = 64;

impl Batch<'_> {
    /// Moves a task so that the next one of this class can be placed, and places it.
    pub fn make_room(&mut self, class: usize) -> Option<Placement> {
        if self.moves == 0 || self.classes[class].stuck {
            return None;
        }
        let mut tries = TRIES_MAX;
        for link in 0..self.classes[class].links.len() {
            if self.classes[class].links[link].standing != Standing::Steady {
                continue;
            }
            let workers: Vec<usize> = self.classes[class].links[link].eligible.iter().collect();
            for at in workers {
                for decision in self.placed_on.get(&at).cloned().unwrap_or_default() {
                    let theirs = self.order[decision].1;
                    if theirs == class || self.classes[theirs].level != self.classes[class].level {
                        continue;
                    }
                    if tries == 0 {
                        self.classes[class].stuck = true;
                        return None;
                    }
                    tries -= 1;
                    if let Some(placement) = self.swap(class, link, at, decision) {
                        return Some(placement);
                    }
                }
            }
        }
        self.classes[class].stuck = true;
        None
    }

    /// Puts the next task of a class in the place of one that was placed on this worker, if that one can go elsewhere.
    fn swap(&mut self, class: usize, link: usize, at: usize, decision: usize) -> Option<Placement> {
        let theirs = self.order[decision].1;
        let Outcome::Placed(old) = &self.decisions[decision].outcome else {
            return None;
        };
        let (from, devices) = (old.worker.clone(), old.devices.clone());
        let worker = &self.facts.cluster.workers()[at];
        let requires = &self.classes[theirs].task.requires;
        self.books.give_back(at, worker, requires, &devices);
        let fits = self.books.has_room(at, worker, &self.classes[class].task.requires);
        let elsewhere = if fits { self.elsewhere(decision, at) } else { None };
        let Some((their_link, choice)) = elsewhere else {
            self.books.take(at, worker, requires, &devices);
            return None;
        };
        self.unlist(at, decision);
        let mut moved = self.put(theirs, their_link, choice, decision);
        moved.explanation.moved_from = Some(from);
        self.decisions[decision].outcome = Outcome::Placed(moved);
        self.fill(class, link);
        let Batch { facts, books, classes, .. } = self;
        let task = classes[class].task;
        let pool = classes[class].links[link].pool.as_ref();
        let ours = pool.and_then(|pool| pool.member(at, task, facts, books));
        let ours = ours.expect("a worker that was found to have room is a member with room");
        let placement = self.put(class, link, ours, self.decisions.len());
        self.refresh(at);
        self.moves -= 1;
        Some(placement)
    }

    /// The best other worker for a task that was placed, on a runtime that it would take by its own patience.
    fn elsewhere(&mut self, decision: usize, but_at: usize) -> Option<(usize, Choice)> {
        let (task, class) = self.order[decision];
        for link in 0..self.classes[class].links.len() {
            if self.classes[class].links[link].standing != Standing::Steady {
                continue;
            }
            let found = self.best(class, link, 2).into_iter().find(|choice| choice.at != but_at);
            if let Some(choice) = found {
                return Some((link, choice));
            }
            if self.holds_out_until(class, link, &self.tasks[task]).is_some() {
                return None;
            }
        }
        None
    }

    fn put(&mut self, class: usize, link: usize, choice: Choice, decision: usize) -> Placement {
        let passed_over = (0..link).map(|link| self.passed_over(class, link)).collect();
        self.list(Some(choice.at), decision);
        self.take(class, link, &[choice], passed_over)
    }

    fn unlist(&mut self, at: usize, decision: usize) {
        if let Some(listed) = self.placed_on.get_mut(&at) {
            listed.retain(|other| *other != decision);
        }
    }

    /// Tells every pool of a worker that may have become better.
    fn refresh(&mut self, at: usize) {
        for class in &mut self.classes {
            for pool in class.links.iter_mut().filter_map(|link| link.pool.as_mut()) {
                pool.refresh(at, class.task, &self.facts, &self.books);
            }
        }
    }
}

//! What a class of tasks is short of.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::Batch;
use crate::decision::{Closest, LISTED_MAX, Missing, Prospect, Shortage};
use crate::require::{Cure, misses};
use crate::{Miss, Requirements};

impl Batch<'_> {
    /// What the workers miss, worked out once for each class.
    pub fn shortage(&mut self, class: usize) -> (Prospect, Arc<Shortage>) {
        if let Some((prospect, shortage)) = &self.classes[class].shortage {
            return (*prospect, shortage.clone());
        }
        let (prospect, shortage) = self.survey(&self.classes[class].task.requires);
        let shortage = Arc::new(shortage);
        self.classes[class].shortage = Some((prospect, shortage.clone()));
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
        let mut missing: Vec<Missing> = counts.into_iter().map(|(miss, workers)| Missing { miss, workers }).collect();
        missing.sort_by(|a, b| (b.workers, &a.miss).cmp(&(a.workers, &b.miss)));
        missing.truncate(LISTED_MAX);
        let shortage = Shortage { registered: workers.len() as u32, missing, closest: closest.map(|(_, closest)| closest) };
        (prospect, shortage)
    }
}

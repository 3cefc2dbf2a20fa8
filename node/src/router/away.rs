//! Tasks that may run in any cluster: what nobody here has room for is placed at a worker that stands for another cluster.
//!
//! Work goes only to where slots were free when the other cluster last said so, which it says only of slots that its own tasks do not wait for;
//! it goes only after it has waited here for a while, unless nobody here could ever run it; and it never goes on from there. So clusters with
//! room keep their work, and two that are full do not exchange theirs.

use std::collections::{BTreeMap, BTreeSet};

use tarn_machine::{OpenTask, WorkerLoad};
use tarn_proto::v1::SchedulerSettings;
use tarn_scheduler::{Cluster, Decision, Outcome, Prospect, Task};

use super::round::Rounds;
use crate::federation::cluster_node;

/// How long a task waits for room here before it goes, in milliseconds, where nobody says otherwise.
const PATIENCE_MS: u64 = 1_000;

/// How long a task that may run in any cluster waits for room in this one, in milliseconds.
#[must_use]
pub fn away_patience_ms(settings: &SchedulerSettings) -> u64 {
    settings.away_patience_ms.unwrap_or(PATIENCE_MS)
}

/// A task that is to be offered to other clusters.
pub(super) struct Leaving {
    /// Its place in the round.
    pub place: usize,
    pub task: Task,
    /// Why it does not run here.
    pub why: String,
    /// Clusters that would not have it.
    not_to: BTreeSet<String>,
}

/// Whether a worker stands for another cluster.
pub(super) fn is_elsewhere(load: &WorkerLoad) -> bool {
    load.capabilities.resources.as_ref().is_some_and(|has| !has.cluster.is_empty())
}

impl Rounds {
    /// The tasks of a round that are to be offered to other clusters. Each is as the scheduler wants to see it, but for what lies here and does
    /// not lie there.
    pub(super) fn leaving(&self, open: &[OpenTask], tasks: &[Task], decided: &[Decision], settings: &SchedulerSettings) -> Vec<Leaving> {
        let may_travel = |open: &OpenTask| {
            let consensus = &self.router().consensus;
            consensus.read(|machine| crate::federation::may_travel(machine, &open.namespace, &open.spec)).unwrap_or(false)
        };
        let mut leaving = Vec::new();
        for decision in decided {
            let (Some(open), Some(task), Outcome::Waits(waiting)) = (open.get(decision.task), tasks.get(decision.task), &decision.outcome)
            else {
                continue;
            };
            let waited = task.waited_ms >= away_patience_ms(settings) || waiting.prospect == Prospect::Never;
            let may_go = tarn_machine::may_go(&open.spec, settings) && !open.strict;
            if may_go && waited && task.requires.data.is_empty() && may_travel(open) {
                let task = Task { results: Vec::new(), near: Vec::new(), ..task.clone() };
                let not_to = self.router().stays.of(&open.id);
                leaving.push(Leaving { place: decision.task, task, why: waiting.to_string(), not_to });
            }
        }
        leaving
    }

    /// Where in other clusters these tasks are to run. Tasks that the same clusters would not have are decided on together.
    pub(super) fn elsewhere(&mut self, leaving: &[Leaving], workers: &[tarn_scheduler::Worker], now_ms: u64) -> Vec<Decision> {
        let mut workers = workers.to_vec();
        let mut alike: BTreeMap<&BTreeSet<String>, Vec<&Leaving>> = BTreeMap::new();
        leaving.iter().for_each(|one| alike.entry(&one.not_to).or_default().push(one));
        let mut all = Vec::new();
        for (not_to, group) in alike {
            let may = |worker: &&tarn_scheduler::Worker| !not_to.iter().any(|cluster| worker.node == cluster_node(cluster));
            let cluster = match Cluster::new(workers.iter().filter(may).cloned().collect(), &BTreeMap::new()) {
                Ok(cluster) => cluster,
                Err(error) => {
                    tracing::error!(%error, "the router cannot make sense of what other clusters offer");
                    return all;
                }
            };
            let tasks: Vec<Task> = group.iter().map(|one| one.task.clone()).collect();
            let decided = self.abroad().place(&tasks, &cluster, now_ms);
            for decision in &decided {
                let Outcome::Placed(placement) = &decision.outcome else { continue };
                if let Some(worker) = workers.iter_mut().find(|worker| worker.id == placement.worker) {
                    worker.slots_free = worker.slots_free.saturating_sub(1);
                }
            }
            all.extend(decided.into_iter().map(|decision| Decision { task: group[decision.task].place, ..decision }));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_has_a_default() {
        assert_eq!(away_patience_ms(&SchedulerSettings::default()), PATIENCE_MS);
        assert_eq!(away_patience_ms(&SchedulerSettings { away_patience_ms: Some(0), ..SchedulerSettings::default() }), 0);
    }
}

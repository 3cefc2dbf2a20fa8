//! One round of placing: take back what cannot begin, look, decide, propose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tarn_machine::{OpenTask, WorkerLoad};
use tarn_proto::v1::{self, PlaceTasks, SchedulerSettings, TaskPlacement, command, outcome};
use tarn_raft::EventBatch;
use tarn_scheduler::{Cluster, Decision, Outcome, Scheduler, Task, Tuning};
use tokio::time::Instant;

use super::away::{Leaving, is_elsewhere};
use super::lessons::Lesson;
use super::location::Locations;
use super::need::{Held, Needs};
use super::{LOOK_EVERY, ROUND_PAUSE, Router, matters, record, view};

/// Limit on one proposal. The next round looks again.
const PROPOSE: Duration = Duration::from_secs(5);

/// A task that was placed and has not begun after this long is taken back if its worker has no slot free.
const PATIENCE: Duration = Duration::from_secs(2);

/// After a round that proposed something of which nothing came about.
const SET_BACK: Duration = Duration::from_millis(250);

/// Tasks that are looked at: more, up to the last, only while none of those before can be placed.
const PAGES: [usize; 4] = [256, 1_024, 4_096, 16_384];

/// What lasts from round to round.
pub(super) struct Rounds {
    router: Router,
    /// Elsewhere while it thinks.
    scheduler: Scheduler,
    /// Chooses among other clusters: what is lost or full there is nothing to those here.
    abroad: Scheduler,
    settings: Option<SchedulerSettings>,
    needs: Needs,
    locations: Locations,
    /// Since when each task is known to be placed.
    placed_since: BTreeMap<String, Instant>,
    /// When the last round ended, and how long it took.
    last: (Instant, Duration),
}

/// What a round looks at.
struct Look {
    open: Vec<OpenTask>,
    loads: Vec<WorkerLoad>,
    held: BTreeMap<String, Held>,
    now_ms: u64,
    revision: u64,
}

impl Rounds {
    pub(super) fn new(router: Router) -> Self {
        Self {
            router,
            scheduler: Scheduler::default(),
            abroad: Scheduler::default(),
            settings: None,
            needs: Needs::default(),
            locations: Locations::default(),
            placed_since: BTreeMap::new(),
            last: (Instant::now(), Duration::ZERO),
        }
    }

    /// Learns from what was applied; says whether it changes what is to be placed.
    pub(super) fn hear(&mut self, batch: &EventBatch) -> bool {
        // Whoever reads the state waits for the entry that is being applied: only where there may be something to learn.
        if batch.events.iter().any(Lesson::is_in) {
            let lessons = self.router.consensus.read(|machine| {
                let lesson = |event| Lesson::of(machine, event);
                batch.events.iter().filter_map(lesson).collect::<Vec<_>>()
            });
            for lesson in lessons.iter().flatten() {
                lesson.teach(&mut self.scheduler);
                lesson.teach(&mut self.abroad);
            }
        }
        matters(batch)
    }

    pub(super) fn router(&self) -> &Router {
        &self.router
    }

    /// What chooses among other clusters.
    pub(super) fn abroad(&mut self) -> &mut Scheduler {
        &mut self.abroad
    }

    /// When the next round may begin: rounds take at most half of the time.
    pub(super) fn earliest(&self) -> Instant {
        let (ended, took) = self.last;
        ended + took.max(ROUND_PAUSE)
    }

    /// Places what can be placed. Returns how long until there may be more to do, though nothing is heard.
    pub(super) async fn place(&mut self) -> Duration {
        let began = Instant::now();
        let pause = self.round().await;
        self.last = (Instant::now(), began.elapsed());
        pause
    }

    async fn round(&mut self) -> Duration {
        let routed = self.router.consensus.read(|machine| {
            let routed = machine.version() >= tarn_machine::ROUTER && machine.has_routed_tasks();
            routed.then(|| machine.scheduler_settings())
        });
        let Ok(Some(settings)) = routed else {
            self.placed_since.clear();
            self.router.metrics.scheduler_waiting.set(0);
            return LOOK_EVERY;
        };
        self.tune(settings);
        let back = self.overdue();
        if !back.is_empty() {
            self.propose(back).await;
        }
        let mut wait = LOOK_EVERY;
        for page in PAGES {
            let Some(look) = self.look(page) else { return LOOK_EVERY };
            let whole = look.open.len() < page;
            let (decisions, open) = self.decide(look).await;
            let placements = decisions.placements;
            wait = decisions.wait;
            self.router.metrics.scheduler_waiting.set(open.saturating_sub(placements.len()) as i64);
            if !placements.is_empty() {
                let placed = self.propose(placements).await;
                return if placed == 0 { SET_BACK } else { ROUND_PAUSE };
            }
            if whole {
                break;
            }
        }
        wait
    }

    /// Takes over what the operator has set.
    fn tune(&mut self, settings: SchedulerSettings) {
        if self.settings.as_ref() != Some(&settings) {
            for scheduler in [&mut self.scheduler, &mut self.abroad] {
                if let Err(error) = scheduler.tune(tuning(&settings)) {
                    tracing::error!(%error, "the router's settings are not taken over");
                }
            }
            self.settings = Some(settings);
        }
    }

    /// What was placed and is to be taken back: its worker is gone or drains, or has long been full.
    fn overdue(&mut self) -> Vec<TaskPlacement> {
        let read = self.router.consensus.read(|machine| (machine.stranded_tasks(), machine.worker_loads()));
        let Ok((mut back, loads)) = read else { return Vec::new() };
        let now = Instant::now();
        let mut since = std::mem::take(&mut self.placed_since);
        for load in loads {
            let slots = load.capabilities.resources.as_ref().map_or(0, |resources| resources.slots);
            let full = load.running.len() >= slots as usize;
            for (namespace, id) in load.placed {
                let placed = since.remove(&id).unwrap_or(now);
                match load.draining || full && now.duration_since(placed) >= PATIENCE {
                    true => back.push((namespace, id)),
                    false => drop(self.placed_since.insert(id, placed)),
                }
            }
        }
        let open = |(namespace, task_id): (Arc<str>, String)| TaskPlacement {
            namespace: namespace.to_string(),
            task_id,
            ..TaskPlacement::default()
        };
        back.into_iter().map(open).collect()
    }

    fn look(&mut self, tasks: usize) -> Option<Look> {
        let needs = &mut self.needs;
        let read = self.router.consensus.read(|machine| {
            let loads = machine.worker_loads();
            let held = needs.held(machine, &loads);
            let (now_ms, revision) = (machine.now_ms(), machine.applied_index());
            machine.open_tasks(tasks).map(|open| Look { open, loads, held, now_ms, revision })
        });
        match read {
            Ok(Ok(look)) => Some(look),
            Ok(Err(error)) => {
                tracing::error!(%error, "the tasks that wait for the router cannot be read");
                None
            }
            Err(_) => None,
        }
    }

    /// Lets the scheduler decide; also says how many tasks it looked at.
    async fn decide(&mut self, look: Look) -> (Decisions, usize) {
        let nodes: BTreeMap<&str, &str> =
            look.loads.iter().filter_map(|load| Some((load.id.as_str(), load.capabilities.resources.as_ref()?.node.as_str()))).collect();
        let device_bytes = view::smallest_device(&look.loads);
        let tasks: Vec<Task> = look.open.iter().map(|open| view::task(open, &nodes, device_bytes, look.now_ms)).collect();
        let none = Held::default();
        let worker = |load: &WorkerLoad| {
            let resources = load.capabilities.resources.as_ref()?;
            Some(view::worker(load, resources, look.held.get(&load.id).unwrap_or(&none)))
        };
        let workers = look.loads.iter().filter(|load| !is_elsewhere(load)).filter_map(worker).collect();
        let others: Vec<_> = look.loads.iter().filter(|load| is_elsewhere(load)).filter_map(worker).collect();
        let wanted = view::wanted(&tasks);
        let data = self.locations.of(&self.router.artifacts, self.router.node_id, &wanted).await;
        let cluster = match Cluster::new(workers, &data) {
            Ok(cluster) => cluster,
            Err(error) => {
                tracing::error!(%error, "the router cannot make sense of the workers");
                return (Decisions::default(), tasks.len());
            }
        };
        let (tasks, decided) = self.think(tasks, cluster, look.now_ms).await;
        let weights = self.scheduler.tuning().weights;
        let settings = self.settings.unwrap_or_default();
        let leaving = if others.is_empty() { Vec::new() } else { self.leaving(&look.open, &tasks, &decided, &settings) };
        let mut decisions = Decisions::of(decided, &look, &weights);
        if !leaving.is_empty() {
            let abroad = self.elsewhere(&leaving, &others, look.now_ms);
            decisions.add(Decisions::of(abroad, &look, &weights), &leaving, &look);
        }
        (decisions, look.open.len())
    }

    /// Elsewhere, because a large batch takes longer than a thread that serves others may be held.
    async fn think(&mut self, tasks: Vec<Task>, cluster: Cluster, now_ms: u64) -> (Vec<Task>, Vec<Decision>) {
        let mut scheduler = std::mem::take(&mut self.scheduler);
        let thinking = tokio::task::spawn_blocking(move || {
            let decided = scheduler.place(&tasks, &cluster, now_ms);
            (scheduler, tasks, decided)
        });
        match thinking.await {
            Ok((scheduler, tasks, decided)) => {
                self.scheduler = scheduler;
                (tasks, decided)
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Proposes placements; says how many came about.
    async fn propose(&self, placements: Vec<TaskPlacement>) -> u64 {
        let mut placed = 0;
        for chunk in placements.chunks(tarn_machine::limits::PLACEMENTS_MAX) {
            let command = v1::Command {
                principal: format!("node/{}", self.router.node_id),
                body: Some(command::Body::PlaceTasks(PlaceTasks { placements: chunk.to_vec() })),
                ..v1::Command::default()
            };
            match self.router.consensus.propose(command, tarn_raft::Instant::now() + PROPOSE).await {
                Ok(v1::Outcome { body: Some(outcome::Body::PlaceTasks(answer)) }) => placed += u64::from(answer.placed),
                Ok(answer) => tracing::warn!(?answer, "the cluster refused what the router decided"),
                Err(error) => tracing::debug!(%error, "the cluster did not take what the router decided"),
            }
        }
        self.router.metrics.scheduler_placements.inc_by(placed);
        placed
    }
}

/// What came out of a round.
#[derive(Default)]
struct Decisions {
    placements: Vec<TaskPlacement>,
    /// Until a task gives up on a runtime that it holds out for.
    wait: Duration,
}

impl Decisions {
    fn of(decided: Vec<Decision>, look: &Look, weights: &tarn_scheduler::Weights) -> Self {
        let mut placements = Vec::new();
        let mut wait = LOOK_EVERY;
        for decision in decided {
            let Some(open) = look.open.get(decision.task) else { continue };
            match decision.outcome {
                Outcome::Placed(placement) => placements.push(TaskPlacement {
                    namespace: open.namespace.to_string(),
                    task_id: open.id.clone(),
                    scores: Some(record::scores(&placement.runtime, &placement.explanation, weights, look.revision)),
                    worker_id: placement.worker,
                    runtime: placement.runtime,
                }),
                Outcome::Waits(waiting) => {
                    let until = waiting.falls_back_at_ms.map(|at| at.saturating_sub(look.now_ms).max(1));
                    wait = wait.min(until.map_or(LOOK_EVERY, Duration::from_millis));
                }
            }
        }
        Self { placements, wait }
    }

    /// Adds those that go to other clusters, and why they do.
    fn add(&mut self, abroad: Self, leaving: &[Leaving], look: &Look) {
        let why: BTreeMap<&str, &str> = leaving.iter().map(|one| (one.task.id.as_str(), one.why.as_str())).collect();
        let cluster = |worker: &str| {
            let load = look.loads.iter().find(|load| load.id == worker)?;
            load.capabilities.resources.as_ref().map(|resources| resources.cluster.clone())
        };
        self.placements.extend(abroad.placements.into_iter().map(|mut placement| {
            if let Some(scores) = &mut placement.scores {
                scores.cluster = cluster(&placement.worker_id).unwrap_or_default();
                scores.why_not_here = record::bounded(why.get(placement.task_id.as_str()).copied().unwrap_or_default());
            }
            placement
        }));
    }
}

/// The scheduler's tuning where an operator has set these.
#[must_use]
pub fn tuning(settings: &SchedulerSettings) -> Tuning {
    let mut tuning = Tuning { in_given_order: true, ..Tuning::default() };
    let given = settings.weights.unwrap_or_default();
    let weights = &mut tuning.weights;
    for (weight, given) in [
        (&mut weights.performance, given.performance),
        (&mut weights.cost, given.cost),
        (&mut weights.quality, given.quality),
        (&mut weights.priority, given.priority),
        (&mut weights.locality, given.locality),
        (&mut weights.dependencies, given.dependencies),
        (&mut weights.balance, given.balance),
        (&mut weights.thrift, given.thrift),
    ] {
        *weight = given.and_then(|given| u16::try_from(given).ok()).unwrap_or(*weight);
    }
    for (value, given) in [
        (&mut tuning.time_value_per_second, settings.time_value_per_second),
        (&mut tuning.chain_patience_ms, settings.chain_patience_ms),
        (&mut tuning.auto_patience_ms, settings.auto_patience_ms),
        (&mut tuning.settle_ms, settings.settle_ms),
    ] {
        *value = given.unwrap_or(*value);
    }
    tuning
}

#[cfg(test)]
mod tests {
    use tarn_machine::limits;
    use tarn_proto::v1::SchedulerWeights;
    use tarn_scheduler::History;

    use super::*;

    #[test]
    fn what_the_kernel_lets_through_the_scheduler_takes() {
        let most = Some(u32::try_from(limits::SCHEDULER_WEIGHT_MAX).unwrap());
        let settings = SchedulerSettings {
            weights: Some(SchedulerWeights {
                performance: most,
                cost: most,
                quality: most,
                priority: most,
                locality: most,
                dependencies: most,
                balance: most,
                thrift: most,
            }),
            time_value_per_second: Some(limits::COST_MAX),
            chain_patience_ms: Some(limits::SCHEDULER_TIME_MS_MAX),
            auto_patience_ms: Some(limits::SCHEDULER_TIME_MS_MAX),
            settle_ms: Some(limits::SCHEDULER_TIME_MS_MAX),
            ..SchedulerSettings::default()
        };
        Scheduler::new(tuning(&settings), History::default()).unwrap();
        let cheap = SchedulerSettings {
            weights: Some(SchedulerWeights { cost: Some(0), ..SchedulerWeights::default() }),
            ..SchedulerSettings::default()
        };
        let defaults = Tuning::default();
        assert_eq!(tuning(&cheap).weights.cost, 0);
        assert_eq!(tuning(&cheap).weights.thrift, defaults.weights.thrift);
        assert_eq!(tuning(&cheap).settle_ms, defaults.settle_ms);
    }
}

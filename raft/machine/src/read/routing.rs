//! What the router looks at: tasks that wait for a placement, tasks that have one, and workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tarn_proto::v1::{SchedulerSettings, TaskSpec, TaskState, WorkerCapabilities, WorkerState};

use crate::Machine;
use crate::domain::placement::AUTO;
use crate::domain::worker;
use crate::error::Fatal;
use crate::ids::Id;
use crate::index::{Group, NamespaceIndex, Rank, effective_level};
use crate::rows::WorkerRow;
use crate::task::{find, specification};

/// A task that waits for the router.
#[derive(Clone, Debug)]
pub struct OpenTask {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its id.
    pub id: String,
    /// Whether only workers of the namespace's own may run it.
    pub strict: bool,
    /// Without the payload.
    pub spec: TaskSpec,
    /// The priority, from 1 to 5, as which it counts, having waited so long.
    pub level: u32,
    /// When it became ready.
    pub eligible_at_ms: u64,
    /// Workers at which attempts failed, once for each.
    pub failed_at: Vec<String>,
    /// Workers at which the tasks that it depends on ran, with the sizes of their results in bytes.
    pub results_at: Vec<(String, u64)>,
}

/// A worker, and what it has to do.
#[derive(Clone, Debug)]
pub struct WorkerLoad {
    /// Its id.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// What it can do and has.
    pub capabilities: WorkerCapabilities,
    /// Whether it takes no new tasks.
    pub draining: bool,
    /// The tasks that it runs, as (namespace, id).
    pub running: Vec<(Arc<str>, String)>,
    /// The tasks that wait for it, likewise.
    pub placed: Vec<(Arc<str>, String)>,
}

impl Machine {
    /// Whether tasks wait for the router, or have been placed and not begun.
    pub fn has_routed_tasks(&self) -> bool {
        let open = |namespace: &NamespaceIndex| namespace.ready > 0 && open_groups(namespace).next().is_some();
        !self.ix.placed.is_empty() || self.ix.namespaces.values().any(open)
    }

    /// Up to so many tasks that wait for the router, in the order in which they are to be placed: each namespace in turn by its weight, and
    /// within one by level and age. No more of a namespace than it may have running.
    ///
    /// # Errors
    ///
    /// The state contradicts itself.
    pub fn open_tasks(&self, max: usize) -> Result<Vec<OpenTask>, Fatal> {
        let now = self.now_ms();
        let mut placed: BTreeMap<u64, u64> = BTreeMap::new();
        for (ns, _) in self.ix.placed.values().flatten() {
            *placed.entry(*ns).or_default() += 1;
        }
        let mut order = Vec::new();
        for (ns, namespace) in self.ix.namespaces.iter().filter(|(_, namespace)| namespace.ready > 0) {
            let mut ranks: Vec<Rank> = open_groups(namespace).flat_map(|group| group.first(max, now)).collect();
            ranks.sort_unstable();
            let begun = namespace.running + placed.get(ns).copied().unwrap_or_default();
            let room = match namespace.row.max_running {
                0 => max as u64,
                limit => limit.saturating_sub(begun),
            };
            let weight = u64::from(namespace.row.weight.max(1));
            for (place, rank) in ranks.into_iter().take(usize::try_from(room).unwrap_or(max)).enumerate() {
                // The share that the namespace has once this one runs: the smallest is served first.
                let share = (begun + place as u64 + 1).saturating_mul(1 << 20) / weight;
                order.push((share, rank, *ns));
            }
        }
        order.sort_unstable();
        order.truncate(max);
        order.into_iter().map(|(_, rank, ns)| self.open_task(ns, rank)).collect()
    }

    fn open_task(&self, ns: u64, rank: Rank) -> Result<OpenTask, Fatal> {
        let missing = || Fatal::assertion(format!("an index has task {}, which does not exist", Id(rank.id)));
        let row = find(&self.rows(), ns, rank.id)?.ok_or_else(missing)?;
        let spec = specification(&self.rows(), ns, rank.id, false)?;
        let mut results_at = Vec::new();
        for id in &spec.dependencies {
            if let Some(row) = find(&self.rows(), ns, *id)?
                && let Some(last) = row.attempts.last().filter(|_| row.state() == TaskState::Succeeded)
            {
                results_at.push((Id(last.worker).to_string(), row.stored_bytes.saturating_sub(row.spec_bytes)));
            }
        }
        let failed = row.attempts.iter().filter(|attempt| attempt.error.is_some());
        let namespace = self.ix.namespace(ns)?;
        Ok(OpenTask {
            namespace: namespace.name.clone(),
            strict: namespace.is_strict(),
            id: Id(rank.id).to_string(),
            spec: *spec.spec.unwrap_or_default(),
            level: effective_level(row.priority, row.eligible_at_ms, self.now_ms()),
            eligible_at_ms: row.eligible_at_ms,
            failed_at: failed.map(|attempt| Id(attempt.worker).to_string()).collect(),
            results_at,
        })
    }

    /// The workers that have said what resources they have, which the router chooses among, and what they have to do.
    pub fn worker_loads(&self) -> Vec<WorkerLoad> {
        let routed = |(_, row): &(&u64, &WorkerRow)| row.capabilities.as_ref().is_some_and(|given| given.resources.is_some());
        let load = |(id, row): (&u64, &WorkerRow)| WorkerLoad {
            id: Id(*id).to_string(),
            name: row.name.clone(),
            capabilities: row.capabilities.clone().unwrap_or_default(),
            draining: worker::state(row) == WorkerState::Draining,
            running: self.names_of(self.ix.held.get(id)),
            placed: self.names_of(self.ix.placed.get(id)),
        };
        self.ix.workers.iter().filter(routed).map(load).collect()
    }

    /// Whether only workers of the namespace's own may run its tasks.
    pub fn is_strict(&self, namespace: &str) -> bool {
        let found = self.ix.namespace_ids.get(namespace).and_then(|ns| self.ix.namespaces.get(ns));
        found.is_some_and(NamespaceIndex::is_strict)
    }

    /// The node and the runtime of a worker that has said what it has.
    pub fn worker_place(&self, worker_id: &str) -> Option<(String, String)> {
        let id = worker_id.parse::<Id>().ok()?;
        let capabilities = self.ix.workers.get(&id.0)?.capabilities.as_ref()?;
        Some((capabilities.resources.as_ref()?.node.clone(), capabilities.runtimes.first()?.clone()))
    }

    /// Tasks that were placed at workers that are gone, as (namespace, id).
    pub fn stranded_tasks(&self) -> Vec<(Arc<str>, String)> {
        let gone = self.ix.placed.iter().filter(|(worker, _)| !self.ix.workers.contains_key(worker));
        gone.flat_map(|(_, tasks)| self.names_of(Some(tasks))).collect()
    }

    fn names_of(&self, tasks: Option<&BTreeSet<(u64, u64)>>) -> Vec<(Arc<str>, String)> {
        let name = |(ns, id): &(u64, u64)| Some((self.ix.namespaces.get(ns)?.name.clone(), Id(*id).to_string()));
        tasks.into_iter().flatten().filter_map(name).collect()
    }

    /// Tasks of a runtime that any worker of it may take and none has yet, and those that other clusters are about to have run here: what free
    /// slots are spoken for by.
    pub fn waiting_of(&self, runtime: &str) -> u64 {
        let groups = self.ix.namespaces.values().flat_map(|namespace| namespace.queues.values()).flat_map(|queue| &queue.groups);
        let ready: usize = groups.filter(|(class, _)| class.runtime == runtime).map(|(_, group)| group.len()).sum();
        let placed: usize = self.ix.placed.values().map(BTreeSet::len).sum();
        self.ix.transfers.held + ready.saturating_sub(placed) as u64
    }

    /// The namespaces in which anybody's workers may run tasks, up to so many.
    pub fn open_namespaces(&self, max: usize) -> Vec<String> {
        let open = self.ix.namespaces.values().filter(|namespace| !namespace.is_strict() && !namespace.row.is_draining());
        open.map(|namespace| namespace.name.to_string()).take(max).collect()
    }

    /// How the router weighs, as an operator put it.
    pub fn scheduler_settings(&self) -> SchedulerSettings {
        self.ix.scheduler_settings
    }
}

/// The groups of a namespace's ready tasks that wait for the router.
fn open_groups(namespace: &NamespaceIndex) -> impl Iterator<Item = &Group> {
    let queues = namespace.queues.values().filter(|queue| queue.ready > 0);
    queues.flat_map(|queue| {
        let open = queue.groups.iter().filter(|(class, group)| class.runtime == AUTO && group.oldest_ms().is_some());
        open.map(|(_, group)| group)
    })
}

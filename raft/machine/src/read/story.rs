//! The facts behind the story of a task: what was decided about it, and what it waits for.

use std::collections::{BTreeMap, BTreeSet};

use tarn_proto::v1::{Decision, DecisionKind, Dependency, GetTaskRequest, Share, Task, TaskState, TaskStory, Waiting, WorkerCapabilities};

use super::audit::concerns;
use crate::Machine;
use crate::domain::parse_id;
use crate::domain::placement::{AUTO, may_go, runtimes};
use crate::domain::worker::is_elsewhere;
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::{NamespaceIndex, Rank, effective_level, matches_class, serves};
use crate::limits;
use crate::rows::{Class, TaskRow};
use crate::task::{find, specification};

/// Ready tasks that are counted as standing before another.
const AHEAD_MAX: usize = 10_000;
/// Namespaces that are told of.
const SHARES_MAX: usize = 16;

impl Machine {
    /// What is known of a task: itself, without payload and result, the records about it, and what it waits for. The ids of the task and of
    /// its attempts, and its row, say where the records are: nothing is searched.
    ///
    /// # Errors
    ///
    /// `INVALID_ID`, `NAMESPACE_NOT_FOUND`, `TASK_NOT_FOUND`; `RECORDS_DAMAGED` if a record cannot be read.
    pub fn task_story(&self, namespace: &str, task_id: &str) -> Result<TaskStory, Refusal> {
        let question =
            GetTaskRequest { namespace: namespace.to_owned(), task_id: task_id.to_owned(), omit_bytes: true, ..GetTaskRequest::default() };
        let task = self.get_task(&question)?.task.unwrap_or_default();
        let ns = self.namespace(namespace)?;
        let id = parse_id(task_id, "task_id")?;
        let row = find(&self.rows(), ns, id)?.unwrap_or_default();
        let decisions = self.decisions_of(id, &row)?;
        let submitted = decisions.first().is_some_and(|first| first.index == Id(id).index());
        Ok(TaskStory {
            decisions_incomplete: !submitted,
            workers: self.workers_of(&task)?,
            waiting: self.waiting(ns, id, &row, &task)?,
            now_ms: self.now_ms(),
            revision: self.applied_index(),
            task: Some(task),
            decisions,
        })
    }

    fn decisions_of(&self, id: u64, row: &TaskRow) -> Result<Vec<Decision>, Refusal> {
        let attempts = row.attempts.iter().map(|attempt| Id(attempt.token).index());
        let own = [Id(id).index(), Id(row.returned_token).index()];
        let places: BTreeSet<u64> = own.into_iter().chain(attempts).chain(row.decided_at.iter().copied()).collect();
        let mut decisions = Vec::new();
        for index in places {
            let records = self.decisions_at(index)?;
            let requeued = records.iter().any(|record| is_about(record, id) && record.kind() == DecisionKind::Requeued);
            // Who requeued said which queue, and not which tasks.
            let by_queue = |record: &Decision| requeued && record.action == "RequeueDead";
            decisions.extend(records.into_iter().filter(|record| is_about(record, id) || by_queue(record)));
        }
        Ok(decisions)
    }

    /// Names of the workers that ran a task: of those that are gone, what they said when they registered.
    fn workers_of(&self, task: &Task) -> Result<BTreeMap<String, String>, Refusal> {
        let mut names = BTreeMap::new();
        let tried = task.attempts.iter().map(|attempt| &attempt.worker);
        for worker in tried.chain([&task.placed_worker]) {
            let Ok(id) = worker.parse::<Id>() else { continue };
            let registered = match self.ix.workers.get(&id.0) {
                Some(row) => Some(row.name.clone()),
                None => {
                    let mut records = self.decisions_at(id.index())?.into_iter();
                    records.find(|record| record.worker == *worker).map(|record| record.detail)
                }
            };
            if let Some(name) = registered {
                names.insert(worker.clone(), name);
            }
        }
        Ok(names)
    }

    fn waiting(&self, ns: u64, id: u64, row: &TaskRow, task: &Task) -> Result<Option<Waiting>, Fatal> {
        let mut waiting = Waiting::default();
        match row.state() {
            TaskState::Delayed => waiting.until_ms = row.eligible_at_ms,
            TaskState::Blocked => waiting.dependencies = self.open_dependencies(ns, task)?,
            TaskState::Ready => self.in_line(ns, id, row, &mut waiting)?,
            _ => return Ok(None),
        }
        Ok(Some(waiting))
    }

    fn open_dependencies(&self, ns: u64, task: &Task) -> Result<Vec<Dependency>, Fatal> {
        let mut dependencies = Vec::new();
        for task_id in &task.waits_for {
            let id = task_id.parse::<Id>().unwrap_or_default().0;
            let state = find(&self.rows(), ns, id)?.map_or(TaskState::Unspecified, |row| row.state());
            dependencies.push(Dependency { task_id: task_id.clone(), state: state.into() });
        }
        Ok(dependencies)
    }

    /// Where a ready task stands: who could run it, who is served before it.
    fn in_line(&self, ns: u64, id: u64, row: &TaskRow, waiting: &mut Waiting) -> Result<(), Fatal> {
        let (namespace, queue) = (self.ix.namespace(ns)?, self.ix.queue(ns, row.queue)?);
        let classes = self.classes(ns, id, row)?;
        let matches = |able: &WorkerCapabilities| classes.iter().any(|class| matches_class(able, class));
        let any = WorkerCapabilities::default();
        let serves_queue = |able: &WorkerCapabilities, name: &str| namespace.is_served_by(able) && serves(&able.queues, name);
        let spec = specification(&self.rows(), ns, id, false)?.spec.unwrap_or_default();
        let may_go = row.placed_worker == 0 && may_go(&spec, &self.ix.scheduler_settings);
        let reaches = |worker: u64, able: &WorkerCapabilities| !is_elsewhere(able) || may_go || row.placed_worker == worker;
        let mut able = Vec::new();
        for (worker, known) in &self.ix.workers {
            waiting.workers += 1;
            let capabilities = known.capabilities.as_ref().unwrap_or(&any);
            if serves_queue(capabilities, &queue.name) && matches(capabilities) && reaches(*worker, capabilities) {
                let free = !known.draining && self.ix.held_by(*worker) < limits::WORKER_TASKS_MAX;
                waiting.free += u32::from(free);
                able.push(capabilities);
            }
        }
        waiting.able = able.len() as u32;
        if able.is_empty() {
            waiting.missing = self.missing(namespace, &queue.name, &classes);
        }
        if namespace.is_full() {
            waiting.limit_name = "max_running".to_owned();
            (waiting.limit, waiting.used) = (namespace.row.max_running, namespace.running);
        }
        let rank = Rank { level: effective_level(row.priority, row.eligible_at_ms, self.now_ms()), eligible_at_ms: row.eligible_at_ms, id };
        let mut first: Option<Rank> = None;
        for queue in namespace.queues.values() {
            for (class, group) in &queue.groups {
                if able.iter().any(|able| serves_queue(able, &queue.name) && matches_class(able, class)) {
                    let room = AHEAD_MAX.saturating_sub(waiting.ahead as usize);
                    for before in group.before(rank, self.now_ms()).take(room) {
                        waiting.ahead += 1;
                        first = Some(first.map_or(before, |known| known.min(before)));
                    }
                }
            }
        }
        waiting.first_ahead = first.map_or_else(String::new, |rank| Id(rank.id).to_string());
        waiting.shares = self.shares();
        Ok(())
    }

    /// What the task is to whoever may run it: of one that waits for the router, a class for each runtime that is possible.
    fn classes(&self, ns: u64, id: u64, row: &TaskRow) -> Result<Vec<Class>, Fatal> {
        let class = row.class();
        if class.runtime != AUTO {
            return Ok(vec![class]);
        }
        let spec = specification(&self.rows(), ns, id, false)?.spec.unwrap_or_default();
        let of = |runtime: &str| Class { runtime: runtime.to_owned(), ..class.clone() };
        Ok(runtimes(&spec).into_iter().map(of).collect())
    }

    /// What none of the workers has; or, where each thing is had by some, that no one has all.
    fn missing(&self, namespace: &NamespaceIndex, queue: &str, classes: &[Class]) -> Vec<String> {
        let Some(class) = classes.first() else { return Vec::new() };
        let any = WorkerCapabilities::default();
        let nobody = |suits: &dyn Fn(&WorkerCapabilities) -> bool| {
            let mut workers = self.ix.workers.values();
            !workers.any(|row| suits(row.capabilities.as_ref().unwrap_or(&any)))
        };
        let mut missing = Vec::new();
        let mut need = |what: String, nobody: bool| {
            if nobody {
                missing.push(what);
            }
        };
        need(
            match namespace.is_strict() {
                true => format!("namespace {} alone", namespace.name),
                false => format!("namespace {}", namespace.name),
            },
            nobody(&|w| namespace.is_served_by(w)),
        );
        need(format!("queue {queue}"), nobody(&|w| serves(&w.queues, queue)));
        let names: Vec<&str> = classes.iter().map(|class| class.runtime.as_str()).collect();
        let runtime = match names.join(" or ").as_str() {
            "" => "a worker built with an SDK".to_owned(),
            names => format!("runtime {names}"),
        };
        let runs = |w: &WorkerCapabilities| {
            let bare = |class: &Class| Class { runtime: class.runtime.clone(), ..Class::default() };
            let any_handler = WorkerCapabilities { handlers: Vec::new(), ..w.clone() };
            classes.iter().any(|class| matches_class(&any_handler, &bare(class)))
        };
        need(runtime, nobody(&runs));
        need(format!("handler {}", class.handler), nobody(&|w| serves(&w.handlers, &class.handler)));
        for label in &class.requires {
            need(format!("label {label}"), nobody(&|w| w.labels.contains(label)));
        }
        missing
    }

    /// The namespaces that have ready tasks, the next to be served first.
    fn shares(&self) -> Vec<Share> {
        let ready = self.ix.namespaces.values().filter(|namespace| namespace.ready > 0);
        let mut shares: Vec<Share> = ready
            .map(|namespace| Share {
                namespace: namespace.name.to_string(),
                weight: namespace.row.weight,
                pass: namespace.pass,
                ready: namespace.ready,
            })
            .collect();
        shares.sort_by(|a, b| (a.pass, &a.namespace).cmp(&(b.pass, &b.namespace)));
        shares.truncate(SHARES_MAX);
        shares
    }
}

fn is_about(record: &Decision, task: u64) -> bool {
    let first = record.task_id.parse::<Id>().unwrap_or_default().0;
    concerns(first, record.count, task)
}

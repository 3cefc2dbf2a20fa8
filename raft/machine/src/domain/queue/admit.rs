//! Admission: from specifications to tasks, all or none.

use std::collections::BTreeMap;

use prost::Message;
use tarn_proto::v1::{EnqueueRequest, EnqueueResponse, EventKind, Rejection, TaskSpec, TaskState};

use super::dependency::{self, Standing};
use crate::domain::{parse_id, quota};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::QueueIndex;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{Class, QueueRow};
use crate::task::{Task, end, error, spec};
use crate::txn::Txn;
use crate::wire;

/// What to do about a dependency that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dangling {
    /// Refuse: the submitter is there to hear it.
    Refuse,
    /// Take it as failed: a timer's submitter has long gone.
    Fail,
}

/// The command, whose body lies in the log as `said`: accepts the tasks, all or none.
pub fn enqueue(txn: &mut Txn<'_>, request: EnqueueRequest, said: &[u8]) -> Result<EnqueueResponse, Refusal> {
    let ns = txn.open_namespace(&request.namespace)?;
    if request.tasks.iter().any(|spec| (1..=txn.now).contains(&spec.deadline_at_ms)) {
        let message = "the deadline has passed already: name a later one, or none";
        return Err(reject::invalid("DEADLINE_PASSED", "tasks.deadline_at_ms", message).into());
    }
    let newcomers = newcomers(txn, ns, request.tasks, wire::specifications(said), Dangling::Refuse, 0)?;
    let ids = settle_in(txn, ns, newcomers)?;
    Ok(EnqueueResponse { task_ids: ids.into_iter().map(|id| Id(id).text()).collect() })
}

/// A task on its way in.
struct Newcomer<'a> {
    /// Apart, as it is large and handed on often.
    spec: Box<TaskSpec>,
    /// The specification as it lies in the log; empty if that is not known.
    said: &'a [u8],
    /// Of the specification.
    bytes: u64,
    class: Class,
    /// Dependencies outside the batch, in order, and how they stand.
    outside: Vec<(u64, Standing)>,
}

/// Accepts tasks into a namespace, all or none, and gives their ids. So many of their bytes are counted for it already.
pub fn admit(txn: &mut Txn<'_>, ns: u64, specs: Vec<TaskSpec>, dangling: Dangling, counted: u64) -> Result<Vec<u64>, Refusal> {
    let newcomers = newcomers(txn, ns, specs, std::iter::empty(), dangling, counted)?;
    Ok(settle_in(txn, ns, newcomers)?)
}

/// Creates tasks of which nothing can be refused any more, and gives their ids.
fn settle_in(txn: &mut Txn<'_>, ns: u64, newcomers: Vec<Newcomer<'_>>) -> Result<Vec<u64>, Fatal> {
    let ids: Vec<u64> = newcomers.iter().map(|_| txn.next_id()).collect();
    let mut doomed = Vec::new();
    for (newcomer, id) in newcomers.into_iter().zip(&ids) {
        if let Some(death) = create(txn, ns, *id, newcomer, &ids)? {
            doomed.push(death);
        }
    }
    // Only now, when all edges within the batch are drawn: a task that dies takes those with it that wait for it.
    for (id, error) in doomed {
        if let Some(mut task) = Task::load(txn, ns, id)? {
            end::die(txn, &mut task, error)?;
        }
    }
    Ok(ids)
}

/// Refuses if a task could not be accepted now.
pub fn require_room(txn: &Txn<'_>, ns: u64, spec: TaskSpec) -> Result<(), Refusal> {
    newcomers(txn, ns, vec![spec], std::iter::empty(), Dangling::Refuse, 0).map(drop)
}

/// Everything that can be refused of tasks on their way in, whose specifications lie in the log like this, as far as that is known.
fn newcomers<'a>(
    txn: &Txn<'_>,
    ns: u64,
    specs: Vec<TaskSpec>,
    mut said: impl Iterator<Item = &'a [u8]>,
    dangling: Dangling,
    counted: u64,
) -> Result<Vec<Newcomer<'a>>, Refusal> {
    let tasks = specs.len() as u64;
    let mut newcomers = Vec::with_capacity(specs.len());
    let mut outside = Outside::default();
    for spec in specs.into_iter().map(Box::new) {
        let dependencies = outside.look_up(txn, ns, &spec, dangling)?;
        let said = said.next().unwrap_or_default();
        let bytes = if said.is_empty() { spec.encoded_len() } else { said.len() } as u64;
        newcomers.push(Newcomer { said, bytes, class: spec::class(&spec), spec, outside: dependencies });
    }
    let bytes: u64 = newcomers.iter().map(|newcomer| newcomer.bytes).sum();
    check_edges(txn, ns, &newcomers)?;
    check_room(txn, ns, &newcomers)?;
    quota::room_for_tasks(txn, ns, tasks)?;
    quota::room_for_bytes(txn, ns, bytes.saturating_sub(counted))?;
    Ok(newcomers)
}

/// Looks dependencies up, each once per batch.
#[derive(Default)]
struct Outside {
    known: BTreeMap<u64, Standing>,
    added: BTreeMap<u64, u32>,
}

impl Outside {
    fn look_up(&mut self, txn: &Txn<'_>, ns: u64, spec: &TaskSpec, dangling: Dangling) -> Result<Vec<(u64, Standing)>, Refusal> {
        let mut found = Vec::with_capacity(spec.after.len());
        for text in &spec.after {
            let id = parse_id(text, "tasks.after")?;
            let standing = match self.known.get(&id) {
                Some(standing) => *standing,
                None => *self.known.entry(id).or_insert(dependency::standing(txn, ns, id)?),
            };
            if standing == Standing::Missing && dangling == Dangling::Refuse {
                let message = format!("there is no task {text} in this namespace to wait for: check the id, or its retention is over");
                return Err(reject::not_found("DEPENDENCY_NOT_FOUND", "tasks.after", message).into());
            }
            let added = self.added.entry(id).or_default();
            *added += 1;
            if txn.ix.edges.dependents(id) + *added > limits::DEPENDENTS_MAX {
                let message = format!("too many tasks depend on task {text}: put a task between that they can depend on");
                return Err(reject::full("TOO_MANY_DEPENDENTS", "tasks.after", limits::DEPENDENTS_MAX.into(), message).into());
            }
            found.push((id, standing));
        }
        Ok(found)
    }
}

fn check_edges(txn: &Txn<'_>, ns: u64, newcomers: &[Newcomer<'_>]) -> Result<(), Refusal> {
    let added: usize = newcomers.iter().map(|n| n.outside.len() + n.spec.after_in_batch.len()).sum();
    if txn.ix.namespace(ns)?.edges + added as u64 > limits::NAMESPACE_EDGES_MAX {
        let message = "the unended and dead tasks of this namespace have too many dependencies: wait until some have ended";
        let limit = limits::NAMESPACE_EDGES_MAX;
        return Err(reject::full("TOO_MANY_DEPENDENCIES", "tasks.after", limit, message).into());
    }
    Ok(())
}

/// Refuses if a queue, or the list of queues, has no room for the tasks.
fn check_room(txn: &Txn<'_>, ns: u64, newcomers: &[Newcomer<'_>]) -> Result<(), Refusal> {
    let namespace = txn.ix.namespace(ns)?;
    let mut by_queue: Vec<(&str, &Class)> = newcomers.iter().map(|newcomer| (&*newcomer.spec.queue, &newcomer.class)).collect();
    by_queue.sort_unstable();
    let mut queues = namespace.queues.len();
    for group in by_queue.chunk_by(|one, next| one.0 == next.0) {
        let (name, count) = (group[0].0, group.len() as u64);
        let classes = group.chunk_by(|one, next| one == next).map(|same| same[0].1);
        let present = namespace.queue_ids.get(name).and_then(|id| namespace.queues.get(id));
        let tasks = present.map_or(0, QueueIndex::tasks);
        if tasks + count > limits::QUEUE_TASKS_MAX {
            return Err(queue_full(name).into());
        }
        let known = |class: &Class| present.is_some_and(|queue| queue.groups.contains_key(class));
        let fresh = classes.filter(|class| !known(class)).count();
        if present.map_or(0, |queue| queue.groups.len()) + fresh > limits::CLASSES_MAX {
            return Err(too_many_classes(name).into());
        }
        queues += usize::from(present.is_none());
    }
    if queues > limits::QUEUES_MAX {
        let message = "this namespace has too many queues: use fewer, a queue without tasks goes after a day";
        return Err(reject::full("TOO_MANY_QUEUES", "tasks.queue", limits::QUEUES_MAX as u64, message).into());
    }
    Ok(())
}

fn queue_full(name: &str) -> Rejection {
    let message = format!("queue {name:?} is full: wait until tasks end, or requeue or purge its dead letters");
    reject::full("QUEUE_FULL", "tasks.queue", limits::QUEUE_TASKS_MAX, message)
}

fn too_many_classes(name: &str) -> Rejection {
    let message = format!(
        "the tasks in queue {name:?} have too many different combinations of runtime, handler and required labels: use another queue"
    );
    reject::full("TOO_MANY_CLASSES", "tasks.queue", limits::CLASSES_MAX as u64, message)
}

/// Creates a task; says what it must die of, if it can never run.
fn create(
    txn: &mut Txn<'_>,
    ns: u64,
    id: u64,
    newcomer: Newcomer<'_>,
    batch: &[u64],
) -> Result<Option<(u64, tarn_proto::v1::TaskError)>, Fatal> {
    let Newcomer { spec, said, bytes, class, outside } = newcomer;
    let queue = use_queue(txn, ns, &spec.queue)?;
    let inside = spec.after_in_batch.iter().filter_map(|place| batch.get(*place as usize));
    let dependencies: Vec<(u64, Standing)> = outside.into_iter().chain(inside.map(|id| (*id, Standing::Open))).collect();
    let row = spec::row(&spec, bytes, queue, class, !dependencies.is_empty(), txn.now);
    spec::put(txn, ns, id, spec, said, bytes, dependencies.iter().map(|(id, _)| *id).collect());

    let mut task = Task::new(ns, id, row);
    task.event(txn, EventKind::TaskEnqueued, "")?;
    let failed = dependency::begin(txn, &task, &dependencies)?;
    match failed || txn.ix.edges.waits(id) {
        true => task.row.set_state(TaskState::Blocked),
        false => task.release(txn.now),
    }
    task.save(txn)?;
    let late = task.row.deadline_at_ms != 0 && task.row.deadline_at_ms <= txn.now;
    let death = match (late, failed) {
        (true, _) => Some(past_deadline()),
        (false, true) => Some(dependency::failure()),
        (false, false) => None,
    };
    Ok(death.map(|error| (id, error)))
}

/// What a task dies of that was not finished in time.
pub fn past_deadline() -> tarn_proto::v1::TaskError {
    error("DEADLINE_EXCEEDED", "the task was not finished by its deadline")
}

/// The number of the queue with this name, which exists from here on.
fn use_queue(txn: &mut Txn<'_>, ns: u64, name: &str) -> Result<u64, Fatal> {
    let now = txn.now;
    let namespace = txn.ix.namespace(ns)?;
    if let Some(id) = namespace.queue_ids.get(name).copied() {
        let used_at_ms = txn.ix.queue(ns, id)?.used_at_ms;
        if now >= used_at_ms + limits::QUEUE_TOUCH_MS {
            txn.ix.touch_queue(ns, id, now)?;
            txn.rows.put(Key::Queue { ns, name }, &QueueRow { id, used_at_ms: now });
        }
        return Ok(id);
    }
    let id = txn.next_id();
    txn.rows.put(Key::Queue { ns, name }, &QueueRow { id, used_at_ms: now });
    txn.ix.insert_queue(ns, id, QueueIndex::new(name.into(), now))?;
    Ok(id)
}

/// A queue has not been used for a day: it goes if it is empty, and stays for another day if not.
pub fn idle(txn: &mut Txn<'_>, ns: u64, id: u64) -> Result<(), Fatal> {
    let queue = txn.ix.queue(ns, id)?;
    let (name, empty) = (queue.name.clone(), queue.tasks() == 0);
    let key = Key::Queue { ns, name: &name };
    if empty {
        txn.rows.delete(key);
        txn.ix.remove_queue(ns, id)
    } else {
        txn.rows.put(key, &QueueRow { id, used_at_ms: txn.now });
        txn.ix.touch_queue(ns, id, txn.now)
    }
}

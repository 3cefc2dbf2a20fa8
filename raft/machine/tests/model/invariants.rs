//! What must hold after every entry, whatever the model thinks. Each is a function with a name, and beside it where the promise was made.
//!
//! [`History`] believes only what the machine told the outside world: outcomes and events. The other functions look at the rows.

use std::collections::{BTreeMap, BTreeSet};

use tarn_machine::ids::Id;
use tarn_machine::keys::Key;
use tarn_machine::{Applied, Machine, STATE, limits};
use tarn_proto::v1::{Event, EventKind, TaskState, command, outcome};
use tarn_storage::{Engine, Keyspace, MemoryEngine, Range};

use crate::reference::{Line, Model, matches};

type Check = Result<(), String>;

/// What the machine has told so far.
#[derive(Default)]
pub struct History {
    last_token: u64,
    last_revision: u64,
    /// Tokens of attempts and of named leases: who got them first.
    granted: BTreeMap<u64, String>,
    /// Accepted tasks that were not deleted.
    tasks: BTreeMap<u64, Told>,
}

/// A task as the outside world knows it.
#[derive(Clone)]
struct Told {
    /// What the last event said.
    stage: Stage,
    /// The token under which it runs.
    holder: Option<u64>,
    /// The token of its completion.
    completed: Option<u64>,
    /// From then on it may be forgotten.
    forget_at_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Blocked or delayed or ready: submitted, or put back.
    Waiting,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl History {
    /// Takes in what an entry did, and checks it against what was before.
    pub fn entry(&mut self, index: u64, lines: &[Line], applied: &Applied) -> Check {
        self.events_are_in_order(index, applied)?;
        for event in &applied.events {
            self.tasks_move_as_the_diagram_says(event, applied.now_ms)?;
        }
        for (line, outcome) in lines.iter().zip(&applied.outcomes) {
            let Some(request) = &line.command.body else { continue };
            match (request, outcome.body.as_ref()) {
                (_, Some(outcome::Body::LeaseTasks(answer))) => {
                    for task in &answer.tasks {
                        let what = format!("task {}", task.task_id);
                        self.no_token_is_given_twice(task.token, what)?;
                    }
                }
                (_, Some(outcome::Body::AcquireLease(answer))) => {
                    let lease = answer
                        .lease
                        .as_ref()
                        .ok_or("an acquired lease is missing from its answer")?;
                    let what = format!("lease {}/{} of {}", lease.namespace, lease.name, lease.acquired_at_ms);
                    self.no_token_is_given_twice(lease.token, what)?;
                }
                (command::Body::CompleteTask(request), Some(outcome::Body::CompleteTask(_))) => {
                    self.nothing_is_completed_twice(&request.task_id, request.token)?;
                }
                _ => {}
            }
        }
        // The answers of the entry have said by now under which token each task runs; those that ended again before the end of the entry
        // were only named in passing.
        self.nobody_holds_a_task_without_a_token(applied)
    }

    /// "Events: what happened, in the order of the log … without gap or repeat" (event.proto).
    fn events_are_in_order(&mut self, index: u64, applied: &Applied) -> Check {
        if index <= self.last_revision {
            return Err(format!("revision {index} came after {}", self.last_revision));
        }
        self.last_revision = index;
        for (place, event) in applied.events.iter().enumerate() {
            if event.revision != index || event.ordinal as usize != place || event.at_ms != applied.now_ms {
                return Err(format!("event {place} of revision {index} says of itself {event:?}"));
            }
        }
        Ok(())
    }

    /// The diagram in `domain::queue`: a task is in one state, and leaves it only by the arrows.
    fn tasks_move_as_the_diagram_says(&mut self, event: &Event, now_ms: u64) -> Check {
        use EventKind as E;
        let Ok(Id(id)) = event.subject.parse::<Id>() else {
            return Ok(());
        };
        let wrong = |stage: Option<Stage>| Err(format!("{stage:?} is no state for {event:?}"));
        if event.kind() == E::TaskEnqueued {
            let told = Told {
                stage: Stage::Waiting,
                holder: None,
                completed: None,
                forget_at_ms: None,
            };
            return match self.tasks.insert(id, told) {
                None => Ok(()),
                Some(before) => wrong(Some(before.stage)),
            };
        }
        if event.queue.is_empty() {
            return Ok(());
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return wrong(None);
        };
        let next = match (event.kind(), task.stage) {
            (E::TaskReady, Stage::Waiting) => Stage::Waiting,
            (E::TaskLeased, Stage::Waiting) => Stage::Running,
            (E::TaskCancelRequested, Stage::Running) => Stage::Running,
            (E::TaskRetried | E::TaskReturned, Stage::Running) => Stage::Waiting,
            (E::TaskSucceeded, Stage::Running) => Stage::Succeeded,
            (E::TaskDead, Stage::Waiting | Stage::Running) => Stage::Dead,
            (E::TaskCancelled, Stage::Waiting | Stage::Running) => Stage::Cancelled,
            (E::TaskRequeued, Stage::Dead) => Stage::Waiting,
            (E::TaskPurged, Stage::Waiting | Stage::Dead) => {
                self.tasks.remove(&id);
                return Ok(());
            }
            (_, stage) => return wrong(Some(stage)),
        };
        task.stage = next;
        if next != Stage::Running {
            task.holder = None;
        }
        if matches!(next, Stage::Succeeded | Stage::Cancelled) {
            // The shortest time for which anything ended is kept; the model knows the exact one.
            task.forget_at_ms = Some(now_ms + limits::REQUEST_RETENTION_MS);
        }
        Ok(())
    }

    /// "No task is ever leased to two holders with the same token"; "a fencing token (a number that only grows)" (design, Words).
    fn no_token_is_given_twice(&mut self, token: u64, to: String) -> Check {
        if let Some(before) = self.granted.get(&token) {
            return match *before == to {
                // A repeated request gets the same lease again.
                true => Ok(()),
                false => Err(format!("token {token} was given to {before} and again to {to}")),
            };
        }
        if token <= self.last_token {
            return Err(format!(
                "token {token} of {to} is not above {}, which was given before",
                self.last_token
            ));
        }
        self.last_token = token;
        if let Some(task) = to
            .strip_prefix("task ")
            .and_then(|id| id.parse::<Id>().ok())
            .and_then(|id| self.tasks.get_mut(&id.0))
        {
            task.holder = Some(token).filter(|_| task.stage == Stage::Running);
        }
        self.granted.insert(token, to);
        Ok(())
    }

    /// "… completed twice": a task succeeds under one token; another completion that is accepted is its repeat.
    fn nothing_is_completed_twice(&mut self, id: &str, token: u64) -> Check {
        let to = format!("task {id}");
        if self.granted.get(&token) != Some(&to) {
            return Err(format!(
                "{to} was completed under token {token}, which it was never leased with"
            ));
        }
        let Some(task) = id.parse::<Id>().ok().and_then(|id| self.tasks.get_mut(&id.0)) else {
            // A repeat by request id of what has been forgotten since.
            return Ok(());
        };
        match task.completed {
            Some(before) if before != token => Err(format!("{to} was completed under tokens {before} and {token}")),
            Some(_) => Ok(()),
            None if task.stage == Stage::Succeeded => {
                task.completed = Some(token);
                Ok(())
            }
            None => Err(format!(
                "the completion of {to} was accepted, and it is {:?}",
                task.stage
            )),
        }
    }

    /// Whatever runs was leased to somebody: its token is among those that were handed out.
    fn nobody_holds_a_task_without_a_token(&self, applied: &Applied) -> Check {
        for event in applied
            .events
            .iter()
            .filter(|event| event.kind() == EventKind::TaskLeased)
        {
            let task = event.subject.parse::<Id>().ok().and_then(|id| self.tasks.get(&id.0));
            if task.is_some_and(|task| task.stage == Stage::Running && task.holder.is_none()) {
                return Err(format!("task {} runs, and nobody was told its token", event.subject));
            }
        }
        Ok(())
    }

    /// "… lost": an accepted task is in exactly one place until it is purged, or has ended and its retention is over.
    pub fn every_accepted_task_is_somewhere(&mut self, engine: &MemoryEngine, now_ms: u64) -> Check {
        let mut places: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        each_row(engine, |key, _| {
            let (id, place) = match key {
                Key::LiveTask { id, .. } => (id, "live"),
                Key::DeadTask { id, .. } => (id, "dead"),
                Key::EndedTask { id, .. } => (id, "ended"),
                _ => return Ok(()),
            };
            places.entry(id).or_default().push(place);
            Ok(())
        })?;
        let mut gone = Vec::new();
        for (id, task) in &self.tasks {
            let place = match task.stage {
                Stage::Waiting | Stage::Running => "live",
                Stage::Dead => "dead",
                Stage::Succeeded | Stage::Cancelled => "ended",
            };
            match places.remove(id).as_deref() {
                Some([found]) if *found == place => {}
                None if task.forget_at_ms.is_some_and(|at| at <= now_ms) => gone.push(*id),
                other => {
                    return Err(format!(
                        "task {} is {:?}, and lies in the places {other:?}",
                        Id(*id),
                        task.stage
                    ));
                }
            }
        }
        if let Some(id) = places.keys().next() {
            return Err(format!("task {} exists, and nobody submitted it", Id(*id)));
        }
        for id in gone {
            self.tasks.remove(&id);
        }
        Ok(())
    }
}

/// "Provable: replicas compare digests at the same index" (design, The kernel's rules).
pub fn replicas_agree(who: &str, a: &Machine, b: &Machine) -> Check {
    let stand = |machine: &Machine| (machine.applied_index(), machine.now_ms(), machine.digest());
    match stand(a) == stand(b) {
        true => Ok(()),
        false => Err(format!(
            "{who} has another digest at index {} than at {}",
            b.applied_index(),
            a.applied_index()
        )),
    }
}

/// "Rebuild of in-memory indices on start is tested against the live ones (same content, to the entry)".
pub fn indices_are_what_the_rows_say(machine: &Machine) -> Check {
    let rebuilt = machine.rebuilt_indices().map_err(|fatal| fatal.to_string())?;
    match machine.indices() == &rebuilt {
        true => Ok(()),
        false => {
            let (live, rebuilt) = (format!("{:#?}", machine.indices()), format!("{rebuilt:#?}"));
            let first = live.lines().zip(rebuilt.lines()).find(|(a, b)| a != b);
            Err(format!("live and rebuilt indices differ, first in {first:?}"))
        }
    }
}

/// "Effects, `last_applied` and the digest commit in one batch": after a power cut, what the caller wrote with an entry is there exactly if
/// the entry's own effects are.
pub fn callers_part_is_in_the_same_batch(engine: &MemoryEngine, keyspace: Keyspace, machine: &Machine) -> Check {
    let bytes = engine.get(keyspace, b"applied").map_err(|error| error.to_string())?;
    let caller = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes);
    match caller == machine.applied_index() {
        true => Ok(()),
        false => Err(format!(
            "the caller's part stands at {caller}, the machine at {}",
            machine.applied_index()
        )),
    }
}

/// "Starved": among the tasks of a namespace that a worker could be given, one that has aged to critical is not passed over for one that
/// became ready after it. With the namespaces' shares this bounds every wait; `starvation` computes the bound and tries it.
///
/// Looks at the entry's leases from the end of the entry: a task that is still ready was ready, and passed over, when they were granted,
/// unless it became ready within the entry.
pub fn nobody_who_waited_long_is_passed_over(model: &Model, applied: &Applied) -> Check {
    for event in applied
        .events
        .iter()
        .filter(|event| event.kind() == EventKind::TaskLeased)
    {
        let Ok(Id(leased)) = event.subject.parse::<Id>() else {
            continue;
        };
        let worker = event.worker.parse::<Id>().ok().and_then(|id| model.workers.get(&id.0));
        let (Some(taken), Some(worker)) = (model.tasks.get(&leased), worker) else {
            continue;
        };
        // One that failed within the entry has begun to wait anew.
        if taken.state != TaskState::Running {
            continue;
        }
        let able = worker.capabilities.clone().unwrap_or_default();
        for (id, waiting) in &model.tasks {
            let old = applied.now_ms.saturating_sub(waiting.eligible_at_ms) >= 4 * limits::AGE_STEP_MS;
            let earlier = (waiting.eligible_at_ms, *id) < (taken.eligible_at_ms, leased);
            let given_back = applied.events.iter().any(|event| event.subject == Id(*id).to_string());
            if waiting.state == TaskState::Ready
                && waiting.ns == taken.ns
                && old
                && earlier
                && !given_back
                && matches(&able, &event.namespace, waiting)
            {
                return Err(format!(
                    "task {} has waited since {} and was passed over for task {}",
                    Id(*id),
                    waiting.eligible_at_ms,
                    Id(leased)
                ));
            }
        }
    }
    Ok(())
}

/// "Streams can resume from a revision" (design, The way of one request).
pub fn events_can_be_read_again(machine: &Machine, index: u64, events: &[Event]) -> Check {
    let again = machine
        .events_after(index - 1, 2)
        .map_err(|refusal| refusal.to_string())?;
    match again == events {
        true => Ok(()),
        false => Err(format!(
            "the events of revision {index} read differently afterwards: {again:?}"
        )),
    }
}

/// Nothing outlives what it belongs to: every row beside a task, every edge, every expiry has its owner, and the other way round.
pub fn rows_belong_together(engine: &MemoryEngine) -> Check {
    let mut tasks: BTreeMap<(u64, u64), (u64, bool)> = BTreeMap::new();
    let mut namespaces = BTreeSet::new();
    let (mut specs, mut expiries, mut queues) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let (mut fired, mut fired_expiries) = (BTreeSet::new(), BTreeSet::new());
    let (mut owned, mut in_namespaces) = (Vec::new(), Vec::new());
    each_row(engine, |key, value| {
        match key {
            Key::Namespace { .. } => drop(namespaces.insert(first_number(value)?)),
            Key::LiveTask { ns, id } | Key::DeadTask { ns, id } => {
                tasks.insert((ns, id), (first_number(value)?, false));
                in_namespaces.push(ns);
            }
            Key::EndedTask { ns, id } => drop(tasks.insert((ns, id), (first_number(value)?, true))),
            Key::Spec { ns, id } => drop(specs.insert((ns, id))),
            Key::Payload { ns, id } | Key::Result { ns, id } | Key::Log { ns, id, .. } => owned.push((ns, id, false)),
            Key::Edge { ns, dependent, .. } => owned.push((ns, dependent, true)),
            Key::EndedExpiry { ns, id, .. } => *expiries.entry((ns, id)).or_insert(0) += 1,
            Key::Queue { ns, .. } => {
                queues.insert(first_number(value)?);
                in_namespaces.push(ns);
            }
            Key::Pass { ns } | Key::NamedLease { ns, .. } | Key::PendingTimer { ns, .. } => in_namespaces.push(ns),
            Key::FiredTimer { ns, id } => drop(fired.insert((ns, id))),
            Key::FiredTimerExpiry { ns, id, .. } => drop(fired_expiries.insert((ns, id))),
            _ => {}
        }
        Ok(())
    })?;
    if let Some(ns) = in_namespaces.iter().find(|ns| !namespaces.contains(ns)) {
        return Err(format!("something lies in namespace {ns}, which does not exist"));
    }
    if specs != tasks.keys().copied().collect() {
        return Err("tasks and specifications are not the same".to_owned());
    }
    if fired != fired_expiries {
        return Err("fired timers and their expiries are not the same".to_owned());
    }
    for (ns, id, by_edge) in owned {
        match tasks.get(&(ns, id)) {
            Some((_, ended)) if !(by_edge && *ended) => {}
            _ => return Err(format!("a row belongs to task {}, which has no use for it", Id(id))),
        }
    }
    for ((ns, id), (queue, ended)) in &tasks {
        let expiries = expiries.remove(&(*ns, *id)).unwrap_or(0);
        if expiries != usize::from(*ended) {
            return Err(format!(
                "task {} has {expiries} expiries; that it has ended is {ended}",
                Id(*id)
            ));
        }
        if !ended && !queues.contains(queue) {
            return Err(format!("task {} is in a queue that does not exist", Id(*id)));
        }
    }
    match expiries.keys().next() {
        Some((_, id)) => Err(format!("an expiry names task {}, which does not exist", Id(*id))),
        None => Ok(()),
    }
}

/// The first field of a row. Of a namespace and of a queue it is the number, of a task its queue's, of a pass the pass: rows are the
/// kernel's own, and this is all that is to be known of them here.
pub fn first_number(row: &[u8]) -> Result<u64, String> {
    #[derive(Clone, Copy, prost::Message)]
    struct Row {
        #[prost(uint64, tag = "1")]
        number: u64,
    }
    prost::Message::decode(row)
        .map(|row: Row| row.number)
        .map_err(|error| error.to_string())
}

fn each_row(engine: &MemoryEngine, mut see: impl FnMut(Key<'_>, &[u8]) -> Check) -> Check {
    for entry in engine.scan(STATE, Range::all()) {
        let (key, value) = entry.map_err(|error| error.to_string())?;
        let key = Key::decode(&key).ok_or_else(|| format!("what is the key {key:02x?}?"))?;
        see(key, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, kind: EventKind, task: u64) -> Event {
        let subject = Id(task).to_string();
        Event {
            revision,
            kind: kind.into(),
            subject,
            queue: "q".to_owned(),
            ..Event::default()
        }
    }

    fn applied(events: Vec<Event>) -> Applied {
        Applied {
            outcomes: Vec::new(),
            events,
            digest: [0; 32],
            now_ms: 0,
            ready: Vec::new(),
        }
    }

    /// A check that never fails is not known to work: each is shown what it must not let through.
    #[test]
    fn each_check_sees_what_it_is_for() {
        use EventKind as E;
        let mut history = History::default();
        history.no_token_is_given_twice(5, "task a".to_owned()).unwrap();
        history
            .no_token_is_given_twice(5, "task a".to_owned())
            .expect("a repeat");
        assert!(
            history.no_token_is_given_twice(5, "task b".to_owned()).is_err(),
            "one token, two tasks"
        );
        assert!(
            history.no_token_is_given_twice(4, "task b".to_owned()).is_err(),
            "a token that does not grow"
        );

        let mut history = History::default();
        let id = Id(1).to_string();
        for kind in [E::TaskEnqueued, E::TaskLeased] {
            history.tasks_move_as_the_diagram_says(&event(1, kind, 1), 0).unwrap();
        }
        assert!(
            history
                .nobody_holds_a_task_without_a_token(&applied(vec![event(1, E::TaskLeased, 1)]))
                .is_err()
        );
        assert!(
            history
                .tasks_move_as_the_diagram_says(&event(1, E::TaskLeased, 1), 0)
                .is_err(),
            "leased twice at once"
        );
        assert!(
            history
                .tasks_move_as_the_diagram_says(&event(1, E::TaskReady, 2), 0)
                .is_err(),
            "nobody submitted it"
        );
        history.no_token_is_given_twice(7, format!("task {id}")).unwrap();
        assert!(
            history.nothing_is_completed_twice(&id, 7).is_err(),
            "it has not succeeded"
        );
        history
            .tasks_move_as_the_diagram_says(&event(1, E::TaskSucceeded, 1), 0)
            .unwrap();
        assert!(
            history.nothing_is_completed_twice(&id, 6).is_err(),
            "it never had this token"
        );
        history.nothing_is_completed_twice(&id, 7).unwrap();
        history.no_token_is_given_twice(8, format!("task {id}")).unwrap();
        assert!(
            history.nothing_is_completed_twice(&id, 8).is_err(),
            "completed under two tokens"
        );
        let engine = MemoryEngine::new();
        assert!(
            history.every_accepted_task_is_somewhere(&engine, 0).is_err(),
            "it is lost"
        );
        history
            .every_accepted_task_is_somewhere(&engine, limits::REQUEST_RETENTION_MS)
            .expect("it may be forgotten");

        let mut history = History::default();
        assert!(
            history
                .events_are_in_order(1, &applied(vec![event(2, E::TaskReady, 1)]))
                .is_err()
        );
        assert!(
            history.events_are_in_order(1, &applied(Vec::new())).is_err(),
            "a revision that came before"
        );
    }

    #[test]
    fn rows_without_an_owner_are_seen() {
        let lone = [
            Key::Spec { ns: 1, id: 2 },
            Key::Log {
                ns: 1,
                id: 2,
                attempt: 1,
            },
            Key::Edge {
                ns: 1,
                dependency: 2,
                dependent: 3,
            },
            Key::EndedExpiry { at: 5, ns: 1, id: 2 },
            Key::FiredTimer { ns: 1, id: 2 },
            Key::Pass { ns: 9 },
        ];
        for key in lone {
            let engine = MemoryEngine::new();
            let mut batch = tarn_storage::Batch::new();
            batch.put(STATE, key.encode(), []);
            engine.write(batch, tarn_storage::Durability::Buffered).unwrap();
            assert!(rows_belong_together(&engine).is_err(), "{key:?}");
        }
    }
}

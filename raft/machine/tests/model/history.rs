//! What the machine told the outside world, and whether it fits together.
//!
//! Believes only outcomes and events; looks at rows once, to see whether whatever was accepted is still there.

use std::collections::BTreeMap;

use tarn_machine::ids::Id;
use tarn_machine::keys::Key;
use tarn_machine::{Applied, limits};
use tarn_proto::v1::{Event, EventKind, command, outcome};
use tarn_storage::MemoryEngine;

use crate::invariants::{Check, each_row};
use crate::reference::Line;

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
                    let lease = answer.lease.as_ref().ok_or("an acquired lease is missing from its answer")?;
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
            let told = Told { stage: Stage::Waiting, holder: None, completed: None, forget_at_ms: None };
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
            return Err(format!("token {token} of {to} is not above {}, which was given before", self.last_token));
        }
        self.last_token = token;
        if let Some(task) = to.strip_prefix("task ").and_then(|id| id.parse::<Id>().ok()).and_then(|id| self.tasks.get_mut(&id.0)) {
            task.holder = Some(token).filter(|_| task.stage == Stage::Running);
        }
        self.granted.insert(token, to);
        Ok(())
    }

    /// "… completed twice": a task succeeds under one token; another completion that is accepted is its repeat.
    fn nothing_is_completed_twice(&mut self, id: &str, token: u64) -> Check {
        let to = format!("task {id}");
        if self.granted.get(&token) != Some(&to) {
            return Err(format!("{to} was completed under token {token}, which it was never leased with"));
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
            None => Err(format!("the completion of {to} was accepted, and it is {:?}", task.stage)),
        }
    }

    /// Whatever runs was leased to somebody: its token is among those that were handed out.
    fn nobody_holds_a_task_without_a_token(&self, applied: &Applied) -> Check {
        for event in applied.events.iter().filter(|event| event.kind() == EventKind::TaskLeased) {
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
                    return Err(format!("task {} is {:?}, and lies in the places {other:?}", Id(*id), task.stage));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, kind: EventKind, task: u64) -> Event {
        let subject = Id(task).to_string();
        Event { revision, kind: kind.into(), subject, queue: "q".to_owned(), ..Event::default() }
    }

    fn applied(events: Vec<Event>) -> Applied {
        Applied { outcomes: Vec::new(), events, digest: [0; 32], now_ms: 0, ready: Vec::new() }
    }

    /// A check that never fails is not known to work: each is shown what it must not let through.
    #[test]
    fn each_check_sees_what_it_is_for() {
        use EventKind as E;
        let mut history = History::default();
        history.no_token_is_given_twice(5, "task a".to_owned()).unwrap();
        history.no_token_is_given_twice(5, "task a".to_owned()).expect("a repeat");
        assert!(history.no_token_is_given_twice(5, "task b".to_owned()).is_err(), "one token, two tasks");
        assert!(history.no_token_is_given_twice(4, "task b".to_owned()).is_err(), "a token that does not grow");

        let mut history = History::default();
        let id = Id(1).to_string();
        for kind in [E::TaskEnqueued, E::TaskLeased] {
            history.tasks_move_as_the_diagram_says(&event(1, kind, 1), 0).unwrap();
        }
        assert!(history.nobody_holds_a_task_without_a_token(&applied(vec![event(1, E::TaskLeased, 1)])).is_err());
        assert!(history.tasks_move_as_the_diagram_says(&event(1, E::TaskLeased, 1), 0).is_err(), "leased twice at once");
        assert!(history.tasks_move_as_the_diagram_says(&event(1, E::TaskReady, 2), 0).is_err(), "nobody submitted it");
        history.no_token_is_given_twice(7, format!("task {id}")).unwrap();
        assert!(history.nothing_is_completed_twice(&id, 7).is_err(), "it has not succeeded");
        history.tasks_move_as_the_diagram_says(&event(1, E::TaskSucceeded, 1), 0).unwrap();
        assert!(history.nothing_is_completed_twice(&id, 6).is_err(), "it never had this token");
        history.nothing_is_completed_twice(&id, 7).unwrap();
        history.no_token_is_given_twice(8, format!("task {id}")).unwrap();
        assert!(history.nothing_is_completed_twice(&id, 8).is_err(), "completed under two tokens");
        let engine = MemoryEngine::new();
        assert!(history.every_accepted_task_is_somewhere(&engine, 0).is_err(), "it is lost");
        history.every_accepted_task_is_somewhere(&engine, limits::REQUEST_RETENTION_MS).expect("it may be forgotten");

        let mut history = History::default();
        assert!(history.events_are_in_order(1, &applied(vec![event(2, E::TaskReady, 1)])).is_err());
        assert!(history.events_are_in_order(1, &applied(Vec::new())).is_err(), "a revision that came before");
    }
}

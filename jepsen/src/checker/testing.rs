//! Histories written by hand, for the checkers' tests.

use serde::Serialize;
use serde_json::{Value, json};

use super::watch::{REACHED, SIGHT, STRETCH};
use super::{Check, Outcome};
use crate::history::{Event, Kind, Process};

/// The check that must find it, what is wrong with a history, and how to make a good one so.
pub type Lie = (&'static str, &'static str, fn(&mut Script));

/// Puts each lie into the good history, and sees to it that the named check finds it, and names the invariants that it asked, if any.
pub fn refute(good: &Script, lies: &[Lie], judge: impl Fn(&[Event]) -> Vec<Check>) {
    for (name, what, spoil) in lies {
        let mut script = good.clone();
        spoil(&mut script);
        let checks = judge(script.events());
        let check = checks.iter().find(|check| check.name == *name).expect("a check of this name");
        assert_eq!(check.outcome, Outcome::Invalid, "{name}: {what}: {check:?}");
        println!("{name}: {what}: {}", check.detail);
    }
}

/// As [`refute`], and sees to it that no other check finds it: without the named one it would pass.
pub fn only(good: &Script, lies: &[Lie], judge: impl Fn(&[Event]) -> Vec<Check>) {
    refute(good, lies, &judge);
    for (name, what, spoil) in lies {
        let mut script = good.clone();
        spoil(&mut script);
        for other in judge(script.events()).iter().filter(|check| check.name != *name) {
            assert_ne!(other.outcome, Outcome::Invalid, "{what}: {other:?} finds it too");
        }
    }
}

/// A history in the making: one operation after the other unless it says otherwise.
#[derive(Clone)]
pub struct Script {
    events: Vec<Event>,
    key: Option<String>,
    /// When the next event is seen at the earliest.
    time_ns: u64,
}

impl Script {
    /// An empty history, about this key until told otherwise.
    pub fn new(key: &str) -> Self {
        Self { events: Vec::new(), key: Some(key.to_owned()), time_ns: 0 }
    }

    /// Lets time pass until so many milliseconds after the beginning.
    pub fn at_ms(&mut self, ms: u64) {
        self.time_ns = ms * 1_000_000;
    }

    pub fn key(&mut self, key: &str) {
        self.key = Some(key.to_owned());
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }

    pub fn events_mut(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }

    /// Adds an event and returns its index.
    pub fn push(&mut self, process: Process, kind: Kind, op: &str, of: Option<u64>, value: impl Serialize) -> u64 {
        let index = self.events.len() as u64;
        self.time_ns = self.time_ns.max(index * 1_000_000);
        self.events.push(Event {
            index,
            time_ns: self.time_ns,
            process,
            kind,
            op: op.to_owned(),
            key: self.key.clone(),
            of,
            value: json!(value),
            ..Event::default()
        });
        index
    }

    pub fn invoke(&mut self, op: &str, value: impl Serialize) -> u64 {
        self.push(Process::Client(0), Kind::Invoke, op, None, value)
    }

    pub fn end(&mut self, of: u64, kind: Kind, value: impl Serialize, error: &str) {
        let op = self.events[usize::try_from(of).unwrap()].op.clone();
        self.push(Process::Client(0), kind, &op, Some(of), value);
        self.events.last_mut().unwrap().error = Some(error.to_owned()).filter(|error| !error.is_empty());
    }

    pub fn ok(&mut self, op: &str, asked: impl Serialize, answer: impl Serialize) {
        let of = self.invoke(op, asked);
        self.end(of, Kind::Ok, answer, "");
    }

    pub fn fail(&mut self, op: &str, asked: impl Serialize, error: &str) {
        let of = self.invoke(op, asked);
        self.end(of, Kind::Fail, Value::Null, error);
    }

    pub fn unknown(&mut self, op: &str, asked: impl Serialize) {
        let of = self.invoke(op, asked);
        self.end(of, Kind::Unknown, Value::Null, "DEADLINE_EXCEEDED: outcome unknown");
    }

    pub fn info(&mut self, op: &str, value: impl Serialize) -> u64 {
        self.push(Process::Nemesis, Kind::Info, op, None, value)
    }
}

/// The outcome; the detail goes to the test's output.
pub fn told(check: Check) -> Outcome {
    println!("{}: {:?}: {} {:?}", check.name, check.outcome, check.detail, check.counts);
    check.outcome
}

/// The worst outcome of several checks, likewise.
pub fn worst(checks: Vec<Check>) -> Outcome {
    checks.into_iter().map(told).max().expect("there are checks")
}

/// A history in which a watcher sees the whole log, whatever else is in it.
pub fn watched() -> Script {
    let mut script = Script::new("watcher");
    script.info(STRETCH, json!({"after": 0}));
    script.info(REACHED, json!({"revision": 1_000_000}));
    script
}

/// A watcher sees a step of a task's life.
pub fn step(script: &mut Script, revision: u64, kind: &str, task: &str, attempt: u32, detail: &str) {
    script.info(
        SIGHT,
        json!({"revision": revision, "kind": format!("TASK_{kind}"), "subject": task, "attempt": attempt, "detail": detail,
               "at_ms": 1_000_000 + revision}),
    );
}

/// A watcher sees a step of the life of task `t` at this moment of the run, by the harness's clock and by the cluster's.
pub fn step_at(script: &mut Script, at_ms: u64, kind: &str, attempt: u32, detail: &str) {
    script.at_ms(at_ms);
    step(script, at_ms, kind, "t", attempt, detail);
}

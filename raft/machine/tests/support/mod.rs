//! What the tests share: a machine to talk to, and the language of golden scripts.

#![allow(dead_code)]

pub mod script;

use std::sync::Arc;

use prost::Message;
use tarn_machine::{Applied, Machine, Versions};
use tarn_proto::CommandBody;
use tarn_proto::v1::{Command, Entry, Event, Outcome, Rejection, TaskSpec, outcome};
use tarn_storage::{Batch, MemoryEngine};

/// A machine with the log that feeds it. After every entry its indices are compared with rebuilt ones.
pub struct Rig {
    pub engine: Arc<MemoryEngine>,
    pub machine: Machine,
    pub now_ms: u64,
    pub index: u64,
}

impl Rig {
    /// A new cluster, at time 1,000.
    pub fn new() -> Self {
        let engine = Arc::new(MemoryEngine::with_keyspaces(&[tarn_machine::STATE]));
        let machine = Machine::open(engine.clone(), Versions::CURRENT).expect("an empty engine opens");
        Rig { engine, machine, now_ms: 1_000, index: 0 }
    }

    /// Applies an entry with these commands.
    pub fn apply(&mut self, commands: Vec<Command>) -> Applied {
        let applied = self.apply_unchecked(commands);
        self.check();
        applied
    }

    /// The same without comparing indices, for tests with many entries.
    pub fn apply_unchecked(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let entry = Entry { version: 1, now_ms: self.now_ms, commands }.encode_to_vec();
        self.machine.apply(self.index, &entry, &Batch::new()).expect("the entry applies")
    }

    /// Applies one command alone.
    pub fn tell<R: CommandBody>(&mut self, request: R) -> (Result<R::Response, Rejection>, Vec<Event>) {
        let mut applied = self.apply(vec![command(request)]);
        (answer::<R>(applied.outcomes.remove(0)), applied.events)
    }

    /// Applies one command that must succeed.
    pub fn ok<R: CommandBody>(&mut self, request: R) -> R::Response {
        self.tell(request).0.expect("the command succeeds")
    }

    /// Applies one command that must be refused; gives the reason.
    pub fn refused<R: CommandBody + std::fmt::Debug>(&mut self, request: R) -> String
    where
        R::Response: std::fmt::Debug,
    {
        let rejection = self.tell(request).0.expect_err("the command is refused");
        assert!(!rejection.message.is_empty() && rejection.code != 0, "{rejection:?}");
        rejection.reason
    }

    /// Lets time pass to `now_ms`, with as many entries as that takes.
    pub fn pass_to(&mut self, now_ms: u64) -> Vec<Event> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut events = self.apply(Vec::new()).events;
        for _ in 0..10_000 {
            match self.machine.next_wake_ms() {
                Some(at) if at <= self.now_ms => events.extend(self.apply(Vec::new()).events),
                _ => return events,
            }
        }
        panic!("time does not get anywhere");
    }

    /// Stops the machine and opens it again over the same engine.
    pub fn restart(&mut self) {
        self.machine = Machine::open(self.engine.clone(), Versions::CURRENT).expect("it opens again");
        self.check();
    }

    /// The live indices equal rebuilt ones.
    pub fn check(&self) {
        let rebuilt = self.machine.rebuilt_indices().expect("the state can be read");
        assert_eq!(self.machine.indices(), &rebuilt);
    }
}

/// A command from nobody in particular.
pub fn command<R: CommandBody>(request: R) -> Command {
    Command { principal: "tester".to_owned(), gate: None, body: Some(request.into_body()) }
}

/// The answer in an outcome.
pub fn answer<R: CommandBody>(outcome: Outcome) -> Result<R::Response, Rejection> {
    match outcome.body.expect("an outcome has a body") {
        outcome::Body::Rejected(rejection) => Err(rejection),
        body => Ok(R::response(body).expect("the outcome answers the command")),
    }
}

/// A task for this queue, with nothing else said.
pub fn spec(queue: &str) -> TaskSpec {
    TaskSpec { queue: queue.to_owned(), ..TaskSpec::default() }
}

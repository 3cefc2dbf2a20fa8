//! What bad input is thrown at.

use std::sync::Arc;

use prost::Message;
use tarn_machine::{Applied, Fatal, Machine, STATE, Versions, check};
use tarn_proto::v1::*;
use tarn_storage::{Batch, MemoryEngine};

/// A machine that survives what is thrown at it.
pub struct Target {
    engine: Arc<MemoryEngine>,
    pub machine: Machine,
    /// Entries that it has applied.
    pub log: Vec<Vec<u8>>,
}

impl Target {
    pub fn new() -> Self {
        let engine = Arc::new(MemoryEngine::with_keyspaces(&[STATE]));
        let machine = Machine::open(engine.clone(), Versions::CURRENT).expect("an empty engine opens");
        Target { engine, machine, log: Vec::new() }
    }

    /// Throws an entry at the machine. If it stops, its disk is as it was, and it starts again.
    pub fn throw(&mut self, entry: &[u8]) -> Option<Applied> {
        let index = self.log.len() as u64 + 1;
        let before = (self.machine.digest(), self.machine.now_ms());
        match self.machine.apply(index, entry, &Batch::new()) {
            Ok(applied) => {
                self.log.push(entry.to_vec());
                let entry = Entry::decode(entry).expect("the machine could decode it");
                check_outcomes(&entry.commands, &applied.outcomes);
                Some(applied)
            }
            Err(Fatal::Malformed { detail, .. }) => {
                assert!(!detail.is_empty(), "it says what is wrong");
                assert_eq!((self.machine.digest(), self.machine.now_ms()), before);
                None
            }
            Err(Fatal::UnknownVersion { .. }) => {
                self.machine = Machine::open(self.engine.clone(), Versions::CURRENT).expect("it opens again");
                assert_eq!((self.machine.digest(), self.machine.now_ms()), before, "the disk is as it was");
                None
            }
            Err(fatal) => panic!("entry {index} made the machine say: {fatal}\n{entry:02x?}"),
        }
    }

    pub fn tell(&mut self, body: command::Body) -> outcome::Body {
        let command = Command { principal: "tester".to_owned(), gate: None, body: Some(body) };
        let entry = Entry { version: 1, now_ms: self.machine.now_ms(), commands: vec![command] };
        let mut applied = self.throw(&entry.encode_to_vec()).expect("the entry is well formed");
        applied.outcomes.remove(0).body.expect("an outcome has a body")
    }

    /// The indices are what the rows say, and another machine that gets the same entries arrives at the same digest.
    pub fn check(&self) {
        let rebuilt = self.machine.rebuilt_indices().expect("the state can be read");
        assert!(self.machine.indices() == &rebuilt, "live and rebuilt indices differ");
        let mut other = Target::new();
        for (place, entry) in self.log.iter().enumerate() {
            other.machine.apply(place as u64 + 1, entry, &Batch::new()).expect("it was applied before");
        }
        assert_eq!(other.machine.digest(), self.machine.digest());
    }
}

/// Each command has its outcome; what can be refused without the state is refused as the gate would refuse it.
fn check_outcomes(commands: &[Command], outcomes: &[Outcome]) {
    assert_eq!(commands.len(), outcomes.len());
    for (command, outcome) in commands.iter().zip(outcomes) {
        let body = outcome.body.as_ref().expect("an outcome has a body");
        if let outcome::Body::Rejected(rejection) = body {
            assert!(rejection.code != 0 && !rejection.reason.is_empty(), "{rejection:?}");
            assert!(rejection.message.len() < 1_000, "a sentence, not an echo of the input: {}", rejection.message);
        }
        match (check::validate(command), body) {
            (Ok(()), _) => {}
            (Err(expected), outcome::Body::Rejected(found)) if found.reason != "ENTRY_FULL" => {
                assert_eq!(&expected, found)
            }
            (Err(_), outcome::Body::Rejected(_)) => {}
            (Err(expected), found) => panic!("{expected:?} was to be expected, and {found:?} came"),
        }
    }
}

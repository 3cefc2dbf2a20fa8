//! Runs a script against the kernel and the reference model at once, and compares.
//!
//! Three machines take part: one that is restarted and whose power fails as the script says, a twin beside it that nothing ever happens to,
//! and at the end a late one that gets the whole log at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message;
use tarn_machine::{Applied, Machine, STATE, Versions};
use tarn_proto::v1::{Entry, EventKind};
use tarn_storage::{Batch, Engine, Keyspace, MemoryEngine};

use crate::compare;
use crate::generate::Step;
use crate::invariants::{self, History};
use crate::reference::{Flaw, Line, Model};

/// Where the caller of the machine keeps what it knows about the log.
const LOG: Keyspace = Keyspace::new("log");
/// Every so many entries everything is compared that can be read; after the others, only what the entry touched.
const WHOLE_EVERY: u64 = 16;

/// A script that runs.
pub struct Run {
    pub model: Model,
    engine: MemoryEngine,
    machine: Machine,
    twin: Machine,
    /// What was in the log, and what the machine said to it at first.
    log: Vec<(Option<Vec<u8>>, Option<Applied>)>,
    history: History,
    pub seen: Seen,
}

/// What a script came across.
#[derive(Clone, Copy, Default, Debug)]
pub struct Seen {
    pub commands: u64,
    pub accepted: u64,
    pub leased: u64,
    pub restarts: u64,
}

impl Run {
    /// A new cluster; the model has this flaw, if any.
    pub fn new(flaw: Option<Flaw>) -> Self {
        let engine = MemoryEngine::with_keyspaces(&[STATE, LOG]);
        let machine = open(&engine).expect("an empty engine opens");
        let twin = open(&MemoryEngine::with_keyspaces(&[STATE, LOG])).expect("an empty engine opens");
        // What a new cluster is made of is written before any entry: it is in the log's first snapshot.
        engine.sync().expect("memory does not fail");
        let (history, seen) = (History::default(), Seen::default());
        Run { model: Model::new(flaw), engine, machine, twin, log: Vec::new(), history, seen }
    }

    /// Takes a step. What it finds wrong is the error.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        match catch_unwind(AssertUnwindSafe(|| self.step_unguarded(step))) {
            Ok(result) => result,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Err(format!("panic: {}", text.unwrap_or_default()))
            }
        }
    }

    /// What can only be said at the end.
    pub fn finish(&mut self) -> Result<(), String> {
        self.whole()?;
        let late = MemoryEngine::with_keyspaces(&[STATE, LOG]);
        let mut late = open(&late)?;
        for (place, (entry, _)) in self.log.iter().enumerate() {
            feed(&mut late, place as u64 + 1, entry.as_deref())?;
        }
        invariants::replicas_agree("a machine that got the whole log at once", &self.machine, &late)?;
        invariants::indices_are_what_the_rows_say(&late)
    }

    fn step_unguarded(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Entry { now_ms, lines } => self.entry(*now_ms, lines),
            Step::Note => {
                self.log.push((None, None));
                let index = self.log.len() as u64;
                self.model.note(index);
                feed(&mut self.machine, index, None)?;
                feed(&mut self.twin, index, None)?;
                invariants::replicas_agree("the twin", &self.machine, &self.twin)
            }
            Step::Restart => self.start_again(),
            Step::Sync => self.engine.sync().map_err(|error| error.to_string()),
            Step::Crash(seed) => {
                self.engine.crash_keeping(*seed);
                self.start_again()
            }
        }
    }

    fn entry(&mut self, now_ms: u64, lines: &[Line]) -> Result<(), String> {
        let index = self.log.len() as u64 + 1;
        let commands = lines.iter().map(|line| line.command.clone()).collect();
        let entry = Entry { version: 1, now_ms, commands }.encode_to_vec();
        let told = self.model.apply(index, now_ms, lines);
        let applied = feed(&mut self.machine, index, Some(&entry))?.ok_or("an entry was taken for a note")?;
        let twin = feed(&mut self.twin, index, Some(&entry))?;
        self.log.push((Some(entry), Some(applied.clone())));

        self.seen.commands += lines.len() as u64;
        self.seen.accepted += told.answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        self.seen.leased += applied.events.iter().filter(|e| e.kind() == EventKind::TaskLeased).count() as u64;

        compare::told(&told, &applied, lines)?;
        compare::next_wake(&self.model, &self.machine)?;
        if twin.as_ref() != Some(&applied) {
            return Err("the twin said something else to the same entry".to_owned());
        }
        invariants::replicas_agree("the twin", &self.machine, &self.twin)?;
        self.history.entry(index, lines, &applied)?;
        invariants::nobody_who_waited_long_is_passed_over(&self.model, &applied)?;
        invariants::events_can_be_read_again(&self.machine, index, &applied.events)?;
        for event in &applied.events {
            compare::subject(&self.model, &self.machine, event)?;
        }
        if index.is_multiple_of(WHOLE_EVERY) { self.whole() } else { Ok(()) }
    }

    /// Opens the machine over what its engine has, and gives it from the log what it lacks: it says the same as the first time.
    fn start_again(&mut self) -> Result<(), String> {
        self.seen.restarts += 1;
        self.machine = open(&self.engine)?;
        invariants::callers_part_is_in_the_same_batch(&self.engine, LOG, &self.machine)?;
        for place in self.machine.applied_index() as usize..self.log.len() {
            let (entry, before) = &self.log[place];
            let again = feed(&mut self.machine, place as u64 + 1, entry.as_deref())?;
            if again != *before {
                return Err(format!("entry {} had another effect when it was applied again", place + 1));
            }
        }
        invariants::replicas_agree("the twin", &self.machine, &self.twin)?;
        self.whole()
    }

    /// Compares everything that can be read.
    fn whole(&mut self) -> Result<(), String> {
        invariants::indices_are_what_the_rows_say(&self.machine)?;
        invariants::rows_belong_together(&self.engine)?;
        self.history.every_accepted_task_is_somewhere(&self.engine, self.model.now)?;
        compare::everything(&self.model, &self.machine)
    }
}

fn open(engine: &MemoryEngine) -> Result<Machine, String> {
    Machine::open(Arc::new(engine.clone()), Versions::CURRENT).map_err(|fatal| format!("it does not open: {fatal}"))
}

/// Gives a machine an entry of the log, or a note, and with it what the caller keeps.
fn feed(machine: &mut Machine, index: u64, entry: Option<&[u8]>) -> Result<Option<Applied>, String> {
    let mut extra = Batch::new();
    extra.put(LOG, "applied", index.to_be_bytes());
    let result = match entry {
        Some(entry) => machine.apply(index, entry, &extra).map(Some),
        None => machine.note(index, &extra).map(|()| None),
    };
    result.map_err(|fatal| format!("the machine stops at entry {index}: {fatal}"))
}

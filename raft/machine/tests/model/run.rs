//! Runs a script against the kernel and the reference model at once, and compares.
//!
//! Three machines take part: one that is restarted and whose power fails as the script says, a twin beside it that nothing ever happens to,
//! and at the end a late one that gets the whole log at once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prost::Message;
use tarn_machine::{Applied, Machine, STATE, Versions};
use tarn_proto::v1::{Entry, EventKind, command, outcome};
use tarn_storage::{Batch, Engine, Keyspace, MemoryEngine};

use crate::compare;
use crate::decisions;
use crate::generate::Step;
use crate::history::History;
use crate::invariants;
use crate::reference::{Flaw, Line, Model, Told};

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

/// What scripts came across, and how often.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub what: BTreeMap<String, u64>,
}

impl Seen {
    pub fn note(&mut self, what: &str) {
        *self.what.entry(what.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: Seen) {
        for (what, times) in other.what {
            *self.what.entry(what).or_default() += times;
        }
    }

    fn entry(&mut self, lines: &[Line], told: &Told) {
        for answer in &told.answers {
            match answer {
                Err(reason) => self.note(reason),
                Ok(outcome::Body::LeaseTasks(answer)) if answer.tasks.len() >= 10 => self.note("a lease of ten tasks or more"),
                Ok(_) => self.note("an accepted command"),
            }
        }
        for event in &told.events {
            let kind = event.kind().as_str_name();
            // Details are reasons, the timers' text, names and ids; the first two are worth telling apart.
            let told_apart = matches!(event.kind(), EventKind::TaskDead | EventKind::TaskRetried | EventKind::TaskCancelled);
            match told_apart || event.detail == "tea" {
                true => self.note(&format!("{kind} {}", event.detail)),
                false => self.note(kind),
            }
        }
        let leases = told.events.iter().filter(|event| event.kind() == EventKind::TaskLeased).count();
        let ends = told.events.iter().any(|event| !event.worker.is_empty());
        for (line, answer) in lines.iter().zip(&told.answers) {
            match (&line.command.body, answer) {
                (_, Ok(outcome::Body::LeaseTasks(answer))) if !answer.tasks.is_empty() && leases == 0 => {
                    self.note("a lease granted again by its request id");
                }
                (Some(command::Body::CompleteTask(_) | command::Body::FailTask(_)), Ok(_)) if !ends => {
                    self.note("a report said again");
                }
                _ => {}
            }
        }
    }
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
        let before = self.model.version;
        let told = self.model.apply(index, now_ms, lines);
        let applied = feed(&mut self.machine, index, Some(&entry))?.ok_or("an entry was taken for a note")?;
        let twin = feed(&mut self.twin, index, Some(&entry))?;
        self.log.push((Some(entry), Some(applied.clone())));

        self.seen.entry(lines, &told);

        compare::told(&told, &applied, lines)?;
        compare::next_wake(&self.model, &self.machine)?;
        if twin.as_ref() != Some(&applied) {
            return Err("the twin said something else to the same entry".to_owned());
        }
        invariants::replicas_agree("the twin", &self.machine, &self.twin)?;
        self.history.entry(index, lines, &applied)?;
        for told in decisions::of_entry_tell_what_happened(&self.engine, &self.machine, (before, &self.model), lines, &applied)? {
            self.seen.note(told);
        }
        invariants::nobody_who_waited_long_is_passed_over(&self.model, &applied)?;
        invariants::events_can_be_read_again(&self.machine, index, &applied.events)?;
        for event in &applied.events {
            compare::subject(&self.model, &self.machine, event)?;
        }
        if index.is_multiple_of(WHOLE_EVERY) { self.whole() } else { Ok(()) }
    }

    /// Opens the machine over what its engine has, and gives it from the log what it lacks: it says the same as the first time.
    fn start_again(&mut self) -> Result<(), String> {
        self.seen.note("a restart");
        self.machine = open(&self.engine)?;
        if self.machine.applied_index() < self.log.len() as u64 {
            self.seen.note("a crash that costs entries");
        }
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
        decisions::chain_is_whole(&self.engine, &self.machine)?;
        if self.model.tasks.values().any(|task| task.attempts.first().is_some_and(|attempt| attempt.number > 1)) {
            self.seen.note("a task whose log was cut");
        }
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
        None => machine.note(index, None, &extra).map(|()| None),
    };
    result.map_err(|fatal| format!("the machine stops at entry {index}: {fatal}"))
}

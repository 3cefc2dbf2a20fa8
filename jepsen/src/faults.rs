//! The faults and phases of a run, as they stand in its history: how the harness writes them down and how they are read again.
//!
//! A fault has four moments: the harness begins to make it, it is made, the harness begins to take it back, it is taken back. Some faults
//! take long to make (a rolling restart is one long making), so the four are kept apart.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::history::{Event, Kind, Process, Recorder};
use crate::nemesis::Injected;

/// The name of the events of faults.
const FAULT: &str = "fault";
/// The name of the events of phases.
const PHASE: &str = "phase";

/// A moment of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// The harness begins to make it.
    Injecting,
    /// It is made.
    Injected,
    /// The harness begins to take it back.
    Healing,
    /// It is taken back.
    Healed,
}

/// What part of the run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The workload prepares the cluster.
    Setup,
    /// Clients work, and faults are made.
    Work,
    /// Clients still work, and no fault is left.
    Calm,
    /// Clients are told to finish what they are at.
    Stop,
    /// Clients have stopped; accepted work ends.
    Drain,
    /// Everything has ended.
    End,
}

#[derive(Serialize, Deserialize)]
struct Line {
    nemesis: String,
    number: u64,
    moment: Moment,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    what: Value,
    /// Whether anything was done; true unless it says otherwise.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    made: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_yes(made: &bool) -> bool {
    *made
}

/// Writes down a moment of a fault. `number` tells faults apart; `what` is what the nemesis says it did, or why it could not.
pub fn record(recorder: &Recorder, nemesis: &str, number: u64, moment: Moment, what: Result<Value, String>) {
    write(recorder, nemesis, number, moment, what.map(|what| Injected { made: true, what }));
}

/// Writes down that a nemesis has struck, and whether that did anything.
pub fn injected(recorder: &Recorder, nemesis: &str, number: u64, what: Result<Injected, String>) {
    write(recorder, nemesis, number, Moment::Injected, what);
}

fn write(recorder: &Recorder, nemesis: &str, number: u64, moment: Moment, what: Result<Injected, String>) {
    let (Injected { made, what }, error) = match what {
        Ok(injected) => (injected, None),
        Err(error) => (Injected { made: false, what: Value::Null }, Some(error)),
    };
    let line = Line { nemesis: nemesis.to_owned(), number, moment, what, made, error };
    recorder.info(FAULT, json!(line));
}

/// Writes down that a phase begins.
pub fn begin(recorder: &Recorder, phase: Phase) {
    recorder.info(PHASE, json!(phase));
}

/// One fault, with its moments in nanoseconds since the run began.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The nemesis that made it.
    pub nemesis: String,
    /// When the harness began to make it.
    pub begun_ns: u64,
    /// When it was made; `None` if it could not be, or nothing was done.
    pub made_ns: Option<u64>,
    /// When the harness began to take it back.
    pub healing_ns: Option<u64>,
    /// When it was taken back.
    pub healed_ns: Option<u64>,
    /// What was done, as the nemesis tells it, or why nothing.
    pub what: Value,
    /// Why it could not be made or taken back.
    pub error: Option<String>,
}

impl Fault {
    /// When it was over, or this moment if it was not.
    pub fn over_ns(&self, end_ns: u64) -> u64 {
        self.healed_ns.unwrap_or(end_ns)
    }

    /// Whether it may have done anything: it was made, or perhaps in part.
    pub fn harmed(&self) -> bool {
        self.made_ns.is_some() || self.error.is_some()
    }
}

/// The faults of a history, in the order of their beginnings.
pub fn faults(history: &[Event]) -> Vec<Fault> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut faults: Vec<Fault> = Vec::new();
    for event in harness_events(history, FAULT) {
        let Some(line) = event.read::<Line>() else { continue };
        if line.moment == Moment::Injecting {
            numbers.push(line.number);
            faults.push(Fault {
                nemesis: line.nemesis,
                begun_ns: event.time_ns,
                made_ns: None,
                healing_ns: None,
                healed_ns: None,
                what: Value::Null,
                error: None,
            });
            continue;
        }
        let Some(at) = numbers.iter().rposition(|number| *number == line.number) else {
            continue;
        };
        let fault = &mut faults[at];
        match line.moment {
            Moment::Injected if line.error.is_none() => {
                fault.made_ns = line.made.then_some(event.time_ns);
                fault.what = line.what;
            }
            Moment::Healing => fault.healing_ns = Some(event.time_ns),
            Moment::Healed if line.error.is_none() => fault.healed_ns = Some(event.time_ns),
            Moment::Injecting | Moment::Injected | Moment::Healed => {}
        }
        fault.error = fault.error.take().or(line.error);
    }
    faults
}

/// When this phase began, in nanoseconds since the run began; `None` if the run did not get there.
pub fn phase(history: &[Event], wanted: Phase) -> Option<u64> {
    harness_events(history, PHASE).find(|event| event.read::<Phase>() == Some(wanted)).map(|event| event.time_ns)
}

fn harness_events<'a>(history: &'a [Event], op: &'a str) -> impl Iterator<Item = &'a Event> {
    history.iter().filter(move |event| event.process == Process::Nemesis && event.kind == Kind::Info && event.op == op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history;

    #[test]
    fn what_is_written_down_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        begin(&recorder, Phase::Work);
        record(&recorder, "kill", 1, Moment::Injecting, Ok(Value::Null));
        record(&recorder, "clock", 2, Moment::Injecting, Ok(Value::Null));
        record(&recorder, "kill", 1, Moment::Injected, Ok(json!({"nodes": [2]})));
        injected(&recorder, "clock", 2, Err("no such library".into()));
        record(&recorder, "pause", 3, Moment::Injecting, Ok(Value::Null));
        let nobody = Injected { made: false, what: json!({"paused": []}) };
        injected(&recorder, "pause", 3, Ok(nobody));
        record(&recorder, "kill", 1, Moment::Healing, Ok(Value::Null));
        record(&recorder, "kill", 1, Moment::Healed, Ok(Value::Null));
        begin(&recorder, Phase::Drain);
        recorder.flush().unwrap();

        let history = history::read(&path).unwrap();
        let found = faults(&history);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].what, json!({"nodes": [2]}));
        assert!(found[0].begun_ns <= found[0].made_ns.unwrap() && found[0].made_ns <= found[0].healing_ns);
        assert_eq!(found[0].healed_ns, Some(history[8].time_ns));
        assert_eq!((found[1].made_ns, found[1].error.as_deref()), (None, Some("no such library")));
        assert_eq!(found[1].over_ns(99), 99);
        assert_eq!((found[2].made_ns, &found[2].what), (None, &json!({"paused": []})));
        assert_eq!(found.iter().map(Fault::harmed).collect::<Vec<_>>(), [true, true, false], "what failed may have been done in part");
        assert_eq!(phase(&history, Phase::Work), Some(history[0].time_ns));
        assert_eq!(phase(&history, Phase::End), None);
    }
}

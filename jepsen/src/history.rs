//! What clients and nemeses did, in the order in which it was seen: one JSON line per event, written as it happens.
//!
//! A client's operation is two events: an invocation, and a completion that says how it ended and names the invocation, so that a process may
//! have several operations open. An invocation without a completion (the harness was ended) has an unknown outcome. [`operations`] puts the
//! two together.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the events that tell that the harness stood still, because the machine gave it no time: a [`Stall`].
pub const STALL: &str = "stall";
/// How often the harness looks whether it is awake.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// It stood still if it looks so much later than it wanted to.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// How long the harness stood still, up to the event that tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stall {
    /// In milliseconds.
    pub ms: u64,
}

/// What an event says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A client is about to send an operation.
    Invoke,
    /// The cluster answered: what the answer says must be true.
    Ok,
    /// The operation certainly had no effect.
    Fail,
    /// No answer: the operation may have had its effect, may have it later, or never.
    Unknown,
    /// Something that is no client's operation: a fault, its end, a phase of the run, an event of a watch.
    #[default]
    Info,
}

/// Who acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Process {
    /// A client of the workload, by number.
    Client(u32),
    /// The harness: faults and phases.
    #[default]
    Nemesis,
}

/// One line of a history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The line's number, from 0: the order in which the harness saw the events.
    pub index: u64,
    /// Nanoseconds since the run began, by the harness's monotonic clock.
    pub time_ns: u64,
    /// Who acts.
    pub process: Process,
    /// What the event says.
    pub kind: Kind,
    /// The operation, such as `enqueue`; for nemeses, what was done.
    pub op: String,
    /// The object that the operation is about, where a history falls into independent parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// In a completion: the index of the invocation that it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// Arguments in an invocation, results in a completion.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// Why it failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The node that was asked, where the client is bound to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// In an invocation: how long the call may take, in milliseconds, where the client is bound to a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

impl Event {
    /// The machine-readable reason at the start of the error, up to its colon. Empty where there is no error.
    pub fn reason(&self) -> &str {
        let error = self.error.as_deref().unwrap_or_default();
        error.split_once(':').map_or(error, |(reason, _)| reason)
    }

    /// The value as the type that this operation's events carry; `None` where it is another.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(&self.value).ok()
    }
}

/// One operation of a client: how it began and how it ended.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// The invocation.
    pub invoke: &'a Event,
    /// The completion, if there is one.
    pub end: Option<&'a Event>,
}

impl Operation<'_> {
    /// How it ended: [`Kind::Ok`], [`Kind::Fail`] or [`Kind::Unknown`].
    pub fn outcome(&self) -> Kind {
        self.end.map_or(Kind::Unknown, |end| end.kind)
    }

    /// The index of the event before which it took effect, if it did; `None` where it may take effect at any time.
    pub fn ended_by(&self) -> Option<u64> {
        self.end.filter(|end| end.kind != Kind::Unknown).map(|end| end.index)
    }

    /// The answer of an operation that the cluster answered, as the type that such answers carry.
    pub fn answer<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        self.end.filter(|end| end.kind == Kind::Ok)?.read()
    }

    /// The reason with which it failed. Empty where it did not.
    pub fn reason(&self) -> &str {
        self.end.map_or("", Event::reason)
    }
}

/// The operations of this name, in the order of their invocations.
pub fn operations<'a>(history: &'a [Event], op: &str) -> Vec<Operation<'a>> {
    let mut found: Vec<Operation<'a>> = Vec::new();
    let mut at = HashMap::new();
    for event in history.iter().filter(|event| event.op == op) {
        match event.kind {
            Kind::Invoke => {
                at.insert(event.index, found.len());
                found.push(Operation { invoke: event, end: None });
            }
            Kind::Ok | Kind::Fail | Kind::Unknown => {
                if let Some(at) = event.of.and_then(|of| at.remove(&of)) {
                    found[at].end = Some(event);
                }
            }
            Kind::Info => {}
        }
    }
    found
}

/// The values of all events of this name that are no client's operations, with their events.
pub fn infos<'a, T: serde::de::DeserializeOwned>(history: &'a [Event], op: &str) -> Vec<(&'a Event, T)> {
    history.iter().filter(|event| event.kind == Kind::Info && event.op == op).filter_map(|event| Some((event, event.read()?))).collect()
}

/// Writes a history. Clones write the same one.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
    /// Written into every invocation.
    deadline_ms: Option<u64>,
}

struct Inner {
    start: Instant,
    file: Mutex<Lines>,
}

struct Lines {
    next: u64,
    /// Unbuffered: a line is out once it was recorded, even if the harness is killed.
    out: File,
    /// The first error of writing: a history with a hole must not be judged.
    error: Option<std::io::Error>,
}

impl Recorder {
    /// Starts a history in a new file; its time begins now.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be created", path.display()))?;
        let recorder = Self {
            inner: Arc::new(Inner { start: Instant::now(), file: Mutex::new(Lines { next: 0, out: file, error: None }) }),
            deadline_ms: None,
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Detached: it ends with the last recorder.
            let _watched = runtime.spawn(watch_for_stalls(Arc::downgrade(&recorder.inner)));
        }
        Ok(recorder)
    }

    /// Records into the same history for a client whose calls may take so long.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { inner: self.inner.clone(), deadline_ms: u64::try_from(deadline.as_millis()).ok() }
    }

    /// Records that a client is about to send an operation. What it returns must be ended with how the operation ended.
    pub fn invoke(&self, process: Process, op: &str, key: Option<&str>, value: Value) -> Pending {
        self.invoke_at(process, op, key, value, None)
    }

    /// As [`Recorder::invoke`], and says which node is asked, where the client is bound to one.
    pub fn invoke_at(&self, process: Process, op: &str, key: Option<&str>, value: Value, node: Option<u64>) -> Pending {
        let event = Event {
            process,
            kind: Kind::Invoke,
            op: op.to_owned(),
            key: key.map(str::to_owned),
            value,
            node,
            deadline_ms: self.deadline_ms,
            ..Event::default()
        };
        let of = self.write(event);
        Pending { recorder: self.clone(), process, op: op.to_owned(), key: key.map(str::to_owned), node, of, ended: false }
    }

    /// Records something that is no client's operation.
    pub fn info(&self, op: &str, value: Value) {
        self.info_by(Process::Nemesis, op, None, value);
    }

    /// Records something that a client saw or did and that is no operation, such as an event of a watch.
    pub fn info_by(&self, process: Process, op: &str, key: Option<&str>, value: Value) {
        self.write(Event { process, op: op.to_owned(), key: key.map(str::to_owned), value, ..Event::default() });
    }

    /// Nanoseconds since the history began.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.inner.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Makes sure that everything was written.
    ///
    /// # Errors
    /// If this or an earlier line could not be written.
    pub fn flush(&self) -> Result<()> {
        let mut lines = self.inner.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = lines.error.take() {
            return Err(error).context("the history could not be written");
        }
        Ok(lines.out.flush()?)
    }

    /// Numbers, times and writes an event, and returns its number.
    fn write(&self, event: Event) -> u64 {
        let mut lines = self.inner.file.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            index: lines.next,
            // Taken under the lock: indices and times grow together.
            time_ns: self.now_ns(),
            ..event
        };
        lines.next += 1;
        let written = serde_json::to_vec(&event).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            lines.out.write_all(&line)
        });
        if let Err(error) = written {
            lines.error.get_or_insert(error);
        }
        event.index
    }
}

/// Writes down each time in which the harness stood still, so that nobody else is blamed for it.
async fn watch_for_stalls(recorder: Weak<Inner>) {
    loop {
        let asleep = Instant::now();
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(inner) = recorder.upgrade() else { return };
        let late = asleep.elapsed().saturating_sub(LOOK_EVERY);
        if late >= STOOD_STILL {
            let ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            let recorder = Recorder { inner, deadline_ms: None };
            recorder.info(STALL, serde_json::json!(Stall { ms }));
        }
    }
}

/// An operation that was invoked and has not ended. Dropped, it ends as unknown.
#[must_use = "an operation that is not ended is recorded as unknown"]
pub struct Pending {
    recorder: Recorder,
    process: Process,
    op: String,
    key: Option<String>,
    node: Option<u64>,
    of: u64,
    ended: bool,
}

impl Pending {
    /// The cluster answered.
    pub fn ok(mut self, value: Value) {
        self.end(Kind::Ok, value, None);
    }

    /// The operation certainly had no effect.
    pub fn fail(mut self, error: impl ToString) {
        self.end(Kind::Fail, Value::Null, Some(error.to_string()));
    }

    /// No answer came.
    pub fn unknown(mut self, error: impl ToString) {
        self.end(Kind::Unknown, Value::Null, Some(error.to_string()));
    }

    fn end(&mut self, kind: Kind, value: Value, error: Option<String>) {
        self.ended = true;
        self.recorder.write(Event {
            process: self.process,
            kind,
            op: std::mem::take(&mut self.op),
            key: self.key.take(),
            of: Some(self.of),
            value,
            error,
            node: self.node,
            ..Event::default()
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Kind::Unknown, Value::Null, Some("abandoned".to_owned()));
        }
    }
}

/// Reads a stored history.
///
/// # Errors
/// If the file cannot be read or a line is no event.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut events = Vec::new();
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let event = serde_json::from_str(&line?).with_context(|| format!("{}:{}", path.display(), at + 1))?;
        events.push(event);
    }
    Ok(events)
}

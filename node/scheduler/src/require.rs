//! Why a worker cannot be given a task.

use std::fmt;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::books::{Books, binding};
use crate::devices::matching;
use crate::{Cluster, Device, Prospect, Requirements, Worker};

/// A requirement that a worker misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// Its runtime is none of the task's.
    RuntimeMissing,
    /// It keeps attempts apart less strongly than required.
    Isolation,
    /// It does not carry a required label.
    LabelMissing,
    /// It does not know the handler.
    HandlerMissing,
    /// It does not serve the namespace.
    NamespaceNotServed,
    /// It does not serve the queue.
    QueueNotServed,
    /// Required data does not lie on its node.
    DataMissing,
    /// It never has that much memory.
    Memory,
    /// It has no such device, or fewer than needed.
    DeviceMissing,
    /// Its devices are of an older kind.
    DeviceCapability,
    /// Its devices never have that much memory.
    DeviceMemory,
    /// It takes no new tasks.
    Draining,
    /// The device that would do is lost.
    DeviceUnhealthy,
    /// All its slots are taken.
    NoSlot,
    /// Others hold its memory.
    MemoryBusy,
    /// Others hold its devices' memory.
    DeviceBusy,
}

/// How a requirement that is missed now may be met later, the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cure {
    /// When attempts end.
    Waiting,
    /// When a device comes back.
    Recovery,
    /// Not by this worker.
    Nothing,
}

impl Cure {
    pub(crate) fn prospect(self) -> Prospect {
        match self {
            Self::Waiting => Prospect::Busy,
            Self::Recovery => Prospect::Recovery,
            Self::Nothing => Prospect::Never,
        }
    }
}

impl Reason {
    /// Stable and machine-readable.
    pub fn code(self) -> &'static str {
        match self {
            Self::RuntimeMissing => "RUNTIME_MISSING",
            Self::Isolation => "ISOLATION",
            Self::LabelMissing => "LABEL_MISSING",
            Self::HandlerMissing => "HANDLER_MISSING",
            Self::NamespaceNotServed => "NAMESPACE_NOT_SERVED",
            Self::QueueNotServed => "QUEUE_NOT_SERVED",
            Self::DataMissing => "DATA_MISSING",
            Self::Memory => "MEMORY",
            Self::DeviceMissing => "DEVICE_MISSING",
            Self::DeviceCapability => "DEVICE_CAPABILITY",
            Self::DeviceMemory => "DEVICE_MEMORY",
            Self::Draining => "DRAINING",
            Self::DeviceUnhealthy => "DEVICE_UNHEALTHY",
            Self::NoSlot => "NO_SLOT",
            Self::MemoryBusy => "MEMORY_BUSY",
            Self::DeviceBusy => "DEVICE_BUSY",
        }
    }

    pub(crate) fn cure(self) -> Cure {
        match self {
            Self::NoSlot | Self::MemoryBusy | Self::DeviceBusy => Cure::Waiting,
            Self::DeviceUnhealthy => Cure::Recovery,
            Self::RuntimeMissing
            | Self::Isolation
            | Self::LabelMissing
            | Self::HandlerMissing
            | Self::NamespaceNotServed
            | Self::QueueNotServed
            | Self::DataMissing
            | Self::Memory
            | Self::DeviceMissing
            | Self::DeviceCapability
            | Self::DeviceMemory
            | Self::Draining => Cure::Nothing,
        }
    }
}

/// One requirement that a worker misses. Displayed as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Miss {
    /// What kind of requirement.
    pub reason: Reason,
    /// Which one: the label, the data, the runtime; empty where there is only one.
    pub detail: String,
}

impl Miss {
    fn new(reason: Reason, detail: &str) -> Self {
        Self { reason, detail: detail.to_owned() }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &self.detail;
        match self.reason {
            Reason::RuntimeMissing => write!(f, "its runtime is {detail:?}, which the task cannot use"),
            Reason::Isolation => write!(f, "it isolates by {detail}, and the task asks for more"),
            Reason::LabelMissing => write!(f, "it does not carry the label {detail:?}"),
            Reason::HandlerMissing => write!(f, "it does not know the handler {detail:?}"),
            Reason::NamespaceNotServed => write!(f, "it does not serve the namespace {detail:?}"),
            Reason::QueueNotServed => write!(f, "it does not serve the queue {detail:?}"),
            Reason::DataMissing => write!(f, "the data {detail:?} does not lie on its node"),
            Reason::Memory => write!(f, "it has less memory than the task asks for, even when idle"),
            Reason::DeviceMissing => write!(f, "it has too few devices of the kind {detail:?}"),
            Reason::DeviceCapability => write!(f, "its {detail} devices have too low a compute capability"),
            Reason::DeviceMemory => write!(f, "its {detail} devices have too little memory, even when idle"),
            Reason::Draining => write!(f, "it is draining and takes no new tasks"),
            Reason::DeviceUnhealthy => write!(f, "its {detail} device that would do is lost"),
            Reason::NoSlot => write!(f, "all its slots are taken"),
            Reason::MemoryBusy => write!(f, "its memory is taken by other attempts"),
            Reason::DeviceBusy => write!(f, "the memory of its {detail} devices is taken by other attempts"),
        }
    }
}

/// Every requirement that the worker at this position misses; empty if it could be given the task now. What passes with time is told
/// of those alone that satisfy the rest.
pub fn misses(requires: &Requirements, cluster: &Cluster, at: usize, books: &Books) -> Vec<Miss> {
    let worker = &cluster.workers()[at];
    let mut found = Vec::new();
    let mut note = |reason, detail: &str| {
        found.push(Miss::new(reason, detail));
        ControlFlow::Continue(())
    };
    if !requires.runtimes.names().contains(&worker.runtime) {
        let _ = note(Reason::RuntimeMissing, &worker.runtime);
    }
    for label in requires.labels.iter().filter(|label| !worker.labels.contains(label)) {
        let _ = note(Reason::LabelMissing, label);
    }
    for data in requires.data.iter().filter(|data| !cluster.holds(at, data)) {
        let _ = note(Reason::DataMissing, data);
    }
    let _ = each_fixed_miss(requires, worker, &mut note);
    if found.is_empty() {
        each_passing_miss(requires, worker, at, books, &mut |reason, detail| found.push(Miss::new(reason, detail)));
    }
    found
}

/// Whether a worker on the [shortlist](Cluster::shortlist) satisfies the rest of what does not pass with time.
pub fn eligible(requires: &Requirements, worker: &Worker) -> bool {
    each_fixed_miss(requires, worker, &mut |_, _| ControlFlow::Break(())).is_continue()
}

type Note<'a> = &'a mut dyn FnMut(Reason, &str) -> ControlFlow<()>;

fn each_fixed_miss(requires: &Requirements, worker: &Worker, note: Note<'_>) -> ControlFlow<()> {
    let serves = |list: &[String], name: &String| list.is_empty() || list.contains(name);
    if worker.isolation < requires.isolation {
        note(Reason::Isolation, worker.isolation.name())?;
    }
    if !serves(&worker.handlers, &requires.handler) {
        note(Reason::HandlerMissing, &requires.handler)?;
    }
    if !serves(&worker.namespaces, &requires.namespace) {
        note(Reason::NamespaceNotServed, &requires.namespace)?;
    }
    if !serves(&worker.queues, &requires.queue) {
        note(Reason::QueueNotServed, &requires.queue)?;
    }
    let largest = match worker.attempt_memory_bytes {
        0 => worker.memory_bytes,
        most => worker.memory_bytes.min(most),
    };
    if largest < requires.memory_bytes {
        note(Reason::Memory, "")?;
    }
    if worker.draining {
        note(Reason::Draining, "")?;
    }
    match device_fault(requires, worker) {
        Some((reason, kind)) => note(reason, kind),
        None => ControlFlow::Continue(()),
    }
}

/// Of a worker that misses nothing else.
fn each_passing_miss(requires: &Requirements, worker: &Worker, at: usize, books: &Books, note: &mut dyn FnMut(Reason, &str)) {
    if books.slots(at) == 0 {
        note(Reason::NoSlot, "");
    }
    if books.memory(at) < requires.memory_bytes {
        note(Reason::MemoryBusy, "");
    }
    if books.devices_for(at, worker, requires).is_none() {
        let needs = binding(requires, &worker.runtime);
        note(Reason::DeviceBusy, needs.first().map_or("", |need| &need.kind));
    }
}

/// Why the worker's devices would not do even if no attempt held them: the mildest of the reasons.
fn device_fault<'a>(requires: &'a Requirements, worker: &Worker) -> Option<(Reason, &'a str)> {
    if requires.devices.is_empty() {
        return None;
    }
    let needs = binding(requires, &worker.runtime);
    let kind = needs.first()?.kind.as_str();
    let fits = |free: &dyn Fn(&Device) -> Option<u64>| matching(&needs, &worker.devices, |_, d| free(d)).is_some();
    if fits(&|device| (!device.lost).then_some(device.memory_bytes)) {
        return None;
    }
    if fits(&|device| Some(device.memory_bytes)) {
        return Some((Reason::DeviceUnhealthy, kind));
    }
    if fits(&|_| Some(u64::MAX)) {
        return Some((Reason::DeviceMemory, kind));
    }
    let enough_of = |kind: &str| {
        let wanted = needs.iter().filter(|need| need.kind == kind).count();
        worker.devices.iter().filter(|device| device.kind == kind).count() >= wanted
    };
    Some(match needs.iter().find(|need| !enough_of(&need.kind)) {
        Some(need) => (Reason::DeviceMissing, &need.kind),
        None => (Reason::DeviceCapability, kind),
    })
}

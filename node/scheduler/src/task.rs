//! What the scheduler is told of a task.

use serde::{Deserialize, Serialize};

/// One task that waits for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Task {
    /// Its name in the answer; unique among the tasks of a batch.
    pub id: String,
    /// What a worker must satisfy.
    pub requires: Requirements,
    /// What runs: the artifact's content address, or the handler's name for SDK workers. Tasks with the same one are taken to
    /// run about as long as each other; see [`History`](crate::History).
    pub artifact: String,
    /// Labels that the worker should carry. Each counts alike in the part *locality*.
    pub prefers: Vec<String>,
    /// Data sets, models or other artifacts that should lie on the worker's node, by the names that
    /// [`Cluster::new`](crate::Cluster::new) was given.
    pub near: Vec<Weighed>,
    /// Nodes on which the results of its dependencies lie, with the results' sizes.
    pub results: Vec<Weighed>,
    /// Nodes on which earlier attempts failed, once for each.
    pub failed_on: Vec<String>,
    /// As submitted.
    pub priority: Priority,
    /// How long it has been ready, in milliseconds.
    pub waited_ms: u64,
    /// How long it holds out for a busy runtime before it takes the next of its list, in milliseconds. `None`: as the
    /// [`Tuning`](crate::Tuning) says.
    pub patience_ms: Option<u64>,
}

/// What a worker must satisfy to be given the task. A worker that misses one of these is no candidate, however well it would score.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Requirements {
    /// The task's namespace, which the worker must serve.
    pub namespace: String,
    /// The task's queue, which the worker must serve.
    pub queue: String,
    /// For SDK workers: the handler, which the worker must know.
    pub handler: String,
    /// The runtimes that can run it.
    pub runtimes: Runtimes,
    /// Labels that the worker must carry.
    pub labels: Vec<String>,
    /// The weakest isolation that will do.
    pub isolation: Isolation,
    /// Main memory in bytes. 0: none is set aside.
    pub memory_bytes: u64,
    /// Devices. Each need is met by a device of its own, and several tasks can share one.
    pub devices: Vec<DeviceNeed>,
    /// Data that must lie on the worker's node already.
    pub data: Vec<String>,
}

/// Which runtimes can run a task, and who orders them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtimes {
    /// These, the best first: a later one is taken while all before it are lost, or busy for longer than the task's patience.
    /// Workers that were built with an SDK have the runtime with the empty name.
    Chain(Vec<String>),
    /// Any of these, the cheapest first. See [`Price`](crate::Price).
    Auto(Vec<String>),
}

impl Runtimes {
    /// A chain of one.
    pub fn only(runtime: &str) -> Self {
        Self::Chain(vec![runtime.to_owned()])
    }

    /// The names, in the order given.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Chain(names) | Self::Auto(names) => names,
        }
    }
}

/// SDK workers alone.
impl Default for Runtimes {
    fn default() -> Self {
        Self::only("")
    }
}

/// How strongly an attempt is kept apart from its machine and its neighbours, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// A process of its own: `native`, `cuda`.
    #[default]
    Process,
    /// A sandbox without ambient authority: `wasm`.
    Sandbox,
    /// A virtual machine of its own: `microvm`.
    Machine,
}

impl Isolation {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Sandbox => "sandbox",
            Self::Machine => "machine",
        }
    }
}

/// One device that a task needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct DeviceNeed {
    /// Such as `cuda`.
    pub kind: String,
    /// Memory on it, in bytes. The rest of the device is left to others.
    pub memory_bytes: u64,
    /// The least compute capability, ten times the major number plus the minor one: 90 for 9.0. 0: any.
    pub capability: u32,
    /// Runtimes on which it is needed; empty: on all. A chain `cuda`, `native` needs its device on `cuda` alone.
    pub runtimes: Vec<String>,
}

impl DeviceNeed {
    /// Whether an attempt on this runtime needs it.
    pub fn binds(&self, runtime: &str) -> bool {
        self.runtimes.is_empty() || self.runtimes.iter().any(|name| name == runtime)
    }
}

/// A node or a piece of data, and how many bytes would have to be moved if the task ran elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Weighed {
    /// Of the node, or of the data.
    pub name: String,
    /// Its size. Something of no size still counts a little.
    pub bytes: u64,
}

/// How urgent a task is. The numbers are those of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// 1.
    Critical = 1,
    /// 2.
    High = 2,
    /// 3.
    #[default]
    Normal = 3,
    /// 4.
    Low = 4,
    /// 5.
    Background = 5,
}

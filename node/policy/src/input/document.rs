//! The documented shape of an input document. [The crate's page](crate#the-input-document) explains the fields to authors of policies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Clock;

/// One command, as policies see it. Every field is always there, so that a policy can tell "not set" from "not known".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Who asks: `user/ann`, `jwt/ci`, `token/…` or `node/3`.
    pub principal: String,
    /// How they proved it: `certificate`, `token`, `jwt` or `node`.
    pub method: String,
    /// Names of the roles that are bound to the principal in this namespace, in ascending order.
    pub roles: Vec<String>,
    /// What they want to do, as in roles: `create`, `read`, `update`, `delete`, ….
    pub verb: String,
    /// To what.
    pub resource: Resource,
    /// The namespace that the command is about; empty if it is about the whole cluster.
    pub namespace: String,
    /// The namespace's environment; `prod` for commands about the whole cluster.
    pub environment: String,
    /// The task that is submitted; null for other commands. Of a batch, each task is asked about alone.
    pub task: Option<Task>,
    /// Facts about the cluster at this moment.
    pub cluster: Cluster,
}

impl Document {
    /// The document as it is judged: the time in whole seconds, and the clock that follows from it.
    pub(super) fn rounded(&self) -> Self {
        let time_ms = self.cluster.time_ms / 1_000 * 1_000;
        Self { cluster: Cluster { time_ms, clock: Clock::at(time_ms), ..self.cluster.clone() }, ..self.clone() }
    }
}

/// What a command is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resource {
    /// Its kind, as in roles: `task`, `queue`, `lease`, `policy`, ….
    pub kind: String,
    /// Its name or id; empty if the command is about all of them or a new one without a name.
    pub name: String,
    /// Of a context: the key that is written or deleted; empty otherwise. Policies never see values.
    #[serde(default)]
    pub key: String,
}

/// A task that is submitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// The queue.
    pub queue: String,
    /// `wasm`, another runtime, or empty for workers built with an SDK.
    pub runtime: String,
    /// The handler's name, for workers built with an SDK.
    pub handler: String,
    /// `critical`, `high`, `normal`, `low` or `background`.
    pub priority: String,
    /// Labels that the worker must carry, such as `gpu`.
    pub requires: Vec<String>,
    /// The submitter's notes.
    pub annotations: BTreeMap<String, String>,
    /// Not before this time, in milliseconds since the Unix epoch; 0 for at once.
    pub not_before_at_ms: u64,
    /// To be finished by this time; 0 for never.
    pub deadline_at_ms: u64,
    /// Longest time of one attempt, in milliseconds; 0 for the default.
    pub attempt_timeout_ms: u64,
    /// Attempts in all; 0 for the default.
    pub max_attempts: u32,
    /// How long the ended task is kept, in milliseconds; 0 for the default.
    pub retention_ms: u64,
    /// How many tasks it waits for.
    pub after: u32,
    /// Its input, as a digest: policies never see the content.
    pub payload: Payload,
    /// For the runtimes `wasm` and `microvm`; null otherwise.
    pub wasm: Option<Wasm>,
    /// For the runtime `native`; null otherwise.
    #[serde(default)]
    pub native: Option<Native>,
    /// What an executor lets it reach.
    #[serde(default)]
    pub grants: Grants,
}

/// A payload without its content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    /// BLAKE3 in hexadecimal.
    pub digest: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a WASM executor is asked to run. Arguments and the values of the environment may be secret and are not here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wasm {
    /// The module's content address.
    pub artifact: String,
    /// The exported function, if one is called.
    pub export: String,
    /// Linear memory in bytes; 0 for the default.
    pub memory_bytes: u64,
    /// Output in bytes; 0 for the default.
    pub output_bytes: u64,
    /// Instructions; 0 for no limit but time.
    pub fuel: u64,
}

/// Facts about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Nodes that are members.
    pub nodes: u32,
    /// The machine version that the cluster runs at.
    pub version: u32,
    /// The time in milliseconds since the Unix epoch. [`Input::new`](super::Input::new) rounds it down to the second.
    pub time_ms: u64,
    /// The same time in UTC, taken apart. [`Input::new`](super::Input::new) sets it, whatever is here.
    pub clock: Clock,
}

/// What a native task runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Native {
    /// The program's content address.
    pub artifact: String,
    /// Memory that it asks for; 0 for the default.
    pub memory_bytes: u64,
    /// Output that it asks for; 0 for the default.
    pub output_bytes: u64,
}

/// What a task may reach beyond its own memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// Clocks.
    pub clock: bool,
    /// Random numbers.
    pub random: bool,
    /// Bytes of its own files.
    pub scratch_bytes: u64,
    /// Origins that its requests over HTTP may go to.
    pub http: Vec<String>,
    /// Artifacts that it may call.
    pub calls: Vec<String>,
    /// The machine's network as it is.
    pub network: bool,
    /// The context that it may use; null if none.
    #[serde(default)]
    pub context: Option<ContextGrant>,
}

/// A context that a task may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextGrant {
    /// The context's name.
    pub name: String,
    /// Whether it may also be written.
    pub write: bool,
}

//! What the scheduler is told of a worker.

use crate::Isolation;

/// Whoever leases tasks: a node's executor, or a program built with the SDK. It has one runtime.
///
/// Memory and devices are the worker's own: where several workers share a machine, each is given its part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Worker {
    /// Unique in the cluster.
    pub id: String,
    /// The node or machine on which it runs. Data and results are near to all workers of a node.
    pub node: String,
    /// Such as `wasm`; empty for a worker that was built with an SDK.
    pub runtime: String,
    /// Handlers that it knows; empty: any.
    pub handlers: Vec<String>,
    /// Namespaces that it serves; empty: all.
    pub namespaces: Vec<String>,
    /// Queues that it serves; empty: all.
    pub queues: Vec<String>,
    /// Labels that it carries.
    pub labels: Vec<String>,
    /// How strongly it keeps attempts apart.
    pub isolation: Isolation,
    /// Attempts that it can run at once.
    pub slots: u32,
    /// Attempts that it could take now.
    pub slots_free: u32,
    /// Main memory for attempts, in bytes.
    pub memory_bytes: u64,
    /// The most main memory that one attempt may have, in bytes. 0: all of it.
    pub attempt_memory_bytes: u64,
    /// Main memory that no attempt holds, in bytes.
    pub memory_free_bytes: u64,
    /// Its devices. A [`Placement`](crate::Placement) names them by their position here.
    pub devices: Vec<Device>,
    /// What a second of one slot costs, in whatever unit the operator reckons in; a fine one, such as a millionth of a
    /// currency's unit.
    pub cost_per_second: u64,
    /// How good its results are next to the best, in thousandths: below 1,000 for a model that was cut down, say.
    pub quality: u16,
    /// Whether it takes no new tasks.
    pub draining: bool,
}

/// A device of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Such as `cuda`.
    pub kind: String,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Memory that no attempt holds, in bytes.
    pub memory_free_bytes: u64,
    /// Its compute capability, ten times the major number plus the minor one.
    pub capability: u32,
    /// Whether it was lost: the driver reports it gone or failing. Nothing is placed on it until it is back.
    pub lost: bool,
}

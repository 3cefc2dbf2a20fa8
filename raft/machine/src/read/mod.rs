//! Reads: what the API answers from this node's state. Each reflects everything up to [`Machine::applied_index`], and nothing after.

mod access;
mod audit;
mod chain;
mod contexts;
mod driver;
mod events;
mod expect;
mod federation;
mod lists;
mod policy;
mod routing;
mod story;
mod tasks;
mod tenancy;
mod transfer;

use tarn_proto::v1::{Rejection, WorkerCapabilities};

pub use chain::ChainWalk;
pub use driver::DriverStanding;
pub use events::Compacted;
pub use federation::{Federation, ReplicaPair};
pub use policy::Escalations;
pub use routing::{OpenTask, WorkerLoad};

use crate::Machine;
use crate::domain::{parse_id, worker};
use crate::reject;
use crate::rows::WorkerRow;

/// Entries on a page where the request says nothing, and at most.
const PAGE: (u32, u32) = (100, 1_000);
/// Rows that one page may look at in search of matching ones: a page of a filtered list may be short, and still name a next one.
const PAGE_ROWS_MAX: usize = 10_000;

/// A page ends with what exceeds this many bytes: large tasks must not make one answer fill a node's memory.
const PAGE_BYTES_MAX: usize = 4 << 20;

impl Machine {
    /// Whether a task is ready that this worker could be given. Cheap: for whoever decides when to propose a lease.
    ///
    /// False for a worker that is unknown, draining, or holds as many tasks as it may.
    pub fn has_ready_task_for(&self, worker_id: &str) -> bool {
        let any = WorkerCapabilities::default();
        self.leasing(worker_id).is_some_and(|(id, row)| {
            let capabilities = row.capabilities.as_ref().unwrap_or(&any);
            let ready = match worker::is_elsewhere(capabilities) {
                true => self.ix.has_placed_for(id, capabilities),
                false => self.ix.has_ready_for(capabilities),
            };
            ready && self.ix.held_by(id) < crate::limits::WORKER_TASKS_MAX
        })
    }

    /// Whether the worker is registered and not draining. Every other one is refused a lease.
    pub fn may_lease(&self, worker_id: &str) -> bool {
        self.leasing(worker_id).is_some()
    }

    /// Whether nothing with a time was ever applied: a cluster that has just been founded.
    pub fn is_fresh(&self) -> bool {
        self.meta.version == crate::Versions::FIRST && self.meta.now_ms == 0
    }

    /// Whether this principal may lease, heartbeat and report as the worker: it registered it, or may do so for anybody. True of a worker that
    /// is not registered, which is refused for that.
    pub fn may_work_as(&self, worker_id: &str, principal: &str) -> bool {
        let id = parse_id(worker_id, "worker_id");
        let worker = id.ok().and_then(|id| self.ix.workers.get(&id));
        worker.is_none_or(|row| worker::may_work_as(row, principal))
    }

    /// The namespaces that a registered worker serves; none means all.
    pub fn worker_namespaces(&self, worker_id: &str) -> Option<Vec<String>> {
        let worker = self.ix.workers.get(&parse_id(worker_id, "worker_id").ok()?)?;
        Some(worker.capabilities.clone().unwrap_or_default().namespaces)
    }

    fn leasing(&self, worker_id: &str) -> Option<(u64, &WorkerRow)> {
        let id = parse_id(worker_id, "worker_id").ok()?;
        let worker = self.ix.workers.get(&id).filter(|worker| !worker.draining)?;
        Some((id, worker))
    }

    /// Tasks that are ready, whoever can run them. Cheap: for whoever decides how many leases to propose.
    pub fn ready_tasks(&self) -> u64 {
        self.ix.ready
    }

    /// Whether this is the hash of a join token that has not expired. A used one counts: the node that used it may have lost the answer.
    pub fn join_token_outstanding(&self, key_hash: &[u8; 32]) -> bool {
        self.ix.join_tokens.get(key_hash).is_some_and(|row| row.expires_at_ms > self.now_ms())
    }

    /// The number of a namespace.
    fn namespace(&self, name: &str) -> Result<u64, Rejection> {
        self.ix.namespace_ids.get(name).copied().ok_or_else(|| reject::namespace_not_found(name))
    }
}

/// How many entries a page has.
fn page_size(asked: u32) -> usize {
    match asked {
        0 => PAGE.0 as usize,
        asked => asked.min(PAGE.1) as usize,
    }
}

/// The id after which a page begins; 0 for the first page.
fn page_start(token: &str) -> Result<u64, Rejection> {
    match token {
        "" => Ok(0),
        token => parse_id(token, "page_token").map_err(|_| reject::invalid_page_token()),
    }
}

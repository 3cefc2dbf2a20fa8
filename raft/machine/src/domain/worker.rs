//! Workers: who they are, what they can do, and that they are still there.
//!
//! A worker belongs to the principal that registered it: what it may lease was asked when it registered, so nobody else may lease as it, speak
//! for its leases or report in its name. Two may besides: the root principal, and nodes, which give back what a worker that vanished was sent.

use tarn_proto::v1::{
    DecisionKind, DrainWorkerRequest, DrainWorkerResponse, EventKind, HeartbeatWorkerRequest, HeartbeatWorkerResponse,
    RegisterWorkerRequest, RegisterWorkerResponse, Rejection, TaskState, WorkerCapabilities, WorkerResources, WorkerState,
};

use super::{parse_id, placement, version};
use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{DecisionRow, WorkerRow};
use crate::task::spec::or_default;
use crate::task::{Task, end, error};
use crate::txn::Txn;

/// The command: registers a worker under a new id.
pub fn register_worker(txn: &mut Txn<'_>, principal: &str, request: RegisterWorkerRequest) -> Result<RegisterWorkerResponse, Refusal> {
    if txn.ix.workers.len() >= limits::WORKERS_MAX {
        let message = "too many workers are registered: stop some, or wait until some expire";
        return Err(reject::full("TOO_MANY_WORKERS", "", limits::WORKERS_MAX as u64, message).into());
    }
    let own = |row: &&WorkerRow| row.registered_by == principal;
    if txn.ix.workers.values().filter(own).count() >= limits::WORKERS_OF_ONE_MAX {
        let message = "you have too many workers registered: stop some, or wait until some expire";
        return Err(reject::full("TOO_MANY_WORKERS", "", limits::WORKERS_OF_ONE_MAX as u64, message).into());
    }
    let mut capabilities = request.capabilities;
    if let Some(capabilities) = capabilities.as_mut().filter(|_| txn.meta.version >= version::ROUTER) {
        if capabilities.runtimes.iter().any(|runtime| runtime == placement::AUTO) {
            let message = "\"auto\" stands for whichever runtime the router chooses: name those that the worker has";
            return Err(reject::invalid("RESERVED_RUNTIME", "capabilities.runtimes", message).into());
        }
        label_node(capabilities);
    }
    let id = txn.next_id();
    let ttl_ms = or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT);
    let row = WorkerRow {
        name: request.name,
        capabilities,
        draining: false,
        registered_at_ms: txn.now,
        heartbeat_at_ms: txn.now,
        expires_at_ms: txn.now + ttl_ms,
        ttl_ms,
        registered_by: match txn.meta.version < version::ACCESS {
            true => String::new(),
            false => principal.to_owned(),
        },
    };
    let expires_at_ms = row.expires_at_ms;
    tell(txn, EventKind::WorkerRegistered, id, &row.name);
    save(txn, id, row);
    Ok(RegisterWorkerResponse { worker_id: Id(id).to_string(), expires_at_ms })
}

/// The command: the worker is still there.
pub fn heartbeat_worker(txn: &mut Txn<'_>, principal: &str, request: HeartbeatWorkerRequest) -> Result<HeartbeatWorkerResponse, Refusal> {
    let (id, mut row) = load(txn, &request.worker_id)?;
    require_maker(&row, id, principal)?;
    if let Some(resources) = request.resources {
        let known = row.capabilities.get_or_insert_default();
        // Where it runs is what its label says, for as long as it is registered; and what it may lease is not changed by the way.
        let (node, cluster) = match known.resources.take() {
            Some(before) => (before.node, before.cluster),
            None => (resources.node, resources.cluster),
        };
        known.resources = Some(WorkerResources { node, cluster, ..resources });
        label_node(known);
    }
    row.heartbeat_at_ms = txn.now;
    row.expires_at_ms = txn.now + row.ttl_ms;
    let answer = HeartbeatWorkerResponse { expires_at_ms: row.expires_at_ms, state: state(&row).into() };
    save(txn, id, row);
    Ok(answer)
}

/// Gives a worker that says where it runs the label that says so.
fn label_node(capabilities: &mut WorkerCapabilities) {
    let label = capabilities.resources.as_ref().map(|resources| placement::node_label(&resources.node));
    if let Some(label) = label.filter(|label| !capabilities.labels.contains(label)) {
        capabilities.labels.push(label);
    }
}

/// The command: the worker gets no more tasks.
pub fn drain_worker(txn: &mut Txn<'_>, request: DrainWorkerRequest) -> Result<DrainWorkerResponse, Refusal> {
    let (id, mut row) = load(txn, &request.worker_id)?;
    if !row.draining {
        row.draining = true;
        tell(txn, EventKind::WorkerDraining, id, &row.name);
        save(txn, id, row);
    }
    Ok(DrainWorkerResponse { running: txn.ix.held_by(id) as u32 })
}

/// The namespace is gone: what bears its name next is another's, and no worker's that served this one. Who served nothing else is drained.
pub fn forget_namespace(txn: &mut Txn<'_>, name: &str) {
    let since = txn.meta.version >= version::ACCESS;
    let names = |row: &WorkerRow| row.capabilities.iter().flat_map(|given| &given.namespaces).any(|one| one == name);
    let workers = txn.ix.workers.iter().filter(|(_, row)| since && names(row));
    for (id, mut row) in workers.map(|(id, row)| (*id, row.clone())).collect::<Vec<_>>() {
        let namespaces = &mut row.capabilities.get_or_insert_default().namespaces;
        // An empty list would mean all.
        match namespaces.iter().all(|one| one == name) {
            true => row.draining = true,
            false => namespaces.retain(|one| one != name),
        }
        save(txn, id, row);
    }
}

/// The worker has not been heard of: its registration ends, and with it its leases.
pub fn expire(txn: &mut Txn<'_>, id: u64) -> Result<(), Fatal> {
    let Some(row) = txn.ix.workers.remove(&id) else {
        return Err(Fatal::assertion(format!("an index has worker {}, which does not exist", Id(id))));
    };
    txn.ix.wakes.remove(&(row.expires_at_ms, Wake::Worker { id }));
    txn.rows.delete(Key::Worker { id });
    tell(txn, EventKind::WorkerGone, id, &row.name);
    txn.decide(DecisionRow {
        kind: DecisionKind::Worker.into(),
        worker: id,
        reason: "WORKER_EXPIRED".to_owned(),
        detail: row.name.clone(),
        ..DecisionRow::default()
    });
    let held = txn.ix.held.get(&id).cloned().unwrap_or_default();
    for (ns, task) in held {
        let mut task = Task::indexed(txn, ns, task, TaskState::Running)?;
        let ending = end::Ending::without_report(error("LEASE_EXPIRED", "the worker that held the lease has not been heard of"));
        end::fail_attempt(txn, &mut task, ending, false)?;
    }
    Ok(())
}

/// The worker's state as clients see it.
pub fn state(row: &WorkerRow) -> WorkerState {
    if row.draining { WorkerState::Draining } else { WorkerState::Active }
}

/// Whether a worker with these capabilities stands for another cluster: it leases nothing but what was placed at it.
pub fn is_elsewhere(capabilities: &WorkerCapabilities) -> bool {
    capabilities.resources.as_ref().is_some_and(|resources| !resources.cluster.is_empty())
}

/// The principal that may do everything.
const ROOT: &str = "user/admin";

/// Refuses whoever may not work as this worker.
pub fn require_maker(row: &WorkerRow, id: u64, principal: &str) -> Result<(), Rejection> {
    if may_work_as(row, principal) {
        return Ok(());
    }
    let message = format!("worker {} was registered by somebody else: register one of your own", Id(id));
    Err(reject::denied("WORKER_NOT_YOURS", "worker_id", message))
}

/// Whether this principal may work as this worker. As one that was registered before that was written down, everybody may.
pub fn may_work_as(row: &WorkerRow, principal: &str) -> bool {
    let maker = row.registered_by.is_empty() || row.registered_by == principal;
    maker || principal == ROOT || principal.starts_with("node/")
}

fn load(txn: &Txn<'_>, text: &str) -> Result<(u64, WorkerRow), Refusal> {
    let id = parse_id(text, "worker_id")?;
    let row = txn.ix.workers.get(&id).ok_or_else(|| reject::worker_not_found(text))?;
    Ok((id, row.clone()))
}

fn save(txn: &mut Txn<'_>, id: u64, row: WorkerRow) {
    txn.rows.put(Key::Worker { id }, &row);
    txn.ix.wakes.insert((row.expires_at_ms, Wake::Worker { id }));
    let expires = row.expires_at_ms;
    let before = txn.ix.workers.insert(id, row);
    if let Some(before) = before.filter(|before| before.expires_at_ms != expires) {
        txn.ix.wakes.remove(&(before.expires_at_ms, Wake::Worker { id }));
    }
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, id: u64, name: &str) {
    let event = txn.event(kind, Id(id).to_string());
    event.worker = event.subject.clone();
    event.detail = name.to_owned();
}

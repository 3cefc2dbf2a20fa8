//! Namespaces: tenants.

use tarn_proto::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, DeleteNamespaceResponse, EventKind, Isolation, Namespace,
    NamespaceState, Quotas, UpdateNamespaceRequest, UpdateNamespaceResponse,
};

use super::{access, driver, quota, worker};
use crate::error::{Fatal, Refusal};
use crate::index::NamespaceIndex;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{NamespaceRow, PassRow};
use crate::task::spec::or_default;
use crate::txn::Txn;

/// The namespace that exists from the start and cannot be deleted.
pub const DEFAULT: &str = "default";
/// Its number: lower than any that a log position gives.
pub const DEFAULT_ID: u64 = 1;

/// The command: creates a namespace.
pub fn create_namespace(txn: &mut Txn<'_>, request: CreateNamespaceRequest) -> Result<CreateNamespaceResponse, Refusal> {
    if txn.ix.namespace_ids.contains_key(request.name.as_str()) {
        let message = format!("there is a namespace {:?} already: use it, or choose another name", request.name);
        return Err(reject::exists("NAMESPACE_EXISTS", "name", message).into());
    }
    if txn.ix.namespaces.len() >= limits::NAMESPACES_MAX {
        let message = "the cluster has too many namespaces: delete one that is not needed";
        return Err(reject::full("TOO_MANY_NAMESPACES", "name", limits::NAMESPACES_MAX as u64, message).into());
    }
    let mut row = NamespaceRow {
        id: txn.next_id(),
        weight: or_default(request.weight.into(), limits::WEIGHT_DEFAULT.into()) as u32,
        created_at_ms: txn.now,
        ..NamespaceRow::default()
    };
    row.set_isolation(request.isolation());
    set_environment(&mut row, request.environment);
    set_quotas(&mut row, request.quotas.as_ref());
    let namespace = message(&request.name, &row, txn.meta.version);
    create(txn, &request.name, row);
    txn.event(EventKind::NamespaceCreated, request.name.as_str()).namespace = request.name.clone();
    Ok(CreateNamespaceResponse { namespace: Some(namespace) })
}

/// Puts a namespace into the state. It begins behind all others, so that it has no claim on the time before it existed; leasing brings it
/// near to those that it then meets.
pub fn create(txn: &mut Txn<'_>, name: &str, row: NamespaceRow) {
    let pass = txn.ix.namespaces.values().map(|namespace| namespace.pass).max().unwrap_or(0);
    txn.rows.put(Key::Namespace { name }, &row);
    txn.rows.put(Key::Pass { ns: row.id }, &PassRow { pass });
    txn.ix.insert_namespace(row.id, NamespaceIndex::new(name.into(), row, pass));
}

/// The command: changes what the request names. What is in the namespace stays, also where a quota is now below it.
pub fn update_namespace(txn: &mut Txn<'_>, request: UpdateNamespaceRequest) -> Result<UpdateNamespaceResponse, Refusal> {
    let ns = named(txn, &request.name)?;
    let isolation = request.isolation.map(|_| request.isolation());
    txn.ix.move_namespace(ns, |NamespaceIndex { row, .. }| {
        if let Some(weight) = request.weight {
            row.weight = weight;
        }
        if let Some(isolation) = isolation {
            row.set_isolation(isolation);
        }
        if let Some(environment) = request.environment {
            set_environment(row, environment);
        }
        set_quotas(row, request.quotas.as_ref());
    })?;
    save(txn, ns)?;
    // Workers that waited may get what they could not get before.
    txn.freed.insert(ns);
    let name = request.name;
    let namespace = message(&name, &txn.ix.namespace(ns)?.row, txn.meta.version);
    txn.event(EventKind::NamespaceUpdated, name.as_str()).namespace = name.clone();
    Ok(UpdateNamespaceResponse { namespace: Some(namespace) })
}

/// Writes a namespace's row as the index has it.
pub fn save(txn: &mut Txn<'_>, ns: u64) -> Result<(), Fatal> {
    let namespace = txn.ix.namespace(ns)?;
    txn.rows.put(Key::Namespace { name: &namespace.name }, &namespace.row);
    txn.ix.tell_tenant(ns);
    Ok(())
}

/// The namespace as clients see it. Before machine version 2 it has a name, a weight and an age.
pub fn message(name: &str, row: &NamespaceRow, version: u32) -> Namespace {
    let mut namespace = Namespace { name: name.to_owned(), weight: row.weight, created_at_ms: row.created_at_ms, ..Namespace::default() };
    if version >= quota::SINCE {
        namespace.quotas = Some(Quotas {
            max_running: Some(row.max_running),
            max_queued: Some(row.max_queued),
            max_stored_bytes: Some(row.max_stored_bytes),
            requests_per_minute: Some(row.requests_per_minute),
        });
        namespace.environment = row.environment_name().to_owned();
        namespace.set_isolation(match row.isolation() {
            Isolation::Unspecified => Isolation::Shared,
            isolation => isolation,
        });
        namespace.set_state(match row.state() {
            NamespaceState::Unspecified => NamespaceState::Active,
            state => state,
        });
    }
    namespace
}

/// The command: deletes a namespace that holds nothing any more, or has it drain. Ended tasks and fired timers that are still kept go with
/// it: nobody can name them from here on, and their rows are swept when their time is up.
pub fn delete_namespace(txn: &mut Txn<'_>, request: DeleteNamespaceRequest) -> Result<DeleteNamespaceResponse, Refusal> {
    let name = request.name.as_str();
    let ns = named(txn, name)?;
    if name == DEFAULT {
        let message = "the namespace \"default\" always exists: purge its queues instead";
        return Err(reject::precondition("NAMESPACE_PROTECTED", "name", message).into());
    }
    if request.drain {
        return Ok(drain(txn, ns, request.cancel)?);
    }
    let index = txn.ix.namespace(ns)?;
    if index.tasks + index.named_leases + index.pending_timers + index.contexts > 0 {
        let message = format!(
            "namespace {name:?} still holds {} tasks or dead letters, {} named leases, {} pending timers and {} contexts: end or delete them first",
            index.tasks, index.named_leases, index.pending_timers, index.contexts
        );
        return Err(reject::precondition("NAMESPACE_NOT_EMPTY", "name", message).into());
    }
    if let Some((driver, _)) = txn.ix.drivers_of(ns).next() {
        let message = format!("namespace {name:?} has the driver {driver:?}, and perhaps more: remove them first");
        return Err(reject::precondition("NAMESPACE_NOT_EMPTY", "name", message).into());
    }
    if txn.ix.access.bound_to(name).nth(limits::SWEEPS_PER_ENTRY_MAX).is_some() {
        let message = format!("namespace {name:?} has more bindings than one step deletes: delete it with drain");
        return Err(reject::precondition("NAMESPACE_NOT_EMPTY", "name", message).into());
    }
    access::forget_namespace(txn, name, limits::SWEEPS_PER_ENTRY_MAX);
    delete(txn, ns, name)?;
    Ok(DeleteNamespaceResponse::default())
}

/// From here on the namespace takes nothing new. Asked again, it can only become more urgent.
fn drain(txn: &mut Txn<'_>, ns: u64, cancel: bool) -> Result<DeleteNamespaceResponse, Fatal> {
    let index = txn.ix.namespace_mut(ns)?;
    let (before, name) = (index.row.state(), index.name.to_string());
    let state = match cancel || before == NamespaceState::Cancelling {
        true => NamespaceState::Cancelling,
        false => NamespaceState::Draining,
    };
    if before != state {
        index.row.set_state(state);
        txn.ix.draining.insert(ns);
        save(txn, ns)?;
        let event = txn.event(EventKind::NamespaceDraining, name.as_str());
        event.namespace = name;
        event.detail = if cancel { "cancel" } else { "" }.to_owned();
    }
    Ok(DeleteNamespaceResponse { draining: true })
}

/// Takes a namespace out of the state, with its queues: nothing in it has yet to end.
pub fn delete(txn: &mut Txn<'_>, ns: u64, name: &str) -> Result<(), Fatal> {
    let queues: Vec<_> = txn.ix.namespace(ns)?.queue_ids.keys().cloned().collect();
    for queue in queues {
        txn.rows.delete(Key::Queue { ns, name: &queue });
    }
    txn.rows.delete(Key::Namespace { name });
    txn.rows.delete(Key::Pass { ns });
    if txn.meta.version >= quota::SINCE {
        txn.rows.delete(Key::Usage { ns });
    }
    driver::forget_namespace(txn, ns);
    txn.ix.remove_namespace(ns);
    worker::forget_namespace(txn, name);
    txn.event(EventKind::NamespaceDeleted, name).namespace = name.to_owned();
    Ok(())
}

fn named(txn: &Txn<'_>, name: &str) -> Result<u64, Refusal> {
    txn.namespace(name).map_err(|mut rejection| {
        rejection.field = "name".to_owned();
        rejection.into()
    })
}

fn set_environment(row: &mut NamespaceRow, name: String) {
    row.environment = if name == limits::ENVIRONMENT_DEFAULT { String::new() } else { name };
}

fn set_quotas(row: &mut NamespaceRow, quotas: Option<&Quotas>) {
    let quotas = quotas.copied().unwrap_or_default();
    let set = |quota: &mut u64, value: Option<u64>| *quota = value.unwrap_or(*quota);
    set(&mut row.max_running, quotas.max_running);
    set(&mut row.max_queued, quotas.max_queued);
    set(&mut row.max_stored_bytes, quotas.max_stored_bytes);
    set(&mut row.requests_per_minute, quotas.requests_per_minute);
}

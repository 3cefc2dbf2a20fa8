//! Namespaces: tenants.

use tarn_proto::v1::{
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, DeleteNamespaceResponse, EventKind,
    Namespace,
};

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
pub fn create_namespace(
    txn: &mut Txn<'_>,
    request: CreateNamespaceRequest,
) -> Result<CreateNamespaceResponse, Refusal> {
    if txn.ix.namespace_ids.contains_key(request.name.as_str()) {
        let message = format!(
            "there is a namespace {:?} already: use it, or choose another name",
            request.name
        );
        return Err(reject::exists("NAMESPACE_EXISTS", "name", message).into());
    }
    if txn.ix.namespaces.len() >= limits::NAMESPACES_MAX {
        let message = "the cluster has too many namespaces: delete one that is not needed";
        return Err(reject::full("TOO_MANY_NAMESPACES", "name", limits::NAMESPACES_MAX as u64, message).into());
    }
    let weight = or_default(request.weight.into(), limits::WEIGHT_DEFAULT.into()) as u32;
    let row = NamespaceRow {
        id: txn.next_id(),
        weight,
        created_at_ms: txn.now,
    };
    create(txn, &request.name, row);
    txn.event(EventKind::NamespaceCreated, request.name.as_str()).namespace = request.name.clone();
    let namespace = Namespace {
        name: request.name,
        weight,
        created_at_ms: txn.now,
    };
    Ok(CreateNamespaceResponse {
        namespace: Some(namespace),
    })
}

/// Puts a namespace into the state. It begins behind all others, so that it has no claim on the time before it existed; leasing brings it
/// near to those that it then meets.
pub fn create(txn: &mut Txn<'_>, name: &str, row: NamespaceRow) {
    let pass = txn
        .ix
        .namespaces
        .values()
        .map(|namespace| namespace.pass)
        .max()
        .unwrap_or(0);
    txn.rows.put(Key::Namespace { name }, &row);
    txn.rows.put(Key::Pass { ns: row.id }, &PassRow { pass });
    txn.ix.insert_namespace(
        row.id,
        NamespaceIndex::new(name.into(), row.weight, row.created_at_ms, pass),
    );
}

/// The command: deletes a namespace that holds nothing any more. Ended tasks and fired timers that are still kept go with it: nobody can
/// name them from here on, and their rows are swept when their time is up.
pub fn delete_namespace(
    txn: &mut Txn<'_>,
    request: DeleteNamespaceRequest,
) -> Result<DeleteNamespaceResponse, Refusal> {
    let name = request.name.as_str();
    let Some(ns) = txn.ix.namespace_ids.get(name).copied() else {
        let mut rejection = reject::namespace_not_found(name);
        rejection.field = "name".to_owned();
        return Err(rejection.into());
    };
    if name == DEFAULT {
        let message = "the namespace \"default\" always exists: purge its queues instead";
        return Err(reject::precondition("NAMESPACE_PROTECTED", "name", message).into());
    }
    let index = txn.ix.namespace(ns)?;
    if index.tasks + index.named_leases + index.pending_timers > 0 {
        let message = format!(
            "namespace {name:?} still holds {} tasks or dead letters, {} named leases and {} pending timers: end or delete them first",
            index.tasks, index.named_leases, index.pending_timers
        );
        return Err(reject::precondition("NAMESPACE_NOT_EMPTY", "name", message).into());
    }
    delete(txn, ns, name)?;
    txn.event(EventKind::NamespaceDeleted, name).namespace = name.to_owned();
    Ok(DeleteNamespaceResponse {})
}

fn delete(txn: &mut Txn<'_>, ns: u64, name: &str) -> Result<(), Fatal> {
    let queues: Vec<_> = txn.ix.namespace(ns)?.queue_ids.keys().cloned().collect();
    for queue in queues {
        txn.rows.delete(Key::Queue { ns, name: &queue });
    }
    txn.rows.delete(Key::Namespace { name });
    txn.rows.delete(Key::Pass { ns });
    txn.ix.remove_namespace(ns);
    Ok(())
}

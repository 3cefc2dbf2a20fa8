//! Snapshots of contexts: taken, restored, deleted.

use tarn_proto::v1::{
    ContextSnapshot, DeleteSnapshotRequest, DeleteSnapshotResponse, EventKind, Rejection, RestoreContextRequest, RestoreContextResponse,
    SnapshotContextRequest, SnapshotContextResponse,
};

use super::{Place, enter, load, tell};
use crate::error::Refusal;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::{RestoreRow, SnapshotRow};
use crate::txn::Txn;

/// What whoever comes while a restore is still being written is told to wait.
const RESTORE_RETRY_MS: u64 = 1_000;

/// The command: keeps a context as it is now.
pub fn snapshot(txn: &mut Txn<'_>, request: SnapshotContextRequest) -> Result<SnapshotContextResponse, Refusal> {
    let ns = enter(txn, &request.namespace, request.fence.as_ref())?;
    let mut place = load(txn, ns, &request.context)?;
    let key = Key::Snapshot { context: place.context.id, name: &request.snapshot };
    if txn.rows.read(&key, |_| ())?.is_some() {
        let message = format!("the context has a snapshot {:?} already: choose another name", request.snapshot);
        return Err(reject::exists("SNAPSHOT_EXISTS", "snapshot", message).into());
    }
    if place.context.snapshots.len() >= limits::SNAPSHOTS_MAX {
        let message = "the context has too many snapshots: delete one that is not needed";
        return Err(reject::full("TOO_MANY_SNAPSHOTS", "snapshot", limits::SNAPSHOTS_MAX as u64, message).into());
    }
    let row = SnapshotRow { version: txn.next_id(), keys: place.context.keys, at_ms: txn.now };
    place.context.snapshots.push(row.version);
    txn.rows.put(key, &row);
    place.save(txn);
    let detail = format!("snapshot {}", request.snapshot);
    tell(txn, EventKind::ContextChanged, &request.namespace, &request.context, &detail);
    Ok(SnapshotContextResponse { snapshot: Some(message(&request.snapshot, row)) })
}

/// The command: makes a context what it was at a snapshot. From here on everybody sees it so; what it means for each key is written when
/// the key is, or in the background.
pub fn restore(txn: &mut Txn<'_>, request: RestoreContextRequest) -> Result<RestoreContextResponse, Refusal> {
    let ns = enter(txn, &request.namespace, request.fence.as_ref())?;
    let mut place = load(txn, ns, &request.context)?;
    let row = find(txn, &place, &request.snapshot)?;
    crate::domain::federation::own(&place.context, &request.context)?;
    if place.context.restore.is_some() {
        let message = "the restore before is still being written: try again in a moment";
        let mut rejection = reject::precondition("RESTORE_UNDER_WAY", "context", message);
        rejection.retry_after_ms = RESTORE_RETRY_MS;
        return Err(rejection.into());
    }
    let version = txn.next_id();
    place.context.restore = Some(RestoreRow { version, to: row.version, at_ms: txn.now });
    place.context.keys = row.keys;
    begin_walk(txn, &mut place);
    place.changed(txn, version);
    tell(txn, EventKind::ContextRestored, &request.namespace, &request.context, &request.snapshot);
    Ok(RestoreContextResponse { version, keys: row.keys })
}

/// The command: deletes a snapshot. What only it held goes in the background.
pub fn delete_snapshot(txn: &mut Txn<'_>, request: DeleteSnapshotRequest) -> Result<DeleteSnapshotResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let mut place = load(txn, ns, &request.context)?;
    let row = find(txn, &place, &request.snapshot)?;
    txn.rows.delete(Key::Snapshot { context: place.context.id, name: &request.snapshot });
    place.context.snapshots.retain(|version| *version != row.version);
    begin_walk(txn, &mut place);
    place.save(txn);
    let detail = format!("snapshot {} deleted", request.snapshot);
    tell(txn, EventKind::ContextChanged, &request.namespace, &request.context, &detail);
    Ok(DeleteSnapshotResponse {})
}

/// Has every key of the context looked at, from the first on.
fn begin_walk(txn: &mut Txn<'_>, place: &mut Place<'_>) {
    place.context.walked = Some(String::new());
    txn.ix.walks.insert((place.ns, place.name.to_owned()));
}

fn find(txn: &Txn<'_>, place: &Place<'_>, name: &str) -> Result<SnapshotRow, Refusal> {
    let row: Option<SnapshotRow> = txn.rows.row(Key::Snapshot { context: place.context.id, name })?;
    Ok(row.ok_or_else(|| not_found(name))?)
}

/// There is no snapshot with this name.
pub fn not_found(name: &str) -> Rejection {
    let message = format!("the context has no snapshot {name:?}: check the name, or list its snapshots");
    reject::not_found("SNAPSHOT_NOT_FOUND", "snapshot", message)
}

/// As clients see it.
pub fn message(name: &str, row: SnapshotRow) -> ContextSnapshot {
    ContextSnapshot { name: name.to_owned(), version: row.version, keys: row.keys, at_ms: row.at_ms }
}

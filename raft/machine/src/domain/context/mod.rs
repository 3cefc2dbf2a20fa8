//! Contexts: the versioned key-value memory of agents and tasks.
//!
//! ```text
//!   context (name) ──► key ──► versions: the last few, and those that snapshots hold ──► values, each written once
//!        │
//!        └── snapshots: numbers between versions         restore: "what is older than R is what it was at S"
//! ```
//!
//! A version is a number of the log's, so it only grows, also when a key or a context is deleted and made again. A put writes the value,
//! the key's row and the context's, and reads the latter two. Snapshots, restores and deletions are one row each, however large the context;
//! what they leave to be done in the keys ([`sweep`]) is done some keys with every entry, and nobody can tell how far it is.

mod inbox;
mod snapshot;
pub mod sweep;
pub mod versions;

use tarn_proto::v1::{
    DeleteContextRequest, DeleteContextResponse, DeleteKeyRequest, DeleteKeyResponse, EventKind, Fence, PutKeyRequest, PutKeyResponse,
    Rejection, TaskState,
};

use super::{federation, parse_id, quota};
use crate::error::Refusal;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::{ContextRow, KeyRow, TaskRow, VersionRow};
use crate::txn::Txn;

pub use inbox::receive;
pub use snapshot::{delete_snapshot, message, not_found as snapshot_not_found, restore, snapshot};
pub use sweep::{advance, forget_namespace};

/// The command: sets a key. The first one makes the context.
pub fn put_key(txn: &mut Txn<'_>, request: PutKeyRequest) -> Result<PutKeyResponse, Refusal> {
    let ns = enter(txn, &request.namespace, request.fence.as_ref())?;
    let found: Option<ContextRow> = txn.rows.row(Key::Context { ns, name: &request.context })?;
    let is_new = found.is_none();
    if is_new && txn.ix.namespace(ns)?.contexts >= limits::CONTEXTS_MAX {
        let message = "this namespace has too many contexts: delete some, or put the key into one that exists";
        return Err(reject::full("TOO_MANY_CONTEXTS", "context", limits::CONTEXTS_MAX, message).into());
    }
    let context = match found {
        Some(context) => context,
        None => ContextRow { id: txn.next_id(), created_at_ms: txn.now, ..ContextRow::default() },
    };
    let stored: KeyRow = txn.rows.row(Key::ContextKey { context: context.id, key: &request.key })?.unwrap_or_default();
    let mut row = versions::caught_up(&context, &stored);
    let is_first = expect(&request.key, &row, request.expected_version)? == 0;
    if is_first && context.keys >= limits::CONTEXT_KEYS_MAX {
        let message = "the context has too many keys: delete some, or use another context";
        return Err(reject::full("TOO_MANY_KEYS", "key", limits::CONTEXT_KEYS_MAX, message).into());
    }
    let (version, bytes) = (txn.next_id(), request.value.len() as u64);
    row.versions.push(VersionRow { version, value: version, bytes, at_ms: txn.now });
    versions::prune(&context, &mut row);
    let (before, after) = (versions::weight(&request.key, &stored), versions::weight(&request.key, &row));
    quota::room_for_bytes(txn, ns, after.saturating_sub(before))?;
    federation::room(txn, &request.namespace, &context, &request.context, &request.key, request.value.len())?;

    if is_new {
        txn.ix.namespace_mut(ns)?.contexts += 1;
        tell(txn, EventKind::ContextChanged, &request.namespace, &request.context, "created");
    }
    let mut place = Place { ns, name: &request.context, context };
    txn.rows.put_bytes(Key::ContextValue { context: place.context.id, version }, &request.value);
    place.context.keys += u64::from(is_first);
    place.save_key(txn, &request.key, &stored, &row);
    place.changed(txn, version);
    tell(txn, EventKind::ContextKeyPut, &request.namespace, &request.context, &request.key);
    federation::changed(txn, &request.namespace, &place.context, &request.context, &request.key, Some(request.value));
    Ok(PutKeyResponse { version })
}

/// The command: removes a key, with what no snapshot holds of it. No error if there is none.
pub fn delete_key(txn: &mut Txn<'_>, request: DeleteKeyRequest) -> Result<DeleteKeyResponse, Refusal> {
    // What goes makes room, also in a namespace that goes itself.
    let ns = match &request.fence {
        None => txn.namespace(&request.namespace)?,
        fence => enter(txn, &request.namespace, fence.as_ref())?,
    };
    let context: ContextRow = txn.rows.row(Key::Context { ns, name: &request.context })?.unwrap_or_default();
    let stored: KeyRow = txn.rows.row(Key::ContextKey { context: context.id, key: &request.key })?.unwrap_or_default();
    let mut row = versions::caught_up(&context, &stored);
    if expect(&request.key, &row, request.expected_version)? == 0 {
        return Ok(DeleteKeyResponse { deleted: false });
    }
    federation::room(txn, &request.namespace, &context, &request.context, &request.key, 0)?;
    let version = txn.next_id();
    row.versions.push(VersionRow { version, at_ms: txn.now, ..VersionRow::default() });
    versions::prune(&context, &mut row);
    let mut place = Place { ns, name: &request.context, context };
    place.context.keys -= 1;
    place.save_key(txn, &request.key, &stored, &row);
    place.changed(txn, version);
    tell(txn, EventKind::ContextKeyDeleted, &request.namespace, &request.context, &request.key);
    federation::changed(txn, &request.namespace, &place.context, &request.context, &request.key, None);
    Ok(DeleteKeyResponse { deleted: true })
}

/// The command: deletes a context. Its name is free at once; its rows go in the background.
pub fn delete_context(txn: &mut Txn<'_>, request: DeleteContextRequest) -> Result<DeleteContextResponse, Refusal> {
    let ns = txn.namespace(&request.namespace)?;
    let place = load(txn, ns, &request.context)?;
    federation::own(&place.context, &request.context)?;
    sweep::bury(txn, &place)?;
    tell(txn, EventKind::ContextChanged, &request.namespace, &request.context, "deleted");
    Ok(DeleteContextResponse {})
}

/// A context and where it is.
pub struct Place<'a> {
    pub ns: u64,
    pub name: &'a str,
    pub context: ContextRow,
}

impl Place<'_> {
    /// Writes a key's row in place of the one that is stored, deletes the values that it does not name any more, and counts.
    fn save_key(&mut self, txn: &mut Txn<'_>, key: &str, stored: &KeyRow, row: &KeyRow) {
        let context = self.context.id;
        let (before, after) = (versions::weight(key, stored), versions::weight(key, row));
        for value in versions::values(stored).filter(|value| !versions::values(row).any(|kept| kept == *value)) {
            txn.rows.delete(Key::ContextValue { context, version: value });
        }
        match row.versions.is_empty() {
            true => txn.rows.delete(Key::ContextKey { context, key }),
            false => txn.rows.put(Key::ContextKey { context, key }, row),
        }
        self.context.bytes = (self.context.bytes + after).saturating_sub(before);
        quota::replace(txn, self.ns, before, after);
    }

    /// Writes the context's row.
    pub fn save(&self, txn: &mut Txn<'_>) {
        txn.rows.put(Key::Context { ns: self.ns, name: self.name }, &self.context);
    }

    /// The same, after a change that has this version.
    fn changed(&mut self, txn: &mut Txn<'_>, version: u64) {
        self.context.version = version;
        self.context.updated_at_ms = txn.now;
        self.save(txn);
    }
}

/// The context with this name.
pub fn load<'a>(txn: &Txn<'_>, ns: u64, name: &'a str) -> Result<Place<'a>, Refusal> {
    let context = txn.rows.row(Key::Context { ns, name })?.ok_or_else(|| not_found(name))?;
    Ok(Place { ns, name, context })
}

/// There is no context with this name.
pub fn not_found(name: &str) -> Rejection {
    let message = format!("there is no context {name:?} in this namespace: a context is created by its first key");
    reject::not_found("CONTEXT_NOT_FOUND", "context", message)
}

/// The number of the namespace, for a write. An attempt may write as long as it runs, also while the namespace goes; it is what the
/// namespace waits for.
fn enter(txn: &Txn<'_>, namespace: &str, fence: Option<&Fence>) -> Result<u64, Refusal> {
    let Some(fence) = fence else { return Ok(txn.open_namespace(namespace)?) };
    let ns = txn.namespace(namespace)?;
    let id = parse_id(&fence.task_id, "fence.task_id")?;
    let task: Option<TaskRow> = txn.rows.row(Key::LiveTask { ns, id })?;
    match task.is_some_and(|task| task.state() == TaskState::Running && task.token == fence.token) {
        true => Ok(ns),
        false => Err(reject::stale_token("this task").into()),
    }
}

/// The version that a key has now, 0 if it has no value; refuses if it is not the one that is expected.
fn expect(key: &str, row: &KeyRow, expected: Option<u64>) -> Result<u64, Rejection> {
    let found = versions::present(row).map_or(0, |last| last.version);
    let Some(expected) = expected.filter(|expected| *expected != found) else { return Ok(found) };
    let said = |version| match version {
        0 => "no value".to_owned(),
        version => format!("version {version}"),
    };
    let (is, wanted) = (said(found), said(expected));
    let message = format!("key {key:?} has {is}, and {wanted} was expected: read it again and decide anew");
    let mut rejection = reject::precondition("VERSION_CONFLICT", "expected_version", message);
    rejection.actual_version = found;
    Err(rejection)
}

fn tell(txn: &mut Txn<'_>, kind: EventKind, namespace: &str, name: &str, detail: &str) {
    let event = txn.event(kind, name);
    event.namespace = namespace.to_owned();
    event.detail = detail.to_owned();
}

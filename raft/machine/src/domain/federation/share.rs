//! Contexts that are shared: what is put into them goes into the outbox, and what they held before follows, some keys with every entry.

use bytes::Bytes;
use tarn_proto::v1::{Rejection, ShareContextRequest, ShareContextResponse, SharedEntry};

use super::{may_write, member, room_for, tell, write};
use crate::domain::context::{self, Place, sweep, versions};
use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first};
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::{ContextRow, KeyRow};
use crate::txn::Txn;

/// The command: shares a context, or takes it back.
pub fn share_context(txn: &mut Txn<'_>, request: ShareContextRequest) -> Result<ShareContextResponse, Refusal> {
    let ns = match request.shared {
        true => {
            member(txn)?;
            txn.open_namespace(&request.namespace)?
        }
        false => txn.namespace(&request.namespace)?,
    };
    let found: Option<ContextRow> = txn.rows.row(Key::Context { ns, name: &request.context })?;
    let is_new = found.is_none();
    if is_new && !request.shared {
        return Err(context::not_found(&request.context).into());
    }
    if is_new && txn.ix.namespace(ns)?.contexts >= limits::CONTEXTS_MAX {
        let message = "this namespace has too many contexts: delete some";
        return Err(reject::full("TOO_MANY_CONTEXTS", "context", limits::CONTEXTS_MAX, message).into());
    }
    let context = found.unwrap_or_else(|| ContextRow { id: txn.next_id(), created_at_ms: txn.now, ..ContextRow::default() });
    let mut place = Place { ns, name: &request.context, context };
    if place.context.shared == request.shared {
        return Ok(ShareContextResponse {});
    }
    if request.shared && place.context.walked.is_some() {
        let message = "a restore of this context is still being written into its keys: try again in a moment";
        return Err(reject::precondition("CONTEXT_BUSY", "context", message).into());
    }
    if request.shared && place.context.keys > 0 {
        // What it holds would stay here: the others would not take it.
        may_write(txn, super::section_bit("context").unwrap_or_default())?;
    }
    // One that is not here yet gets its keys from the other clusters.
    if is_new {
        txn.ix.namespace_mut(ns)?.contexts += 1;
    }
    let at = (ns, request.context.clone());
    place.context.shared = request.shared;
    place.context.sharing = request.shared.then(String::new);
    match request.shared {
        true => {
            txn.ix.federation.shared.insert(at.clone());
            txn.ix.federation.sharing.insert(at);
        }
        false => forget(txn, ns, &request.context),
    }
    place.save(txn);
    let detail = if request.shared { "shared" } else { "not shared any more" };
    tell(txn, &request.namespace, &format!("context/{}", request.context), detail);
    Ok(ShareContextResponse {})
}

/// Refuses a change of a shared context that the federation cannot take.
pub fn room(txn: &Txn<'_>, namespace: &str, place: &ContextRow, name: &str, key: &str, value_bytes: usize) -> Result<(), Rejection> {
    if !place.shared || !txn.ix.federation.is_member() {
        return Ok(());
    }
    let (value_max, key_max) = (limits::SHARED_VALUE_BYTES_MAX, limits::SHARED_KEY_BYTES_MAX);
    if value_bytes > value_max {
        let message =
            format!("the value has {value_bytes} bytes, and in a shared context at most {value_max} are taken: put it as an artifact");
        return Err(reject::too_large("SHARED_VALUE_TOO_LARGE", "value", value_max as u64, message));
    }
    if shared_key(namespace, name, key).len() > key_max {
        let message = format!("namespace, context and key together have more than {key_max} bytes: in a shared context, use a shorter key");
        return Err(reject::too_large("SHARED_KEY_TOO_LONG", "key", key_max as u64, message));
    }
    room_for(txn, &[(&shared_key(namespace, name, key), value_bytes)])
}

/// A key of a shared context has changed here.
pub fn changed(txn: &mut Txn<'_>, namespace: &str, place: &ContextRow, name: &str, key: &str, value: Option<Bytes>) {
    if place.shared && txn.ix.federation.is_member() {
        write(txn, SharedEntry { key: shared_key(namespace, name, key), value });
    }
}

/// Refuses what would change a shared context as a whole.
pub fn own(place: &ContextRow, name: &str) -> Result<(), Rejection> {
    if !place.shared {
        return Ok(());
    }
    let message = format!("the context {name:?} is shared with the federation: take it back first, with `tarn federation unshare {name}`");
    Err(reject::precondition("CONTEXT_IS_SHARED", "context", message))
}

/// The context is not shared any more, or gone.
pub fn forget(txn: &mut Txn<'_>, ns: u64, name: &str) {
    let at = (ns, name.to_owned());
    txn.ix.federation.shared.remove(&at);
    txn.ix.federation.sharing.remove(&at);
}

/// Shares no more contexts, at most `room` of them. Gives how many.
pub fn forget_in(txn: &mut Txn<'_>, room: usize) -> Result<usize, Fatal> {
    let some: Vec<(u64, String)> = txn.ix.federation.shared.iter().take(room).cloned().collect();
    for (ns, name) in &some {
        let mut place = found(txn, *ns, name)?;
        (place.context.shared, place.context.sharing) = (false, None);
        place.save(txn);
        forget(txn, *ns, name);
    }
    Ok(some.len())
}

/// Takes the next step with a context that has just been shared.
pub fn advance(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let Some((ns, name)) = txn.ix.federation.sharing.first().cloned() else { return Ok(()) };
    let room = txn.ix.federation.shares_now();
    if room == 0 {
        return Ok(());
    }
    let mut place = found(txn, ns, &name)?;
    let namespace = txn.namespace_name(ns)?;
    let id = place.context.id;
    let mut keys = sweep::after(txn, first::CONTEXT_KEY, id, place.context.sharing.as_deref().unwrap_or_default().as_bytes())?;
    let is_last = keys.len() <= room;
    keys.truncate(room);
    for bytes in &keys {
        let Some(Key::ContextKey { key, .. }) = Key::decode(bytes) else { return Err(crate::advance::damaged(bytes)) };
        let stored: KeyRow = txn.rows.row(Key::ContextKey { context: id, key })?.unwrap_or_default();
        if let Some(present) = versions::present(&stored) {
            let value = txn.rows.bytes(Key::ContextValue { context: id, version: present.value })?;
            let fits = value.as_ref().is_some_and(|value| value.len() <= limits::SHARED_VALUE_BYTES_MAX);
            let entry = SharedEntry { key: shared_key(&namespace, &name, key), value };
            if fits && entry.key.len() <= limits::SHARED_KEY_BYTES_MAX {
                write(txn, entry);
            } else {
                tell(txn, &namespace, &format!("context/{name}"), &format!("too large to be shared: {key}"));
            }
        }
        place.context.sharing = Some(key.to_owned());
    }
    if is_last {
        place.context.sharing = None;
        txn.ix.federation.sharing.remove(&(ns, name.clone()));
    }
    place.save(txn);
    Ok(())
}

fn found<'n>(txn: &Txn<'_>, ns: u64, name: &'n str) -> Result<Place<'n>, Fatal> {
    let context: Option<ContextRow> = txn.rows.row(Key::Context { ns, name })?;
    let context = context.ok_or_else(|| Fatal::assertion(format!("an index has the shared context {name:?}, which is gone")))?;
    Ok(Place { ns, name, context })
}

fn shared_key(namespace: &str, name: &str, key: &str) -> String {
    format!("context/{namespace}/{name}/{key}")
}

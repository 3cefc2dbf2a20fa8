//! What other clusters of the federation put into a shared context.

use bytes::Bytes;
use tarn_proto::v1::EventKind;

use super::{Place, tell, versions};
use crate::check;
use crate::error::Fatal;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::rows::{ContextRow, KeyRow, VersionRow};
use crate::txn::Txn;

/// Makes a key what the document says that it is. Nothing happens where it is that already, where the key does not fit, and where there is no
/// context of that name that this cluster shares: which ones it does, nobody else decides. Quotas count what comes, and refuse none of it:
/// the other clusters have it.
pub fn receive(txn: &mut Txn<'_>, namespace: &str, name: &str, key: &str, value: Option<Bytes>) -> Result<(), Fatal> {
    let Ok(ns) = txn.open_namespace(namespace) else { return Ok(()) };
    if check::name("context", name).is_err() || check::key("key", key).is_err() {
        return Ok(());
    }
    let found: Option<ContextRow> = txn.rows.row(Key::Context { ns, name })?;
    let Some(context) = found.filter(|context| context.shared) else { return Ok(()) };
    let mut place = Place { ns, name, context };
    let id = place.context.id;
    let stored: KeyRow = txn.rows.row(Key::ContextKey { context: id, key })?.unwrap_or_default();
    let mut row = versions::caught_up(&place.context, &stored);
    let present = match versions::present(&row) {
        Some(present) => txn.rows.bytes(Key::ContextValue { context: id, version: present.value })?,
        None => None,
    };
    // What lies there goes into the outbox in a moment, and is later than what comes.
    let goes_out = present.is_some() && place.context.sharing.as_deref().is_some_and(|walked| key > walked);
    if goes_out || present == value || (present.is_none() && value.is_some() && place.context.keys >= limits::CONTEXT_KEYS_MAX) {
        return Ok(());
    }
    let version = txn.next_id();
    let kind = match &value {
        Some(bytes) => {
            txn.rows.put_bytes(Key::ContextValue { context: id, version }, bytes);
            row.versions.push(VersionRow { version, value: version, bytes: bytes.len() as u64, at_ms: txn.now });
            place.context.keys += u64::from(present.is_none());
            EventKind::ContextKeyPut
        }
        None => {
            row.versions.push(VersionRow { version, at_ms: txn.now, ..VersionRow::default() });
            place.context.keys -= 1;
            EventKind::ContextKeyDeleted
        }
    };
    versions::prune(&place.context, &mut row);
    place.save_key(txn, key, &stored, &row);
    place.changed(txn, version);
    tell(txn, kind, namespace, name, key);
    Ok(())
}

//! What is left to be done in the keys of contexts: some with every entry.
//!
//! A walk writes a restore into each key and drops what a deleted snapshot held; the rest of a deleted context goes. Both look at the rows
//! as they were before the entry, and therefore come before anything else in it that changes contexts.

use bytes::Bytes;
use tarn_storage::Range;

use super::{Place, versions};
use crate::advance::damaged;
use crate::error::Fatal;
use crate::keys::{Key, first, prefix};
use crate::limits;
use crate::overlay::{Rows, STATE};
use crate::rows::{ContextRow, KeyRow};
use crate::txn::Txn;

/// Takes the next step with one context of each kind.
pub fn advance(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    if let Some((ns, name)) = txn.ix.walks.first().cloned() {
        walk(txn, ns, &name)?;
    }
    match txn.ix.gone.first() {
        Some(context) => clear(txn, *context),
        None => Ok(()),
    }
}

fn walk(txn: &mut Txn<'_>, ns: u64, name: &str) -> Result<(), Fatal> {
    let context: Option<ContextRow> = txn.rows.row(Key::Context { ns, name })?;
    let context = context.ok_or_else(|| Fatal::assertion(format!("an index has context {name:?}, which is gone")))?;
    let mut place = Place { ns, name, context };
    let id = place.context.id;
    let keys = after(txn, first::CONTEXT_KEY, id, place.context.walked.as_deref().unwrap_or_default().as_bytes())?;
    for bytes in &keys {
        let Some(Key::ContextKey { key, .. }) = Key::decode(bytes) else { return Err(damaged(bytes)) };
        let stored: KeyRow = txn.rows.row(Key::ContextKey { context: id, key })?.unwrap_or_default();
        let mut row = versions::caught_up(&place.context, &stored);
        versions::prune(&place.context, &mut row);
        if row != stored {
            place.save_key(txn, key, &stored, &row);
        }
        place.context.walked = Some(key.to_owned());
    }
    if keys.len() < limits::SWEEPS_PER_ENTRY_MAX {
        (place.context.walked, place.context.restore) = (None, None);
        txn.ix.walks.remove(&(ns, name.to_owned()));
    }
    place.save(txn);
    Ok(())
}

/// Takes a context out of its namespace; what lies under its number goes in the background.
pub fn bury(txn: &mut Txn<'_>, place: &Place<'_>) -> Result<(), Fatal> {
    let Place { ns, name, context } = place;
    txn.rows.delete(Key::Context { ns: *ns, name });
    txn.rows.put_bytes(Key::GoneContext { context: context.id }, []);
    txn.ix.gone.insert(context.id);
    txn.ix.walks.remove(&(*ns, (*name).to_owned()));
    crate::domain::federation::forget(txn, *ns, name);
    txn.ix.namespace_mut(*ns)?.contexts -= 1;
    crate::domain::quota::replace(txn, *ns, context.bytes, 0);
    Ok(())
}

fn clear(txn: &mut Txn<'_>, context: u64) -> Result<(), Fatal> {
    let walked = txn.rows.bytes(Key::GoneContext { context })?.unwrap_or_default();
    let mut room = limits::SWEEPS_PER_ENTRY_MAX;
    let keys = after(txn, first::CONTEXT_KEY, context, &walked)?;
    for bytes in &keys {
        let Some(place @ Key::ContextKey { key, .. }) = Key::decode(bytes) else { return Err(damaged(bytes)) };
        let row: KeyRow = txn.rows.row(place)?.unwrap_or_default();
        for version in versions::values(&row) {
            txn.rows.delete(Key::ContextValue { context, version });
            room = room.saturating_sub(1);
        }
        txn.rows.delete(place);
        room = room.saturating_sub(1);
        if room == 0 {
            let walked = Bytes::copy_from_slice(key.as_bytes());
            txn.rows.put_bytes(Key::GoneContext { context }, walked);
            return Ok(());
        }
    }
    for bytes in after(txn, first::SNAPSHOT, context, b"")? {
        txn.rows.delete(Key::decode(&bytes).ok_or_else(|| damaged(&bytes))?);
    }
    txn.rows.delete(Key::GoneContext { context });
    txn.ix.gone.remove(&context);
    Ok(())
}

/// Takes contexts out of a namespace that goes, at most `room` of them. Gives how many.
pub fn forget_namespace(txn: &mut Txn<'_>, ns: u64, room: usize) -> Result<usize, Fatal> {
    let mut keys = after(txn, first::CONTEXT, ns, b"")?;
    keys.truncate(room);
    for bytes in &keys {
        let Some(key @ Key::Context { name, .. }) = Key::decode(bytes) else { return Err(damaged(bytes)) };
        let context = txn.rows.row(key)?.ok_or_else(|| damaged(bytes))?;
        bury(txn, &Place { ns, name, context })?;
    }
    Ok(keys.len())
}

/// The first keys of a kind under a number, after a name, as many as one entry may change. No name has the character U+0000.
pub fn after(txn: &Txn<'_>, kind: u8, number: u64, name: &[u8]) -> Result<Vec<Vec<u8>>, Fatal> {
    let mut start = prefix(kind, &[number]);
    start.extend_from_slice(name);
    start.push(0);
    let end = prefix(kind, &[number + 1]);
    let entries = txn.rows.engine().scan(STATE, Range::between(&start, &end));
    entries.take(limits::SWEEPS_PER_ENTRY_MAX).map(|entry| Ok(entry?.0)).collect()
}

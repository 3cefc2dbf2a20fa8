//! The federation: who this cluster is in it, what waits to be signed, who is invited, which contexts are shared.

use std::collections::{BTreeMap, BTreeSet};

use tarn_proto::v1::SharedEntry;
use tarn_storage::Engine;

use super::rebuild::{each, misplaced};
use super::{Indices, Wake};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::limits;
use crate::overlay::Rows;
use crate::rows::{FederationBooksRow, FederationRow, InvitationRow};

/// See the module's page.
#[derive(Debug, Default, PartialEq)]
pub struct FederationIndex {
    /// `None`: this cluster is in no federation.
    pub row: Option<FederationRow>,
    pub books: FederationBooksRow,
    /// The key that each write in the outbox is of, by number, and the bytes of key and value.
    pub outbox: BTreeMap<u64, (String, u64)>,
    /// All of these bytes.
    pub outbox_bytes: u64,
    /// The last of these for each key.
    pub pending: BTreeMap<String, u64>,
    pub invitations: BTreeMap<[u8; 32], InvitationRow>,
    /// Shared contexts, as (namespace, name).
    pub shared: BTreeSet<(u64, String)>,
    /// Those of them whose keys are walked through on their way into the outbox.
    pub sharing: BTreeSet<(u64, String)>,
}

impl FederationIndex {
    /// Notes a write in the outbox.
    pub fn insert_write(&mut self, number: u64, entry: &SharedEntry) {
        let bytes = entry.key.len() as u64 + entry.value.as_ref().map_or(0, |value| value.len() as u64);
        self.outbox_bytes += bytes;
        self.outbox.insert(number, (entry.key.clone(), bytes));
        self.pending.insert(entry.key.clone(), number);
    }

    /// Forgets a write in the outbox.
    pub fn remove_write(&mut self, number: u64) {
        let Some((key, bytes)) = self.outbox.remove(&number) else { return };
        self.outbox_bytes -= bytes;
        if self.pending.get(&key) == Some(&number) {
            self.pending.remove(&key);
        }
    }

    /// How many keys of a context that has just been shared may go into the outbox with the next entry.
    pub fn shares_now(&self) -> usize {
        let one = (limits::SHARED_KEY_BYTES_MAX + limits::SHARED_VALUE_BYTES_MAX) as u64;
        let bytes = self.books.room.min(limits::OUTBOX_BYTES_MAX).saturating_sub(self.outbox_bytes) / one;
        let writes = limits::OUTBOX_MAX.saturating_sub(self.outbox.len()).min(limits::SHARES_PER_ENTRY_MAX);
        if self.is_member() && !self.books.removed { writes.min(usize::try_from(bytes).unwrap_or(usize::MAX)) } else { 0 }
    }

    /// Whether something is to be done with the next entry: a context on its way into the outbox, or what is left of a federation.
    pub fn has_steps(&self) -> bool {
        let leaving = self.row.as_ref().is_some_and(|row| row.leaving);
        leaving || (!self.sharing.is_empty() && self.shares_now() > 0)
    }

    /// Whether the cluster is in a federation now.
    pub fn is_member(&self) -> bool {
        self.row.as_ref().is_some_and(|row| !row.leaving)
    }
}

/// Fills the index from the rows. Contexts are noted where they are read.
pub(super) fn fill(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    indices.federation.row = engine.row(Key::Federation)?;
    indices.federation.books = engine.row(Key::FederationBooks)?.unwrap_or_default();
    each(engine, first::OUTBOX, |key, entry: SharedEntry| {
        let Key::Outbox { number } = key else { return Err(misplaced(key)) };
        indices.federation.insert_write(number, &entry);
        Ok(())
    })?;
    each(engine, first::INVITATION, |key, row: InvitationRow| {
        let Key::Invitation { hash } = key else { return Err(misplaced(key)) };
        indices.wakes.insert((row.expires_at_ms, Wake::Invitation { hash: Box::new(*hash) }));
        indices.federation.invitations.insert(*hash, row);
        Ok(())
    })
}

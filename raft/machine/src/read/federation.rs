//! Reads of the federation, for the node that leads and for those who ask it.

use bytes::Bytes;
use prost::Message;
use tarn_proto::v1::{FederationIdentity, SharedEntry};
use tarn_storage::Range;

use crate::Machine;
use crate::domain::context::versions;
use crate::domain::federation::context_key;
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::overlay::{Rows as _, STATE};
use crate::rows::{ContextRow, KeyRow};

/// A row of the document's copy: its key and its bytes.
pub type ReplicaPair = (Vec<u8>, Vec<u8>);

/// This cluster in its federation.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Who it is, without its secret.
    pub identity: FederationIdentity,
    /// Of the document's copy.
    pub revision: u64,
    /// Writes that are in no signed change set yet.
    pub unsigned: u64,
    /// Clusters that were admitted here.
    pub admitted: u64,
    /// The others have withdrawn their trust in this cluster.
    pub removed: bool,
}

impl Machine {
    /// This cluster in its federation; `None` if it is in none.
    pub fn federation(&self) -> Option<Federation> {
        let row = self.ix.federation.row.as_ref().filter(|row| !row.leaving)?;
        let identity = FederationIdentity { secret_seed: Bytes::new(), ..row.identity.clone()? };
        let books = self.ix.federation.books;
        Some(Federation {
            identity,
            revision: books.revision,
            unsigned: self.ix.federation.outbox.len() as u64,
            admitted: books.admitted,
            removed: books.removed,
        })
    }

    /// Tasks of other clusters that have been taken over and are not closed: this cluster does not leave while there are any.
    pub fn open_transfers(&self) -> u64 {
        self.ix.transfers.open()
    }

    /// Whether writes wait to be signed. Cheap: asked after every entry.
    pub fn has_unsigned(&self) -> bool {
        !self.ix.federation.outbox.is_empty()
    }

    /// What the cluster's key in the federation is made of: for the node that signs.
    pub fn federation_secret(&self) -> Option<[u8; 32]> {
        let identity = self.ix.federation.row.as_ref()?.identity.as_ref()?;
        identity.secret_seed.as_ref().try_into().ok()
    }

    /// Writes of the outbox after a number, with their numbers, as they came; at most so many.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn outbox(&self, after: u64, max: usize) -> Result<Vec<(u64, SharedEntry)>, Fatal> {
        let numbers = self.ix.federation.outbox.range(after + 1..).take(max);
        numbers.map(|(number, _)| Ok((*number, self.row_of(Key::Outbox { number: *number })?))).collect()
    }

    /// Rows of the document's copy after a key, at most so many.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn replica_rows(&self, after: &[u8], max: usize) -> Result<Vec<ReplicaPair>, Fatal> {
        let start = if after.is_empty() { vec![first::REPLICA] } else { [&[first::REPLICA], after, &[0]].concat() };
        let entries = self.engine.scan(STATE, Range::between(&start, &[first::REPLICA + 1])).take(max);
        entries.map(|entry| entry.map(|(key, value)| (key[1..].to_vec(), value)).map_err(Fatal::from)).collect()
    }

    /// Entries of the document, outside of contexts, whose keys begin like this: all of them, for whoever left one out would trust whom the
    /// others do not.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn shared_entries(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Fatal> {
        let start = [&[first::SHARED], prefix.as_bytes()].concat();
        let entries = self.engine.scan(STATE, Range::prefix(&start));
        let named = |(key, value): (Vec<u8>, Vec<u8>)| Some((String::from_utf8(key.get(1..)?.to_vec()).ok()?, value));
        entries.filter_map(|entry| entry.map_err(Fatal::from).map(named).transpose()).collect()
    }

    /// Whether a key of the document, of a context, is not what the document says, and could be: its namespace has come since, or the context is
    /// shared only now.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn lacks_shared(&self, key: &str, value: &[u8]) -> Result<bool, Fatal> {
        let Some((namespace, name, key)) = context_key(key) else { return Ok(false) };
        let Some(ns) = self.ix.namespace_ids.get(namespace) else { return Ok(false) };
        let context: Option<ContextRow> = self.rows().row(Key::Context { ns: *ns, name })?;
        let Some(context) = context.filter(|context| context.shared) else { return Ok(false) };
        let row: KeyRow = self.rows().row(Key::ContextKey { context: context.id, key })?.unwrap_or_default();
        let present = match versions::present(&versions::caught_up(&context, &row)) {
            Some(present) => self.rows().bytes(Key::ContextValue { context: context.id, version: present.value })?,
            None => None,
        };
        Ok(present.is_none_or(|present| present != value))
    }

    /// What the holder of an invitation may write once it is a member; `None` if there is no such invitation now.
    pub fn invitation_scope(&self, key_hash: &[u8; 32]) -> Option<Vec<String>> {
        let row = self.ix.federation.invitations.get(key_hash).filter(|row| row.expires_at_ms > self.now_ms())?;
        Some(row.scope.clone())
    }

    /// Shared contexts, as namespace and name.
    pub fn shared_contexts(&self) -> Vec<(String, String)> {
        let name = |(ns, name): &(u64, String)| Some((self.ix.namespaces.get(ns)?.name.to_string(), name.clone()));
        self.ix.federation.shared.iter().filter_map(name).collect()
    }

    fn row_of<R: Message + Default>(&self, key: Key<'_>) -> Result<R, Fatal> {
        let missing = || Fatal::assertion(format!("an index names {key:?}, which does not exist"));
        self.rows().row(key)?.ok_or_else(missing)
    }
}

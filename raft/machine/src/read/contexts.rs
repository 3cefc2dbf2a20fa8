//! Reads of contexts.

use tarn_proto::v1::{
    ContextInfo, GetKeyRequest, GetKeyResponse, KeyInfo, KeyVersion, ListContextsRequest, ListContextsResponse, ListKeysRequest,
    ListKeysResponse, ListSnapshotsRequest, ListSnapshotsResponse, ListVersionsRequest, ListVersionsResponse,
};
use tarn_storage::Range;

use super::{PAGE_ROWS_MAX, page_size};
use crate::advance::damaged;
use crate::domain::context::{message, not_found, snapshot_not_found, versions};
use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first, prefix};
use crate::overlay::{Rows, STATE, decode};
use crate::rows::{ContextRow, KeyRow, SnapshotRow, VersionRow};
use crate::{Machine, check, reject};

impl Machine {
    /// One value.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `CONTEXT_NOT_FOUND`, `SNAPSHOT_NOT_FOUND`; `KEY_NOT_FOUND` if the key has no value; `VERSION_NOT_FOUND` if the
    /// version that is asked for is not kept, or is not that of a value; `TWO_MOMENTS` if a version and a snapshot are.
    pub fn get_key(&self, request: &GetKeyRequest) -> Result<GetKeyResponse, Refusal> {
        let (context, moment) = self.context_at(&request.namespace, &request.context, &request.snapshot)?;
        let row = self.context_key(&context, &request.key)?;
        let found = match (request.version, moment) {
            (0, moment) => value_at(&row, moment).ok_or_else(|| key_not_found(&request.key))?,
            (asked, None) => {
                let mut kept = row.versions.iter();
                let found = kept.find(|version| version.version == asked && version.value != 0);
                *found.ok_or_else(|| {
                    let message = format!("version {asked} of key {:?} is not kept: list its versions", request.key);
                    reject::not_found("VERSION_NOT_FOUND", "version", message)
                })?
            }
            (_, Some(_)) => {
                let message = "name either a version or a snapshot, not both";
                return Err(reject::invalid("TWO_MOMENTS", "snapshot", message).into());
            }
        };
        let key = Key::ContextValue { context: context.id, version: found.value };
        let value = self.rows().bytes(key)?;
        let value = value.ok_or_else(|| Fatal::assertion(format!("{key:?} is named, and is not there")))?;
        Ok(GetKeyResponse { value, version: found.version, at_ms: found.at_ms, revision: self.applied_index() })
    }

    /// A page of the keys of a context that have a value, in the order of their bytes.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `CONTEXT_NOT_FOUND`, `SNAPSHOT_NOT_FOUND`, `INVALID_KEY`, `INVALID_PAGE_TOKEN`.
    pub fn list_keys(&self, request: &ListKeysRequest) -> Result<ListKeysResponse, Refusal> {
        let (context, moment) = self.context_at(&request.namespace, &request.context, &request.snapshot)?;
        let (wanted, token) = (request.prefix.as_str(), request.page_token.as_str());
        if !wanted.is_empty() {
            check::key("prefix", wanted)?;
        }
        if !token.is_empty() {
            check::key("page_token", token).map_err(|_| reject::invalid_page_token())?;
        }
        let size = page_size(request.page_size);
        let start = Key::ContextKey { context: context.id, key: wanted.max(token) }.encode();
        let mut answer = ListKeysResponse { revision: self.applied_index(), ..ListKeysResponse::default() };
        let mut looked_at = 0;
        self.scan(&start, (first::CONTEXT_KEY, context.id), |key, row: KeyRow| {
            let Key::ContextKey { key, .. } = key else { return true };
            if !key.starts_with(wanted) {
                return false;
            }
            let found = value_at(&versions::caught_up(&context, &row), moment);
            if let Some(VersionRow { version, bytes, at_ms, .. }) = found.filter(|_| key != token) {
                answer.keys.push(KeyInfo { key: key.to_owned(), version, bytes, at_ms });
            }
            looked_at += 1;
            let is_full = answer.keys.len() == size || looked_at == PAGE_ROWS_MAX;
            if is_full {
                answer.next_page_token = key.to_owned();
            }
            !is_full
        })?;
        Ok(answer)
    }

    /// The versions of a key that are kept, newest first.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `CONTEXT_NOT_FOUND`; `KEY_NOT_FOUND` if none is.
    pub fn list_versions(&self, request: &ListVersionsRequest) -> Result<ListVersionsResponse, Refusal> {
        let (context, _) = self.context_at(&request.namespace, &request.context, "")?;
        let row = self.context_key(&context, &request.key)?;
        if row.versions.is_empty() {
            return Err(key_not_found(&request.key).into());
        }
        let version = |version: &VersionRow| KeyVersion {
            version: version.version,
            bytes: version.bytes,
            at_ms: version.at_ms,
            deleted: version.value == 0,
        };
        let versions = row.versions.iter().rev().map(version).collect();
        Ok(ListVersionsResponse { versions, revision: self.applied_index() })
    }

    /// A page of the contexts of a namespace, by name.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `INVALID_PAGE_TOKEN`.
    pub fn list_contexts(&self, request: &ListContextsRequest) -> Result<ListContextsResponse, Refusal> {
        let ns = self.namespace(&request.namespace)?;
        let token = request.page_token.as_str();
        if !token.is_empty() {
            check::name("page_token", token).map_err(|_| reject::invalid_page_token())?;
        }
        let size = page_size(request.page_size);
        let mut answer = ListContextsResponse { revision: self.applied_index(), ..ListContextsResponse::default() };
        let start = Key::Context { ns, name: token }.encode();
        self.scan(&start, (first::CONTEXT, ns), |key, row: ContextRow| {
            let Key::Context { name, .. } = key else { return true };
            if name != token {
                answer.contexts.push(info(&request.namespace, name, &row));
            }
            let is_full = answer.contexts.len() == size;
            if is_full {
                answer.next_page_token = name.to_owned();
            }
            !is_full
        })?;
        Ok(answer)
    }

    /// The snapshots of a context, by name.
    ///
    /// # Errors
    ///
    /// `NAMESPACE_NOT_FOUND`, `CONTEXT_NOT_FOUND`.
    pub fn list_snapshots(&self, request: &ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Refusal> {
        let (context, _) = self.context_at(&request.namespace, &request.context, "")?;
        let mut answer = ListSnapshotsResponse { revision: self.applied_index(), ..ListSnapshotsResponse::default() };
        let start = prefix(first::SNAPSHOT, &[context.id]);
        self.scan(&start, (first::SNAPSHOT, context.id), |key, row: SnapshotRow| {
            if let Key::Snapshot { name, .. } = key {
                answer.snapshots.push(message(name, row));
            }
            true
        })?;
        Ok(answer)
    }

    /// A context, and the moment that a snapshot of it stands for; none without a name.
    fn context_at(&self, namespace: &str, name: &str, snapshot: &str) -> Result<(ContextRow, Option<u64>), Refusal> {
        let ns = self.namespace(namespace)?;
        check::name("context", name)?;
        let context: Option<ContextRow> = self.rows().row(Key::Context { ns, name })?;
        let context = context.ok_or_else(|| not_found(name))?;
        if snapshot.is_empty() {
            return Ok((context, None));
        }
        let row: Option<SnapshotRow> = self.rows().row(Key::Snapshot { context: context.id, name: snapshot })?;
        let row = row.ok_or_else(|| snapshot_not_found(snapshot))?;
        Ok((context, Some(row.version)))
    }

    /// Reads the rows of a kind that lie under a number, from `start` on, for as long as `see` wants more.
    fn scan<R: prost::Message + Default>(
        &self,
        start: &[u8],
        (kind, number): (u8, u64),
        mut see: impl FnMut(Key<'_>, R) -> bool,
    ) -> Result<(), Fatal> {
        for entry in self.engine.scan(STATE, Range::between(start, &prefix(kind, &[number + 1]))) {
            let (bytes, row) = entry?;
            let key = Key::decode(&bytes).ok_or_else(|| damaged(&bytes))?;
            if !see(key, decode(&key, &row)?) {
                break;
            }
        }
        Ok(())
    }

    fn context_key(&self, context: &ContextRow, key: &str) -> Result<KeyRow, Refusal> {
        check::key("key", key)?;
        let row: Option<KeyRow> = self.rows().row(Key::ContextKey { context: context.id, key })?;
        Ok(versions::caught_up(context, &row.unwrap_or_default()))
    }
}

fn info(namespace: &str, name: &str, row: &ContextRow) -> ContextInfo {
    ContextInfo {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        keys: row.keys,
        bytes: row.bytes,
        snapshots: row.snapshots.len() as u32,
        version: row.version,
        created_at_ms: row.created_at_ms,
        updated_at_ms: row.updated_at_ms,
    }
}

/// The version with the value at a moment, or now.
fn value_at(row: &KeyRow, moment: Option<u64>) -> Option<VersionRow> {
    moment.map_or_else(|| versions::present(row), |moment| versions::at(row, moment))
}

fn key_not_found(key: &str) -> tarn_proto::v1::Rejection {
    let message = format!("key {key:?} has no value: check the name, or list the context's keys");
    reject::not_found("KEY_NOT_FOUND", "key", message)
}

//! Contexts: the versioned key-value memory of agents and tasks, with snapshots.

use bytes::Bytes;
use futures::Stream;

use crate::client::{Client, Kind, rpc};
use crate::error::Error;
use crate::page;
use crate::proto::{self, context_service_client::ContextServiceClient};

/// A context of the client's namespace, by its name; made by [`Client::context`]. It begins with its first write.
///
/// Every change of a key gives it a greater version. Who changes what another may change, too, reads, and then writes with the version
/// that was read: if that is not the key's version any more, the write is refused with `VERSION_CONFLICT` and changes nothing.
#[derive(Clone)]
pub struct Context {
    client: Client,
    name: String,
    fence: Option<proto::Fence>,
}

impl Client {
    /// The context of this name.
    pub fn context(&self, name: impl Into<String>) -> Context {
        Context { client: self.clone(), name: name.into(), fence: None }
    }

    /// Lists the contexts of the client's namespace, by name.
    pub fn list_contexts(&self) -> impl Stream<Item = Result<proto::ContextInfo, Error>> + Send + use<> {
        let client = self.clone();
        page::items(move |page_token| {
            let client = client.clone();
            async move {
                let request = proto::ListContextsRequest { namespace: client.ns(), page_size: 0, page_token };
                let page = client.read(request, rpc!(ContextServiceClient.list_contexts)).await?;
                Ok((page.contexts, page.next_page_token))
            }
        })
    }
}

impl Context {
    /// The same context, written to only as long as the attempt at the task with this id still holds its lease: whoever lost it is refused
    /// with `STALE_TOKEN`, however late its write arrives.
    pub fn fenced(mut self, task_id: impl Into<String>, token: u64) -> Context {
        self.fence = Some(proto::Fence { task_id: task_id.into(), token });
        self
    }

    /// Sets a key, of 1 to 512 bytes, to a value of at most 1 MiB, and gives its new version. With `expected`, only if the key has that
    /// version now; 0 stands for a key without a value.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `VERSION_CONFLICT`, and with the version that it has in
    /// [`actual_version`](crate::Refusal::actual_version); `STALE_TOKEN`; see [`Error`].
    pub async fn put(&self, key: impl Into<String>, value: impl Into<Bytes>, expected: Option<u64>) -> Result<u64, Error> {
        let request = proto::PutKeyRequest {
            request_id: String::new(),
            namespace: self.client.ns(),
            context: self.name.clone(),
            key: key.into(),
            value: value.into(),
            expected_version: expected,
            fence: self.fence.clone(),
        };
        Ok(self.client.command(request, rpc!(ContextServiceClient.put_key)).await?.version)
    }

    /// Removes a key, and says whether it had a value. `expected` as for [`Context::put`]. Older versions go with it, except those that a
    /// snapshot holds.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub async fn delete(&self, key: impl Into<String>, expected: Option<u64>) -> Result<bool, Error> {
        let request = proto::DeleteKeyRequest {
            request_id: String::new(),
            namespace: self.client.ns(),
            context: self.name.clone(),
            key: key.into(),
            expected_version: expected,
            fence: self.fence.clone(),
        };
        Ok(self.client.command(request, rpc!(ContextServiceClient.delete_key)).await?.deleted)
    }

    /// Reads a key; `None` if it has no value, or if there is no such context yet. Sees every write that was acknowledged before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<proto::GetKeyResponse>, Error> {
        match self.find(proto::GetKeyRequest { key: key.into(), ..proto::GetKeyRequest::default() }).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if matches!(error.reason(), "KEY_NOT_FOUND" | "CONTEXT_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a key as the request says: an older version, as it was at a snapshot, or as the node has it at this moment. Namespace and
    /// context are filled in.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such value; see [`Error`].
    pub async fn find(&self, request: proto::GetKeyRequest) -> Result<proto::GetKeyResponse, Error> {
        let request = proto::GetKeyRequest { namespace: self.client.ns(), context: self.name.clone(), ..request };
        let end = Kind::READ.end(self.client.deadline());
        match self.client.get_key_together(&request, end).await {
            Some(answer) => answer,
            None => self.client.call_until(Kind::READ, end, request, rpc!(ContextServiceClient.get_key)).await,
        }
    }

    /// Lists the keys that begin with `prefix`, in the order of their bytes: now, or as they were at a snapshot.
    pub fn keys(&self, prefix: &str, snapshot: Option<&str>) -> impl Stream<Item = Result<proto::KeyInfo, Error>> + Send + use<> {
        let request = proto::ListKeysRequest {
            namespace: self.client.ns(),
            context: self.name.clone(),
            prefix: prefix.to_owned(),
            snapshot: snapshot.unwrap_or_default().to_owned(),
            ..proto::ListKeysRequest::default()
        };
        let client = self.client.clone();
        page::items(move |page_token| {
            let client = client.clone();
            let request = proto::ListKeysRequest { page_token, ..request.clone() };
            async move {
                let page = client.read(request, rpc!(ContextServiceClient.list_keys)).await?;
                Ok((page.keys, page.next_page_token))
            }
        })
    }

    /// The versions of a key that are kept, newest first.
    ///
    /// # Errors
    /// [`Error::Refused`] where none is; see [`Error`].
    pub async fn versions(&self, key: impl Into<String>) -> Result<Vec<proto::KeyVersion>, Error> {
        let request = proto::ListVersionsRequest { namespace: self.client.ns(), context: self.name.clone(), key: key.into() };
        Ok(self.client.read(request, rpc!(ContextServiceClient.list_versions)).await?.versions)
    }

    /// Keeps the whole context as it is now, under a name. Takes the same short time however large it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `SNAPSHOT_EXISTS`; see [`Error`].
    pub async fn snapshot(&self, name: impl Into<String>) -> Result<proto::ContextSnapshot, Error> {
        let request = proto::SnapshotContextRequest {
            request_id: String::new(),
            namespace: self.client.ns(),
            context: self.name.clone(),
            snapshot: name.into(),
            fence: self.fence.clone(),
        };
        let answer = self.client.command(request, rpc!(ContextServiceClient.snapshot_context)).await?;
        answer.snapshot.ok_or_else(|| Error::Transport("the node answered without the snapshot".into()))
    }

    /// The snapshots, by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn snapshots(&self) -> Result<Vec<proto::ContextSnapshot>, Error> {
        let request = proto::ListSnapshotsRequest { namespace: self.client.ns(), context: self.name.clone() };
        Ok(self.client.read(request, rpc!(ContextServiceClient.list_snapshots)).await?.snapshots)
    }

    /// Makes the context what it was at a snapshot, at once for everybody. What was written since is lost, unless a snapshot holds it.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `SNAPSHOT_NOT_FOUND`, or `RESTORE_UNDER_WAY` shortly after another restore; see [`Error`].
    pub async fn restore(&self, name: impl Into<String>) -> Result<proto::RestoreContextResponse, Error> {
        let request = proto::RestoreContextRequest {
            request_id: String::new(),
            namespace: self.client.ns(),
            context: self.name.clone(),
            snapshot: name.into(),
            fence: self.fence.clone(),
        };
        self.client.command(request, rpc!(ContextServiceClient.restore_context)).await
    }

    /// Deletes a snapshot, and what only it held.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `SNAPSHOT_NOT_FOUND`; see [`Error`].
    pub async fn delete_snapshot(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = proto::DeleteSnapshotRequest {
            request_id: String::new(),
            namespace: self.client.ns(),
            context: self.name.clone(),
            snapshot: name.into(),
        };
        self.client.command(request, rpc!(ContextServiceClient.delete_snapshot)).await.map(drop)
    }

    /// Deletes the context with all keys, versions and snapshots.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason `CONTEXT_NOT_FOUND`; see [`Error`].
    pub async fn delete_all(&self) -> Result<(), Error> {
        let request = proto::DeleteContextRequest { request_id: String::new(), namespace: self.client.ns(), context: self.name.clone() };
        self.client.command(request, rpc!(ContextServiceClient.delete_context)).await.map(drop)
    }
}

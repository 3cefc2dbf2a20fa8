//! Federation: clusters that share what they know.

use std::time::Duration;

use crate::client::{Client, Kind, rpc};
use crate::error::Error;
use crate::proto::{self, federation_service_client::FederationServiceClient};

/// Another cluster is dialled on the way.
const JOIN_TIME: Duration = Duration::from_secs(30);

impl Client {
    /// Makes an invitation for one cluster; the first one founds the federation.
    ///
    /// # Errors
    /// [`Error::Refused`] where this node does not listen for other clusters, or for a scope that does not exist; see [`Error`].
    pub async fn invite_cluster(&self, ttl: Duration, scope: Vec<String>) -> Result<proto::InviteClusterResponse, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = proto::InviteClusterRequest { ttl_ms, scope };
        self.call(Kind::WRITE, request, rpc!(FederationServiceClient.invite_cluster)).await
    }

    /// Has this client's cluster join by an invitation. Asked again with the same invitation, it finishes what was interrupted.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with the invitation, or with what the other cluster said; see [`Error`].
    pub async fn join_federation(&self, token: &str, addresses: Vec<String>) -> Result<proto::JoinFederationResponse, Error> {
        let request = proto::JoinFederationRequest { token: token.to_owned(), addresses };
        self.call(Kind::WRITE.waiting(JOIN_TIME), request, rpc!(FederationServiceClient.join_federation)).await
    }

    /// Has this client's cluster go. What it knows stays here, and is shared no more.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is in none, or while tasks of others run here; see [`Error`].
    pub async fn leave_federation(&self) -> Result<(), Error> {
        let request = proto::LeaveFederationRequest::default();
        self.call(Kind::WRITE.waiting(JOIN_TIME), request, rpc!(FederationServiceClient.leave_federation)).await.map(drop)
    }

    /// Withdraws the trust in a member, by its name or id, for the whole federation.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is none of that name; see [`Error`].
    pub async fn remove_cluster(&self, cluster: &str) -> Result<(), Error> {
        let request = proto::RemoveClusterRequest { cluster: cluster.to_owned() };
        self.call(Kind::WRITE, request, rpc!(FederationServiceClient.remove_cluster)).await.map(drop)
    }

    /// The members of the federation, as the shared directory has them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_clusters(&self) -> Result<Vec<proto::FederatedCluster>, Error> {
        let request = proto::ListClustersRequest {};
        Ok(self.read(request, rpc!(FederationServiceClient.list_clusters)).await?.clusters)
    }

    /// The state of this cluster's copy of the shared document, and of its links.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn federation_status(&self) -> Result<proto::GetFederationStatusResponse, Error> {
        self.read(proto::GetFederationStatusRequest {}, rpc!(FederationServiceClient.get_federation_status)).await
    }

    /// Keys that were written in two clusters at once, and changes that were refused.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn federation_conflicts(&self) -> Result<proto::ListConflictsResponse, Error> {
        self.read(proto::ListConflictsRequest {}, rpc!(FederationServiceClient.list_conflicts)).await
    }

    /// Chooses a value for a key that has a conflict; `None` deletes it.
    ///
    /// # Errors
    /// [`Error::Refused`] where the key has none; see [`Error`].
    pub async fn resolve_conflict(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), Error> {
        let request = proto::ResolveConflictRequest { key: key.to_owned(), value: value.map(Into::into) };
        self.call(Kind::WRITE, request, rpc!(FederationServiceClient.resolve_conflict)).await.map(drop)
    }

    /// Shares a context of this client's namespace with the federation, or takes it back.
    ///
    /// # Errors
    /// [`Error::Refused`] where the cluster is in no federation, or the context does not exist; see [`Error`].
    pub async fn share_context(&self, context: &str, shared: bool) -> Result<(), Error> {
        let request = proto::ShareContextRequest {
            namespace: self.ns(),
            context: context.to_owned(),
            shared,
            ..proto::ShareContextRequest::default()
        };
        self.command(request, rpc!(FederationServiceClient.share_context)).await.map(drop)
    }
}

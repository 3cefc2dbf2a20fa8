//! The cluster: its nodes, its leader, its version. These calls are for those who run it.

use std::time::Duration;

use crate::client::{Client, Kind, request_id, rpc};
use crate::error::Error;
use crate::proto::{self, cluster_service_client::ClusterServiceClient, join_service_client::JoinServiceClient};
use crate::time::millis;

/// How long a change of the membership may take at one node: a new one copies the state first.
const MEMBERSHIP_WAIT: Duration = Duration::from_secs(300);

impl Client {
    /// Reads who is in the cluster, who leads it, and how far the answering node is.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<proto::GetClusterResponse, Error> {
        self.read(proto::GetClusterRequest {}, rpc!(ClusterServiceClient.get_cluster)).await
    }

    /// Makes a node a member: a learner, and a voter once it has caught up unless the request says otherwise. Give the client a deadline
    /// that leaves the node time to copy the state.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add_member(&self, request: proto::AddMemberRequest) -> Result<(), Error> {
        let kind = Kind::WRITE.waiting(MEMBERSHIP_WAIT);
        self.call(kind, request, rpc!(ClusterServiceClient.add_member)).await.map(drop)
    }

    /// Removes a node from the cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_member(&self, node_id: u64) -> Result<(), Error> {
        let kind = Kind::WRITE.waiting(MEMBERSHIP_WAIT);
        self.call(kind, proto::RemoveMemberRequest { node_id }, rpc!(ClusterServiceClient.remove_member)).await.map(drop)
    }

    /// Hands leadership to a voter, the most advanced one unless named, and returns who leads then.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn transfer_leader(&self, node_id: Option<u64>) -> Result<u64, Error> {
        let request = proto::TransferLeaderRequest { node_id: node_id.unwrap_or(0) };
        Ok(self.call(Kind::WRITE, request, rpc!(ClusterServiceClient.transfer_leader)).await?.leader_id)
    }

    /// Raises the machine version of the whole cluster, and returns the version in force. It cannot be taken back.
    ///
    /// # Errors
    /// [`Error::Refused`] where a voter does not support the version; see [`Error`].
    pub async fn upgrade_cluster(&self, machine_version: u32) -> Result<u32, Error> {
        let request = proto::UpgradeClusterRequest { machine_version };
        Ok(self.call(Kind::WRITE, request, rpc!(ClusterServiceClient.upgrade_cluster)).await?.machine_version)
    }

    /// Tells the cluster of a one-time token for joining, which the caller has made, by the BLAKE3 hash of the token's public key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_join_token(&self, key_hash: [u8; 32], ttl: Duration) -> Result<proto::CreateJoinTokenResponse, Error> {
        let request = proto::CreateJoinTokenRequest { request_id: request_id(), ttl_ms: millis(ttl), key_hash: key_hash.to_vec().into() };
        self.call(Kind::WRITE, request, rpc!(ClusterServiceClient.create_join_token)).await
    }

    /// Exchanges a join token, which the client's credentials hold, for a node's identity. Repeating it with the same certificate
    /// request gives the same identity.
    ///
    /// # Errors
    /// [`Error::Refused`] where the token is unknown, used up or expired; see [`Error`].
    pub async fn join(&self, request: proto::JoinRequest) -> Result<proto::JoinResponse, Error> {
        self.call(Kind::WRITE, request, rpc!(JoinServiceClient.join)).await
    }
}

//! The cluster: its nodes, its leader, its version.
//!
//! Every node answers. What only the leader can do, consensus passes on to it.

use std::time::Duration;

use tarn_client::tls::Address;
use tarn_proto::v1::cluster_service_server::ClusterService;
use tarn_proto::v1::{
    AddMemberRequest, AddMemberResponse, CreateJoinTokenRequest, CreateJoinTokenResponse, GetClusterRequest, GetClusterResponse, Member,
    PutJoinToken, Rejection, RemoveMemberRequest, RemoveMemberResponse, TransferLeaderRequest, TransferLeaderResponse,
    UpgradeClusterRequest, UpgradeClusterResponse,
};
use tarn_raft::{AdminError, Consensus, MemberInfo, Status as ClusterState};
use tonic::{Code, Request, Response, Status};

use super::call::{Api, Call};
use crate::gate::permission::ALL;
use crate::gate::{Question, Reason, Refusal, Wish};
use crate::identity::web::WebStore;
use crate::peer::VOTERS_MAX;

/// How long members may take to say what they are. A healthy one needs a millisecond; who waits for the answer is a person.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster service.
#[derive(Clone)]
pub struct ClusterApi {
    api: Api,
    cluster_id: String,
    web: WebStore,
}

impl ClusterApi {
    /// The service of the cluster with this id. `web` is where this node keeps the web authority's certificate.
    #[must_use]
    pub fn new(api: Api, cluster_id: impl Into<String>, web: WebStore) -> Self {
        Self { api, cluster_id: cluster_id.into(), web }
    }

    fn consensus(&self) -> &Consensus {
        self.api.way.consensus()
    }

    /// Lets the caller in and through the gate, for a change of the cluster.
    fn enter_to_update<T>(&self, request: &Request<T>, what: &'static str) -> Result<Call, Status> {
        let wish = Wish { verb: "update", kind: "cluster", name: what, namespace: Some(ALL) };
        self.api.enter_for(request, wish)
    }

    fn state(&self) -> Result<ClusterState, Refusal> {
        self.consensus().status().map_err(|_| Reason::NodeStopping.refusal("this node is stopping: ask another one"))
    }

    async fn describe(&self) -> Result<GetClusterResponse, Refusal> {
        let infos = self.consensus().member_infos(ASK_TIMEOUT).await;
        Ok(GetClusterResponse {
            web_ca_certificate: self.web.authority().unwrap_or_default(),
            ..description(&self.cluster_id, self.state()?, &infos)
        })
    }

    async fn add(&self, request: AddMemberRequest, call: &Call) -> Result<(), Refusal> {
        let address = checked_address(&request)?;
        let state = self.state()?;
        let voters = state.members.iter().filter(|member| member.voter).count();
        let votes = state.members.iter().any(|member| member.voter && member.peer.id == request.node_id);
        if !request.learner && !votes && request.replaces == 0 && voters >= VOTERS_MAX {
            return Err(refusal(
                Code::FailedPrecondition,
                "TOO_MANY_VOTERS",
                format!("the cluster has {voters} voters, and more make it slower, not safer: add the node as a learner"),
            )
            .limit(VOTERS_MAX as u64));
        }
        let consensus = self.consensus();
        let done = if request.replaces != 0 {
            consensus.replace(request.replaces, request.node_id, address, call.deadline).await
        } else {
            match consensus.add_learner(request.node_id, address, call.deadline).await {
                Ok(()) if !request.learner => consensus.promote(request.node_id, call.deadline).await,
                done => done,
            }
        };
        done.map_err(administration_refused)
    }
}

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Result<Response<GetClusterResponse>, Status> {
        let call = self.api.enter_for(&request, request.get_ref().wish())?;
        self.describe().await.map(Response::new).map_err(|refusal| call.status(refusal))
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<AddMemberResponse>, Status> {
        let call = self.enter_to_update(&request, "members")?;
        let request = request.into_inner();
        let (resource, detail) = (node(request.node_id), added(&request));
        self.add(request, &call).await.map_err(|refusal| call.status(refusal))?;
        self.api.way.carried_out(&call.caller, "AddMember", resource, detail);
        Ok(Response::new(AddMemberResponse {}))
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Result<Response<RemoveMemberResponse>, Status> {
        let call = self.enter_to_update(&request, "members")?;
        let node_id = request.into_inner().node_id;
        // A leader that is to go hands over first; consensus sees to that.
        let done = self.consensus().remove(node_id, call.deadline).await;
        done.map_err(|error| call.status(administration_refused(error)))?;
        self.api.way.carried_out(&call.caller, "RemoveMember", node(node_id), String::new());
        Ok(Response::new(RemoveMemberResponse {}))
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Result<Response<TransferLeaderResponse>, Status> {
        let call = self.enter_to_update(&request, "leader")?;
        let to = Some(request.into_inner().node_id).filter(|id| *id != 0);
        let done = self.consensus().transfer_leader(to, call.deadline).await;
        let leader_id = done.map_err(|error| call.status(administration_refused(error)))?;
        self.api.way.carried_out(&call.caller, "TransferLeader", node(leader_id), String::new());
        Ok(Response::new(TransferLeaderResponse { leader_id }))
    }

    async fn upgrade_cluster(&self, request: Request<UpgradeClusterRequest>) -> Result<Response<UpgradeClusterResponse>, Status> {
        let call = self.enter_to_update(&request, "version")?;
        let done = self.consensus().raise_version(request.into_inner().machine_version, call.deadline).await;
        let machine_version = done.map_err(|error| call.status(administration_refused(error)))?;
        let detail = machine_version.to_string();
        self.api.way.carried_out(&call.caller, "UpgradeCluster", "cluster/version".into(), detail);
        Ok(Response::new(UpgradeClusterResponse { machine_version }))
    }

    async fn create_join_token(&self, request: Request<CreateJoinTokenRequest>) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let call = self.api.enter(&request)?;
        let CreateJoinTokenRequest { request_id, ttl_ms, key_hash } = request.into_inner();
        let command = PutJoinToken { request_id, key_hash, ttl_ms };
        let put = self.api.way.command(&call.caller, command, call.deadline).await;
        let put = put.map_err(|refusal| call.status(refusal))?;
        let state = self.state().map_err(|refusal| call.status(refusal))?;
        Ok(Response::new(CreateJoinTokenResponse {
            expires_at_ms: put.expires_at_ms,
            addresses: state.members.into_iter().map(|member| member.peer.address).collect(),
        }))
    }
}

fn description(cluster_id: &str, state: ClusterState, infos: &[MemberInfo]) -> GetClusterResponse {
    let leader_id = state.leader.map_or(0, |leader| leader.id);
    let members = state.members.into_iter().map(|member| {
        let info = infos.iter().find(|info| info.peer.id == member.peer.id);
        let build = info.and_then(|info| info.build_version.clone());
        Member {
            node_id: member.peer.id,
            address: member.peer.address,
            voter: member.voter,
            leader: member.peer.id == leader_id,
            matched_index: member.matched_index,
            reachable: build.is_some(),
            build_version: build.unwrap_or_default(),
            machine_version_max: info.and_then(|info| info.versions).map_or(0, |versions| versions.max),
        }
    });
    GetClusterResponse {
        cluster_id: cluster_id.to_owned(),
        leader_id,
        term: state.term,
        answering_node_id: state.node_id,
        machine_version: state.applied.version,
        last_log_index: state.last_log_index,
        applied_index: state.applied.index,
        snapshot_index: state.snapshot_index,
        purged_index: state.purged_index,
        digest: data_encoding::HEXLOWER.encode(&state.digest),
        now_ms: state.applied.now_ms,
        members: members.collect(),
        ..GetClusterResponse::default()
    }
}

fn node(id: u64) -> String {
    format!("node/{id}")
}

/// As what a node was added.
fn added(request: &AddMemberRequest) -> String {
    match (request.learner, request.replaces) {
        (true, _) => "as a learner".into(),
        (false, 0) => "as a voter".into(),
        (false, other) => format!("in the place of node {other}"),
    }
}

fn checked_address(request: &AddMemberRequest) -> Result<String, Refusal> {
    if request.node_id == 0 {
        return Err(invalid("node_id", "a node's id is from 1: take the one in its certificate".into()));
    }
    if request.replaces == request.node_id {
        return Err(invalid("replaces", "a node cannot replace itself: give the new node an id of its own".into()));
    }
    if request.learner && request.replaces != 0 {
        return Err(invalid("replaces", "only a voter can replace a voter: leave out one of replaces and learner".into()));
    }
    let address: Address = request.address.parse().map_err(|error| invalid("address", format!("{error}")))?;
    Ok(address.to_string())
}

fn invalid(field: &str, message: String) -> Refusal {
    refusal(Code::InvalidArgument, "MEMBER_INVALID", message).field(field)
}

/// A refused change of the cluster, as the contract tells it.
pub(crate) fn administration_refused(error: AdminError) -> Refusal {
    let (code, reason) = match &error {
        // The same request may succeed later: the caller's side repeats these.
        AdminError::NotDone => (Code::Unavailable, "NO_LEADER"),
        AdminError::InProgress => (Code::Unavailable, "MEMBERSHIP_CHANGE_IN_PROGRESS"),
        AdminError::NotCaughtUp { .. } => (Code::Unavailable, "NODE_NOT_CAUGHT_UP"),
        AdminError::NotTransferred { .. } => (Code::Unavailable, "LEADER_NOT_TRANSFERRED"),
        // Somebody has to do something first.
        AdminError::Unreachable { .. } => (Code::FailedPrecondition, "NODE_UNREACHABLE"),
        AdminError::UnknownNode { .. } => (Code::NotFound, "NODE_NOT_FOUND"),
        AdminError::NotVoter { .. } => (Code::FailedPrecondition, "NODE_NOT_VOTER"),
        AdminError::AlreadyMember { .. } => (Code::AlreadyExists, "NODE_ALREADY_MEMBER"),
        AdminError::Removed(_) => (Code::FailedPrecondition, "NODE_REMOVED"),
        AdminError::LastVoter { .. } => (Code::FailedPrecondition, "LAST_VOTER"),
        AdminError::VersionNotSupported { .. } => (Code::FailedPrecondition, "VERSION_NOT_SUPPORTED"),
        AdminError::Refused(_) => (Code::FailedPrecondition, "CHANGE_REFUSED"),
    };
    refusal(code, reason, error.to_string())
}

fn refusal(code: Code, reason: &str, message: String) -> Refusal {
    Refusal::from(Rejection { code: code as u32, reason: reason.into(), message, ..Rejection::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(node_id: u64, address: &str, learner: bool, replaces: u64) -> AddMemberRequest {
        AddMemberRequest { node_id, address: address.into(), learner, replaces }
    }

    #[test]
    fn requests_that_mean_nothing_are_refused_with_the_field() {
        assert_eq!(checked_address(&request(4, "10.0.0.4", false, 0)).unwrap(), "10.0.0.4:7610");
        for (bad, field) in [
            (request(0, "a:1", false, 0), "node_id"),
            (request(4, "", false, 0), "address"),
            (request(4, "http://a:1", false, 0), "address"),
            (request(4, "a:1", false, 4), "replaces"),
            (request(4, "a:1", true, 3), "replaces"),
        ] {
            let refusal = checked_address(&bad).unwrap_err();
            assert_eq!((refusal.rejection.field.as_str(), refusal.code()), (field, Code::InvalidArgument));
        }
    }

    #[test]
    fn what_passes_is_told_apart_from_what_must_change() {
        assert!(administration_refused(AdminError::NotCaughtUp { node: 4, behind: 9 }).passes());
        assert!(administration_refused(AdminError::NotDone).passes());
        let last = administration_refused(AdminError::LastVoter { node: 1 });
        assert!(!last.passes());
        assert!(last.rejection.message.contains("last voter"), "{}", last.rejection.message);
    }
}

//! From a join token to a voter, and administration of the cluster that comes of it: whole nodes in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tarn::config::{BootstrapMember, Config, Switch};
use tarn::daemon::{self, Running};
use tarn::identity::{CertificateAuthority, IdentityStore, IssueOptions, JoinToken, make_request};
use tarn::peer::{JoinError, Seeds, join};
use tarn_client::tls::{ConnectOptions, Credentials, Expect, PrincipalKind, PrivateKey, client_config, connect};
use tarn_client::{Client, Code, Error};
use tarn_proto::v1::cluster_service_client::ClusterServiceClient;
use tarn_proto::v1::join_service_client::JoinServiceClient;
use tarn_proto::v1::peer_service_client::PeerServiceClient;
use tarn_proto::v1::{
    AddMemberRequest, GetClusterRequest, GetClusterResponse, JoinRequest, JoinResponse, PeerMembershipRequest, PeerRenewal, PeerRequest,
};
use tempfile::TempDir;
use tonic::Status;
use tonic_types::StatusExt as _;

const HOUR: Duration = Duration::from_secs(3600);

/// A cluster that begins with one node, which holds the CA.
struct Cluster {
    authority: Arc<CertificateAuthority>,
    nodes: Vec<(Running, TempDir)>,
}

fn config(data_dir: &Path, bind: SocketAddr) -> Config {
    let mut config = Config::in_dir(data_dir);
    config.listen.bind = bind;
    config.listen.ops_bind = "127.0.0.1:0".parse().unwrap();
    config.listen.https_bind = "127.0.0.1:0".parse().unwrap();
    config.executors.wasm = false;
    config.executors.native = Switch::Off;
    config.executors.microvm = Switch::Off;
    config.executors.cuda = Switch::Off;
    config
}

/// A port that was free a moment ago: what a node advertises must be known before it starts.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Cluster {
    async fn found(with_ca_key: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = match with_ca_key {
            true => CertificateAuthority::init(&dir.path().join("ca"), "prod").unwrap(),
            false => CertificateAuthority::ephemeral("prod").unwrap(),
        };
        let node = authority.issue(&PrincipalKind::Node { id: 1 }, &IssueOptions::default()).unwrap();
        IdentityStore::new(dir.path()).create(authority.certificate(), &node).unwrap();
        let mut config = config(dir.path(), "127.0.0.1:0".parse().unwrap());
        config.cluster.bootstrap = vec![BootstrapMember::Itself];
        let running = daemon::start(config).await.unwrap();
        Self { authority: Arc::new(authority), nodes: vec![(running, dir)] }
    }

    fn address(&self, index: usize) -> String {
        self.nodes[index].0.addresses().api.to_string()
    }

    fn user(&self) -> Credentials {
        let kind = PrincipalKind::User { name: "admin".into() };
        let identity = self.authority.issue(&kind, &IssueOptions::default()).unwrap();
        Credentials::new(self.authority.certificate().clone(), identity)
    }

    /// A client of one node and no other.
    fn client(&self, index: usize) -> Client {
        Client::builder().addresses([self.address(index)]).credentials(self.user()).connect_lazy().unwrap()
    }

    async fn token(&self, ttl: Duration) -> JoinToken {
        let token = JoinToken::generate(self.authority.certificate());
        self.client(0).create_join_token(token.spki_hash(), ttl).await.unwrap();
        token
    }

    /// Joins through a node and starts, but does not wait until it is a member.
    async fn join(&mut self, through: usize) -> u64 {
        let token = self.token(HOUR).await;
        let dir = tempfile::tempdir().unwrap();
        let bind = free_address();
        // The other node may not have heard of the token yet.
        wait_for_token(&self.nodes[through].0, &token, true).await;
        let joined = join(&token, &[self.address(through)], &bind.to_string(), dir.path()).await.unwrap();
        let running = daemon::start(config(dir.path(), bind)).await.unwrap();
        assert_eq!(running.node_id(), joined.node_id);
        self.nodes.push((running, dir));
        joined.node_id
    }

    async fn wait_for(&self, what: &str, condition: impl Fn(&GetClusterResponse) -> bool) -> GetClusterResponse {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.client(0).cluster().await;
            if let Ok(state) = &state
                && condition(state)
            {
                return state.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "never: {what}; last {state:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(self) {
        for (running, _dir) in self.nodes.into_iter().rev() {
            running.shutdown().await;
        }
    }
}

async fn wait_for_token(node: &Running, token: &JoinToken, outstanding: bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let hash = token.spki_hash();
    while node.consensus().read(|machine| machine.join_token_outstanding(&hash)).unwrap() != outstanding {
        assert!(tokio::time::Instant::now() < deadline, "the token never changed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn voters(state: &GetClusterResponse) -> Vec<u64> {
    state.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect()
}

/// The join request itself, with a key of the caller's choice.
async fn ask(token: &JoinToken, address: &str, certificate_request: Vec<u8>) -> Result<JoinResponse, Status> {
    let address = address.parse().unwrap();
    let channel = connect(&address, token.client_config(), &ConnectOptions::default()).await.unwrap();
    let request = JoinRequest { certificate_request: certificate_request.into(), address: "127.0.0.1:9".into() };
    JoinServiceClient::new(channel).join(request).await.map(tonic::Response::into_inner)
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn refused(result: Result<impl std::fmt::Debug, Error>) -> String {
    result.unwrap_err().reason().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_grow_out_of_one_and_are_administered_through_any() {
    let mut cluster = Cluster::found(true).await;
    assert_eq!(cluster.join(0).await, 2);
    cluster.wait_for("the second node votes", |state| voters(state) == [1, 2]).await;
    // Through the node that has no CA key: it passes the joiner on.
    assert_eq!(cluster.join(1).await, 3);
    let state = cluster
        .wait_for("all vote and are reached", |state| voters(state) == [1, 2, 3] && state.members.iter().all(|member| member.reachable));
    let state = state.await;
    assert_eq!((state.cluster_id.as_str(), state.answering_node_id), ("prod", 1));
    assert!(state.members.iter().all(|member| !member.build_version.is_empty() && member.machine_version_max > 0));
    let seeds = Seeds::load(cluster.nodes[2].1.path()).unwrap().unwrap();
    assert_eq!((seeds.node_id, seeds.members.len()), (3, 2));

    // Whoever is asked, the leader does it.
    for (through, to) in [(2, 2), (0, 3), (1, 1)] {
        assert_eq!(cluster.client(through).transfer_leader(Some(to)).await.unwrap(), to);
    }
    let third = cluster.client(2);
    assert_eq!(refused(third.transfer_leader(Some(9)).await), "NODE_NOT_FOUND");
    assert_eq!(refused(third.remove_member(9).await), "NODE_NOT_FOUND");
    let stranger = AddMemberRequest { node_id: 2, address: "127.0.0.1:1".into(), learner: true, replaces: 0 };
    assert_eq!(refused(third.add_member(stranger).await), "NODE_ALREADY_MEMBER");
    let nobody = AddMemberRequest { node_id: 0, address: "127.0.0.1:1".into(), learner: true, replaces: 0 };
    assert_eq!(refused(third.add_member(nobody).await), "MEMBER_INVALID");

    // What is put at one node is read at another.
    let address = third.put_artifact("some bytes").await.unwrap();
    assert_eq!(cluster.client(1).get_artifact(&address).await.unwrap(), "some bytes");
    let absent = tarn_client::artifact_address(b"absent");
    assert_eq!(refused(third.get_artifact(&absent).await), "ARTIFACT_NOT_FOUND");

    // The leader goes, and hands over first.
    cluster.client(1).remove_member(1).await.unwrap();
    let state = cluster.client(1).cluster().await.unwrap();
    assert_eq!(voters(&state), [2, 3]);
    let survivor = cluster.client(1);
    survivor.remove_member(3).await.unwrap();
    assert_eq!(refused(survivor.remove_member(2).await), "LAST_VOTER");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_member_that_was_removed_is_not_given_again() {
    let cluster = Cluster::found(true).await;
    // As a founder, or a node whose certificate was issued by hand: no token gave it its id.
    let by_hand = AddMemberRequest { node_id: 6, address: "127.0.0.1:1".into(), learner: true, replaces: 0 };
    cluster.client(0).add_member(by_hand).await.unwrap();
    cluster.client(0).remove_member(6).await.unwrap();
    let token = cluster.token(HOUR).await;
    let request = make_request(&PrivateKey::generate());
    assert_eq!(ask(&token, &cluster.address(0), request).await.unwrap().node_id, 7);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_removed_stays_out_whatever_it_says_of_itself() {
    let mut cluster = Cluster::found(true).await;
    assert_eq!(cluster.join(0).await, 2);
    cluster.wait_for("the second node votes", |state| voters(state) == [1, 2]).await;
    cluster.client(0).remove_member(2).await.unwrap();
    let (node, dir) = cluster.nodes.pop().unwrap();
    let address = node.addresses().api;
    node.shutdown().await;

    // As if it had never been let in: it asks for membership with the certificate that it still has.
    let mut seeds = Seeds::load(dir.path()).unwrap().unwrap();
    seeds.is_member = false;
    seeds.store(dir.path()).unwrap();
    let node = daemon::start(config(dir.path(), address)).await.unwrap();
    let credentials = IdentityStore::new(dir.path()).load().unwrap();
    let first = cluster.address(0).parse().unwrap();
    let channel = connect(&first, client_config(&credentials, Expect::Node(1)), &ConnectOptions::default()).await.unwrap();
    let mut peer = PeerServiceClient::new(channel);
    let request = PeerMembershipRequest { address: address.to_string(), learner: false };
    let refusal = peer.request_membership(request).await.unwrap_err();
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::FailedPrecondition, "NODE_REMOVED"));
    assert!(refusal.message().contains("tarn node token"), "{refusal}");
    // Nor does it get a vote for an election, or a new certificate.
    let vote = peer.call(PeerRequest { method: 2, ..PeerRequest::default() }).await;
    assert_eq!(reason(&vote.unwrap_err()), "NODE_REMOVED");
    let renewed = peer.renew(PeerRenewal::default()).await;
    assert_eq!(reason(&renewed.unwrap_err()), "NODE_REMOVED");

    // And an administrator cannot give it its id back, alone or in the place of another.
    for replaces in [0, 1] {
        let again = AddMemberRequest { node_id: 2, address: address.to_string(), learner: false, replaces };
        assert_eq!(refused(cluster.client(0).add_member(again).await), "NODE_REMOVED");
    }
    assert_eq!(voters(&cluster.client(0).cluster().await.unwrap()), [1]);

    // A new machine, with a token, comes in as ever.
    node.shutdown().await;
    assert_eq!(cluster.join(0).await, 3);
    cluster.wait_for("the new node votes", |state| voters(state) == [1, 3]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_before_it_votes_goes_on_when_it_is_back() {
    let mut cluster = Cluster::found(true).await;
    cluster.join(0).await;
    let (node, dir) = cluster.nodes.pop().unwrap();
    let address = node.addresses().api;
    node.shutdown().await;
    let node = daemon::start(config(dir.path(), address)).await.unwrap();
    cluster.nodes.push((node, dir));
    cluster.wait_for("the node votes after all", |state| voters(state) == [1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_one_key_and_can_be_repeated_with_it() {
    let cluster = Cluster::found(true).await;
    let address = cluster.address(0);
    let token = cluster.token(HOUR).await;

    // What cannot be signed does not cost the token.
    for bad in [Vec::new(), vec![0x30; 500], vec![0; 1 << 20]] {
        let status = ask(&token, &address, bad).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "JOIN_REQUEST_INVALID"));
    }
    let mut forged = make_request(&PrivateKey::generate());
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(reason(&ask(&token, &address, forged).await.unwrap_err()), "JOIN_REQUEST_INVALID");

    let key = PrivateKey::generate();
    let first = ask(&token, &address, make_request(&key)).await.unwrap();
    let again = ask(&token, &address, make_request(&key)).await.unwrap();
    assert_eq!((first.node_id, again.node_id), (2, 2), "the answer was lost, the id is not");
    let status = ask(&token, &address, make_request(&PrivateKey::generate())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "JOIN_TOKEN_USED"));

    let next = cluster.token(HOUR).await;
    assert_eq!(ask(&next, &address, make_request(&key)).await.unwrap().node_id, 3, "ids are not given twice");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_unknown_expired_or_of_another_cluster_open_nothing() {
    let cluster = Cluster::found(true).await;
    let addresses = [cluster.address(0)];
    let dir = tempfile::tempdir().unwrap();
    let join = |token: JoinToken| {
        let (dir, addresses) = (dir.path().to_owned(), addresses.clone());
        async move { join(&token, &addresses, "127.0.0.1:9", &dir).await.unwrap_err() }
    };
    let unknown = JoinToken::generate(cluster.authority.certificate());
    let error = join(unknown).await;
    assert!(matches!(error, JoinError::Untrusted { .. }), "{error}");

    let short = cluster.token(Duration::from_secs(1)).await;
    wait_for_token(&cluster.nodes[0].0, &short, false).await;
    let error = join(short).await;
    assert!(matches!(error, JoinError::Untrusted { .. }), "{error}");

    let other = CertificateAuthority::ephemeral("prod").unwrap();
    let error = join(JoinToken::generate(other.certificate())).await;
    assert!(matches!(&error, JoinError::Untrusted { reason, .. } if reason.contains("root certificate")), "{error}");
    assert!(!IdentityStore::new(dir.path()).exists());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cas_key_the_refusal_says_what_to_do() {
    let cluster = Cluster::found(false).await;
    let token = cluster.token(HOUR).await;
    let dir = tempfile::tempdir().unwrap();
    let error = join(&token, &[cluster.address(0)], "127.0.0.1:9", dir.path()).await.unwrap_err();
    let JoinError::Refused(status) = error else { panic!("{error}") };
    assert_eq!(reason(&status), "NO_CA");
    assert!(status.message().contains("ca.key"), "{}", status.message());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_door_is_for_one_kind_of_caller() {
    let cluster = Cluster::found(true).await;
    let address = cluster.address(0).parse().unwrap();
    let user = client_config(&cluster.user(), Expect::AnyNode);
    let channel = connect(&address, user, &ConnectOptions::default()).await.unwrap();
    let status = JoinServiceClient::new(channel).join(JoinRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    let token = cluster.token(HOUR).await;
    let channel = connect(&address, token.client_config(), &ConnectOptions::default()).await.unwrap();
    let status = ClusterServiceClient::new(channel).get_cluster(GetClusterRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    cluster.stop().await;
}

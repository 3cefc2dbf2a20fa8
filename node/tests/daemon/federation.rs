//! Clusters that share: invitations, links, contexts on both sides, cuts, conflicts, the end of trust.

use tarn::identity::CertificateAuthority;
use tarn_proto::v1;
use tarn_proto::v1::context_service_client::ContextServiceClient;
use tarn_proto::v1::federation_service_client::FederationServiceClient;
use tonic::transport::Channel;

use crate::common::{Node, cluster_with, eventually, reason};

pub fn federation(node: &Node) -> FederationServiceClient<Channel> {
    FederationServiceClient::new(node.channel.clone())
}

fn contexts(node: &Node) -> ContextServiceClient<Channel> {
    ContextServiceClient::new(node.channel.clone())
}

/// A cluster whose authority has this name, and whose nodes listen for others.
async fn clustered(name: &str, size: u64) -> Vec<Node> {
    let authority = CertificateAuthority::ephemeral(name).unwrap();
    cluster_with(&authority, size, |config| config.federation.bind = "127.0.0.1:0".parse().unwrap()).await
}

async fn named(name: &str) -> Node {
    clustered(name, 1).await.remove(0)
}

/// Has `node` join by an invitation of `inviter`.
async fn join(node: &Node, inviter: &Node) -> v1::JoinFederationResponse {
    let invitation = invite(inviter, &["context", "agent"]).await;
    let request = v1::JoinFederationRequest { token: invitation.token, addresses: invitation.addresses };
    federation(node).join_federation(request).await.unwrap().into_inner()
}

pub async fn invite(node: &Node, scope: &[&str]) -> v1::InviteClusterResponse {
    let scope = scope.iter().map(ToString::to_string).collect();
    federation(node).invite_cluster(v1::InviteClusterRequest { ttl_ms: 0, scope }).await.unwrap().into_inner()
}

async fn put(node: &Node, key: &str, value: &str) {
    let request =
        v1::PutKeyRequest { context: "memory".into(), key: key.into(), value: value.to_owned().into(), ..v1::PutKeyRequest::default() };
    contexts(node).put_key(request).await.unwrap();
}

async fn put_refused(node: &Node, key: &str) -> String {
    let request = v1::PutKeyRequest { context: "memory".into(), key: key.into(), value: "no".into(), ..v1::PutKeyRequest::default() };
    reason(&contexts(node).put_key(request).await.unwrap_err())
}

async fn get(node: &Node, key: &str) -> Option<String> {
    let request = v1::GetKeyRequest { context: "memory".into(), key: key.into(), ..v1::GetKeyRequest::default() };
    let answer = contexts(node).get_key(request).await.ok()?.into_inner();
    Some(String::from_utf8(answer.value.to_vec()).unwrap())
}

async fn share(node: &Node) {
    let request = v1::ShareContextRequest { context: "memory".into(), shared: true, ..v1::ShareContextRequest::default() };
    federation(node).share_context(request).await.unwrap();
}

pub async fn status(node: &Node) -> v1::GetFederationStatusResponse {
    match federation(node).get_federation_status(v1::GetFederationStatusRequest {}).await {
        Ok(status) => status.into_inner(),
        // The hub has only just begun.
        Err(_) => v1::GetFederationStatusResponse::default(),
    }
}

/// Waits until all have the same document, and nothing is left to be signed.
async fn agreed(nodes: &[&Node]) {
    eventually(|| async {
        let mut digests = Vec::new();
        for node in nodes {
            let status = status(node).await;
            digests.push((status.digest, status.unsigned_writes));
        }
        !digests[0].0.is_empty() && digests.iter().all(|(digest, unsigned)| *digest == digests[0].0 && *unsigned == 0)
    })
    .await;
}

pub async fn shut_down(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.running.shutdown().await;
    }
}

async fn reads(node: &Node, key: &str, value: &str) {
    eventually(|| async { get(node, key).await.as_deref() == Some(value) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_cluster_writes_another_reads() {
    let (west, east) = (named("west").await, named("east").await);
    put(&west, "goal", "map the tarn").await;
    let joined = join(&east, &west).await;
    assert_eq!((joined.inviter.as_str(), joined.scope.as_slice()), ("west", &["agent".to_owned(), "context".to_owned()][..]));
    share(&west).await;
    share(&east).await;
    reads(&east, "goal", "map the tarn").await;
    // It did not exist at the other cluster, where somebody shared it, too: nobody else decides that.
    put(&east, "answer", "done").await;
    reads(&west, "answer", "done").await;
    let delete = v1::DeleteKeyRequest { context: "memory".into(), key: "goal".into(), ..v1::DeleteKeyRequest::default() };
    contexts(&east).delete_key(delete).await.unwrap();
    eventually(|| async { get(&west, "goal").await.is_none() }).await;
    agreed(&[&west, &east]).await;

    let listed = federation(&east).list_clusters(v1::ListClustersRequest {}).await.unwrap().into_inner().clusters;
    let names: Vec<(&str, bool, &str)> =
        listed.iter().map(|cluster| (cluster.name.as_str(), cluster.is_this, cluster.introduced_by.as_str())).collect();
    assert!(names.contains(&("west", false, "")) && names.contains(&("east", true, "west")), "{names:?}");
    let found = status(&west).await;
    let link = &found.links[0];
    eventually(|| async { status(&west).await.links[0].state() == v1::LinkState::Equal }).await;
    assert!(link.bytes_sent > 0 && link.bytes_received > 0 && found.conflicts == 0, "{found:?}");
    shut_down([west, east]).await;
}

/// Three clusters, of which two never meet but through the third: joining one member is enough to find all.
#[tokio::test(flavor = "multi_thread")]
async fn joining_one_member_is_enough_to_find_all() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    put(&a, "k", "of a").await;
    join(&b, &a).await;
    share(&a).await;
    join(&c, &b).await;
    share(&c).await;
    reads(&c, "k", "of a").await;
    put(&c, "k", "of c").await;
    reads(&a, "k", "of c").await;
    agreed(&[&a, &b, &c]).await;
    eventually(|| async {
        let links = status(&c).await.links;
        links.len() == 2 && links.iter().all(|link| link.state() == v1::LinkState::Equal)
    })
    .await;
    shut_down([a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_let_one_cluster_in_and_nobody_else() {
    let (west, east, third) = (named("west").await, named("east").await, named("third").await);
    let invitation = invite(&west, &["context"]).await;
    let request = |token: &str| v1::JoinFederationRequest { token: token.into(), addresses: invitation.addresses.clone() };
    federation(&east).join_federation(request(&invitation.token)).await.unwrap();
    let refused = federation(&east).join_federation(request(&invitation.token)).await.unwrap_err();
    assert_eq!(reason(&refused), "FEDERATION_EXISTS");
    let refused = federation(&third).join_federation(request(&invitation.token)).await.unwrap_err();
    assert_eq!(reason(&refused), "INVITATION_USED");
    let refused = federation(&third).join_federation(request("tarn-invite-1.nonsense")).await.unwrap_err();
    assert_eq!(reason(&refused), "FEDERATION_REQUEST_INVALID");
    // Of another cluster's making: it is unknown where it is brought.
    let other = invite(&third, &[]).await;
    let fourth = named("fourth").await;
    let refused = federation(&fourth).join_federation(request(&other.token)).await.unwrap_err();
    assert_eq!(reason(&refused), "INVITER_UNREACHABLE");
    // An authority's name is its own in the federation.
    let namesake = named("west").await;
    let request = v1::JoinFederationRequest { token: invite(&west, &[]).await.token, addresses: invitation.addresses.clone() };
    let refused = federation(&namesake).join_federation(request).await.unwrap_err();
    assert_eq!(reason(&refused), "CLUSTER_NAME_TAKEN");
    let refused = federation(&west).invite_cluster(v1::InviteClusterRequest { scope: vec!["all".into()], ttl_ms: 0 }).await.unwrap_err();
    assert_eq!(reason(&refused), "FEDERATION_REQUEST_INVALID");
    shut_down([west, east, third, fourth, namesake]).await;
}

/// What a cluster may not write into the document is refused where it is written, so that no copy differs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_may_only_read_is_told_so() {
    let (west, east) = (named("west").await, named("east").await);
    put(&west, "k", "1").await;
    let invitation = invite(&west, &["agent"]).await;
    let request = v1::JoinFederationRequest { token: invitation.token, addresses: invitation.addresses };
    federation(&east).join_federation(request).await.unwrap();
    share(&west).await;
    share(&east).await;
    assert_eq!(put_refused(&east, "k").await, "OUT_OF_SCOPE");
    reads(&east, "k", "1").await;
    assert_eq!(put_refused(&east, "k").await, "OUT_OF_SCOPE");
    agreed(&[&west, &east]).await;
    assert!(status(&east).await.room_bytes > 0 && !status(&east).await.removed);
    shut_down([west, east]).await;
}

/// Two clusters of one name that are let in at the same moment: one of them gets it.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_namesakes_gets_in() {
    let (west, one, other) = (named("west").await, named("east").await, named("east").await);
    let (first, second) = (invite(&west, &[]).await, invite(&west, &[]).await);
    let request =
        |invitation: v1::InviteClusterResponse| v1::JoinFederationRequest { token: invitation.token, addresses: invitation.addresses };
    let (mut a, mut b) = (federation(&one), federation(&other));
    let (a, b) = tokio::join!(a.join_federation(request(first)), b.join_federation(request(second)));
    let refused: Vec<String> = [a, b].into_iter().filter_map(|answer| answer.err().map(|error| reason(&error))).collect();
    assert_eq!(refused, ["CLUSTER_NAME_TAKEN"]);
    shut_down([west, one, other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_cluster_is_taken_any_more_once_trust_is_withdrawn() {
    let (west, east) = (named("west").await, named("east").await);
    put(&west, "k", "1").await;
    join(&east, &west).await;
    share(&west).await;
    share(&east).await;
    reads(&east, "k", "1").await;
    let remove = |cluster: &str| v1::RemoveClusterRequest { cluster: cluster.into() };
    let refused = federation(&west).remove_cluster(remove("nobody")).await.unwrap_err();
    assert_eq!(reason(&refused), "CLUSTER_UNKNOWN");
    let refused = federation(&west).remove_cluster(remove("west")).await.unwrap_err();
    assert_eq!(reason(&refused), "CLUSTER_IS_THIS");
    federation(&west).remove_cluster(remove("east")).await.unwrap();
    eventually(|| async { status(&west).await.links.iter().all(|link| link.state() == v1::LinkState::Removed) }).await;
    // It was connected, so it knows: what would reach nobody is refused there.
    eventually(|| async { status(&east).await.removed }).await;
    assert_eq!(put_refused(&east, "k").await, "REMOVED_FROM_FEDERATION");
    let unshare = v1::ShareContextRequest { context: "memory".into(), shared: false, ..v1::ShareContextRequest::default() };
    federation(&east).share_context(unshare).await.unwrap();
    put(&east, "k", "its own").await;
    put(&west, "k", "2").await;
    eventually(|| async { status(&west).await.unsigned_writes == 0 }).await;
    assert_eq!(get(&west, "k").await.as_deref(), Some("2"));
    shut_down([west, east]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_leaves_keeps_what_it_knows() {
    let (west, east) = (named("west").await, named("east").await);
    put(&west, "k", "1").await;
    join(&east, &west).await;
    share(&west).await;
    share(&east).await;
    reads(&east, "k", "1").await;
    federation(&east).leave_federation(v1::LeaveFederationRequest::default()).await.unwrap();
    assert_eq!(get(&east, "k").await.as_deref(), Some("1"));
    put(&east, "k", "its own").await;
    let refused = federation(&east).leave_federation(v1::LeaveFederationRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_FEDERATION");
    eventually(|| async { status(&west).await.links.iter().all(|link| link.state() == v1::LinkState::Removed) }).await;
    assert_eq!(get(&west, "k").await.as_deref(), Some("1"));
    // Back, by another invitation and with another key; or in a federation of its own.
    eventually(|| async {
        let invitation = invite(&west, &["context"]).await;
        let request = v1::JoinFederationRequest { token: invitation.token, addresses: invitation.addresses };
        federation(&east).join_federation(request).await.is_ok()
    })
    .await;
    agreed(&[&west, &east]).await;
    share(&east).await;
    reads(&west, "k", "its own").await;
    federation(&east).leave_federation(v1::LeaveFederationRequest::default()).await.unwrap();
    let third = named("third").await;
    eventually(|| async {
        let request = v1::InviteClusterRequest { ttl_ms: 0, scope: vec!["context".into()] };
        let Ok(invitation) = federation(&east).invite_cluster(request).await else { return false };
        let v1::InviteClusterResponse { token, addresses, .. } = invitation.into_inner();
        federation(&third).join_federation(v1::JoinFederationRequest { token, addresses }).await.is_ok()
    })
    .await;
    agreed(&[&east, &third]).await;
    // Nobody gives more than they have.
    let wide = v1::InviteClusterRequest { ttl_ms: 0, scope: vec!["policy".into()] };
    assert_eq!(reason(&federation(&third).invite_cluster(wide).await.unwrap_err()), "SCOPE_TOO_WIDE");
    shut_down([third]).await;
    shut_down([west, east]).await;
}

/// The leader's node holds the links: another one takes over, and nothing that was acknowledged is lost.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_the_links_over() {
    let (mut west, east) = (clustered("west", 3).await, named("east").await);
    put(&west[0], "k", "0").await;
    join(&east, &west[0]).await;
    share(&west[0]).await;
    share(&east).await;
    reads(&east, "k", "0").await;
    let leads = |node: &Node| node.running.consensus().leadership().borrow().is_this_node;
    let place = west.iter().position(leads).unwrap();
    let gone = west.remove(place);
    gone.running.shutdown().await;
    put(&west[0], "k", "1").await;
    reads(&east, "k", "1").await;
    put(&east, "k", "2").await;
    for node in &west {
        reads(node, "k", "2").await;
        eventually(|| async { !status(node).await.digest.is_empty() }).await;
    }
    agreed(&[&west[0], &east]).await;
    west.push(east);
    shut_down(west).await;
}

/// Only the leaders' gateways speak for their clusters, and whoever invites and joins need not be asked there.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_find_each_other_whichever_nodes_were_asked() {
    let (west, east) = (clustered("west", 3).await, clustered("east", 3).await);
    let follows = |node: &&Node| !node.running.consensus().leadership().borrow().is_this_node;
    let (inviter, joiner) = (west.iter().find(follows).unwrap(), east.iter().find(follows).unwrap());
    put(inviter, "k", "of the west").await;
    join(joiner, inviter).await;
    share(inviter).await;
    share(joiner).await;
    reads(joiner, "k", "of the west").await;
    agreed(&[inviter, joiner]).await;
    shut_down(west.into_iter().chain(east)).await;
}

/// What belongs to a namespace that does not exist yet is not lost: it shows when the namespace comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_comes_later_finds_its_contexts() {
    let (west, east) = (named("west").await, named("east").await);
    join(&east, &west).await;
    let create = || v1::CreateNamespaceRequest { name: "team".into(), ..v1::CreateNamespaceRequest::default() };
    west.namespaces().create_namespace(create()).await.unwrap();
    let put = v1::PutKeyRequest {
        namespace: "team".into(),
        context: "memory".into(),
        key: "k".into(),
        value: "v".into(),
        ..v1::PutKeyRequest::default()
    };
    contexts(&west).put_key(put).await.unwrap();
    let request =
        v1::ShareContextRequest { namespace: "team".into(), context: "memory".into(), shared: true, ..v1::ShareContextRequest::default() };
    federation(&west).share_context(request).await.unwrap();
    eventually(|| async { status(&west).await.keys == status(&east).await.keys && status(&west).await.unsigned_writes == 0 }).await;
    agreed(&[&west, &east]).await;
    east.namespaces().create_namespace(create()).await.unwrap();
    let request =
        v1::ShareContextRequest { namespace: "team".into(), context: "memory".into(), shared: true, ..v1::ShareContextRequest::default() };
    federation(&east).share_context(request).await.unwrap();
    eventually(|| async {
        let get = v1::GetKeyRequest { namespace: "team".into(), context: "memory".into(), key: "k".into(), ..v1::GetKeyRequest::default() };
        contexts(&east).get_key(get).await.is_ok_and(|found| found.into_inner().value == "v")
    })
    .await;
    shut_down([west, east]).await;
}

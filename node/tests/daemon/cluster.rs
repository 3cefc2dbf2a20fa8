//! Three nodes in one process: any of them takes any request, and the end of the leader loses nothing.

use std::time::{Duration, Instant};

use crate::common::{Node, cluster, cluster_of, dial, eventually, started, task, until};
use tarn::config::BootstrapMember;
use tarn::identity::{CertificateAuthority, IssueOptions};
use tarn_client::tls::{Credentials, PrincipalKind};
use tarn_proto::v1::peer_service_client::PeerServiceClient;
use tarn_proto::v1::{self, TaskState};
use tonic::Code;

fn leader(nodes: &[Node]) -> usize {
    let leader = nodes.iter().find_map(|node| node.running.consensus().leadership().borrow().leader.as_ref().map(|peer| peer.id));
    leader.map_or(0, |id| id as usize - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_any_request_and_a_leader_may_go() {
    let mut nodes = cluster(3).await;
    // Submitted at one node, leased at the second, completed at the third, read at the first.
    let id = nodes[0].submit(task("q", b"")).await;
    let worker = nodes[1].register().await;
    let leased = nodes[1].lease(&worker, 1).await.remove(0);
    assert_eq!(leased.task_id, id);
    nodes[2].complete(&leased, b"done").await;
    assert_eq!(nodes[0].ended(&id).await.state(), TaskState::Succeeded);

    // A worker waits at a follower, and hears of a task that another node took.
    let follower = (0..3).find(|index| *index != leader(&nodes)).unwrap();
    let other = (0..3).find(|index| *index != follower).unwrap();
    let (waited, id) = tokio::join!(nodes[follower].lease(&worker, 1), nodes[other].submit(task("q", b"")));
    assert_eq!(waited[0].task_id, id);

    let gone = nodes.remove(leader(&nodes));
    gone.running.shutdown().await;
    nodes[0].complete(&waited[0], b"still").await;
    assert_eq!(nodes[1].ended(&id).await.state(), TaskState::Succeeded);
    let cluster = nodes[0].cluster();
    eventually(|| async {
        let told = cluster.clone().get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
        told.leader_id != 0 && told.leader_id != gone_id(&nodes)
    })
    .await;
    for node in nodes {
        node.running.shutdown().await;
    }
}

/// Of the ids 1 to 3, the one that none of these nodes has.
fn gone_id(nodes: &[Node]) -> u64 {
    6 - nodes.iter().map(|node| node.running.node_id()).sum::<u64>()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_leaves_it_to_those_before_it_and_founds_the_cluster_where_they_do_not() {
    let authority = CertificateAuthority::ephemeral("test").unwrap();
    let nowhere = |id| BootstrapMember::Node { id, address: format!("127.0.0.1:{id}") };
    let began = Instant::now();
    let bootstrap = vec![nowhere(1), nowhere(2), BootstrapMember::Itself];
    let (third, _dir) = started(&authority, 3, |config| config.cluster.bootstrap = bootstrap.clone()).await;
    until(|| third.consensus().members().len() == 3).await;
    assert!(began.elapsed() >= Duration::from_millis(400), "it left 200 ms to each of two others");
    third.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_member_proposes_nothing() {
    let authority = CertificateAuthority::ephemeral("test").unwrap();
    let nodes = cluster_of(&authority, 3).await;
    eventually(|| async { nodes[0].running.consensus().leadership().borrow().leader.is_some() }).await;
    let leading = &nodes[leader(&nodes)];
    let channel = |id| {
        let node = authority.issue(&PrincipalKind::Node { id }, &IssueOptions::default());
        let credentials = Credentials::new(authority.certificate().clone(), node.unwrap());
        async move { dial(&leading.running, &credentials).await }
    };
    let message = |method| v1::PeerRequest { method, ..v1::PeerRequest::default() };
    let mut stranger = PeerServiceClient::new(channel(9).await);
    // To propose, to ask how far the log is, to administer, and to tell of a state that has come apart: all that the leader would do.
    for method in [5, 6, 8, 10] {
        let refused = stranger.call(message(method)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{method}: {refusal}", refusal = refused.message());
        assert!(refused.message().contains("no member"), "{refused}");
    }
    let artifacts = stranger.list_peer_artifacts(v1::PeerArtifactList::default()).await;
    assert_eq!(artifacts.unwrap_err().code(), Code::Unavailable);
    // It may ask what this node is, as a leader may that this one has not heard of yet.
    stranger.call(message(7)).await.unwrap();
    let member = nodes.iter().map(|node| node.running.node_id()).find(|id| *id != leading.running.node_id());
    let mut member = PeerServiceClient::new(channel(member.unwrap()).await);
    member.call(message(6)).await.unwrap();
    for node in nodes {
        node.running.shutdown().await;
    }
}

//! A revoked certificate is good nowhere any more: not for a handshake, and not for a connection that stands.

use std::time::{Duration, Instant};

use tarn::identity::{CertificateAuthority, IdentityStore, IssueOptions};
use tarn_client::tls::{Credentials, PrincipalKind};
use tarn_proto::v1;
use tarn_proto::v1::queue_service_client::QueueServiceClient;
use tonic::transport::Channel;

use crate::common::{Node, cluster_of, dial, eventually, task};

/// The promise.
const EFFECTIVE: Duration = Duration::from_secs(1);

async fn asks(channel: &Channel) -> bool {
    let mut queues = QueueServiceClient::new(channel.clone());
    queues.list_queues(v1::ListQueuesRequest::default()).await.is_ok()
}

async fn revoke(node: &Node, serial: &str) {
    node.raise_version().await;
    let request = v1::RevokeCertificateRequest { serial: serial.into(), reason: "lost".into(), ..v1::RevokeCertificateRequest::default() };
    let outcome = node.propose(v1::command::Body::RevokeCertificate(request)).await;
    assert!(matches!(outcome, Some(v1::outcome::Body::RevokeCertificate(_))), "{outcome:?}");
}

/// Whether a connection can be made and used.
async fn lets_in(node: &Node, credentials: &Credentials) -> bool {
    let dialled = tokio::time::timeout(Duration::from_secs(10), async {
        let address = node.running.addresses().advertise.parse().unwrap();
        let expect = tarn_client::tls::Expect::Node(node.running.node_id());
        let config = tarn_client::tls::client_config(credentials, expect);
        tarn_client::tls::connect(&address, config, &Default::default()).await
    });
    match dialled.await {
        Ok(Ok(channel)) => asks(&channel).await,
        Ok(Err(_)) | Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_certificate_ends_on_every_node_within_a_second() {
    let authority = CertificateAuthority::ephemeral("test").unwrap();
    let nodes = cluster_of(&authority, 3).await;
    let issue = || {
        let kind = PrincipalKind::User { name: "admin".into() };
        let identity = authority.issue(&kind, &IssueOptions::default()).unwrap();
        Credentials::new(authority.certificate().clone(), identity)
    };
    let (lost, kept) = (issue(), issue());
    let mut standing = Vec::new();
    for node in &nodes {
        let channel = dial(&node.running, &lost).await;
        assert!(asks(&channel).await);
        standing.push(channel);
    }
    revoke(&nodes[0], &lost.info().serial).await;
    let revoked = Instant::now();
    for (node, channel) in nodes.iter().zip(&standing) {
        eventually(|| async { !asks(channel).await }).await;
        assert!(!lets_in(node, &lost).await);
    }
    assert!(revoked.elapsed() < EFFECTIVE * 3, "it took {:?}", revoked.elapsed());
    for node in &nodes {
        // The same person's other certificate is as good as before.
        assert!(lets_in(node, &kept).await);
        // The gate refuses from the first moment, handshakes as soon as the listener has been told.
        let counted = r#"tarn_handshakes_refused_total{reason="revoked"}"#;
        eventually(|| async { !lets_in(node, &lost).await && node.metric(counted).await >= 1.0 }).await;
        node.submit(task("mail", b"x")).await;
    }
    // Its holder is told what happened and what to do.
    let client = tarn_client::Client::builder()
        .addresses([nodes[0].running.addresses().advertise.clone()])
        .credentials(lost)
        .connect_lazy()
        .unwrap();
    let told = client.cluster().await.unwrap_err().to_string();
    assert!(told.contains("revoked") && told.contains("tarn ca issue"), "{told}");
    for node in nodes {
        node.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_certificate_cuts_it_off_from_the_others() {
    let authority = CertificateAuthority::ephemeral("test").unwrap();
    let nodes = cluster_of(&authority, 3).await;
    let leader = nodes[0].running.consensus().leadership();
    eventually(|| async { leader.borrow().leader.is_some() }).await;
    let leader_id = leader.borrow().leader.as_ref().unwrap().id;
    let lost = nodes.iter().position(|node| node.running.node_id() != leader_id).unwrap();
    let others: Vec<&Node> = nodes.iter().enumerate().filter(|(place, _)| *place != lost).map(|(_, node)| node).collect();
    let store = IdentityStore::new(nodes[lost].dir.path());
    let stolen = store.load().unwrap();

    nodes[lost].submit(task("mail", b"before")).await;
    revoke(others[0], &stolen.info().serial).await;
    for node in &others {
        assert!(!lets_in_as_node(node, &stolen).await, "a handshake with the revoked certificate");
        node.submit(task("mail", b"after")).await;
    }
    // It hears nothing of what the others decide from now on.
    let behind = || {
        let applied = |node: &Node| node.running.consensus().applied().borrow().index;
        applied(others[0]) > applied(&nodes[lost]) + 10
    };
    eventually(|| async {
        others[1].submit(task("mail", b"more")).await;
        behind()
    })
    .await;
    for node in nodes {
        node.running.shutdown().await;
    }
}

/// Whether a node is talked to.
async fn lets_in_as_node(node: &Node, credentials: &Credentials) -> bool {
    use tarn_proto::v1::peer_service_client::PeerServiceClient;
    let mut let_in = true;
    let address: tarn_client::tls::Address = node.running.addresses().advertise.parse().unwrap();
    // What is revoked is known within a second.
    let until = Instant::now() + EFFECTIVE * 3;
    while let_in && Instant::now() < until {
        let expect = tarn_client::tls::Expect::Node(node.running.node_id());
        let config = tarn_client::tls::client_config(credentials, expect);
        let_in = match tarn_client::tls::connect(&address, config, &Default::default()).await {
            Ok(channel) => PeerServiceClient::new(channel).list_peer_artifacts(v1::PeerArtifactList::default()).await.is_ok(),
            Err(_) => false,
        };
    }
    let_in
}

//! Consensus's messages between nodes, over real connections.

mod between;

use std::sync::Arc;
use std::time::{Duration, Instant};

use between::{TestNode, credentials, node_credentials};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tarn::identity::CertificateAuthority;
use tarn::peer::{Links, PeerTransport};
use tarn_client::tls::{ConnectOptions, Expect, PrincipalKind, client_config, connect};
use tarn_proto::v1::peer_service_client::PeerServiceClient;
use tarn_proto::v1::{PeerArtifactList, PeerFrame, PeerRequest};
use tarn_raft::{MESSAGE_BYTES_MAX, Method, Peer, Transport, TransportError};
use tonic::Code;

const SECONDS_5: Duration = Duration::from_secs(5);

fn authority() -> CertificateAuthority {
    CertificateAuthority::ephemeral("prod").unwrap()
}

/// Nodes 1 and 2 of one cluster.
async fn pair() -> (CertificateAuthority, TestNode, TestNode) {
    let authority = authority();
    let one = TestNode::start(&authority, 1).await;
    let two = TestNode::start(&authority, 2).await;
    (authority, one, two)
}

/// Asks a peer, which answers with what it got.
async fn ask(transport: &PeerTransport, peer: &Peer, text: &'static str) -> Result<Bytes, TransportError> {
    transport.call(peer, Method::Vote, text.into(), SECONDS_5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_with_the_sender_that_the_certificate_names() {
    let (_, one, two) = pair().await;
    let transport = one.transport();

    let answer = ask(&transport, &two.peer(), "hello").await.unwrap();
    assert_eq!(answer, "1:2:hello");
    assert!(one.links.contacts().is_fresh(2), "the caller has heard of the other");
    assert!(two.links.contacts().is_fresh(1), "and the other way round");

    let requests = stream::iter(["a", "b", "c"].map(Bytes::from));
    let replies = transport.replicate(&two.peer(), Box::pin(requests)).await.unwrap();
    let replies: Vec<Bytes> = replies.map(Result::unwrap).collect().await;
    assert_eq!(replies, ["1:a", "1:b", "1:c"]);

    let chunks = stream::iter((0..20).map(|_| Bytes::from(vec![7; 1 << 20])));
    let answer = transport.send_snapshot(&two.peer(), Box::pin(chunks)).await.unwrap();
    assert_eq!(answer, format!("1:{}", 20 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_answers_while_it_is_open_and_ends_after_an_error() {
    let (_, one, two) = pair().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(4);
    let requests = Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut replies = one.transport().replicate(&two.peer(), requests).await.unwrap();
    for text in ["first", "second"] {
        sender.send(text.into()).await.unwrap();
        assert_eq!(replies.next().await.unwrap().unwrap(), format!("1:{text}"));
    }
    sender.send("bad".into()).await.unwrap();
    let error = replies.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, TransportError::Remote(text) if text.contains("bad")), "{error}");
    assert!(replies.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_message_passes_and_a_longer_one_is_refused() {
    let (_, one, two) = pair().await;
    let transport = one.transport();
    // The answer repeats the body after a short prefix.
    let longest = Bytes::from(vec![1; MESSAGE_BYTES_MAX - 16]);
    let answer = transport.call(&two.peer(), Method::Append, longest.clone(), SECONDS_5).await.unwrap();
    assert_eq!(answer.len(), longest.len() + "1:1:".len());

    let longer = Bytes::from(vec![1; MESSAGE_BYTES_MAX + 100]);
    let error = transport.call(&two.peer(), Method::Append, longer, SECONDS_5).await.unwrap_err();
    assert!(matches!(error, TransportError::Remote(_)), "{error}");
    assert_eq!(ask(&transport, &two.peer(), "x").await.unwrap(), "1:2:x");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_is_told_apart() {
    let (_, one, two) = pair().await;
    let transport = one.transport();

    let started = Instant::now();
    let error = transport.call(&two.peer(), Method::Vote, "never".into(), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, TransportError::Timeout), "{error}");
    assert!(started.elapsed() < SECONDS_5);

    let error = ask(&transport, &two.peer(), "busy").await.unwrap_err();
    assert!(matches!(&error, TransportError::Remote(text) if text.contains("with this")), "{error}");

    let peer = two.peer();
    let (_sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let requests = Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut replies = transport.replicate(&peer, requests).await.unwrap();
    let waiting = ask(&transport, &peer, "never");
    let kill = async {
        tokio::task::yield_now().await;
        two.kill().await
    };
    let (error, _) = tokio::join!(waiting, kill);
    assert!(!error.unwrap_err().certainly_undelivered() || !one.links.contacts().is_fresh(2));
    // A pipeline whose other end dies does not stay silent.
    while let Some(reply) = replies.next().await {
        reply.unwrap_err();
    }

    let error = ask(&transport, &peer, "x").await.unwrap_err();
    assert!(error.certainly_undelivered(), "{error}");
    let nonsense = Peer { id: 2, address: "http://nowhere".into() };
    let error = ask(&transport, &nonsense, "x").await.unwrap_err();
    assert!(error.certainly_undelivered(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_comes_back_is_found_again_at_its_address_or_another() {
    let (authority, one, two) = pair().await;
    let transport = Arc::new(one.transport());
    let peer = two.peer();
    assert!(ask(&transport, &peer, "x").await.is_ok());
    let (id, address, dir) = two.kill().await;
    for _ in 0..5 {
        assert!(ask(&transport, &peer, "x").await.is_err());
    }
    let mut returns = one.links.contacts().returns();
    returns.mark_unchanged();
    let two = TestNode::start_at(&authority, id, address, dir).await;
    let reached = || {
        let (transport, peer) = (transport.clone(), peer.clone());
        async move { ask(&transport, &peer, "x").await.is_ok() }
    };
    between::eventually("the peer answers again", reached).await;
    assert!(returns.has_changed().unwrap(), "its return is told");

    let (id, _, dir) = two.kill().await;
    let moved = TestNode::start_at(&authority, id, "127.0.0.1:0".parse().unwrap(), dir).await;
    let answer = ask(&transport, &moved.peer(), "x").await.unwrap();
    assert_eq!(answer, "1:2:x", "the new address is dialled at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_stuck_holds_up_heartbeats() {
    let (_, one, two) = pair().await;
    let transport = Arc::new(one.transport());
    let peer = two.peer();
    // Nobody reads on after the first chunk, so this fills every window that it shares.
    let endless = stream::once(async { Bytes::from("stall") }).chain(stream::repeat_with(|| Bytes::from(vec![0; 1 << 20])));
    let stuck = tokio::spawn({
        let (transport, peer) = (transport.clone(), peer.clone());
        async move { transport.send_snapshot(&peer, Box::pin(endless)).await }
    });
    // Nobody takes the replies of this one, so in the end nobody reads its requests either.
    let flood = stream::repeat_with(|| Bytes::from(vec![0; 1 << 20]));
    let untaken = transport.replicate(&peer, Box::pin(flood)).await.unwrap();
    for _ in 0..50 {
        let answer = transport.call(&peer, Method::Append, "beat".into(), SECONDS_5).await.unwrap();
        assert_eq!(answer, "1:1:beat");
    }
    assert!(!stuck.is_finished());
    stuck.abort();
    drop(untaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_than_the_dialled_one_is_refused() {
    let (_, one, two) = pair().await;
    let mixed_up = Peer { id: 3, ..two.peer() };
    let error = ask(&one.transport(), &mixed_up, "x").await.unwrap_err();
    assert!(matches!(&error, TransportError::Unreachable(text) if text.contains("node 3 was expected")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_on_either_side() {
    let (ours, theirs) = (authority(), authority());
    let two = TestNode::start(&ours, 2).await;
    let stranger = PeerTransport::new(Links::new(node_credentials(&theirs, 1)));
    let error = ask(&stranger, &two.peer(), "x").await.unwrap_err();
    assert!(matches!(&error, TransportError::Unreachable(text) if text.contains("unknown issuer")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_refused_at_every_method() {
    let authority = authority();
    let two = TestNode::start(&authority, 2).await;
    let user = credentials(&authority, &PrincipalKind::User { name: "ada".into() });
    let address = two.address.to_string().parse().unwrap();
    let channel = connect(&address, client_config(&user, Expect::AnyNode), &ConnectOptions::default()).await.unwrap();
    let mut client = PeerServiceClient::new(channel);
    let frames = || stream::iter([PeerFrame { body: "x".into() }]);
    let codes = [
        client.call(PeerRequest { method: 2, body: "x".into() }).await.map(drop),
        client.replicate(frames()).await.map(drop),
        client.install_snapshot(frames()).await.map(drop),
        client.push_artifact(stream::iter([])).await.map(drop),
        client.pull_artifact(tarn_proto::v1::PeerArtifactWanted::default()).await.map(drop),
        client.list_peer_artifacts(PeerArtifactList::default()).await.map(drop),
        client.request_membership(tarn_proto::v1::PeerMembershipRequest::default()).await.map(drop),
        client.admit(tarn_proto::v1::PeerAdmission::default()).await.map(drop),
    ];
    for (method, answer) in codes.into_iter().enumerate() {
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "method {method}");
    }
}

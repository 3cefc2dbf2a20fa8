//! The second listener: what a bearer gets, and that nobody else gets anything.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use tarn::identity::bearer::IssuerSettings;
use tarn_client::ApiToken;
use tarn_proto::v1;
use tarn_proto::v1::cluster_service_client::ClusterServiceClient;
use tarn_proto::v1::join_service_client::JoinServiceClient;
use tarn_proto::v1::peer_service_client::PeerServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{Node, eventually, node, node_with, reason, task};
use crate::web_client::{CLASSICAL, HYBRID, WebChannel};

/// Long enough for a test.
const HOUR: Duration = Duration::from_secs(3_600);

fn enqueue() -> v1::EnqueueRequest {
    v1::EnqueueRequest { tasks: vec![task("mail", b"hello")], ..v1::EnqueueRequest::default() }
}

async fn submit(channel: WebChannel) -> Result<String, Status> {
    let answer = TaskServiceClient::new(channel).enqueue(enqueue()).await?;
    Ok(answer.into_inner().task_ids.remove(0))
}

async fn refused(node: &Node, token: Option<&str>) -> String {
    let status = submit(node.web(token).await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    reason(&status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_submits_a_task_and_reads_its_result() {
    let node = node().await;
    let (token, _) = node.token("user/admin", HOUR).await;
    let channel = node.web(Some(&token.reveal())).await;
    let id = submit(channel.clone()).await.unwrap();

    let worker = node.register().await;
    let leased = node.lease(&worker, 1).await;
    node.complete(&leased[0], b"world").await;
    let request = v1::GetTaskRequest { task_id: id, wait_ms: 20_000, ..v1::GetTaskRequest::default() };
    let task = TaskServiceClient::new(channel.clone()).get_task(request).await.unwrap();
    assert_eq!(task.into_inner().task.unwrap().result.as_ref(), b"world");

    // A second request on the same connection.
    assert!(submit(channel).await.is_ok());
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_there_is_no_service() {
    let node = node().await;
    assert_eq!(refused(&node, None).await, "BEARER_REQUIRED");
    assert_eq!(refused(&node, Some(&ApiToken::generate().reveal())).await, "TOKEN_UNKNOWN");
    assert_eq!(refused(&node, Some("tarn_abc")).await, "TOKEN_MALFORMED");
    assert_eq!(refused(&node, Some("a.b.c")).await, "TOKEN_MALFORMED");
    assert_eq!(refused(&node, Some(&"a".repeat(9_000))).await, "TOKEN_TOO_LONG");
    let jwt = format!("{}.{}.AAAA", BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#), BASE64URL_NOPAD.encode(br#"{"iss":"x"}"#));
    assert_eq!(refused(&node, Some(&jwt)).await, "JWT_NOT_CONFIGURED");

    // Whatever the path: what exists, what is for others, and what does not exist look alike from outside.
    let nobody = node.web(None).await;
    let mut statuses = vec![
        HealthClient::new(nobody.clone()).check(HealthCheckRequest::default()).await.unwrap_err(),
        ClusterServiceClient::new(nobody.clone()).get_cluster(v1::GetClusterRequest::default()).await.unwrap_err(),
        PeerServiceClient::new(nobody.clone()).call(v1::PeerRequest::default()).await.unwrap_err(),
    ];
    let mut unknown = tonic::client::Grpc::new(nobody);
    unknown.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/tarn.v1.NoService/NoMethod");
    let codec = tonic_prost::ProstCodec::<v1::GetClusterRequest, v1::GetClusterResponse>::default();
    statuses.push(unknown.unary(tonic::Request::new(Default::default()), path, codec).await.unwrap_err());
    for status in statuses {
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "BEARER_REQUIRED".into()));
    }
    let counted = r#"tarn_gate_refusals_total{step="identity",reason="BEARER_REQUIRED"}"#;
    assert!(node.metric(counted).await >= 5.0);
    // What callers write as a path is no label.
    let (_, metrics) = node.http("/metrics").await;
    assert!(!metrics.contains("NoService"));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_open_what_is_for_nodes_and_joiners() {
    let node = node().await;
    let (token, _) = node.token("user/admin", HOUR).await;
    let channel = node.web(Some(&token.reveal())).await;
    let peer = PeerServiceClient::new(channel.clone()).renew(v1::PeerRenewal::default()).await.unwrap_err();
    assert_eq!(peer.code(), Code::Unimplemented, "{peer:?}");
    let join = JoinServiceClient::new(channel.clone()).join(v1::JoinRequest::default()).await.unwrap_err();
    assert_eq!(join.code(), Code::Unimplemented, "{join:?}");
    // What is for users is there.
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    ClusterServiceClient::new(channel).get_cluster(v1::GetClusterRequest::default()).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_from_then_on() {
    let node = node().await;
    let (token, id) = node.token("user/admin", HOUR).await;
    let channel = node.web(Some(&token.reveal())).await;
    submit(channel.clone()).await.unwrap();
    let request = v1::RevokeTokenRequest { token_id: id, ..v1::RevokeTokenRequest::default() };
    node.propose(v1::command::Body::RevokeToken(request)).await;
    let status = submit(channel).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "TOKEN_UNKNOWN".into()));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_of_a_configured_issuer_is_known_and_new_keys_take_effect() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("jwks.json");
    let pairs = [Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap()];
    let jwks = |pair: &Ed25519KeyPair| {
        let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
    };
    let jwt = |pair: &Ed25519KeyPair| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = serde_json::json!({"iss": "https://id", "aud": "tarn", "sub": "ada", "exp": now + 300});
        let header = BASE64URL_NOPAD.encode(br#"{"alg":"EdDSA"}"#);
        let signed = format!("{header}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
        let signature = BASE64URL_NOPAD.encode(pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    };
    std::fs::write(&file, jwks(&pairs[0])).unwrap();
    let issuer = IssuerSettings { issuer: "https://id".into(), audience: "tarn".into(), jwks_file: file.clone(), name: String::new() };
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.auth.jwt.0 = vec![issuer];
        config.auth.jwks_poll_ms = 10;
    })
    .await;

    // Health asks for who it is and for nothing more.
    let asks = async |token: String| {
        let channel = node.web(Some(&token)).await;
        HealthClient::new(channel).check(HealthCheckRequest::default()).await
    };
    asks(jwt(&pairs[0])).await.unwrap();
    assert_eq!(reason(&asks(jwt(&pairs[1])).await.unwrap_err()), "JWT_SIGNATURE_INVALID");
    std::fs::write(&file, jwks(&pairs[1])).unwrap();
    eventually(|| async { asks(jwt(&pairs[1])).await.is_ok() }).await;
    assert_eq!(reason(&asks(jwt(&pairs[0])).await.unwrap_err()), "JWT_SIGNATURE_INVALID");

    std::fs::write(&file, "nonsense").unwrap();
    let refused = r#"tarn_jwks_changes_total{issuer="https://id",result="refused"}"#;
    eventually(|| async { node.metric(refused).await >= 1.0 }).await;
    asks(jwt(&pairs[1])).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classical_key_exchange_is_refused_unless_it_is_allowed() {
    let strict = node().await;
    assert!(strict.web_tls(HYBRID).await.is_ok());
    assert!(strict.web_tls(CLASSICAL).await.is_err());
    let counted = r#"tarn_handshakes_refused_total{reason="classical_key_exchange"}"#;
    eventually(|| async { strict.metric(counted).await >= 1.0 }).await;
    strict.running.shutdown().await;

    let lenient = node_with(|config| {
        config.executors.wasm = false;
        config.https.classical = true;
    })
    .await;
    assert!(lenient.web_tls(HYBRID).await.is_ok());
    assert!(lenient.web_tls(CLASSICAL).await.is_ok());
    lenient.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_operator_are_presented_and_read_again() {
    use rcgen::{CertificateParams, KeyPair};

    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("web.pem"), files.path().join("web.key"));
    let write = || {
        let pair = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&pair).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&certificate, made.pem()).unwrap();
        made.der().to_vec()
    };
    let first = write();
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.https.certificate = certificate.display().to_string();
        config.https.key = key.display().to_string();
        config.identity.renewal_check_ms = 100;
    })
    .await;
    let presented = async || {
        let tcp = tokio::net::TcpStream::connect(node.https()).await.unwrap();
        let config = crate::web_client::trusting_anybody();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert_eq!(presented().await, first);
    let second = write();
    eventually(|| async { presented().await == second }).await;

    // Bad files leave the good certificate in force.
    std::fs::write(&certificate, "nonsense").unwrap();
    std::fs::remove_file(&key).unwrap();
    for _ in 0..3 {
        assert_eq!(presented().await, second);
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_switched_off() {
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.listen.https_bind.0 = None;
    })
    .await;
    assert_eq!(node.running.addresses().https, None);
    node.running.shutdown().await;
}

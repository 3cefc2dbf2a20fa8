//! Health, reflection, readiness, metrics.

use crate::common::{Node, eventually, node, node_with, task, until};
use tarn::daemon::{self, Addresses, Ending, prepare_dev};
use tarn_client::tls::PrincipalKind;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_per_service_until_the_node_stops() {
    let node = node().await;
    let mut health = HealthClient::new(node.channel.clone());
    let of = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "tarn.v1.TaskService", "tarn.v1.ClusterService"] {
        assert_eq!(health.check(of(service)).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(of("tarn.v1.Nothing")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let Node { running, .. } = node;
    let stopping = tokio::spawn(running.shutdown());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop((watch, health));
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_contract_to_users() {
    let node = node().await;
    let question = || ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut client = ServerReflectionClient::new(node.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([question()])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response else {
        panic!("no list");
    };
    assert!(list.service.iter().any(|service| service.name == "tarn.v1.TaskService"));
    drop(answers);

    let mut peer = ServerReflectionClient::new(node.dial_as(PrincipalKind::Node { id: 9 }).await);
    let refused = peer.server_reflection_info(tokio_stream::iter([question()])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    drop((client, peer));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_listener_tells_liveness_readiness_and_metrics() {
    let node = node().await;
    assert_eq!(node.http("/livez").await, (200, "ok\n".into()));
    assert_eq!(node.http("/readyz").await, (200, "ready\n".into()));
    let (code, text) = node.http("/readyz?verbose").await;
    assert_eq!(code, 200);
    for check in ["serving", "state", "leader", "caught-up"] {
        assert!(text.contains(&format!("[+] {check} ok")), "{text}");
    }
    assert!(!node.http("/readyz?verbose&exclude=leader,state").await.1.contains("leader"));
    assert_eq!(node.http("/secrets").await.0, 404);

    let id = node.submit(task("mail", b"")).await;
    let (_, text) = node.http("/metrics").await;
    for line in [
        r#"tarn_build_info{version="#,
        r#"tarn_queue_tasks{namespace="default",queue="mail",state="ready"} 1"#,
        r#"tarn_raft_role{role="leader"} 1"#,
        r#"tarn_proposals_total{command="Enqueue",result="ok"} 1"#,
        r#"tarn_rpc_requests_total{method="tarn.v1.TaskService/Enqueue",code="OK"} 1"#,
        "tarn_proposal_duration_seconds_count 1",
        "tarn_raft_applied_index ",
        "tarn_raft_purged_index ",
        r#"tarn_raft_entry_commands_bucket{le="1.0"} "#,
        "tarn_raft_apply_duration_seconds_count ",
        "tarn_process_resident_memory_bytes ",
        r#"tarn_handshakes_refused_total{reason="#,
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains(&id), "a task's id is in a metric");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_measured_as_they_are_applied() {
    // Without a certificate for HTTPS the node has nothing of its own to record meanwhile.
    let node = node_with(|config| {
        config.executors.wasm = false;
        config.listen.https_bind.0 = None;
    })
    .await;
    let commands = || node.metric("tarn_raft_entry_commands_sum");
    let (before, applied) = (commands().await, node.metric("tarn_raft_apply_duration_seconds_count").await);
    let submits = (0..20).map(|_| node.submit(task("mail", b"")));
    futures::future::join_all(submits).await;
    assert_eq!(commands().await, before + 20.0);
    assert!(node.metric("tarn_raft_apply_duration_seconds_count").await > applied);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_may_be_started_at_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut addresses = Vec::new();
    // Whoever listens there afterwards keeps the second start from getting the same port.
    let mut taken = Vec::new();
    for stopped_at_once in [true, false] {
        let mut config = prepare_dev(dir.path(), any, any).unwrap().config;
        config.executors.wasm = false;
        let running = daemon::start(config).await.unwrap();
        let advertised = running.addresses().advertise.clone();
        until(|| {
            let members = running.consensus().members();
            members.iter().any(|(peer, voter)| *voter && peer.address == advertised)
        })
        .await;
        // What it was founded with may be in its log then, and not applied.
        until(|| stopped_at_once || running.is_ready()).await;
        let api = running.addresses().api;
        running.shutdown().await;
        taken.push(std::net::TcpListener::bind(api).unwrap());
        addresses.push(advertised);
    }
    assert_ne!(addresses[0], addresses[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_stops_gracefully_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut config = prepare_dev(dir.path(), any, any).unwrap().config;
    config.executors.wasm = false;
    let running = tokio::spawn(daemon::run(config, || {}));
    // The bound ports are written down for whoever asked for port 0.
    until(|| Addresses::read(dir.path()).is_ok_and(|addresses| addresses.api.port() > 0)).await;
    let ops = Addresses::read(dir.path()).unwrap().ops;
    eventually(|| async { tokio::net::TcpStream::connect(ops).await.is_ok() }).await;
    let kill = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(running.await.unwrap().unwrap(), Ending::Stopped);
    assert_eq!(Ending::Stopped.exit_code(), 0);
}

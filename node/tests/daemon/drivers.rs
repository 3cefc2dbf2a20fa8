//! Drivers in real clusters: signed, installed, told of events, taken over by another leader, upgraded, removed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tarn::escalation::{SIGNATURE_HEADER, verify};
use tarn::gate::driver::message;
use tarn_client::tls::{PrincipalKind, PrivateKey};
use tarn_executor::Hash;
use tarn_proto::v1;
use tarn_proto::v1::audit_service_client::AuditServiceClient;
use tarn_proto::v1::driver_service_client::DriverServiceClient;
use tarn_proto::v1::{DriverGrants, DriverSpec, DriverState, EventKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::transport::Channel;

use crate::common::{Node, cluster, eventually, node, reason, task};
use crate::componentize;

fn manifest() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
}

fn probe() -> Vec<u8> {
    let core = wat::parse_file(manifest().join("executor/tests/wasm/guests/probe.wat")).unwrap();
    let wit = manifest().join("../client/proto/wit");
    componentize::componentize(&core, Some((&wit, "driver-guest"))).unwrap()
}

/// One of the drivers that come with tarn, as `deploy/drivers/build` made it; `None` where it was not built and need not be.
fn shipped(name: &str) -> Option<Vec<u8>> {
    let Some(dir) = std::env::var_os("TARN_DRIVERS") else {
        assert!(std::env::var_os("TARN_REQUIRE_DRIVERS").is_none(), "TARN_DRIVERS must say where the drivers are");
        eprintln!("skipped: build the drivers with deploy/drivers/build and name their folder in TARN_DRIVERS");
        return None;
    };
    Some(std::fs::read(Path::new(&dir).join(format!("{name}.wasm"))).expect("the driver was built"))
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(&[7; 32])
}

fn signed(bytes: &[u8], config: &str) -> DriverSpec {
    let artifact = Hash::of(bytes);
    DriverSpec {
        artifact: artifact.to_string(),
        signature: key().sign(&message(&artifact)).unwrap().into(),
        config: config.to_owned(),
        ..DriverSpec::default()
    }
}

fn drivers(channel: &Channel) -> DriverServiceClient<Channel> {
    DriverServiceClient::new(channel.clone())
}

fn install(name: &str, spec: DriverSpec) -> v1::InstallDriverRequest {
    v1::InstallDriverRequest { name: name.into(), spec: Some(spec), ..v1::InstallDriverRequest::default() }
}

impl Node {
    async fn put_artifact(&self, bytes: &[u8]) {
        let chunk = v1::PutArtifactRequest { artifact: String::new(), chunk: bytes.to_vec().into() };
        self.artifacts().put_artifact(futures::stream::iter([chunk])).await.unwrap();
    }

    async fn trust(&self) {
        let signer = v1::PolicySigner { name: "ops".into(), public_key: key().public_key().to_vec().into() };
        let settings = Some(v1::DriverSettings { signers: vec![signer] });
        let request = v1::PutDriverSettingsRequest { settings, ..v1::PutDriverSettingsRequest::default() };
        drivers(&self.channel).put_driver_settings(request).await.unwrap();
    }

    async fn driver(&self, name: &str) -> v1::Driver {
        let request = v1::GetDriverRequest { name: name.into(), ..v1::GetDriverRequest::default() };
        drivers(&self.channel).get_driver(request).await.unwrap().into_inner().driver.unwrap()
    }

    async fn runs(&self, name: &str, generation: u64) -> bool {
        let status = self.driver(name).await.status.unwrap_or_default();
        status.state() == DriverState::Running && status.generation == generation
    }

    async fn call(&self, name: &str, method: &str, payload: &str) -> Result<String, Status> {
        let request = v1::CallDriverRequest {
            name: name.into(),
            method: method.into(),
            payload: payload.to_owned().into(),
            ..v1::CallDriverRequest::default()
        };
        let answer = drivers(&self.channel).call_driver(request).await?.into_inner();
        Ok(String::from_utf8_lossy(&answer.payload).into_owned())
    }

    async fn queued(&self, queue: &str) -> Vec<v1::Task> {
        let request = v1::ListTasksRequest { queue: queue.into(), ..v1::ListTasksRequest::default() };
        self.tasks().list_tasks(request).await.unwrap().into_inner().tasks
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, wanted: &str) {
    let status = answer.unwrap_err();
    assert_eq!(reason(&status), wanted, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_trusted_key_signed_is_installed_and_refusals_are_recorded() {
    let node = node().await;
    let bytes = probe();
    node.put_artifact(&bytes).await;
    let mut service = drivers(&node.channel);
    let good = signed(&bytes, "\"none\"");
    refused(service.install_driver(install("probe", good.clone())).await, "DRIVER_SIGNATURE");
    node.trust().await;
    let unsigned = DriverSpec { signature: Default::default(), ..good.clone() };
    refused(service.install_driver(install("probe", unsigned)).await, "DRIVER_NOT_SIGNED");
    let other = PrivateKey::from_seed(&[8; 32]).sign(&message(&Hash::of(&bytes))).unwrap();
    let wrong = DriverSpec { signature: other.into(), ..good.clone() };
    refused(service.install_driver(install("probe", wrong)).await, "DRIVER_SIGNATURE");
    // What is signed and no driver, or not there.
    node.put_artifact(b"(module)").await;
    refused(service.install_driver(install("probe", signed(b"(module)", ""))).await, "DRIVER_ARTIFACT");
    refused(service.install_driver(install("probe", signed(b"(component)", ""))).await, "DRIVER_ARTIFACT");
    refused(service.install_driver(install("probe", DriverSpec { config: "{".into(), ..good.clone() })).await, "INVALID_CONFIG");
    eventually(|| async {
        let request = v1::ListDecisionsRequest::default();
        let records = AuditServiceClient::new(node.channel.clone()).list_decisions(request).await.unwrap().into_inner();
        let reasons = ["DRIVER_NOT_SIGNED", "DRIVER_SIGNATURE"];
        reasons.iter().all(|reason| records.decisions.iter().any(|record| record.reason == *reason))
    })
    .await;
    service.install_driver(install("probe", good.clone())).await.unwrap();
    refused(service.install_driver(install("probe", good)).await, "DRIVER_EXISTS");
    eventually(|| node.runs("probe", 1)).await;
    assert_eq!(node.call("probe", "name", "").await.unwrap(), "probe");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_and_nobody_gives_a_driver_more_than_they_have() {
    let node = node().await;
    let bytes = probe();
    node.put_artifact(&bytes).await;
    node.trust().await;
    let rules = vec![
        v1::Rule { verbs: vec!["create".into()], resources: vec!["driver/*".into()] },
        v1::Rule { verbs: vec!["submit".into()], resources: vec!["queue/mail-*".into()] },
    ];
    let mut access = v1::access_service_client::AccessServiceClient::new(node.channel.clone());
    let role = v1::PutRoleRequest { name: "driver-admin".into(), rules, ..v1::PutRoleRequest::default() };
    access.put_role(role).await.unwrap();
    for (principal, role) in [("user/ada", "driver-admin"), ("user/bob", "viewer")] {
        let binding = v1::Binding { principal: principal.into(), role: role.into(), namespace: "default".into() };
        access.put_binding(v1::PutBindingRequest { binding: Some(binding), ..Default::default() }).await.unwrap();
    }
    let ada = drivers(&node.dial_as(PrincipalKind::User { name: "ada".into() }).await);
    let bob = drivers(&node.dial_as(PrincipalKind::User { name: "bob".into() }).await);
    let with = |queues: &[&str]| {
        let grants = DriverGrants { http: vec![], queues: queues.iter().map(|queue| (*queue).to_owned()).collect() };
        install("probe", DriverSpec { grants: Some(grants), ..signed(&bytes, "\"queue\"") })
    };
    refused(bob.clone().install_driver(with(&[])).await, "PERMISSION_DENIED");
    refused(ada.clone().install_driver(with(&["*"])).await, "PERMISSION_DENIED");
    refused(ada.clone().install_driver(with(&["pay"])).await, "PERMISSION_DENIED");
    ada.clone().install_driver(with(&["mail-*"])).await.unwrap();
    eventually(|| node.runs("probe", 1)).await;
    let call = v1::CallDriverRequest { name: "probe".into(), method: "name".into(), ..Default::default() };
    refused(bob.clone().call_driver(call.clone()).await, "PERMISSION_DENIED");
    bob.clone().list_drivers(v1::ListDriversRequest { namespace: "default".into() }).await.unwrap();
    refused(ada.clone().remove_driver(v1::RemoveDriverRequest { name: "probe".into(), ..Default::default() }).await, "PERMISSION_DENIED");
    // It puts tasks where it may, and ends where it may not.
    node.call("probe", "queue", r#"{"queue":"mail-out"}"#).await.unwrap();
    assert_eq!(node.queued("mail-out").await.len(), 1);
    refused(node.call("probe", "queue", r#"{"queue":"pay"}"#).await, "DRIVER_BROKE");
    // Nobody says for a driver how far it is.
    let body = v1::AdvanceDriver { namespace: "default".into(), name: "probe".into(), ..Default::default() };
    let command = v1::Command { body: Some(v1::command::Body::AdvanceDriver(body)), ..Default::default() };
    let request = v1::PipelineRequest { command: Some(command), ..Default::default() };
    let mut pipeline = v1::command_service_client::CommandServiceClient::new(node.channel.clone());
    let mut answers = pipeline.pipeline(futures::stream::iter([request])).await.unwrap().into_inner();
    let outcome = answers.message().await.unwrap().unwrap().outcome.unwrap().body.unwrap();
    assert!(matches!(outcome, v1::outcome::Body::Rejected(rejection) if rejection.reason == "INVALID_ARGUMENT"));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_is_upgraded_and_removed_and_its_log_can_be_read() {
    let nodes = cluster(3).await;
    let bytes = probe();
    nodes[0].put_artifact(&bytes).await;
    nodes[0].trust().await;
    let leader = nodes.iter().position(|node| node.running.consensus().leadership().borrow().is_this_node).unwrap();
    // Asked at a node that does not run it.
    let node = &nodes[(leader + 1) % 3];
    drivers(&node.channel).install_driver(install("probe", signed(&bytes, "\"none\""))).await.unwrap();
    eventually(|| node.runs("probe", 1)).await;
    assert_eq!(node.call("probe", "save", "kept").await.unwrap(), "");
    assert_eq!(node.call("probe", "output", "a line of its log").await.unwrap(), "");
    let logs = v1::GetDriverLogsRequest { name: "probe".into(), ..Default::default() };
    let mut lines = drivers(&node.channel).get_driver_logs(logs).await.unwrap().into_inner();
    let page = lines.message().await.unwrap().unwrap();
    assert!(page.lines.iter().any(|line| line.text == "a line of its log" && line.level == "INFO"), "{page:?}");
    let upgrade = |config: &str, expected: u64| v1::UpgradeDriverRequest {
        name: "probe".into(),
        spec: Some(signed(&bytes, config)),
        expected_generation: expected,
        ..v1::UpgradeDriverRequest::default()
    };
    refused(drivers(&node.channel).upgrade_driver(upgrade("\"other\"", 7)).await, "DRIVER_GENERATION_DIFFERS");
    assert_eq!(node.call("probe", "config", "").await.unwrap(), "\"none\"");
    // Calls go on all the while, and none is dropped.
    let calls = async {
        let mut answers = Vec::new();
        for _ in 0..200 {
            answers.push(node.call("probe", "config", "").await.unwrap());
        }
        answers
    };
    let (answers, upgraded) = tokio::join!(calls, async { drivers(&node.channel).upgrade_driver(upgrade("\"other\"", 1)).await });
    assert_eq!(upgraded.unwrap().into_inner().driver.unwrap().generation, 2);
    let turned = answers.iter().position(|answer| answer != "\"none\"").unwrap_or(answers.len());
    assert!(answers[turned..].iter().all(|answer| answer == "\"other\""), "from the old one to the new one, once: {answers:?}");
    eventually(|| node.runs("probe", 2)).await;
    assert_eq!(node.call("probe", "config", "").await.unwrap(), "\"other\"");
    assert_eq!(node.call("probe", "read", "").await.unwrap(), "kept");
    let metric = r#"tarn_driver_turns_total{namespace="default",driver="probe",what="call",result="ok"}"#;
    assert!(nodes[leader].metric(metric).await >= 200.0);
    let remove = v1::RemoveDriverRequest { name: "probe".into(), ..Default::default() };
    drivers(&node.channel).remove_driver(remove).await.unwrap();
    refused(node.call("probe", "name", "").await, "DRIVER_NOT_FOUND");
    for node in nodes {
        node.running.shutdown().await;
    }
}

// --- The drivers that come with tarn ---------------------------------------------------------------------------------------------------

/// A request that arrived.
#[derive(Clone, Debug)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A server that fails the first so many requests and takes the others.
async fn receiver(fails: usize) -> (u16, Arc<Mutex<Vec<Received>>>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (kept, mut left) = (taken.clone(), fails);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let received = loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).await.unwrap_or(0);
                bytes.extend_from_slice(&piece[..read]);
                let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                if let Some(end) = head_end {
                    let received = Received { head: String::from_utf8_lossy(&bytes[..end]).into_owned(), body: bytes[end + 4..].to_vec() };
                    if received.body.len() >= received.header("content-length").parse().unwrap_or(0) {
                        break Some(received);
                    }
                }
                if read == 0 {
                    break None;
                }
            };
            let status = if left > 0 { "503 Service Unavailable" } else { "204 No Content" };
            if let Some(received) = received.filter(|_| left == 0) {
                kept.lock().unwrap().push(received);
            }
            left = left.saturating_sub(1);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, taken)
}

const SECRET: &str = "a secret of some length";

fn webhook(bytes: &[u8], port: u16) -> DriverSpec {
    let config = json!({ "url": format!("http://127.0.0.1:{port}/hook"), "secret": SECRET });
    DriverSpec {
        events: vec![EventKind::TaskEnqueued.into()],
        grants: Some(DriverGrants { http: vec![format!("http://127.0.0.1:{port}")], queues: vec![] }),
        ..signed(bytes, &config.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_misses_no_event_though_its_receiver_fails_and_its_leader_dies() {
    let Some(bytes) = shipped("webhook") else { return };
    let mut nodes = cluster(3).await;
    nodes[0].put_artifact(&bytes).await;
    nodes[0].trust().await;
    let (port, received) = receiver(1).await;
    drivers(&nodes[0].channel).install_driver(install("hook", webhook(&bytes, port))).await.unwrap();
    let mut submitted = Vec::new();
    for number in 0..10 {
        submitted.push(nodes[0].submit(task("q", format!("{number}").as_bytes())).await);
    }
    eventually(|| async { !received.lock().unwrap().is_empty() }).await;
    let leader = nodes.iter().position(|node| node.running.consensus().leadership().borrow().is_this_node).unwrap();
    // It dies: no hand-over, nothing written down on the way.
    let dead = nodes.remove(leader);
    dead.running.consensus().stop().await;
    for number in 10..20 {
        submitted.push(nodes[0].submit(task("q", format!("{number}").as_bytes())).await);
    }
    let subjects =
        || -> Vec<String> { received.lock().unwrap().iter().map(|one| one.json()["subject"].as_str().unwrap().to_owned()).collect() };
    eventually(|| async { submitted.iter().all(|id| subjects().contains(id)) }).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut keys = std::collections::BTreeMap::new();
    for one in received.lock().unwrap().iter() {
        verify(SECRET.as_bytes(), one.header(SIGNATURE_HEADER), &one.body, now, 300).unwrap();
        let body = one.json();
        assert_eq!(body["kind"], "TASK_ENQUEUED");
        assert_eq!(one.header("idempotency-key"), format!("hook/{}", body["id"].as_str().unwrap()));
        let subject = keys.entry(one.header("idempotency-key").to_owned()).or_insert(body["subject"].clone());
        assert_eq!(*subject, body["subject"], "a key is of one event");
    }
    let mut first: Vec<String> = Vec::new();
    subjects().into_iter().for_each(|subject| {
        if !first.contains(&subject) {
            first.push(subject)
        }
    });
    assert_eq!(first, submitted, "in order");
    for node in nodes {
        node.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cron_enqueues_each_time_once_whoever_leads() {
    let Some(bytes) = shipped("cron") else { return };
    let mut nodes = cluster(3).await;
    nodes[0].put_artifact(&bytes).await;
    nodes[0].trust().await;
    let config = json!({ "jobs": [
        { "name": "each", "schedule": "* * * * *", "missed": "once", "task": { "queue": "cron" } },
        { "name": "rare", "schedule": "0 0 29 2 *", "task": { "queue": "cron" } },
    ]});
    let spec =
        DriverSpec { grants: Some(DriverGrants { http: vec![], queues: vec!["cron".into()] }), ..signed(&bytes, &config.to_string()) };
    drivers(&nodes[0].channel).install_driver(install("clock", spec.clone())).await.unwrap();
    eventually(|| nodes[0].runs("clock", 1)).await;
    eventually(|| async { nodes[0].driver("clock").await.state_bytes > 0 }).await;
    let next: Value = serde_json::from_str(&nodes[0].call("clock", "next", "").await.unwrap()).unwrap();
    assert!(next["each"].as_str().unwrap().ends_with('Z') && next["rare"].as_str().unwrap().contains("-02-29T00:00Z"));
    // As if the cluster had slept since two hours ago: what is saved is all that counts.
    let saved = drivers(&nodes[0].channel)
        .get_driver(v1::GetDriverRequest { name: "clock".into(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut state: Value = serde_json::from_slice(&saved.state).unwrap();
    let before = state["each"]["up_to_ms"].as_u64().unwrap() - 7_200_000;
    state["each"]["up_to_ms"] = json!(before);
    let driver = saved.driver.unwrap();
    let change = v1::AdvanceDriver {
        namespace: "default".into(),
        name: "clock".into(),
        generation: driver.generation,
        step: driver.step,
        cursor: driver.cursor,
        cursor_ordinal: driver.cursor_ordinal,
        state: Some(state.to_string().into()),
        ..v1::AdvanceDriver::default()
    };
    let command = v1::Command {
        principal: "driver/default/clock".into(),
        body: Some(v1::command::Body::AdvanceDriver(change)),
        ..v1::Command::default()
    };
    let deadline = tokio::time::Instant::now() + crate::common::PATIENCE;
    let outcome = nodes[0].running.consensus().propose(command, deadline).await.unwrap();
    assert!(matches!(outcome.body, Some(v1::outcome::Body::AdvanceDriver(_))), "{outcome:?}");
    eventually(|| async { !nodes[0].queued("cron").await.is_empty() }).await;
    let leader = nodes.iter().position(|node| node.running.consensus().leadership().borrow().is_this_node).unwrap();
    nodes.remove(leader).running.consensus().stop().await;
    eventually(|| nodes[0].runs("clock", 1)).await;
    assert_eq!(nodes[0].call("clock", "next", "").await.unwrap().len(), next.to_string().len());
    // Tasks of the minutes that passed while the test ran may be there too; no time has two.
    let mut due = std::collections::BTreeSet::new();
    for one in nodes[0].queued("cron").await {
        let request = v1::GetTaskRequest { task_id: one.task_id.clone(), ..Default::default() };
        let found = nodes[0].tasks().get_task(request).await.unwrap().into_inner().task.unwrap();
        let payload: Value = serde_json::from_slice(&found.spec.unwrap().payload).unwrap();
        assert_eq!(payload["job"], "each");
        assert!(due.insert(payload["due_ms"].as_u64().unwrap()), "{payload} came twice");
    }
    for node in nodes {
        node.running.shutdown().await;
    }
}

//! Policies, from the bundle to the refusal: what judges, who may get rid of it, what is recorded, and who is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tarn::escalation::{DELIVERY_HEADER, SIGNATURE_HEADER, verify};
use tarn_client::tls::{PrincipalKind, PrivateKey};
use tarn_policy::{Bundle, Manifest, SignedBundle};
use tarn_proto::v1;
use tarn_proto::v1::access_service_client::AccessServiceClient;
use tarn_proto::v1::policy_service_client::PolicyServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::transport::Channel;

use crate::common::{Node, cluster, eventually, node, reason, task};

const NO_GPU: &str = r#"package tarn
deny contains {"code": "NO_GPU", "severity": "critical", "message": "no GPU at night"} if {
    input.verb == "submit"
    input.task.queue == "gpu"
}
warn contains {"code": "NAMELESS", "severity": "low", "message": "name a handler"} if {
    input.verb == "submit"
    input.task.handler == ""
}
"#;

const DENIES_ALL: &str = "package tarn\ndeny contains \"nothing goes\"\n";

fn bundle(version: &str, modules: &[(&str, &str)]) -> Bundle {
    let manifest = Manifest::new("night", version.parse().unwrap(), "prod");
    let modules = modules.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    Bundle::new(manifest, modules, &json!({})).unwrap()
}

fn put(bundle: &Bundle) -> v1::PutBundleRequest {
    v1::PutBundleRequest {
        environment: bundle.environment().into(),
        name: bundle.name().into(),
        version: bundle.version().to_string(),
        content: bundle.to_bytes().into(),
        ..v1::PutBundleRequest::default()
    }
}

fn activate(version: &str) -> v1::ActivateBundleRequest {
    v1::ActivateBundleRequest {
        environment: "prod".into(),
        name: "night".into(),
        version: version.into(),
        ..v1::ActivateBundleRequest::default()
    }
}

fn submit(queue: &str) -> v1::EnqueueRequest {
    v1::EnqueueRequest { tasks: vec![task(queue, b"x")], ..v1::EnqueueRequest::default() }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, wanted: &str) -> Status {
    let status = answer.unwrap_err();
    assert_eq!(reason(&status), wanted, "{status}");
    status
}

impl Node {
    fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
    }

    /// Puts a bundle and lets it judge.
    async fn judge_by(&self, bundle: &Bundle) -> v1::ActivateBundleResponse {
        self.policies().put_bundle(put(bundle)).await.unwrap();
        let request = activate(&bundle.version().to_string());
        self.policies().activate_bundle(request).await.unwrap().into_inner()
    }

    /// A user who may submit tasks.
    async fn developer(&self) -> Channel {
        let binding = v1::Binding { principal: "user/ada".into(), role: "developer".into(), namespace: "*".into() };
        let request = v1::PutBindingRequest { binding: Some(binding), ..v1::PutBindingRequest::default() };
        AccessServiceClient::new(self.channel.clone()).put_binding(request).await.unwrap();
        self.dial_as(PrincipalKind::User { name: "ada".into() }).await
    }

    async fn violations(&self) -> Vec<v1::Violation> {
        let request = v1::ListViolationsRequest::default();
        self.policies().list_violations(request).await.unwrap().into_inner().violations
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_active_policy_denies_is_refused_and_recorded() {
    let node = node().await;
    let ada = node.developer().await;
    let mut tasks = TaskServiceClient::new(ada);
    tasks.enqueue(submit("gpu")).await.unwrap();

    let answer = node.judge_by(&bundle("1.0.0", &[("night.rego", NO_GPU)])).await;
    assert_eq!((answer.previous.as_str(), answer.tests), ("", 0));
    let status = refused(tasks.enqueue(submit("gpu")).await, "POLICY_DENIED");
    for part in ["night", "1.0.0", "no GPU at night"] {
        assert!(status.message().contains(part), "{status}");
    }
    tasks.enqueue(submit("mail")).await.unwrap();
    let mixed = v1::EnqueueRequest { tasks: vec![task("mail", b"x"), task("gpu", b"y")], ..v1::EnqueueRequest::default() };
    refused(tasks.enqueue(mixed).await, "POLICY_DENIED");
    let timer = v1::ScheduleTimerRequest {
        delay_ms: 5,
        action: Some(Box::new(v1::TimerAction { action: Some(v1::timer_action::Action::Enqueue(task("gpu", b"x"))) })),
        ..v1::ScheduleTimerRequest::default()
    };
    let mut timers = v1::timer_service_client::TimerServiceClient::new(node.dial_as(PrincipalKind::User { name: "ada".into() }).await);
    refused(timers.schedule_timer(timer).await, "POLICY_DENIED");

    eventually(|| async {
        let found = node.violations().await;
        let denied: u32 = found.iter().filter(|one| one.blocking).map(|one| one.count).sum();
        let warned: u32 = found.iter().filter(|one| !one.blocking).map(|one| one.count).sum();
        (denied, warned) == (3, 5)
    })
    .await;
    let found = node.violations().await;
    let denied = found.iter().find(|one| one.blocking && one.resource == "queue/gpu").unwrap();
    assert_eq!(denied.severity(), v1::PolicySeverity::Critical);
    let said = [&denied.code, &denied.principal, &denied.namespace, &denied.policy, &denied.version];
    assert_eq!(said, ["NO_GPU", "user/ada", "default", "night", "1.0.0"]);

    let off = v1::DeactivateBundleRequest { environment: "prod".into(), name: "night".into(), ..v1::DeactivateBundleRequest::default() };
    node.policies().deactivate_bundle(off).await.unwrap();
    tasks.enqueue(submit("gpu")).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_gets_rid_of_a_policy_that_denies_everything() {
    let node = node().await;
    let ada = node.developer().await;
    node.judge_by(&bundle("1.0.0", &[("all.rego", DENIES_ALL)])).await;
    refused(TaskServiceClient::new(ada.clone()).enqueue(submit("q")).await, "POLICY_DENIED");
    refused(node.tasks().enqueue(submit("q")).await, "POLICY_DENIED");
    // Reads are not asked about; and who is not root has no way around.
    TaskServiceClient::new(ada.clone()).list_tasks(v1::ListTasksRequest::default()).await.unwrap();
    let rollback = v1::RollbackBundleRequest { environment: "prod".into(), name: "night".into(), ..v1::RollbackBundleRequest::default() };
    refused(PolicyServiceClient::new(ada).rollback_bundle(rollback).await, "PERMISSION_DENIED");
    node.judge_by(&bundle("2.0.0", &[("night.rego", NO_GPU)])).await;
    node.tasks().enqueue(submit("q")).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_compile_or_fails_its_tests_never_judges() {
    let node = node().await;
    let broken = bundle("1.0.0", &[("night.rego", "package tarn\ndeny contains x if { nonsense( }\n")]);
    node.policies().put_bundle(put(&broken)).await.unwrap();
    let status = refused(node.policies().activate_bundle(activate("1.0.0")).await, "POLICY_DOES_NOT_COMPILE");
    assert!(status.message().contains("night.rego:2"), "{status}");

    let test = |wanted: &str| {
        format!(
            "package tarn_test\nimport data.tarn\ntest_gpu if {{ count(tarn.deny) == {wanted} with input as {{\"verb\": \"submit\", \"task\": {{\"queue\": \"gpu\", \"handler\": \"\"}}}} }}\n"
        )
    };
    let fails = bundle("2.0.0", &[("night.rego", NO_GPU), ("night_test.rego", &test("0"))]);
    node.policies().put_bundle(put(&fails)).await.unwrap();
    let status = refused(node.policies().activate_bundle(activate("2.0.0")).await, "POLICY_TESTS_FAILED");
    assert!(status.message().contains("test_gpu"), "{status}");

    let passes = bundle("3.0.0", &[("night.rego", NO_GPU), ("night_test.rego", &test("1"))]);
    assert_eq!(node.judge_by(&passes).await.tests, 1);
    refused(node.policies().activate_bundle(activate("9.0.0")).await, "BUNDLE_NOT_FOUND");

    let noise = v1::PutBundleRequest { content: "noise".into(), ..put(&passes) };
    refused(node.policies().put_bundle(noise).await, "POLICY_ENCODING");
    let other_name = v1::PutBundleRequest { name: "day".into(), ..put(&passes) };
    refused(node.policies().put_bundle(other_name).await, "BUNDLE_DIFFERS");
    let claims = v1::PutBundleRequest { signer: vec![7; 32].into(), ..put(&passes) };
    refused(node.policies().put_bundle(claims).await, "NO_SIGNATURE");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_signatures_are_required_only_trusted_ones_count() {
    let node = node().await;
    let (ann, eve) = (PrivateKey::generate(), PrivateKey::generate());
    let settings = v1::PutPolicySettingsRequest {
        settings: Some(v1::PolicySettings {
            require_signed: true,
            signers: vec![v1::PolicySigner { name: "ann".into(), public_key: ann.public_key().to_vec().into() }],
        }),
        ..v1::PutPolicySettingsRequest::default()
    };
    node.policies().put_policy_settings(settings).await.unwrap();
    let bundle = bundle("1.0.0", &[("night.rego", NO_GPU)]);
    refused(node.policies().put_bundle(put(&bundle)).await, "POLICY_NOT_SIGNED");
    let signed = |key: &PrivateKey| v1::PutBundleRequest {
        signature: key.sign(&SignedBundle::message(bundle.digest())).unwrap().into(),
        ..put(&bundle)
    };
    refused(node.policies().put_bundle(signed(&eve)).await, "POLICY_SIGNATURE");
    let claims = v1::PutBundleRequest { signer: blake3::hash(ann.public_key()).as_bytes().to_vec().into(), ..signed(&eve) };
    refused(node.policies().put_bundle(claims).await, "POLICY_SIGNATURE");
    let answer = node.policies().put_bundle(signed(&ann)).await.unwrap().into_inner();
    assert_eq!(*answer.bundle.unwrap().signer, *blake3::hash(ann.public_key()).as_bytes());
    node.policies().activate_bundle(activate("1.0.0")).await.unwrap();
    refused(node.tasks().enqueue(submit("gpu")).await, "POLICY_DENIED");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_or_takes_too_long_refuses() {
    let node = node().await;
    let fails = "package tarn\ndeny contains \"x\" if to_number(input.task.queue) > 3\n";
    node.judge_by(&bundle("1.0.0", &[("night.rego", fails)])).await;
    refused(node.tasks().enqueue(submit("mail")).await, "POLICY_ERROR");
    let bomb = "package tarn\ndeny contains \"x\" if { some a in numbers.range(1, 9000); some b in numbers.range(1, 9000); a * b == -1 }\n";
    node.judge_by(&bundle("2.0.0", &[("night.rego", bomb)])).await;
    let status = node.tasks().enqueue(submit("mail")).await.unwrap_err();
    assert!(["POLICY_TIMEOUT", "POLICY_ERROR"].contains(&reason(&status).as_str()), "{status}");
    node.judge_by(&bundle("3.0.0", &[("night.rego", NO_GPU)])).await;
    node.tasks().enqueue(submit("mail")).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_counts_on_every_node_that_has_applied_it() {
    let nodes = cluster(3).await;
    nodes[0].judge_by(&bundle("1.0.0", &[("night.rego", NO_GPU)])).await;
    for node in &nodes {
        // A read that is certain to see the activation: from then on this node judges by it.
        let question = v1::ListBundlesRequest::default();
        let listed = node.policies().list_bundles(question).await.unwrap().into_inner();
        assert!(listed.bundles[0].active);
        refused(node.tasks().enqueue(submit("gpu")).await, "POLICY_DENIED");
    }
    eventually(|| async { nodes[1].violations().await.iter().map(|one| one.count).sum::<u32>() >= 6 }).await;
    for node in nodes {
        node.running.shutdown().await;
    }
}

// --- Escalation ------------------------------------------------------------------------------------------------------------------------

/// One request as a receiver got it.
#[derive(Clone, Debug)]
struct Received {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

/// A receiver that answers the first requests with these statuses, and all later ones with 200. Gives its URL and what came.
async fn receiver(statuses: &[&str]) -> (String, Arc<Mutex<Vec<Received>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    let (kept, mut statuses) = (received.clone(), statuses.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().into_iter());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let status = statuses.next().unwrap_or_else(|| "200 OK".into());
            let mut bytes = Vec::new();
            while !is_whole(&bytes) {
                let mut chunk = [0; 4_096];
                match stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                }
            }
            kept.lock().unwrap().push(parsed(&bytes));
            let answer = format!("HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, received)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&bytes[..end], &bytes[end + 4..]))
}

fn is_whole(bytes: &[u8]) -> bool {
    split(bytes).is_some_and(|(_, body)| body.len() >= parsed(bytes).header("content-length").parse().unwrap_or(0))
}

fn parsed(bytes: &[u8]) -> Received {
    let (head, body) = split(bytes).unwrap_or((bytes, b""));
    let head = String::from_utf8_lossy(head);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    Received { headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), body: body.to_vec() }
}

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn write_key(node: &Node) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = node.dir.path().join("secrets");
    std::fs::create_dir_all(&dir).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(dir.join("pager")).unwrap();
    std::io::Write::write_all(&mut file, &[KEY, b"\n"].concat()).unwrap();
}

fn handler(url: &str) -> v1::PutPolicyHandlerRequest {
    v1::PutPolicyHandlerRequest {
        name: "pager".into(),
        url: url.into(),
        min_severity: v1::PolicySeverity::Critical.into(),
        secret: "pager".into(),
        ..v1::PutPolicyHandlerRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_violation_reaches_its_handler_signed_and_after_failures_again() {
    let node = node().await;
    write_key(&node);
    let (url, received) = receiver(&["500 Internal Server Error", "302 Found"]).await;
    node.policies().put_policy_handler(handler(&url)).await.unwrap();
    node.judge_by(&bundle("1.0.0", &[("night.rego", NO_GPU)])).await;
    refused(node.tasks().enqueue(submit("gpu")).await, "POLICY_DENIED");

    eventually(|| async { received.lock().unwrap().len() >= 3 }).await;
    let all = received.lock().unwrap().clone();
    let ids: Vec<&str> = all.iter().map(|one| one.header(DELIVERY_HEADER)).collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "the same violation, three times: {ids:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for one in &all {
        verify(KEY, one.header(SIGNATURE_HEADER), &one.body, now, 300).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        assert_eq!((&body["id"], &body["violation"]["code"]), (&json!(ids[0]), &json!("NO_GPU")));
        assert_eq!(body["violation"]["severity"], "critical");
    }
    let id = ids[0].to_owned();
    eventually(|| async {
        let listed = node.policies().list_policy_handlers(v1::ListPolicyHandlersRequest {}).await.unwrap();
        listed.into_inner().handlers[0].sent_up_to == id
    })
    .await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leader_goes_on_where_the_last_one_was() {
    let mut nodes = cluster(3).await;
    nodes.iter().for_each(write_key);
    // Nobody listens there: the first leader tries in vain.
    let (url, received) = receiver(&[]).await;
    nodes[0].policies().put_policy_handler(handler("http://127.0.0.1:1/hook")).await.unwrap();
    nodes[0].judge_by(&bundle("1.0.0", &[("night.rego", NO_GPU)])).await;
    refused(nodes[0].tasks().enqueue(submit("gpu")).await, "POLICY_DENIED");
    eventually(|| async { !nodes[0].violations().await.is_empty() }).await;
    let leader = nodes.iter().position(|node| node.running.consensus().leadership().borrow().is_this_node);
    nodes.remove(leader.unwrap()).running.shutdown().await;
    nodes[0].policies().put_policy_handler(handler(&url)).await.unwrap();
    eventually(|| async { received.lock().unwrap().iter().any(|one| one.body.windows(6).any(|part| part == b"NO_GPU")) }).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        for node in nodes {
            node.running.shutdown().await;
        }
    })
    .await
    .unwrap();
}

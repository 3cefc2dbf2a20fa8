//! Contexts over the wire: who may do what, what is refused and how, over several nodes; and guests of the real executor that use one.

use std::path::PathBuf;
use std::process::Command;

use tarn_client::tls::PrincipalKind;
use tarn_proto::v1;
use tarn_proto::v1::access_service_client::AccessServiceClient;
use tarn_proto::v1::context_service_client::ContextServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::common::{Node, cluster, fact, node, node_with, reason, task};
use crate::componentize;

fn contexts(channel: &Channel) -> ContextServiceClient<Channel> {
    ContextServiceClient::new(channel.clone()).max_decoding_message_size(4 << 20).max_encoding_message_size(16 << 20)
}

fn put(context: &str, key: &str, value: &str) -> v1::PutKeyRequest {
    v1::PutKeyRequest { context: context.into(), key: key.into(), value: value.to_owned().into(), ..v1::PutKeyRequest::default() }
}

fn get(context: &str, key: &str) -> v1::GetKeyRequest {
    v1::GetKeyRequest { context: context.into(), key: key.into(), ..v1::GetKeyRequest::default() }
}

async fn write(channel: &Channel, request: v1::PutKeyRequest) -> Result<u64, Status> {
    Ok(contexts(channel).put_key(request).await?.into_inner().version)
}

async fn read(channel: &Channel, request: v1::GetKeyRequest) -> Result<String, Status> {
    let found = contexts(channel).get_key(request).await?.into_inner();
    Ok(String::from_utf8(found.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_acknowledged_every_node_reads() {
    let nodes = cluster(3).await;
    let [one, two, three] = [0, 1, 2].map(|place: usize| &nodes[place].channel);
    let first = write(one, put("memory", "plan", "rest")).await.unwrap();
    assert_eq!(read(two, get("memory", "plan")).await.unwrap(), "rest");
    let request = v1::PutKeyRequest { expected_version: Some(first), ..put("memory", "plan", "work") };
    let second = write(two, request.clone()).await.unwrap();
    assert!(second > first);
    assert_eq!(read(three, get("memory", "plan")).await.unwrap(), "work");

    // Of two that expect the same version one comes too late, and is told what the version is.
    let late = write(three, request).await.unwrap_err();
    assert_eq!((late.code(), reason(&late)), (Code::FailedPrecondition, "VERSION_CONFLICT".into()));
    assert_eq!((fact(&late, "actual_version"), fact(&late, "field")), (second.to_string(), "expected_version".into()));
    let missing = v1::PutKeyRequest { expected_version: Some(7), ..put("memory", "new", "x") };
    let conflict = write(one, missing).await.unwrap_err();
    assert_eq!(fact(&conflict, "actual_version"), "0");

    // A repeat of the same request changes nothing, whichever node it comes to.
    let once = v1::PutKeyRequest { request_id: "once".into(), ..put("memory", "counter", "1") };
    let version = write(one, once.clone()).await.unwrap();
    assert_eq!(write(three, once).await.unwrap(), version);
    let stale = v1::GetKeyRequest { stale: true, ..get("memory", "counter") };
    assert_eq!(read(three, stale).await.unwrap(), "1", "this node itself has just answered the write");

    let snapshot = v1::SnapshotContextRequest { context: "memory".into(), snapshot: "before".into(), ..Default::default() };
    assert_eq!(contexts(two).snapshot_context(snapshot).await.unwrap().into_inner().snapshot.unwrap().keys, 2);
    write(one, put("memory", "plan", "fail")).await.unwrap();
    let restore = v1::RestoreContextRequest { context: "memory".into(), snapshot: "before".into(), ..Default::default() };
    contexts(three).restore_context(restore).await.unwrap();
    for channel in [one, two, three] {
        assert_eq!(read(channel, get("memory", "plan")).await.unwrap(), "work");
    }
    let versions = v1::ListVersionsRequest { context: "memory".into(), key: "plan".into(), ..Default::default() };
    let versions = contexts(two).list_versions(versions).await.unwrap().into_inner().versions;
    let bytes: Vec<u64> = versions.iter().map(|version| version.bytes).collect();
    assert_eq!(bytes, [4, 4, 4, 4], "rest, work, fail, and work again");
    for node in nodes {
        node.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_its_own_reason() {
    let node = node().await;
    let refused = async |request| {
        let status = write(&node.channel, request).await.unwrap_err();
        (status.code(), reason(&status), fact(&status, "field"), fact(&status, "limit"))
    };
    let told = |code, reason: &str, field: &str, limit: &str| (code, reason.into(), field.into(), limit.into());
    let long = "x".repeat(513);
    let answer = refused(put("memory", &long, "")).await;
    assert_eq!(answer, told(Code::InvalidArgument, "INVALID_KEY", "key", "512"));
    assert_eq!(refused(put("memory", "a\0b", "")).await.1, "INVALID_KEY");
    assert_eq!(refused(put("memory", "", "")).await.1, "INVALID_KEY");
    assert_eq!(refused(put("Memory", "k", "")).await.2, "context");
    let large = "x".repeat((1 << 20) + 1);
    let answer = refused(put("memory", "k", &large)).await;
    assert_eq!(answer, told(Code::InvalidArgument, "VALUE_TOO_LARGE", "value", "1048576"));
    write(&node.channel, put("memory", "k", &large[1..])).await.unwrap();
    assert_eq!(read(&node.channel, get("memory", "k")).await.unwrap(), large[1..]);

    // What a namespace may store.
    let quotas = Some(v1::Quotas { max_stored_bytes: Some(100), ..Default::default() });
    let request = v1::CreateNamespaceRequest { name: "team".into(), quotas, ..Default::default() };
    node.namespaces().create_namespace(request).await.unwrap();
    let in_team = |value: usize| v1::PutKeyRequest { namespace: "team".into(), ..put("m", "k", &large[..value]) };
    write(&node.channel, in_team(90)).await.unwrap();
    let answer = refused(in_team(20)).await;
    assert_eq!(answer, told(Code::ResourceExhausted, "QUOTA_STORED_BYTES", "max_stored_bytes", "100"));

    // Whoever lost its lease writes no more.
    node.submit(task("mail", b"hello")).await;
    let worker = node.register().await;
    let leased = node.lease(&worker, 1).await.remove(0);
    let fence = Some(v1::Fence { task_id: leased.task_id.clone(), token: leased.token });
    let fenced = v1::PutKeyRequest { fence, ..put("memory", "by", "the attempt") };
    write(&node.channel, fenced.clone()).await.unwrap();
    node.complete(&leased, b"done").await;
    assert_eq!(refused(fenced).await.1, "STALE_TOKEN");
    assert_eq!(read(&node.channel, get("memory", "by")).await.unwrap(), "the attempt");

    for (request, expected) in [
        (get("nothing", "k"), "CONTEXT_NOT_FOUND"),
        (get("memory", "nothing"), "KEY_NOT_FOUND"),
        (v1::GetKeyRequest { version: 3, ..get("memory", "k") }, "VERSION_NOT_FOUND"),
        (v1::GetKeyRequest { snapshot: "s".into(), ..get("memory", "k") }, "SNAPSHOT_NOT_FOUND"),
    ] {
        let status = read(&node.channel, request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::NotFound, expected.into()));
    }
    node.running.shutdown().await;
}

async fn allow(node: &Node, who: &str, role: &str, verb: &str, resources: &[&str]) {
    let mut access = AccessServiceClient::new(node.channel.clone());
    let rule = |verb: &str, resource: &str| v1::Rule { verbs: vec![verb.into()], resources: vec![resource.into()] };
    let mut rules = vec![rule("submit", "queue/*")];
    rules.extend(resources.iter().map(|resource| rule(verb, resource)));
    let request = v1::PutRoleRequest { name: role.into(), rules, ..Default::default() };
    access.put_role(request).await.unwrap();
    let principal = format!("user/{who}");
    let binding = Some(v1::Binding { principal, role: role.into(), namespace: "default".into() });
    access.put_binding(v1::PutBindingRequest { binding, ..Default::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_say_who_reads_and_who_writes_and_whose_tasks_do() {
    let node = node().await;
    write(&node.channel, put("memory", "k", "v")).await.unwrap();
    write(&node.channel, put("secret", "k", "v")).await.unwrap();
    allow(&node, "reader", "readers", "read", &["context/memory"]).await;
    allow(&node, "writer", "writers", "write", &["context/memory"]).await;
    let user = async |name: &str| node.dial_as(PrincipalKind::User { name: name.into() }).await;
    let (reader, writer) = (user("reader").await, user("writer").await);
    let denied = |status: Status| assert_eq!(reason(&status), "PERMISSION_DENIED", "{status}");

    assert_eq!(read(&reader, get("memory", "k")).await.unwrap(), "v");
    denied(read(&reader, v1::GetKeyRequest { stale: true, ..get("secret", "k") }).await.unwrap_err());
    denied(read(&writer, get("memory", "k")).await.unwrap_err());
    denied(write(&reader, put("memory", "k", "w")).await.unwrap_err());
    denied(write(&writer, put("secret", "k", "w")).await.unwrap_err());
    write(&writer, put("memory", "k", "w")).await.unwrap();
    let all = v1::DeleteContextRequest { context: "memory".into(), ..Default::default() };
    denied(contexts(&writer).delete_context(all).await.unwrap_err());
    denied(contexts(&reader).list_contexts(v1::ListContextsRequest::default()).await.unwrap_err());
    let restore = v1::RestoreContextRequest { context: "memory".into(), snapshot: "s".into(), ..Default::default() };
    denied(contexts(&reader).restore_context(restore).await.unwrap_err());

    // Nobody has a task do for them what they may not do themselves.
    let submit = async |channel: &Channel, name: &str, write| {
        let context = Some(v1::ContextGrant { name: name.into(), write });
        let spec = v1::TaskSpec {
            runtime: "wasm".into(),
            wasm: Some(v1::WasmSpec { artifact: "blake3:00".into(), ..Default::default() }),
            grants: Some(v1::Grants { context, ..Default::default() }),
            ..task("jobs", b"")
        };
        let request = v1::EnqueueRequest { tasks: vec![spec], ..Default::default() };
        TaskServiceClient::new(channel.clone()).enqueue(request).await.map(drop)
    };
    submit(&reader, "memory", false).await.unwrap();
    denied(submit(&reader, "memory", true).await.unwrap_err());
    denied(submit(&reader, "secret", false).await.unwrap_err());
    submit(&writer, "memory", true).await.unwrap();
    denied(submit(&writer, "memory", false).await.unwrap_err());
    let status = submit(&node.channel, "No Name", true).await.unwrap_err();
    assert_eq!((reason(&status), fact(&status, "field")), ("INVALID_NAME".into(), "tasks.grants.context.name".into()));
    node.running.shutdown().await;
}

/// The task in `guests/tally.c`, as a component.
fn tally() -> Vec<u8> {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("tally.wasm");
    let output = Command::new("clang")
        .args(["--target=wasm32-wasi", "--sysroot=/usr", "-std=gnu11", "-Os", "-s", "-mexec-model=reactor"])
        .arg("-I")
        .arg(here.join("../deploy/guests/c"))
        .arg(here.join("tests/daemon/guests/tally.c"))
        .arg("-o")
        .arg(&core)
        .output()
        .expect("the tests need clang, lld, wasi-libc and libclang-rt-14-dev-wasm32");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wit = here.join("../client/proto/wit");
    componentize::componentize(&std::fs::read(core).unwrap(), Some((&wit, "guest"))).unwrap()
}

async fn executing() -> (Node, String) {
    let node = node_with(|config| {
        config.executors.wasm_slots = 4;
        config.limits.shutdown_grace_ms = 200;
    })
    .await;
    let chunk = v1::PutArtifactRequest { artifact: String::new(), chunk: tally().into() };
    let artifact = node.artifacts().put_artifact(tokio_stream::iter([chunk])).await.unwrap().into_inner().artifact;
    (node, artifact)
}

fn counting(artifact: &str, word: &str, write: bool) -> v1::TaskSpec {
    v1::TaskSpec {
        runtime: "wasm".into(),
        wasm: Some(v1::WasmSpec { artifact: artifact.into(), ..Default::default() }),
        grants: Some(v1::Grants { context: Some(v1::ContextGrant { name: "memory".into(), write }), random: true, ..Default::default() }),
        retry: Some(v1::RetryPolicy { initial_backoff_ms: 1, ..Default::default() }),
        ..task("jobs", word.as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_fail_and_are_tried_again_count_each_task_once() {
    let (node, artifact) = executing().await;
    let words: Vec<String> = (0..24).map(|number| format!("task-{number}{}", if number % 3 == 0 { "!" } else { "" })).collect();
    let tasks = words.iter().map(|word| counting(&artifact, word, true)).collect();
    let request = v1::EnqueueRequest { tasks, ..Default::default() };
    let ids = node.tasks().enqueue(request).await.unwrap().into_inner().task_ids;
    for (id, word) in ids.iter().zip(&words) {
        let task = node.ended(id).await;
        assert_eq!(task.state(), v1::TaskState::Succeeded, "{word}: {:?}", task.attempts);
        let (attempts, result) = if word.ends_with('!') { (2, "was counted before") } else { (1, "counted") };
        assert_eq!((task.attempts.len(), &task.result[..]), (attempts, result.as_bytes()), "{word}: {:?}", task.attempts);
    }
    let tally = read(&node.channel, get("memory", "tally")).await.unwrap();
    let mut counted: Vec<&str> = tally.split_whitespace().collect();
    counted.sort_unstable();
    let mut expected: Vec<&str> = words.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(counted, expected);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reaches_no_more_than_it_was_granted() {
    let (node, artifact) = executing().await;
    write(&node.channel, put("memory", "other", "x")).await.unwrap();
    let only_read = node.submit(counting(&artifact, "word", false)).await;
    let ended = node.ended(&only_read).await;
    assert_eq!(ended.error.unwrap().reason, "CAPABILITY_NOT_GRANTED");

    let mut none = counting(&artifact, "word", true);
    none.grants.as_mut().unwrap().context = None;
    let ended = node.ended(&node.submit(none).await).await;
    assert_eq!(ended.error.unwrap().reason, "CAPABILITY_NOT_GRANTED");
    let missing = read(&node.channel, get("memory", "tally")).await.unwrap_err();
    assert_eq!(reason(&missing), "KEY_NOT_FOUND");

    // A quota is for the guest to hear, and not for the node to fail on.
    let quotas = Some(v1::Quotas { max_stored_bytes: Some(2_000), ..Default::default() });
    let request = v1::CreateNamespaceRequest { name: "team".into(), quotas, ..Default::default() };
    node.namespaces().create_namespace(request).await.unwrap();
    let fill = v1::PutKeyRequest { namespace: "team".into(), ..put("memory", "full", &"x".repeat(1_200)) };
    write(&node.channel, fill).await.unwrap();
    let mut spec = counting(&artifact, &"w".repeat(400), true);
    spec.retry = Some(v1::RetryPolicy { max_attempts: 1, ..Default::default() });
    let request = v1::EnqueueRequest { namespace: "team".into(), tasks: vec![spec], ..Default::default() };
    let refused = node.tasks().enqueue(request).await;
    assert!(refused.is_ok(), "the task itself has room: {refused:?}");
    let id = refused.unwrap().into_inner().task_ids.remove(0);
    let request = v1::GetTaskRequest { namespace: "team".into(), task_id: id, wait_ms: 25_000, omit_bytes: false };
    let ended = node.tasks().get_task(request).await.unwrap().into_inner().task.unwrap();
    let error = ended.error.unwrap();
    assert_eq!(error.reason, "GUEST_FAILED");
    assert!(error.message.contains("QUOTA_STORED_BYTES"), "{}", error.message);
    node.running.shutdown().await;
}

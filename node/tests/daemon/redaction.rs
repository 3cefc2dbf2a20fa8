//! What reaches a client says what to do, and nothing of what is inside: no path, no address, no library's words, no key. The log has the
//! whole story, under the request's id.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use tarn_client::tls::PrincipalKind;
use tarn_proto::v1;
use tarn_proto::v1::audit_service_client::AuditServiceClient;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use crate::common::{Node, node, node_with, task};

/// What must be in no message to a client, whatever went wrong.
const INSIDE: [&str; 16] = [
    "/tmp",
    "/var/",
    "/home",
    "/root",
    "/work",
    ".rs:",
    "os error",
    "panicked",
    "RocksDB",
    "rocksdb",
    "openraft",
    "BEGIN ",
    "127.0.0.1",
    "thread '",
    "backtrace",
    "0x",
];

/// Nothing of the inside in a message and its details.
fn clean(node: &Node, status: &Status) {
    let details = status.get_error_details();
    let texts = [status.message().to_owned(), format!("{:?}", details.error_info()), format!("{:?}", details.debug_info())];
    let dir = node.dir.path().display().to_string();
    for text in texts {
        for inside in INSIDE.iter().copied().chain([dir.as_str()]) {
            assert!(!text.contains(inside), "{inside:?} in {text:?}");
        }
    }
    assert!(details.debug_info().is_none());
}

/// What the nodes of this program have logged; `None` where somebody else has the log.
fn log() -> Option<&'static Arc<Mutex<Vec<u8>>>> {
    static LOG: OnceLock<Option<Arc<Mutex<Vec<u8>>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO).with_writer(move || Tee(writer.clone()));
        subscriber.try_init().is_ok().then_some(kept)
    })
    .as_ref()
}

struct Tee(Arc<Mutex<Vec<u8>>>);

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines of the log that have a trace.
fn logged(trace: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&log()?.lock().unwrap()).into_owned();
    Some(text.lines().filter(|line| line.contains(trace)).collect::<Vec<_>>().join("\n"))
}

fn traced<T>(trace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("tarn-trace-id", trace.parse().unwrap());
    request
}

async fn put(node: &Node, bytes: &[u8]) -> String {
    let message = v1::PutArtifactRequest { chunk: bytes.to_vec().into(), ..v1::PutArtifactRequest::default() };
    let answer = node.artifacts().put_artifact(tokio_stream::once(message)).await.unwrap();
    answer.into_inner().artifact
}

/// Every file below a folder.
fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut look = vec![dir.to_owned()];
    while let Some(dir) = look.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => look.push(path),
                path => found.push(path),
            }
        }
    }
    found
}

async fn got(node: &Node, artifact: &str) -> Result<(), Status> {
    let request = v1::GetArtifactRequest { artifact: artifact.into() };
    let mut chunks = node.artifacts().get_artifact(request).await?.into_inner();
    while chunks.message().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_store_of_artifacts_is_nobodys_business() {
    let _ = log();
    let node = node().await;
    let artifact = put(&node, b"(module)").await;
    let dir = node.dir.path().join("artifacts");
    for file in files(&dir.join("blobs")) {
        std::fs::write(file, b"something else").unwrap();
    }
    let status = got(&node, &artifact).await.unwrap_err();
    clean(&node, &status);
    // The folder is a file now: whatever the disk says stays inside.
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::write(&dir, b"").unwrap();
    let message = v1::PutArtifactRequest { chunk: b"x".as_slice().into(), ..v1::PutArtifactRequest::default() };
    let status = node.artifacts().put_artifact(traced("store-trace", tokio_stream::once(message))).await.unwrap_err();
    clean(&node, &status);
    let status = node.artifacts().list_artifacts(v1::ListArtifactsRequest::default()).await.unwrap_err();
    clean(&node, &status);
    if let Some(story) = logged("store-trace") {
        assert!(story.contains("the artifact store failed"), "the log has the cause under the request's id: {story}");
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_executor_met_inside_stays_inside() {
    let _ = log();
    let node = node_with(|config| config.executors.wasm = true).await;
    let garbage = put(&node, b"this is no module, but it has a path: /etc/passwd").await;
    let trapping = put(&node, b"(module (func (export \"run\") unreachable))").await;
    let spec = |artifact: &str, export: &str| v1::TaskSpec {
        runtime: "wasm".into(),
        wasm: Some(v1::WasmSpec { artifact: artifact.into(), export: export.into(), ..v1::WasmSpec::default() }),
        retry: Some(v1::RetryPolicy { max_attempts: 1, ..v1::RetryPolicy::default() }),
        ..task("w", b"")
    };
    let missing = format!("blake3:{}", "0".repeat(64));
    for (artifact, export) in [(garbage.as_str(), "run"), (&trapping, "run"), (&trapping, "nowhere"), (&missing, "run")] {
        let id = node.submit(spec(artifact, export)).await;
        let ended = node.ended(&id).await;
        let Some(error) = ended.error else { panic!("{artifact} {export} went well: {ended:?}") };
        clean(&node, &Status::internal(error.message.clone()));
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do_and_the_log_knows_the_rest() {
    let _ = log();
    let node = node().await;
    let mut statuses = Vec::new();
    let mut note = |answer: Status| statuses.push(answer);
    for id in ["", "../../etc/passwd", "0000000000007", "x\u{0}y"] {
        let get = v1::GetTaskRequest { task_id: id.into(), ..v1::GetTaskRequest::default() };
        note(node.tasks().get_task(get).await.unwrap_err());
        let cancel = v1::CancelTaskRequest { task_id: id.into(), ..v1::CancelTaskRequest::default() };
        note(node.tasks().cancel_task(cancel).await.unwrap_err());
        let explain = v1::ExplainTaskRequest { task_id: id.into(), ..v1::ExplainTaskRequest::default() };
        note(AuditServiceClient::new(node.channel.clone()).explain_task(explain).await.unwrap_err());
    }
    for namespace in ["../x", "nowhere", &"n".repeat(500)] {
        let list = v1::ListTasksRequest { namespace: namespace.into(), ..v1::ListTasksRequest::default() };
        note(node.tasks().list_tasks(list).await.unwrap_err());
        let list = v1::ListTimersRequest { namespace: namespace.into(), ..v1::ListTimersRequest::default() };
        note(node.timers().list_timers(list).await.unwrap_err());
    }
    let mut cluster = node.cluster();
    note(cluster.remove_member(v1::RemoveMemberRequest { node_id: 1 }).await.unwrap_err());
    note(cluster.remove_member(v1::RemoveMemberRequest { node_id: 77 }).await.unwrap_err());
    note(cluster.transfer_leader(v1::TransferLeaderRequest { node_id: 77 }).await.unwrap_err());
    note(cluster.upgrade_cluster(v1::UpgradeClusterRequest { machine_version: 99 }).await.unwrap_err());
    let unreachable = v1::AddMemberRequest { node_id: 9, address: "node.invalid:1".into(), ..v1::AddMemberRequest::default() };
    note(cluster.add_member(unreachable).await.unwrap_err());
    note(got(&node, "blake3:zz").await.unwrap_err());
    let eve = node.dial_as(PrincipalKind::User { name: "eve".into() }).await;
    let mut tasks = v1::task_service_client::TaskServiceClient::new(eve);
    let get = v1::GetTaskRequest { task_id: "0000000000007".into(), ..v1::GetTaskRequest::default() };
    note(tasks.get_task(traced("eves-trace", get)).await.unwrap_err());
    for status in &statuses {
        clean(&node, status);
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no reason in {status:?}"));
        assert!(info.reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit()), "{info:?}");
        assert!(details.request_info().is_some_and(|info| !info.request_id.is_empty()), "{status:?}");
    }
    if let Some(story) = logged("eves-trace") {
        for part in ["user/eve", "PERMISSION_DENIED", "task/0000000000007"] {
            assert!(story.contains(part), "{part} is in the log under the request's id: {story}");
        }
    }
    node.running.shutdown().await;
}

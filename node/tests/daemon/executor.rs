//! This node's own executor: real WASM, leased, run and reported.

use crate::common::{Node, eventually, node_with, task};
use tarn_proto::v1::{self, TaskState};

/// Copies standard input to standard output.
const ECHO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (loop $more
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (i32.const 65000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
          (br $more))))))"#;

/// Adds, traps, or never ends.
const FUNCTIONS: &str = r#"(module
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "trap") unreachable)
  (func (export "spin") (loop $for_ever br $for_ever)))"#;

async fn node() -> Node {
    node_with(|config| {
        config.executors.wasm_slots = 2;
        config.executors.wasm_memory_bytes = 128 << 20;
        config.limits.shutdown_grace_ms = 200;
    })
    .await
}

async fn put(node: &Node, module: &str) -> String {
    let chunk = v1::PutArtifactRequest { artifact: String::new(), chunk: module.as_bytes().to_vec().into() };
    node.artifacts().put_artifact(tokio_stream::iter([chunk])).await.unwrap().into_inner().artifact
}

fn wasm(payload: &[u8], wasm: v1::WasmSpec) -> v1::TaskSpec {
    v1::TaskSpec { runtime: "wasm".into(), wasm: Some(wasm), ..task("jobs", payload) }
}

fn function(artifact: &str, export: &str) -> v1::TaskSpec {
    let spec = v1::WasmSpec { artifact: artifact.into(), export: export.into(), ..Default::default() };
    let mut spec = wasm(b"", spec);
    if export == "add" {
        spec.wasm.as_mut().unwrap().params = vec!["40".into(), "2".into()];
    }
    spec
}

async fn state(node: &Node, id: &str) -> TaskState {
    let get = v1::GetTaskRequest { task_id: id.into(), ..Default::default() };
    node.tasks().get_task(get).await.unwrap().into_inner().task.unwrap().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_functions_run_and_feed_on_results() {
    let node = node().await;
    let (echo, functions) = (put(&node, ECHO).await, put(&node, FUNCTIONS).await);
    let echo_of = |payload: &'static [u8]| wasm(payload, v1::WasmSpec { artifact: echo.clone(), ..Default::default() });
    let mut merge = echo_of(b"both:");
    merge.after_in_batch = vec![0, 1];
    merge.wasm.as_mut().unwrap().feed_dependency_results = true;
    let tasks = vec![echo_of(b"one"), echo_of(b"two\n"), merge, function(&functions, "add")];
    let ids = node.tasks().enqueue(v1::EnqueueRequest { tasks, ..Default::default() }).await.unwrap().into_inner().task_ids;

    let merged = node.ended(&ids[2]).await;
    assert_eq!(merged.state(), TaskState::Succeeded, "{:?}", merged.attempts);
    assert_eq!(&merged.result[..], b"5\nboth:3\none4\ntwo\n");
    assert!(merged.attempts[0].worker.len() > 1);
    assert_eq!(&node.ended(&ids[3]).await.result[..], b"42");
    assert_eq!(node.metric(r#"tarn_executor_runs_total{runtime="wasm",result="ok"}"#).await, 4.0);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_reason() {
    let node = node().await;
    let functions = put(&node, FUNCTIONS).await;
    let nowhere = format!("blake3:{}", "0".repeat(64));
    let mut lost = function(&nowhere, "add");
    lost.retry = Some(v1::RetryPolicy { max_attempts: 1, ..Default::default() });
    let mut slow = function(&functions, "spin");
    slow.attempt_timeout_ms = 1_000;
    slow.retry = Some(v1::RetryPolicy { max_attempts: 1, ..Default::default() });
    let mut large = function(&functions, "add");
    large.wasm.as_mut().unwrap().memory_bytes = 256 << 20;
    let cases = [
        (large, "MEMORY_NOT_ALLOWED"),
        (function(&functions, "trap"), "WASM_TRAP"),
        (function(&functions, "none"), "WASM_MISSING_EXPORT"),
        (function(&put(&node, "not a module").await, "add"), "WASM_INVALID_MODULE"),
        (lost, "ARTIFACT_UNAVAILABLE"),
        (slow, "TIME_LIMIT"),
    ];
    for (spec, wanted) in cases {
        let id = node.submit(spec).await;
        let ended = node.ended(&id).await;
        assert_eq!((ended.state(), ended.attempts[0].error.as_ref().unwrap().reason.as_str()), (TaskState::Dead, wanted));
        assert_eq!(ended.attempts_begun, 1, "{wanted}: another attempt would end the same way");
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_attempt_is_cancelled() {
    let node = node().await;
    let functions = put(&node, FUNCTIONS).await;
    let id = node.submit(function(&functions, "spin")).await;
    eventually(|| async { state(&node, &id).await == TaskState::Running }).await;
    let cancel = v1::CancelTaskRequest { task_id: id.clone(), ..Default::default() };
    node.tasks().cancel_task(cancel).await.unwrap();
    assert_eq!(node.ended(&id).await.state(), TaskState::Cancelled);
    eventually(|| async { node.metric("tarn_executor_running").await == 0.0 }).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_gives_its_tasks_back_and_finishes_them_after_a_restart() {
    let node = node().await;
    let functions = put(&node, FUNCTIONS).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(node.submit(function(&functions, "spin")).await);
    }
    eventually(|| async { node.metric("tarn_executor_running").await == 2.0 }).await;
    let Node { running, dir, .. } = node;
    running.shutdown().await;

    let any = "127.0.0.1:0".parse().unwrap();
    let mut config = tarn::daemon::prepare_dev(dir.path(), any, any).unwrap().config;
    config.executors.wasm = false;
    let running = tarn::daemon::start(config).await.unwrap();
    crate::common::until(|| running.is_ready()).await;
    for id in ids {
        let get = v1::GetTaskRequest { namespace: "default".into(), task_id: id, ..Default::default() };
        let task = running.consensus().read(|machine| machine.get_task(&get)).unwrap().unwrap().task.unwrap();
        assert_eq!((task.state(), task.attempts_begun), (TaskState::Ready, 0), "{task:?}");
    }
    running.shutdown().await;
}

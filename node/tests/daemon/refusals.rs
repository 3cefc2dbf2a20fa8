//! Bad input: each gives a clear error, and the node goes on.

use std::time::Duration;

use crate::common::{Node, PATIENCE, eventually, fact, node, reason, task, unfounded_node};
use tarn_client::tls::PrincipalKind;
use tarn_proto::v1;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tonic::{Code, Request, Status};

fn batch(tasks: Vec<v1::TaskSpec>) -> v1::EnqueueRequest {
    v1::EnqueueRequest { tasks, ..v1::EnqueueRequest::default() }
}

async fn refused(node: &Node, request: v1::EnqueueRequest) -> Status {
    node.tasks().enqueue(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_the_log() {
    let node = node().await;
    let status = refused(&node, batch(vec![task("q", &vec![0; (1 << 20) + 1])])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fact(&status, "step"), "validation");
    assert_eq!(fact(&status, "limit"), (1 << 20).to_string());
    assert!(!reason(&status).is_empty());

    // Larger than any message: refused before it is read into memory.
    let status = refused(&node, batch(vec![task("q", &vec![0; 20 << 20])])).await;
    assert_eq!(status.code(), Code::OutOfRange);

    let status = refused(&node, batch(vec![task("q", b""); 1_001])).await;
    assert_eq!((status.code(), fact(&status, "limit")), (Code::InvalidArgument, "1000".into()));
    let stats = node.queues().list_queues(v1::ListQueuesRequest::default()).await.unwrap().into_inner();
    assert!(stats.queues.is_empty());
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_named() {
    let node = node().await;
    let unknown = "0000000000000";
    let in_nowhere = v1::EnqueueRequest { namespace: "nowhere".into(), ..batch(vec![task("q", b"")]) };
    let cases = [
        (refused(&node, in_nowhere).await, "NAMESPACE_NOT_FOUND"),
        (node.queues().get_queue(v1::GetQueueRequest { queue: "none".into(), ..Default::default() }).await.unwrap_err(), "QUEUE_NOT_FOUND"),
        (node.tasks().get_task(v1::GetTaskRequest { task_id: unknown.into(), ..Default::default() }).await.unwrap_err(), "TASK_NOT_FOUND"),
        (
            node.workers()
                .lease_tasks(v1::LeaseTasksRequest { worker_id: unknown.into(), max_tasks: 1, ..Default::default() })
                .await
                .unwrap_err(),
            "WORKER_NOT_FOUND",
        ),
        (
            node.events().watch(v1::WatchRequest { namespace: "nowhere".into(), ..Default::default() }).await.unwrap_err(),
            "NAMESPACE_NOT_FOUND",
        ),
    ];
    for (status, wanted) in cases {
        assert_eq!((reason(&status).as_str(), status.code()), (wanted, Code::NotFound));
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_with_the_field() {
    let node = node().await;
    let get = v1::GetTaskRequest { task_id: "../../etc/passwd".into(), ..Default::default() };
    let status = node.tasks().get_task(get).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), fact(&status, "field").as_str()), ("INVALID_ID", "task_id"));
    for queue in ["", "UPPER", "a/b", &"x".repeat(65)] {
        assert_eq!(refused(&node, batch(vec![task(queue, b"")])).await.code(), Code::InvalidArgument, "{queue:?}");
    }
    let wait = v1::GetTaskRequest { task_id: "0000000000000".into(), wait_ms: 60_001, ..Default::default() };
    let status = node.tasks().get_task(wait).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), fact(&status, "limit").as_str()), ("INVALID_ARGUMENT", "60000"));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependencies_that_cannot_be_are_refused() {
    let node = node().await;
    let on = |positions: Vec<u32>| v1::TaskSpec { after_in_batch: positions, ..task("q", b"") };
    for positions in [vec![0], vec![1], vec![7]] {
        let status = refused(&node, batch(vec![on(positions.clone())])).await;
        assert!(matches!(status.code(), Code::InvalidArgument | Code::NotFound), "{positions:?}: {status:?}");
        reason(&status);
    }
    let cycle = batch(vec![on(vec![1]), on(vec![0])]);
    assert_eq!(refused(&node, cycle).await.code(), Code::InvalidArgument);
    let dangling = v1::TaskSpec { after: vec!["0000000000000".into()], ..task("q", b"") };
    let status = refused(&node, batch(vec![dangling])).await;
    assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition), "{status:?}");
    reason(&status);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gets_nothing_any_more_does_not_wait_for_work() {
    let node = node().await;
    let lease =
        |worker_id: &str| v1::LeaseTasksRequest { worker_id: worker_id.into(), max_tasks: 1, wait_ms: 60_000, ..Default::default() };
    let began = std::time::Instant::now();
    let status = node.workers().lease_tasks(lease("0000000000001")).await.unwrap_err();
    assert_eq!(reason(&status), "WORKER_NOT_FOUND");

    // One waits already when it is drained, and one comes after that.
    let worker = node.register().await;
    let mut waiting = node.workers();
    let waits = tokio::spawn({
        let request = lease(&worker);
        async move { waiting.lease_tasks(request).await }
    });
    eventually(|| async { node.metric("tarn_dispatch_waiters").await == 1.0 }).await;
    let drain = v1::DrainWorkerRequest { worker_id: worker.clone(), ..Default::default() };
    node.workers().drain_worker(drain).await.unwrap();
    assert_eq!(reason(&waits.await.unwrap().unwrap_err()), "WORKER_DRAINING");
    let status = node.workers().lease_tasks(lease(&worker)).await.unwrap_err();
    assert_eq!(reason(&status), "WORKER_DRAINING");
    assert!(began.elapsed() < PATIENCE);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_completes_nothing() {
    let node = node().await;
    let id = node.submit(task("q", b"")).await;
    let worker = node.register().await;
    let first = node.lease(&worker, 1).await.remove(0);
    let back =
        v1::FailTaskRequest { task_id: id.clone(), token: first.token, kind: v1::FailureKind::Returned.into(), ..Default::default() };
    node.workers().fail_task(back).await.unwrap();
    let second = node.lease(&worker, 1).await.remove(0);
    assert!(second.token > first.token);
    let late = v1::CompleteTaskRequest { task_id: id.clone(), token: first.token, ..Default::default() };
    let status = node.workers().complete_task(late).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), status.code()), ("STALE_TOKEN", Code::FailedPrecondition));
    node.complete(&second, b"").await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_means_one_request() {
    let node = node().await;
    let request = v1::EnqueueRequest { request_id: "r1".into(), ..batch(vec![task("q", b"one")]) };
    let first = node.tasks().enqueue(request.clone()).await.unwrap().into_inner();
    assert_eq!(node.tasks().enqueue(request.clone()).await.unwrap().into_inner(), first);
    let other = v1::EnqueueRequest { tasks: vec![task("q", b"two")], ..request };
    let status = refused(&node, other).await;
    assert_eq!((reason(&status).as_str(), status.code()), ("REQUEST_ID_REUSED", Code::AlreadyExists));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_api_is_for_users() {
    let node = node().await;
    let channel = node.dial_as(PrincipalKind::Node { id: 1 }).await;
    let status = TaskServiceClient::new(channel).enqueue(batch(vec![task("q", b"")])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "USER_CERTIFICATE_REQUIRED"));
    assert_eq!(fact(&status, "step"), "identity");
    assert_eq!(node.metric(r#"tarn_gate_refusals_total{step="identity",reason="USER_CERTIFICATE_REQUIRED"}"#).await, 1.0);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_over_says_so_and_a_trace_id_comes_back() {
    let node = node().await;
    let mut request =
        Request::new(v1::GetTaskRequest { task_id: node.submit(task("q", b"")).await, wait_ms: 30_000, ..Default::default() });
    request.metadata_mut().insert("tarn-trace-id", "my-trace".parse().unwrap());
    request.set_timeout(Duration::from_millis(500));
    // The wait ends with the deadline, and with an answer.
    let response = node.tasks().get_task(request).await.unwrap();
    assert_eq!(response.metadata().get("tarn-trace-id").unwrap(), "my-trace");
    assert_eq!(response.into_inner().task.unwrap().state(), v1::TaskState::Ready);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_cluster_refuses_in_time_and_says_that_nothing_happened() {
    let node = unfounded_node().await;
    let mut request = Request::new(batch(vec![task("q", b"")]));
    request.set_timeout(Duration::from_millis(400));
    let status = node.tasks().enqueue(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "NO_LEADER"));
    // To change the cluster it is the wrong node to ask, and no time will tell.
    let began = std::time::Instant::now();
    let remove = v1::RemoveMemberRequest { node_id: 2 };
    let status = node.cluster().remove_member(remove).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "CHANGE_REFUSED"));
    assert!(status.message().contains("not a member"), "{}", status.message());
    assert!(began.elapsed() < Duration::from_secs(5));
    let (code, text) = node.http("/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("[-] leader"), "{text}");
    assert_eq!(node.http("/readyz?exclude=leader&exclude=founded").await.0, 200);
    assert_eq!(node.http("/livez").await.0, 200);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tasks_fit_into_one_queue_and_leasing_goes_on() {
    let node = node().await;
    let before = node.metric("tarn_process_resident_memory_bytes").await;
    for _ in 0..100 {
        node.tasks().enqueue(batch(vec![task("q", b"payload"); 1_000])).await.unwrap();
    }
    let get = v1::GetQueueRequest { queue: "q".into(), ..Default::default() };
    assert_eq!(node.queues().get_queue(get).await.unwrap().into_inner().stats.unwrap().ready, 100_000);
    let worker = node.register().await;
    let leased = node.lease(&worker, 256).await;
    assert_eq!(leased.len(), 256);
    for task in &leased[..16] {
        node.complete(task, b"").await;
    }
    let after = node.metric("tarn_process_resident_memory_bytes").await;
    assert!(after - before < 512e6, "{} MB for 100,000 tasks", (after - before) / 1e6);
    assert_eq!(node.metric(r#"tarn_queue_tasks{namespace="default",queue="q",state="ready"}"#).await, 99_744.0);
    node.running.shutdown().await;
}

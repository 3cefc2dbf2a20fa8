//! Tenants over the wire: quotas are told and refused as the contract says, and a namespace that drains goes by itself.

use tarn_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::common::{Node, node, reason, task};

async fn create(node: &Node, quotas: v1::Quotas) {
    let request =
        v1::CreateNamespaceRequest { name: "team".into(), quotas: Some(quotas), environment: "stage".into(), ..Default::default() };
    node.namespaces().create_namespace(request).await.unwrap();
}

async fn enqueue(node: &Node, tasks: usize) -> Result<Vec<String>, Status> {
    let request = v1::EnqueueRequest { namespace: "team".into(), tasks: vec![task("mail", b"hello"); tasks], ..Default::default() };
    let answer = node.tasks().enqueue(request).await?;
    Ok(answer.into_inner().task_ids)
}

async fn get(node: &Node) -> Result<v1::GetNamespaceResponse, Status> {
    let request = v1::GetNamespaceRequest { name: "team".into() };
    Ok(node.namespaces().get_namespace(request).await?.into_inner())
}

/// The refusal's reason, the field and limit of its details, and when to try again.
fn told(status: &Status) -> (String, String, String, Option<std::time::Duration>) {
    let details = status.get_error_details();
    let facts = &details.error_info().expect("a refusal has details").metadata;
    let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    (reason(status), fact("field"), fact("limit"), retry)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_charge_names_the_quota_and_when_to_retry() {
    let node = node().await;
    create(&node, v1::Quotas { max_queued: Some(3), ..Default::default() }).await;
    enqueue(&node, 2).await.unwrap();
    let status = enqueue(&node, 2).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let second = std::time::Duration::from_secs(1);
    assert_eq!(told(&status), ("QUOTA_QUEUED".into(), "max_queued".into(), "3".into(), Some(second)));
    assert!(status.message().contains("has 2 tasks"), "{status}");

    let update = v1::UpdateNamespaceRequest {
        name: "team".into(),
        quotas: Some(v1::Quotas { max_queued: Some(0), ..Default::default() }),
        ..Default::default()
    };
    let updated = node.namespaces().update_namespace(update).await.unwrap().into_inner();
    assert_eq!(updated.namespace.unwrap().environment, "stage");
    enqueue(&node, 2).await.unwrap();
    let found = get(&node).await.unwrap();
    assert_eq!(found.usage.unwrap().ready, 4);
    let quota = found.quotas.iter().find(|quota| quota.quota == "max_queued").unwrap();
    assert_eq!((quota.limit, quota.used), (0, 4));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_rate_are_refused_at_the_gate_and_workers_are_let_through() {
    let node = node().await;
    create(&node, v1::Quotas::default()).await;
    enqueue(&node, 1).await.unwrap();
    let register = v1::RegisterWorkerRequest::default();
    let worker_id = node.workers().register_worker(register).await.unwrap().into_inner().worker_id;
    let lease = v1::LeaseTasksRequest { worker_id, max_tasks: 1, ..Default::default() };
    let leased = node.workers().lease_tasks(lease).await.unwrap().into_inner().tasks.remove(0);
    let limit = |limit| v1::UpdateNamespaceRequest {
        name: "team".into(),
        quotas: Some(v1::Quotas { requests_per_minute: Some(limit), ..Default::default() }),
        ..Default::default()
    };
    node.namespaces().update_namespace(limit(5)).await.unwrap();
    let mut accepted = 0;
    let status = loop {
        match enqueue(&node, 1).await {
            Ok(_) => accepted += 1,
            Err(status) => break status,
        }
        assert!(accepted < 100, "there is a limit");
    };
    // A slow machine may have earned another one meanwhile.
    assert!((5..=7).contains(&accepted), "{accepted}");
    let (reason, field, limit_told, retry) = told(&status);
    assert_eq!((reason.as_str(), field.as_str(), limit_told.as_str()), ("QUOTA_REQUESTS_PER_MINUTE", "requests_per_minute", "5"));
    assert!(retry.is_some_and(|retry| retry.as_secs() <= 12), "{retry:?}");
    // Reads count too; what a worker says about its attempt, and what is asked about the namespace itself, does not.
    let read = v1::ListTasksRequest { namespace: "team".into(), ..Default::default() };
    let _ = node.tasks().list_tasks(read.clone()).await;
    let status = node.tasks().list_tasks(read).await.unwrap_err();
    assert_eq!(crate::common::reason(&status), "QUOTA_REQUESTS_PER_MINUTE");
    let complete =
        v1::CompleteTaskRequest { namespace: leased.namespace, task_id: leased.task_id, token: leased.token, ..Default::default() };
    node.workers().complete_task(complete).await.unwrap();
    assert_eq!(get(&node).await.unwrap().usage.unwrap().ended, 1);
    node.namespaces().update_namespace(limit(0)).await.unwrap();
    enqueue(&node, 1).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_drains_and_is_gone() {
    let node = node().await;
    create(&node, v1::Quotas::default()).await;
    enqueue(&node, 3).await.unwrap();
    let delete = |drain, cancel| v1::DeleteNamespaceRequest { name: "team".into(), drain, cancel, ..Default::default() };
    let status = node.namespaces().delete_namespace(delete(false, false)).await.unwrap_err();
    assert_eq!(reason(&status), "NAMESPACE_NOT_EMPTY");
    let draining = node.namespaces().delete_namespace(delete(true, false)).await.unwrap().into_inner();
    assert!(draining.draining);
    assert_eq!(get(&node).await.unwrap().namespace.unwrap().state(), v1::NamespaceState::Draining);
    let status = enqueue(&node, 1).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NAMESPACE_DRAINING"));
    node.namespaces().delete_namespace(delete(true, true)).await.unwrap();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let gone = loop {
        match get(&node).await {
            Ok(_) => assert!(tokio::time::Instant::now() < end, "it goes by itself"),
            Err(status) => break status,
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(reason(&gone), "NAMESPACE_NOT_FOUND");
    node.running.shutdown().await;
}

//! A worker belongs to whoever registered it: nobody else leases, heartbeats or reports in its name, over calls or streams.

use std::time::Duration;

use tarn_client::tls::PrincipalKind;
use tarn_proto::v1::access_service_client::AccessServiceClient;
use tarn_proto::v1::worker_service_client::WorkerServiceClient;
use tarn_proto::v1::{self, FailureKind, work_request};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::common::{Node, PATIENCE, eventually, node, reason, task};

type Workers = WorkerServiceClient<Channel>;

/// Somebody who may work in the namespace `default`.
async fn worker(node: &Node, name: &str) -> Workers {
    node.bind(&format!("user/{name}"), "worker", "default").await;
    let channel = node.dial_as(PrincipalKind::User { name: name.into() }).await;
    WorkerServiceClient::new(channel)
}

async fn register(by: &mut Workers, namespaces: &[&str]) -> Result<String, Status> {
    let capabilities = v1::WorkerCapabilities {
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        ..v1::WorkerCapabilities::default()
    };
    let request = v1::RegisterWorkerRequest { capabilities: Some(capabilities), ..v1::RegisterWorkerRequest::default() };
    Ok(by.register_worker(request).await?.into_inner().worker_id)
}

fn lease(worker_id: &str, wait: Duration) -> v1::LeaseTasksRequest {
    v1::LeaseTasksRequest {
        worker_id: worker_id.into(),
        max_tasks: 10,
        wait_ms: wait.as_millis() as u64,
        ..v1::LeaseTasksRequest::default()
    }
}

fn open(worker_id: &str, credit: u32) -> (mpsc::Sender<v1::WorkRequest>, ReceiverStream<v1::WorkRequest>) {
    let (send, requests) = mpsc::channel(4);
    let open = v1::WorkOpen { worker_id: worker_id.into(), lease_ms: 600_000 };
    for message in [work_request::Message::Open(open), work_request::Message::Credit(credit)] {
        let request = v1::WorkRequest { correlation: 0, message: Some(message) };
        send.try_send(request).expect("there is room for two");
    }
    (send, ReceiverStream::new(requests))
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, wanted: &str) {
    let status = answer.expect_err("it must be refused");
    assert_eq!(reason(&status), wanted, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_works_as_somebody_elses_worker() {
    let node = node().await;
    let mut ada = worker(&node, "ada").await;
    let mut bob = worker(&node, "bob").await;
    let hers = register(&mut ada, &["default"]).await.unwrap();

    // There is no task yet: whoever may not lease is told so at once, and does not wait for one.
    for wait in [Duration::ZERO, 2 * PATIENCE] {
        let answer = tokio::time::timeout(PATIENCE, bob.lease_tasks(lease(&hers, wait))).await;
        refused(answer.expect("it does not wait"), "WORKER_NOT_YOURS");
    }
    let (_send, requests) = open(&hers, 1);
    refused(bob.work(requests).await, "WORKER_NOT_YOURS");
    let alive = v1::HeartbeatWorkerRequest { worker_id: hers.clone(), resources: None };
    refused(bob.heartbeat_worker(alive.clone()).await, "WORKER_NOT_YOURS");
    ada.heartbeat_worker(alive).await.unwrap();

    node.submit(task("q", b"a")).await;
    let leased = ada.lease_tasks(lease(&hers, PATIENCE)).await.unwrap().into_inner().tasks;
    let [task] = &leased[..] else { panic!("{leased:?}") };
    let beat = v1::HeartbeatTasksRequest {
        worker_id: hers.clone(),
        leases: vec![v1::TaskLease { namespace: task.namespace.clone(), task_id: task.task_id.clone(), token: task.token, progress: None }],
        lease_ms: 0,
    };
    refused(bob.heartbeat_tasks(beat.clone()).await, "WORKER_NOT_YOURS");
    // He has overheard the token.
    let complete = v1::CompleteTaskRequest {
        task_id: task.task_id.clone(),
        token: task.token,
        result: "wrong".into(),
        ..v1::CompleteTaskRequest::default()
    };
    refused(bob.complete_task(complete.clone()).await, "WORKER_NOT_YOURS");
    for kind in [FailureKind::Final, FailureKind::Returned] {
        let fail =
            v1::FailTaskRequest { task_id: task.task_id.clone(), token: task.token, kind: kind.into(), ..v1::FailTaskRequest::default() };
        refused(bob.fail_task(fail).await, "WORKER_NOT_YOURS");
    }
    let drain = v1::DrainWorkerRequest { worker_id: hers.clone(), ..v1::DrainWorkerRequest::default() };
    refused(bob.drain_worker(drain.clone()).await, "PERMISSION_DENIED");

    ada.heartbeat_tasks(beat).await.unwrap();
    let complete = v1::CompleteTaskRequest { result: "right".into(), ..complete };
    ada.complete_task(complete).await.unwrap();
    assert_eq!(node.ended(&task.task_id).await.result, &b"right"[..]);
    ada.drain_worker(drain).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_tasks_of_its_namespaces_alone() {
    let node = node().await;
    node.namespace("team").await;
    let mut ada = worker(&node, "ada").await;
    for beyond in [&[][..], &["team"], &["default", "team"]] {
        refused(register(&mut ada, beyond).await, "PERMISSION_DENIED");
    }
    let hers = register(&mut ada, &["default"]).await.unwrap();
    let elsewhere = v1::EnqueueRequest { namespace: "team".into(), tasks: vec![task("q", b"theirs")], ..v1::EnqueueRequest::default() };
    node.tasks().enqueue(elsewhere).await.unwrap();
    node.submit(task("q", b"hers")).await;
    let leased = ada.lease_tasks(lease(&hers, PATIENCE)).await.unwrap().into_inner().tasks;
    let payloads: Vec<_> = leased.iter().map(|task| task.spec.clone().unwrap().payload).collect();
    assert_eq!(payloads, [&b"hers"[..]]);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_nothing_where_its_maker_may_not_work_any_more() {
    let node = node().await;
    node.namespace("team").await;
    let mut ada = worker(&node, "ada").await;
    node.bind("user/ada", "worker", "team").await;
    let hers = register(&mut ada, &["default", "team"]).await.unwrap();
    ada.lease_tasks(lease(&hers, Duration::ZERO)).await.unwrap();
    let (_send, requests) = open(&hers, 1);
    let mut stream = ada.work(requests).await.unwrap().into_inner();

    let binding = v1::Binding { principal: "user/ada".into(), role: "worker".into(), namespace: "team".into() };
    let request = v1::DeleteBindingRequest { binding: Some(binding), ..v1::DeleteBindingRequest::default() };
    AccessServiceClient::new(node.channel.clone()).delete_binding(request).await.unwrap();
    let secret = v1::EnqueueRequest { namespace: "team".into(), tasks: vec![task("q", b"secret")], ..v1::EnqueueRequest::default() };
    node.tasks().enqueue(secret).await.unwrap();
    refused(ada.lease_tasks(lease(&hers, Duration::ZERO)).await, "PERMISSION_DENIED");
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.message().await {
                Ok(Some(message)) => assert!(!format!("{message:?}").contains("secret"), "{message:?}"),
                Ok(None) => panic!("it says why it ends"),
                Err(status) => return status,
            }
        }
    });
    refused::<()>(Err(ended.await.unwrap()), "PERMISSION_DENIED");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_gives_back_what_a_users_worker_was_not_given() {
    let node = node().await;
    let mut ada = worker(&node, "ada").await;
    let hers = register(&mut ada, &["default"]).await.unwrap();
    let (send, requests) = open(&hers, 100);
    // A client that does not read: most of what is leased for it waits in the node.
    let stream = ada.work(requests).await.unwrap();
    for _ in 0..40 {
        node.submit(task("q", &[0; 300_000])).await;
    }
    eventually(|| async { node.metric("tarn_leases_granted_total").await >= 20.0 }).await;
    drop((stream, send));
    // It is the node that says so, and the worker is hers.
    eventually(|| async { node.metric("tarn_leases_returned_total").await >= 10.0 }).await;
    node.running.shutdown().await;
}

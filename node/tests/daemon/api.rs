//! Every API once, as it is meant to be used, over real connections.

use crate::common::{eventually, node, reason, task};
use tarn_proto::v1::{self, TaskState};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_leased_completed_and_read() {
    let node = node().await;
    let id = node.submit(task("q", b"input")).await;
    let worker = node.register().await;
    let leased = node.lease(&worker, 1).await.remove(0);
    assert_eq!((leased.task_id.as_str(), leased.namespace.as_str(), leased.attempt), (id.as_str(), "default", 1));
    assert_eq!(&leased.spec.as_ref().unwrap().payload[..], b"input");

    let lease = v1::TaskLease { namespace: String::new(), task_id: id.clone(), token: leased.token, progress: None };
    let beat = v1::HeartbeatTasksRequest { worker_id: worker.clone(), leases: vec![lease], lease_ms: 5_000 };
    let beat = node.workers().heartbeat_tasks(beat).await.unwrap().into_inner();
    assert_eq!(beat.leases[0].status(), v1::LeaseStatus::Held);

    // Whoever waits for the end is told as it happens.
    let waiting = node.ended(&id);
    let (ended, ()) = tokio::join!(waiting, node.complete(&leased, b"output"));
    assert_eq!((ended.state(), &ended.result[..]), (TaskState::Succeeded, &b"output"[..]));

    let listed = v1::ListTasksRequest { queue: "q".into(), ..v1::ListTasksRequest::default() };
    let listed = node.tasks().list_tasks(listed).await.unwrap().into_inner();
    assert_eq!(listed.tasks.len(), 1);
    assert!(listed.revision > 0);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let node = node().await;
    let tasks = (0..25).map(|_| task("q", b"")).collect();
    let ids = node.tasks().enqueue(v1::EnqueueRequest { tasks, ..v1::EnqueueRequest::default() }).await.unwrap().into_inner().task_ids;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListTasksRequest { page_size: 10, page_token: token, ..v1::ListTasksRequest::default() };
        let page = node.tasks().list_tasks(request).await.unwrap().into_inner();
        seen.extend(page.tasks.into_iter().map(|task| task.task_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_dies_is_requeued_cancelled_and_purged() {
    let node = node().await;
    let id = node.submit(task("q", b"")).await;
    let worker = node.register().await;
    let leased = node.lease(&worker, 1).await.remove(0);
    let fail = v1::FailTaskRequest {
        task_id: id.clone(),
        token: leased.token,
        kind: v1::FailureKind::Final.into(),
        error: Some(v1::TaskError { reason: "BAD_INPUT".into(), message: "it never works".into() }),
        logs: "line\n".into(),
        ..v1::FailTaskRequest::default()
    };
    let failed = node.workers().fail_task(fail).await.unwrap().into_inner();
    assert_eq!(failed.state(), TaskState::Dead);
    let logs = v1::GetTaskLogsRequest { task_id: id.clone(), ..v1::GetTaskLogsRequest::default() };
    let logs = node.tasks().get_task_logs(logs).await.unwrap().into_inner().logs;
    assert_eq!(&logs[0].text[..], b"line\n");

    let stats = node.queues().get_queue(v1::GetQueueRequest { queue: "q".into(), ..Default::default() }).await.unwrap();
    assert_eq!(stats.into_inner().stats.unwrap().dead, 1);
    let requeue = v1::RequeueDeadRequest { queue: "q".into(), ..Default::default() };
    assert_eq!(node.queues().requeue_dead(requeue).await.unwrap().into_inner().requeued, 1);
    let cancel = v1::CancelTaskRequest { task_id: id.clone(), ..Default::default() };
    assert_eq!(node.tasks().cancel_task(cancel).await.unwrap().into_inner().state(), TaskState::Cancelled);

    node.submit(task("q", b"")).await;
    let purge = v1::PurgeQueueRequest { queue: "q".into(), states: vec![TaskState::Ready.into()], ..Default::default() };
    assert_eq!(node.queues().purge_queue(purge).await.unwrap().into_inner().purged, 1);
    let queues = node.queues().list_queues(v1::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    assert_eq!(queues.len(), 1);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_register_beat_are_listed_and_drain() {
    let node = node().await;
    let worker = node.register().await;
    let beat = v1::HeartbeatWorkerRequest { worker_id: worker.clone(), resources: None };
    let beat = node.workers().heartbeat_worker(beat).await.unwrap().into_inner();
    assert_eq!(beat.state(), v1::WorkerState::Active);
    let drain = v1::DrainWorkerRequest { worker_id: worker.clone(), ..Default::default() };
    assert_eq!(node.workers().drain_worker(drain).await.unwrap().into_inner().running, 0);
    let workers = node.workers().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!(workers[0].state(), v1::WorkerState::Draining);
    let lease = v1::LeaseTasksRequest { worker_id: worker, max_tasks: 1, ..Default::default() };
    assert_eq!(reason(&node.workers().lease_tasks(lease).await.unwrap_err()), "WORKER_DRAINING");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn named_leases_are_acquired_renewed_read_and_released() {
    let node = node().await;
    let acquire = v1::AcquireLeaseRequest { name: "lock".into(), holder: "me".into(), ..Default::default() };
    let lease = node.leases().acquire_lease(acquire).await.unwrap().into_inner().lease.unwrap();
    let renew = v1::RenewLeaseRequest { name: "lock".into(), token: lease.token, ttl_ms: 60_000, ..Default::default() };
    let renewed = node.leases().renew_lease(renew).await.unwrap().into_inner().lease.unwrap();
    assert!(renewed.expires_at_ms > lease.expires_at_ms);
    let get = v1::GetLeaseRequest { name: "lock".into(), ..Default::default() };
    assert_eq!(node.leases().get_lease(get.clone()).await.unwrap().into_inner().lease.unwrap().holder, "me");
    let leases = node.leases().list_leases(v1::ListLeasesRequest::default()).await.unwrap().into_inner().leases;
    assert_eq!(leases.len(), 1);
    let release = v1::ReleaseLeaseRequest { name: "lock".into(), token: lease.token, ..Default::default() };
    node.leases().release_lease(release).await.unwrap();
    assert_eq!(node.leases().get_lease(get).await.unwrap_err().code(), tonic::Code::NotFound);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_are_read_and_cancelled() {
    let node = node().await;
    let action = |action| Some(Box::new(v1::TimerAction { action: Some(action) }));
    let schedule = v1::ScheduleTimerRequest {
        delay_ms: 50,
        action: action(v1::timer_action::Action::Enqueue(task("timed", b""))),
        ..Default::default()
    };
    let timer = node.timers().schedule_timer(schedule).await.unwrap().into_inner();
    let get = v1::GetTimerRequest { timer_id: timer.timer_id, ..Default::default() };
    eventually(|| async {
        let timer = node.timers().get_timer(get.clone()).await.unwrap().into_inner().timer.unwrap();
        timer.state() == v1::TimerState::Fired && !timer.task_id.is_empty()
    })
    .await;

    let later = v1::ScheduleTimerRequest {
        delay_ms: 600_000,
        action: action(v1::timer_action::Action::Mark("later".into())),
        ..Default::default()
    };
    let later = node.timers().schedule_timer(later).await.unwrap().into_inner().timer_id;
    let cancel = v1::CancelTimerRequest { timer_id: later, ..Default::default() };
    node.timers().cancel_timer(cancel).await.unwrap();
    let timers = node.timers().list_timers(v1::ListTimersRequest::default()).await.unwrap().into_inner().timers;
    assert_eq!(timers.len(), 1);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_created_listed_and_deleted() {
    let node = node().await;
    let create = v1::CreateNamespaceRequest { name: "team".into(), ..Default::default() };
    assert_eq!(node.namespaces().create_namespace(create).await.unwrap().into_inner().namespace.unwrap().weight, 100);
    let listed = node.namespaces().list_namespaces(v1::ListNamespacesRequest {}).await.unwrap().into_inner().namespaces;
    assert_eq!(listed.iter().map(|namespace| namespace.name.as_str()).collect::<Vec<_>>(), ["default", "team"]);
    let delete = v1::DeleteNamespaceRequest { name: "team".into(), ..Default::default() };
    node.namespaces().delete_namespace(delete).await.unwrap();
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_put_read_and_listed() {
    let node = node().await;
    let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
    let chunks = bytes.chunks(100_000).map(|chunk| v1::PutArtifactRequest { artifact: String::new(), chunk: chunk.to_vec().into() });
    let put = node.artifacts().put_artifact(tokio_stream::iter(chunks.collect::<Vec<_>>())).await.unwrap().into_inner();
    assert_eq!(put.bytes, 300_000);
    let mut chunks = node.artifacts().get_artifact(v1::GetArtifactRequest { artifact: put.artifact.clone() }).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(message) = chunks.message().await.unwrap() {
        read.extend_from_slice(&message.chunk);
    }
    assert_eq!(read, bytes);
    let listed = node.artifacts().list_artifacts(v1::ListArtifactsRequest {}).await.unwrap().into_inner().artifacts;
    assert_eq!(listed[0].artifact, put.artifact);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_describes_itself() {
    let node = node().await;
    let cluster = node.cluster().get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!((cluster.leader_id, cluster.answering_node_id, cluster.members.len()), (1, 1, 1));
    node.running.shutdown().await;
}

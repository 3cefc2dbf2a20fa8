//! Work and Watch: over streams, with clients that vanish.

use std::time::Duration;

use crate::common::{Node, PATIENCE, eventually, node, reason, task};
use tarn_proto::v1::{self, EventKind, work_request, work_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

struct Work {
    send: mpsc::Sender<v1::WorkRequest>,
    receive: Streaming<v1::WorkResponse>,
}

impl Work {
    async fn open(node: &Node, worker: &str, credit: u32) -> Self {
        let (send, requests) = mpsc::channel(64);
        let open = v1::WorkOpen { worker_id: worker.into(), lease_ms: 5_000 };
        send.send(message(0, work_request::Message::Open(open))).await.unwrap();
        let receive = node.workers().work(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut work = Self { send, receive };
        work.say(0, work_request::Message::Credit(credit)).await;
        work
    }

    async fn say(&mut self, correlation: u64, what: work_request::Message) {
        self.send.send(message(correlation, what)).await.unwrap();
    }

    async fn hear(&mut self) -> v1::WorkResponse {
        let heard = tokio::time::timeout(PATIENCE, self.receive.message()).await.expect("silence");
        heard.unwrap().expect("the stream goes on")
    }

    async fn task(&mut self) -> v1::LeasedTask {
        match self.hear().await.message {
            Some(work_response::Message::Task(task)) => *task,
            other => panic!("{other:?}"),
        }
    }
}

fn message(correlation: u64, message: work_request::Message) -> v1::WorkRequest {
    v1::WorkRequest { correlation, message: Some(message) }
}

fn complete(task: &v1::LeasedTask) -> work_request::Message {
    work_request::Message::Complete(v1::CompleteTaskRequest { task_id: task.task_id.clone(), token: task.token, ..Default::default() })
}

async fn ready(node: &Node, queue: &str) -> u64 {
    let get = v1::GetQueueRequest { queue: queue.into(), ..Default::default() };
    node.queues().get_queue(get).await.unwrap().into_inner().stats.unwrap().ready
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_over_one_stream() {
    let node = node().await;
    let worker = node.register().await;
    let mut work = Work::open(&node, &worker, 2).await;
    // The worker waits; the task wakes it.
    let id = node.submit(task("q", b"a")).await;
    let leased = work.task().await;
    assert_eq!(leased.task_id, id);

    let lease = v1::TaskLease { namespace: String::new(), task_id: id.clone(), token: leased.token, progress: None };
    let beat = v1::HeartbeatTasksRequest { worker_id: worker.clone(), leases: vec![lease], lease_ms: 0 };
    work.say(7, work_request::Message::Heartbeat(beat)).await;
    let heard = work.hear().await;
    assert_eq!(heard.correlation, 7);
    assert!(matches!(heard.message, Some(work_response::Message::Heartbeat(_))));

    work.say(8, complete(&leased)).await;
    let heard = work.hear().await;
    assert_eq!((heard.correlation, matches!(heard.message, Some(work_response::Message::Completed(_)))), (8, true));
    // Stale now.
    work.say(9, complete(&v1::LeasedTask { token: leased.token + 1, ..leased })).await;
    match work.hear().await.message {
        Some(work_response::Message::Rejected(rejection)) => assert_eq!(rejection.reason, "STALE_TOKEN"),
        other => panic!("{other:?}"),
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credit_bounds_what_a_worker_is_given() {
    let node = node().await;
    for _ in 0..5 {
        node.submit(task("q", b"")).await;
    }
    let worker = node.register().await;
    let mut work = Work::open(&node, &worker, 2).await;
    let first = work.task().await;
    work.task().await;
    assert_eq!(ready(&node, "q").await, 3);
    work.say(1, complete(&first)).await;
    assert!(matches!(work.hear().await.message, Some(work_response::Message::Completed(_))));
    assert_eq!(ready(&node, "q").await, 3);
    work.say(0, work_request::Message::Credit(1)).await;
    work.task().await;
    assert_eq!(ready(&node, "q").await, 2);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_lost_leases_and_drains_are_pushed() {
    let node = node().await;
    let worker = node.register().await;
    let (soft, hard) = (node.submit(task("q", b"")).await, node.submit(task("q", b"")).await);
    let mut work = Work::open(&node, &worker, 2).await;
    work.task().await;
    work.task().await;
    for (id, force, wanted) in [(&soft, false, v1::LeaseStatus::CancelRequested), (&hard, true, v1::LeaseStatus::Lost)] {
        let cancel = v1::CancelTaskRequest { task_id: id.clone(), force, ..Default::default() };
        node.tasks().cancel_task(cancel).await.unwrap();
        match work.hear().await.message {
            Some(work_response::Message::Notice(report)) => {
                assert_eq!((&report.task_id, report.status()), (id, wanted))
            }
            other => panic!("{other:?}"),
        }
    }
    node.workers().drain_worker(v1::DrainWorkerRequest { worker_id: worker, ..Default::default() }).await.unwrap();
    assert!(matches!(work.hear().await.message, Some(work_response::Message::Draining(true))));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vanished_worker_was_not_given_goes_back_at_once() {
    let node = node().await;
    let worker = node.register().await;
    // Much credit, and a client that never reads: most of it waits in this node.
    let (send, requests) = mpsc::channel(4);
    let open = v1::WorkOpen { worker_id: worker.clone(), lease_ms: 600_000 };
    send.send(message(0, work_request::Message::Open(open))).await.unwrap();
    send.send(message(0, work_request::Message::Credit(200))).await.unwrap();
    let stream = node.workers().work(ReceiverStream::new(requests)).await.unwrap();
    for _ in 0..200 {
        node.submit(task("q", &[0; 300_000])).await;
    }
    // The client does not read, so the node stops leasing for it: memory is bounded.
    eventually(|| async { ready(&node, "q").await <= 200 - 32 }).await;
    drop((stream, send));
    // What was on the wire stays leased; what was not goes back.
    eventually(|| async { node.metric("tarn_leases_returned_total").await >= 30.0 }).await;
    eventually(|| async { ready(&node, "q").await >= 180 }).await;
    eventually(|| async { node.metric("tarn_work_streams").await == 0.0 }).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_that_is_given_up_keeps_no_task() {
    let node = node().await;
    let worker = node.register().await;
    let lease = v1::LeaseTasksRequest { worker_id: worker, max_tasks: 1, wait_ms: 60_000, ..Default::default() };
    let mut client = node.workers();
    let polling = tokio::spawn(async move { client.lease_tasks(lease).await });
    eventually(|| async { node.metric("tarn_dispatch_waiters").await == 1.0 }).await;
    polling.abort();
    let _ = polling.await;
    // The wait is over when the node has noticed; a task that comes before is returned.
    let id = node.submit(task("q", b"")).await;
    let other = node.register().await;
    let leased = node.lease(&other, 1).await;
    assert_eq!(leased[0].task_id, id);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_wakes_one_of_many_waiting_workers() {
    let node = node().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let worker = node.register().await;
        streams.push(Work::open(&node, &worker, 1).await);
    }
    eventually(|| async { node.metric("tarn_dispatch_waiters").await == 16.0 }).await;
    let empty = node.metric("tarn_lease_proposals_empty_total").await;
    for _ in 0..10 {
        let id = node.submit(task("q", b"")).await;
        let question = v1::GetTaskRequest { task_id: id, ..Default::default() };
        eventually(|| async {
            node.tasks().get_task(question.clone()).await.unwrap().into_inner().task.unwrap().state() == v1::TaskState::Running
        })
        .await;
    }
    assert!(node.metric("tarn_lease_proposals_empty_total").await - empty <= 2.0, "a herd");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_stream_begins_with_open_and_a_known_worker() {
    let node = node().await;
    let first = |what| tokio_stream::iter(vec![message(0, what)]);
    let status = node.workers().work(first(work_request::Message::Credit(1))).await.unwrap_err();
    assert_eq!(reason(&status), "STREAM_PROTOCOL");
    let open = v1::WorkOpen { worker_id: "0000000000000".into(), lease_ms: 0 };
    let status = node.workers().work(first(work_request::Message::Open(open))).await.unwrap_err();
    assert_eq!((reason(&status).as_str(), status.code()), ("WORKER_NOT_FOUND", Code::NotFound));
    node.running.shutdown().await;
}

async fn next(watch: &mut Streaming<v1::WatchResponse>) -> v1::WatchResponse {
    tokio::time::timeout(PATIENCE, watch.message()).await.expect("silence").unwrap().expect("the watch goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_without_gap_or_repeat() {
    let node = node().await;
    let from_now = v1::WatchRequest { from_now: true, ..Default::default() };
    let mut watch = node.events().watch(from_now).await.unwrap().into_inner();
    let start = next(&mut watch).await;
    assert!(start.events.is_empty());
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(node.submit(task("q", b"")).await);
    }
    let (mut seen, mut revision) = (Vec::new(), start.revision);
    // Breaks off now and then, and resumes.
    while seen.len() < ids.len() {
        let resume = v1::WatchRequest { after_revision: revision, queue: "q".into(), ..Default::default() };
        let mut watch = node.events().watch(resume).await.unwrap().into_inner();
        let response = next(&mut watch).await;
        assert!(response.revision >= revision);
        revision = response.revision;
        let enqueued = response.events.into_iter().filter(|event| event.kind() == EventKind::TaskEnqueued);
        seen.extend(enqueued.map(|event| event.subject));
    }
    assert_eq!(seen, ids);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gives_signs_of_life_filters_and_ends_with_its_client() {
    let node = node().await;
    let id = node.submit(task("q", b"")).await;
    let one = v1::WatchRequest { subject: id.clone(), ..Default::default() };
    let mut watch = node.events().watch(one).await.unwrap().into_inner();
    let first = next(&mut watch).await;
    assert!(first.events.iter().all(|event| event.subject == id));
    node.submit(task("q", b"")).await;
    let beat = next(&mut watch).await;
    assert!(beat.events.is_empty());
    assert_eq!(node.metric("tarn_watch_streams").await, 1.0);
    drop(watch);
    eventually(|| async { node.metric("tarn_watch_streams").await == 0.0 }).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_clear_status_when_the_node_stops() {
    let node = node().await;
    let worker = node.register().await;
    let mut work = Work::open(&node, &worker, 1).await;
    let mut watch = node.events().watch(v1::WatchRequest { from_now: true, ..Default::default() }).await.unwrap().into_inner();
    next(&mut watch).await;
    let Node { running, .. } = node;
    let stopping = tokio::spawn(running.shutdown());
    let end = |status: Status| (status.code(), reason(&status));
    let stopped = (Code::Unavailable, "NODE_STOPPING".to_owned());
    assert_eq!(end(work.receive.message().await.unwrap_err()), stopped);
    assert_eq!(end(watch.message().await.unwrap_err()), stopped);
    tokio::time::timeout(Duration::from_secs(20), stopping).await.unwrap().unwrap();
}

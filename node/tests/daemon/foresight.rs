//! Whoever waits for work asks for a task as soon as it is proposed, and mostly gets it in the log entry that brings it.

use std::time::Duration;

use tarn_machine::ids::Id;
use tarn_proto::v1;

use crate::common::{Node, eventually, node, task};

/// The log index in which an id was given.
fn index_of(id: &str) -> u64 {
    id.parse::<Id>().expect("an id").index()
}

async fn somebody_waits(node: &Node) {
    eventually(async || node.metric("tarn_dispatch_waiters").await >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_waited_for_is_leased_in_the_entry_that_brings_it() {
    let node = node().await;
    let worker = node.register().await;
    let mut together = 0;
    for _ in 0..30 {
        let (waits, submits) = tokio::join!(node.lease(&worker, 1), async {
            somebody_waits(&node).await;
            node.submit(task("q", b"x")).await
        });
        let [leased] = &waits[..] else { panic!("{waits:?}") };
        assert_eq!(leased.task_id, submits);
        let (enqueued, granted) = (index_of(&submits), Id(leased.token).index());
        assert!(granted >= enqueued);
        together += u32::from(granted == enqueued);
        node.complete(leased, b"").await;
    }
    // A machine that is busy with something else may be too late for some of them.
    assert!(together > 0, "not one of thirty was leased when it came");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_something_else_waits_on() {
    let node = node().await;
    let capabilities = v1::WorkerCapabilities { queues: vec!["wanted".into()], ..v1::WorkerCapabilities::default() };
    let register = v1::RegisterWorkerRequest { capabilities: Some(capabilities), ..v1::RegisterWorkerRequest::default() };
    let worker = node.workers().register_worker(register).await.unwrap().into_inner().worker_id;
    let empty = node.metric("tarn_lease_proposals_empty_total").await;
    let (leased, wanted) = tokio::join!(node.lease(&worker, 5), async {
        somebody_waits(&node).await;
        for queue in ["other", "another"] {
            node.submit(task(queue, b"x")).await;
        }
        // It cannot be run yet, and no lease comes with it.
        let later = v1::TaskSpec { not_before_at_ms: now_ms() + 600_000, ..task("wanted", b"later") };
        node.submit(later).await;
        assert_eq!(node.metric("tarn_lease_proposals_empty_total").await, empty, "nobody asked");
        node.submit(task("wanted", b"x")).await
    });
    assert_eq!(leased.iter().map(|task| &task.task_id).collect::<Vec<_>>(), [&wanted]);
    node.running.shutdown().await;
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).expect("a date that fits")
}

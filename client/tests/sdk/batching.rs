//! Submissions in batches.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tarn_client::{BatchOptions, Batcher, Code, Error, Task};
use tonic::Status;

use crate::fake::{Fake, Fault, refuse};

fn options() -> BatchOptions {
    BatchOptions { linger: Duration::from_millis(20), ..BatchOptions::default() }
}

#[tokio::test]
async fn many_callers_share_few_calls() {
    let (fake, _node, client) = Fake::alone().await;
    let batcher = Batcher::new(client, options());
    fake.fault("enqueue", Fault::DoThenFail(Status::unavailable("lost")));
    let ids = join_all((0..200).map(|_| batcher.enqueue(Task::new("q")))).await;
    let ids: BTreeSet<String> = ids.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 200);
    fake.with(|state| {
        assert_eq!(state.tasks.len(), 200);
        assert!(state.count("enqueue") <= 20, "{} calls", state.count("enqueue"));
    });
}

#[tokio::test]
async fn bad_tasks_fail_alone() {
    let (fake, _node, client) = Fake::alone().await;
    let batcher = Batcher::new(client, options());
    let queue = |index: u32| if index % 16 == 3 { "BAD" } else { "q" };
    let answers = join_all((0..64).map(|index| batcher.enqueue(Task::new(queue(index))))).await;
    for (index, answer) in (0..).zip(answers) {
        match queue(index) {
            "BAD" => assert_eq!(answer.unwrap_err().reason(), "INVALID_QUEUE"),
            _ => drop(answer.unwrap()),
        }
    }
    assert_eq!(fake.with(|state| state.tasks.len()), 60);
}

#[tokio::test]
async fn a_refusal_of_the_caller_is_everybodys() {
    let (fake, _node, client) = Fake::alone().await;
    let batcher = Batcher::new(client, BatchOptions { max_tasks: 10, linger: Duration::from_secs(5), ..options() });
    fake.fault("enqueue", Fault::Fail(refuse(Code::PermissionDenied, "FORBIDDEN", "ask for the role")));
    let answers = join_all((0..10).map(|_| batcher.enqueue(Task::new("q")))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap_err().reason() == "FORBIDDEN"));
    assert_eq!(fake.with(|state| state.count("enqueue")), 1);
}

#[tokio::test]
async fn large_tasks_fill_a_batch_and_positions_are_refused() {
    let (fake, _node, client) = Fake::alone().await;
    let batcher = Batcher::new(client, BatchOptions { max_bytes: 1000, linger: Duration::from_secs(5), ..options() });
    let big = || Task::new("q").payload(vec![0; 600]);
    for answer in join_all((0..8).map(|_| batcher.enqueue(big()))).await {
        answer.unwrap();
    }
    assert_eq!(fake.with(|state| state.count("enqueue")), 4);
    let error = batcher.enqueue(Task::new("q").after_in_batch(0)).await.unwrap_err();
    assert!(matches!(error, Error::Config(_)));
}

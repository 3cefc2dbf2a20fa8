//! Commands of callers that wait at the same time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, join_all};
use tarn_client::proto::command::Body;
use tarn_client::{Client, Code, Error, Fate, Task};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake::{Fake, Fault, PATIENCE, State, refuse};

/// Less than a try at one node takes: whoever is done by then waited for nobody's try.
const SOON: Duration = Duration::from_secs(4);

fn enqueue(client: &Client, queue: &str) -> BoxFuture<'static, Result<String, Error>> {
    let (client, task) = (client.clone(), Task::new(queue));
    async move { client.enqueue(task).await }.boxed()
}

async fn crowd(client: &Client, callers: usize) -> Vec<Result<String, Error>> {
    join_all((0..callers).map(|_| enqueue(client, "q"))).await
}

/// The ids that all of them got, each its own.
fn ids(answers: Vec<Result<String, Error>>) -> BTreeSet<String> {
    let count = answers.len();
    let ids: BTreeSet<String> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), count);
    ids
}

fn tasks(state: &State) -> BTreeSet<String> {
    state.tasks.keys().map(u64::to_string).collect()
}

/// What a node says that is older than batches.
fn unread() -> Status {
    let details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "tarn", [("field".into(), "command.body".into())]);
    Status::with_error_details(Code::InvalidArgument, "the message has no command that this node knows", details)
}

#[tokio::test]
async fn everybody_gets_the_outcome_of_its_own_command() {
    let (fake, _node, client) = Fake::streaming().await;
    let queue = |index: usize| if index % 10 == 3 { "BAD" } else { "q" };
    let submissions = join_all((0..600).map(|index| enqueue(&client, queue(index))));
    let name = |index: usize| format!("lease-{}", index % 50);
    let leases = join_all((0..100).map(|index| {
        let client = client.clone();
        async move { client.acquire_lease(&name(index), &index.to_string(), PATIENCE).await }
    }));
    let (submissions, leases) = tokio::join!(submissions, leases);
    let (good, bad): (Vec<_>, Vec<_>) = submissions.into_iter().enumerate().partition(|(index, _)| queue(*index) == "q");
    for (_, answer) in bad {
        let error = answer.unwrap_err();
        assert_eq!(error.reason(), "INVALID_QUEUE");
        assert_eq!(error.refusal().unwrap().field.as_deref(), Some("tasks[0].queue"));
        assert_eq!(error.refusal().unwrap().request_id.as_ref().map(String::len), Some(26), "the batch's");
    }
    let good = ids(good.into_iter().map(|(_, answer)| answer).collect());
    let mut held = 0;
    for (index, answer) in leases.into_iter().enumerate() {
        match answer {
            Ok(lease) => {
                assert_eq!((lease.name, lease.holder), (name(index), index.to_string()));
                held += 1;
            }
            Err(error) => assert_eq!(error.reason(), "LEASE_HELD"),
        }
    }
    assert_eq!(held, 50);
    fake.with(|state| {
        assert_eq!(tasks(state), good);
        assert!(state.messages.len() < 30, "{} messages", state.messages.len());
        for message in &state.messages {
            assert!(matches!(message, Body::Batch(batch) if batch.commands.len() <= 256 && batch.request_id.len() == 26));
        }
    });
}

#[tokio::test]
async fn who_finds_nobody_goes_alone() {
    let (fake, _node, client) = Fake::streaming().await;
    for _ in 0..3 {
        client.enqueue(Task::new("q")).await.unwrap();
    }
    fake.with(|state| {
        assert_eq!((state.messages.len(), state.batches(), state.tasks.len()), (3, 0, 3));
        assert!(state.messages.iter().all(|message| message.request_id().len() == 26));
    });
}

#[tokio::test]
async fn large_commands_named_ones_and_those_with_another_deadline_go_alone() {
    let (fake, _node, client) = Fake::streaming().await;
    let large = || Task::new("q").payload(vec![0; 64 << 10]);
    let other = client.with_deadline(client.deadline() / 2);
    let (one, two, three, four, five, six) = tokio::join!(
        client.enqueue(large()),
        client.enqueue(large()),
        client.enqueue_once("mine", [Task::new("q")]),
        client.enqueue_once("mine too", [Task::new("q")]),
        client.enqueue(Task::new("q")),
        other.enqueue(Task::new("q")),
    );
    let named = [three, four].map(|answer| answer.map(|mut ids| ids.pop().unwrap()));
    ids([one, two, five, six].into_iter().chain(named).collect());
    fake.with(|state| assert_eq!((state.messages.len(), state.batches()), (6, 0)));
    // The same time is no other.
    let same = client.with_deadline(client.deadline());
    ids(join_all([enqueue(&client, "q"), enqueue(&same, "q")]).await);
    fake.with(|state| assert_eq!((state.messages.len(), state.batches()), (7, 1)));
}

#[tokio::test]
async fn a_batch_that_the_gate_refuses_goes_one_by_one() {
    let (fake, _node, client) = Fake::streaming().await;
    let queues = ["q", "forbidden", "q", "BAD", "q"];
    let answers = join_all(queues.map(|queue| enqueue(&client, queue))).await;
    let reasons: Vec<_> = answers.iter().map(|answer| answer.as_ref().map_or_else(Error::reason, |_| "")).collect();
    assert_eq!(reasons, ["", "FORBIDDEN", "", "INVALID_QUEUE", ""]);
    fake.with(|state| assert_eq!((state.messages.len(), state.batches(), state.tasks.len()), (6, 1, 3)));
    // Batches go on.
    ids(crowd(&client, 5).await);
    fake.with(|state| assert_eq!((state.messages.len(), state.batches()), (7, 2)));
}

#[tokio::test]
async fn a_cluster_without_batches_is_asked_for_one_only_once() {
    for refusal in [unread(), refuse(Code::FailedPrecondition, "CLUSTER_VERSION_TOO_LOW", "raise it")] {
        let (fake, _node, client) = Fake::streaming().await;
        fake.fault("batch", Fault::Fail(refusal));
        let mut submitted = ids(crowd(&client, 20).await);
        submitted.append(&mut ids(crowd(&client, 20).await));
        fake.with(|state| {
            assert_eq!((state.messages.len(), state.batches()), (41, 1));
            assert_eq!(tasks(state), submitted);
        });
    }
    // A node that takes commands only as calls.
    let (fake, _node, client) = Fake::alone().await;
    let submitted = ids(crowd(&client, 20).await);
    fake.with(|state| {
        assert_eq!(state.count("enqueue"), 20);
        assert_eq!(tasks(state), submitted);
    });
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_repeated_as_it_was() {
    let (fake, _node, client) = Fake::streaming().await;
    fake.fault("batch", Fault::DoThenFail(Status::unavailable("lost")));
    let submitted = ids(crowd(&client, 20).await);
    fake.with(|state| {
        assert_eq!((state.messages.len(), state.batches()), (2, 2));
        assert_eq!(state.messages[0], state.messages[1]);
        assert_eq!(tasks(state), submitted);
    });
}

/// As where the repeat meets a node that is too old to read it, or a role that was taken back meanwhile.
#[tokio::test]
async fn no_refusal_of_a_repeat_has_anything_done_twice() {
    let internal = || refuse(Code::Internal, "INTERNAL", "who knows what was done");
    for refusal in [unread(), refuse(Code::PermissionDenied, "FORBIDDEN", "ask for the role"), internal()] {
        let (fake, _node, client) = Fake::streaming().await;
        fake.fault("batch", Fault::DoThenFail(Status::unavailable("lost")));
        fake.fault("batch", Fault::Fail(refusal));
        for answer in crowd(&client, 20).await {
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::Unavailable { tries: 2, fate: Fate::Unknown, .. }), "{error:?}");
        }
        fake.with(|state| assert_eq!((state.messages.len(), state.tasks.len()), (2, 20)));
    }
    // A fault of the node's own is no proof that nothing was done.
    let (fake, _node, client) = Fake::streaming().await;
    fake.fault("batch", Fault::Fail(internal()));
    assert!(crowd(&client, 20).await.into_iter().all(|answer| answer.unwrap_err().reason() == "INTERNAL"));
    fake.with(|state| assert_eq!(state.messages.len(), 1));
}

#[tokio::test]
async fn where_nobody_listens_everybody_learns_that_nothing_was_done() {
    let fake = Fake::new();
    let node = fake.node().await;
    let client = fake.builder(&[&node]).deadline(Duration::from_millis(400)).connect_lazy().unwrap();
    drop(node);
    let began = Instant::now();
    for answer in crowd(&client, 20).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Unavailable { fate: Fate::NotDone, .. }), "{error:?}");
    }
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn time_is_up_for_everybody_and_nobody_knows() {
    let (fake, _node, client) = Fake::streaming().await;
    let hasty = client.with_deadline(Duration::from_millis(400));
    fake.fault("batch", Fault::Hang);
    let began = Instant::now();
    for answer in crowd(&hasty, 20).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded { fate: Fate::Unknown, .. }), "{error:?}");
    }
    assert!(began.elapsed() < SOON);
    ids(crowd(&hasty, 20).await);
}

#[tokio::test]
async fn who_gives_up_before_leaving_takes_its_command_along() {
    let (fake, _node, client) = Fake::streaming().await;
    let mut calls: Vec<_> = (0..10).map(|_| enqueue(&client, "q")).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    calls.truncate(7);
    drop(calls.remove(0));
    let submitted = ids(join_all(calls).await);
    fake.with(|state| {
        assert_eq!(state.messages.len(), 1);
        assert_eq!((tasks(state), state.tasks.len()), (submitted, 6));
    });
}

#[tokio::test]
async fn who_gives_up_after_leaving_disturbs_nobody() {
    let (fake, _node, client) = Fake::streaming().await;
    fake.fault("batch", Fault::Hang);
    let mut calls: Vec<_> = (0..10).map(|_| tokio::spawn(enqueue(&client, "q"))).collect();
    fake.until("the batch came", |state| state.batches() == 1).await;
    let quitter = calls.remove(3);
    quitter.abort();
    assert!(quitter.await.unwrap_err().is_cancelled());
    fake.cut_streams();
    ids(join_all(calls).await.into_iter().map(Result::unwrap).collect());
    fake.with(|state| {
        assert_eq!((state.messages.len(), state.tasks.len()), (2, 10));
        assert_eq!(state.messages[0], state.messages[1]);
    });
}

#[tokio::test]
async fn a_batch_for_which_nobody_waits_is_not_repeated() {
    let (fake, _node, client) = Fake::streaming().await;
    fake.fault("batch", Fault::Hang);
    let mut calls: JoinSet<_> = (0..10).map(|_| enqueue(&client, "q")).collect();
    fake.until("the batch came", |state| state.batches() == 1).await;
    calls.shutdown().await;
    fake.cut_streams();
    client.enqueue(Task::new("q")).await.unwrap();
    fake.with(|state| assert_eq!((state.batches(), state.tasks.len()), (1, 1)));
}

#[tokio::test]
async fn what_gets_no_answer_holds_up_nobody() {
    let (fake, _node, client) = Fake::streaming().await;
    let mut stuck = JoinSet::new();
    fake.fault("batch", Fault::Hang);
    (0..50).for_each(|_| drop(stuck.spawn(enqueue(&client, "q"))));
    fake.until("the batch came", |state| state.batches() == 1).await;
    // More than may be under way while all is well.
    for count in 1..=10 {
        fake.fault("enqueue", Fault::Hang);
        stuck.spawn(enqueue(&client, "q"));
        fake.until("the command came", |state| state.count("enqueue") == count).await;
    }
    tokio::time::timeout(SOON, client.enqueue(Task::new("q"))).await.unwrap().unwrap();
    ids(tokio::time::timeout(SOON, crowd(&client, 20)).await.unwrap());
    assert!(stuck.try_join_next().is_none());
}

#[tokio::test]
async fn calls_that_nobody_polls_hold_up_nobody() {
    let (_fake, _node, client) = Fake::streaming().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut call = enqueue(&client, "q");
        assert!(futures::poll!(&mut call).is_pending());
        tokio::time::timeout(SOON, client.enqueue(Task::new("q"))).await.unwrap().unwrap();
        idle.push(call);
    }
    ids(join_all(idle).await);
}

/// A client outlives the runtimes that used it, as long as that is there in which it was made.
#[test]
fn a_runtime_that_stops_takes_only_its_own_calls_along() {
    let lasting = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for has_the_stream in [false, true] {
        let (_fake, _node, client) = lasting.block_on(Fake::streaming());
        // It has one thread, so that its commands wait, and a group is about to leave, when it stops.
        let passing = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        passing.block_on(async {
            if has_the_stream {
                client.enqueue(Task::new("q")).await.unwrap();
            }
            (0..5).for_each(|_| drop(tokio::spawn(enqueue(&client, "q"))));
            let mut call = enqueue(&client, "q");
            assert!(futures::poll!(&mut call).is_pending());
        });
        drop(passing);
        ids(lasting.block_on(async { tokio::time::timeout(SOON, crowd(&client, 20)).await }).unwrap());
    }
}

#[test]
fn calls_may_be_dropped_outside_of_any_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (fake, _node, client) = runtime.block_on(Fake::streaming());
    let mut calls = [enqueue(&client, "q"), enqueue(&client, "q")];
    for (count, call) in (1..).zip(&mut calls) {
        fake.fault("enqueue", Fault::Hang);
        let came = fake.until("the command came", |state| state.count("enqueue") == count);
        runtime.block_on(futures::future::select(call, came.boxed()));
    }
    // Finds two under way.
    let third = runtime.spawn(enqueue(&client, "q"));
    drop(calls);
    runtime.block_on(async { tokio::time::timeout(SOON, third).await }).unwrap().unwrap().unwrap();
}

//! What a call does about failures.

use std::time::Duration;

use futures::TryStreamExt;
use tarn_client::tls::CaCertificate;
use tarn_client::{Client, Code, Credentials, Error, Fate, Task, TaskState, proto};
use tonic::Status;

use crate::fake::{Fake, Fault, PATIENCE, refuse};

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_done_once() {
    let (fake, _node, client) = Fake::alone().await;
    fake.fault("enqueue", Fault::DoThenFail(Status::unavailable("lost")));
    fake.fault("enqueue", Fault::Fail(Status::unavailable("no leader")));
    let id = client.enqueue(Task::new("q")).await.unwrap();
    fake.with(|state| {
        assert_eq!(state.tasks.len(), 1);
        assert_eq!(state.tasks.values().next().unwrap().task.task_id, id);
        let ids: Vec<_> = state.calls.iter().filter(|(method, _)| *method == "enqueue").map(|(_, id)| id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 26));
    });
}

#[tokio::test]
async fn a_refusal_is_told_whole_and_not_repeated() {
    let (fake, _node, client) = Fake::alone().await;
    let error = client.enqueue(Task::new("BAD")).await.unwrap_err();
    assert_eq!(error.reason(), "INVALID_QUEUE");
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert_eq!(refusal.field.as_deref(), Some("tasks[0].queue"));
    assert_eq!(refusal.limit, Some(64));
    assert_eq!(refusal.request_id.as_deref(), Some("trace-1"));
    assert!(!error.outcome_unknown() && !error.is_temporary());
    for code in [Code::Aborted, Code::FailedPrecondition, Code::ResourceExhausted] {
        fake.fault("enqueue", Fault::Fail(refuse(code, "NO", "no")));
        assert_eq!(client.enqueue(Task::new("q")).await.unwrap_err().reason(), "NO");
    }
    assert_eq!(fake.with(|state| state.count("enqueue")), 4);
}

#[tokio::test]
async fn a_deadline_holds_and_says_what_is_known() {
    let (fake, _node, client) = Fake::alone().await;
    let hasty = client.with_deadline(Duration::from_millis(300));
    fake.fault("enqueue", Fault::Hang);
    let error = hasty.enqueue(Task::new("q")).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { fate: Fate::Unknown, .. }), "{error:?}");
    fake.fault("get_task", Fault::Hang);
    let error = hasty.get_task("1").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { fate: Fate::NotDone, .. }), "{error:?}");
    for _ in 0..100 {
        fake.fault("enqueue", Fault::Fail(Status::unavailable("no leader")));
    }
    let error = hasty.enqueue(Task::new("q")).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message == "no leader"), "{error:?}");
    assert!(error.outcome_unknown());
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_done() {
    let fake = Fake::new();
    let node = fake.node().await;
    let builder = fake.builder(&[&node]).deadline(Duration::from_millis(300));
    drop(node);
    let error = builder.clone().connect().await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let error = builder.connect_lazy().unwrap().enqueue(Task::new("q")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { fate: Fate::NotDone, .. }), "{error:?}");
}

#[tokio::test]
async fn a_dead_node_is_left_for_another() {
    let fake = Fake::new();
    let mut nodes = vec![fake.node().await, fake.node().await];
    let client = fake.client(&[&nodes[0], &nodes[1]]).await;
    client.enqueue(Task::new("q")).await.unwrap();
    // Whichever the client uses now, it must get by without it.
    drop(nodes.remove(0));
    client.enqueue(Task::new("q")).await.unwrap();
    nodes.push(fake.node().await);
    let client = fake.client(&[&nodes[0], &nodes[1]]).await;
    drop(nodes.remove(0));
    client.enqueue(Task::new("q")).await.unwrap();
    assert_eq!(fake.with(|state| state.tasks.len()), 3);
}

#[tokio::test]
async fn members_are_learned() {
    let fake = Fake::new();
    let (first, second) = (fake.node().await, fake.node().await);
    fake.with(|state| state.members = vec![first.address.clone(), second.address.clone()]);
    let client = fake.builder(&[&first]).discover(true).connect().await.unwrap();
    assert_eq!(client.discover().await.unwrap(), 2);
    drop(first);
    client.enqueue(Task::new("q")).await.unwrap();
}

#[tokio::test]
async fn a_strangers_cluster_is_no_cluster() {
    let (fake, stranger) = (Fake::new(), Fake::new());
    let node = fake.node().await;
    let error = fake.builder(&[&node]).credentials(stranger.credentials()).connect().await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
    // The other way round: a stranger who knows our authority's certificate is refused by the node.
    let guise = Credentials::new(CaCertificate::clone(fake.credentials().ca()), stranger.credentials().identity());
    let error = fake.builder(&[&node]).credentials(guise).connect().await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
}

#[tokio::test]
async fn addresses_that_are_none_are_refused_at_once() {
    let fake = Fake::new();
    let builder = Client::builder().credentials(fake.credentials());
    for address in ["", "http://127.0.0.1:1", "a b"] {
        assert!(matches!(builder.clone().addresses([address]).connect_lazy(), Err(Error::Config(_))), "{address:?}");
    }
    assert!(matches!(builder.addresses::<String>([]).connect_lazy(), Err(Error::Config(_))));
}

#[tokio::test]
async fn pages_are_one_stream() {
    let (_fake, _node, client) = Fake::alone().await;
    let team = client.in_namespace("team");
    let ids = team.enqueue_batch((0..5).map(|_| Task::new("q"))).await.unwrap();
    let listed: Vec<proto::Task> = client.list_tasks(proto::ListTasksRequest::default()).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|task| task.task_id.clone()).collect::<Vec<_>>(), ids);
    assert!(listed.iter().all(|task| task.namespace == "team"));
}

#[tokio::test]
async fn waiting_ends_with_the_task_or_the_time() {
    let (fake, _node, client) = Fake::alone().await;
    let id = client.enqueue(Task::new("q")).await.unwrap();
    let error = client.wait_task(&id, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { fate: Fate::NotDone, .. }), "{error:?}");
    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { client.wait_task(id, PATIENCE).await }
    });
    assert_eq!(client.terminate_task(&id).await.unwrap(), TaskState::Cancelled);
    assert_eq!(waiting.await.unwrap().unwrap().state(), TaskState::Cancelled);
    assert_eq!(client.wait_task("77", PATIENCE).await.unwrap_err().reason(), "TASK_NOT_FOUND");
    drop(fake);
}

#[tokio::test]
async fn artifacts_go_and_come_back_whole() {
    let (fake, _node, client) = Fake::alone().await;
    let bytes: Vec<u8> = (0..1_300_000_u32).map(|byte| byte as u8).collect();
    fake.fault("put_artifact", Fault::DoThenFail(Status::unavailable("lost")));
    let address = client.put_artifact(bytes.clone()).await.unwrap();
    assert_eq!(client.get_artifact(&address).await.unwrap(), bytes);
    assert_eq!(client.put_artifact("").await.unwrap(), tarn_client::artifact_address(b""));
    let missing = client.get_artifact("blake3:00").await.unwrap_err();
    assert_eq!(missing.reason(), "ARTIFACT_NOT_FOUND");
    // Bytes that rotted on the node are not handed on.
    fake.with(|state| state.artifacts.insert(address.clone(), "rot".into()));
    let hasty = client.with_deadline(Duration::from_millis(300));
    assert!(matches!(hasty.get_artifact(&address).await.unwrap_err(), Error::Unavailable { .. }));
}

//! Tasks that move to another cluster. In most tests the worker there is played, so that the test decides when an attempt ends.

use std::time::Duration;

use tarn::identity::CertificateAuthority;
use tarn_proto::v1;
use tarn_proto::v1::{DecisionKind, TaskState};
use tokio::time::Instant;

use crate::common::{Node, cluster_with, eventually, task, until};
use crate::federation::{federation, invite, shut_down, status};
use crate::router::{explained, get, play, resources, said};

const ANSWER: &str = r#"(module (func (export "answer") (result i32) i32.const 42))"#;

/// How long a task at another cluster is waited for in these tests.
const LEASE: Duration = Duration::from_secs(3);

async fn clustered(name: &str, size: u64, wasm: bool) -> Vec<Node> {
    let authority = CertificateAuthority::ephemeral(name).unwrap();
    let nodes = cluster_with(&authority, size, |config| {
        config.federation.bind = "127.0.0.1:0".parse().unwrap();
        config.federation.lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
        config.executors.wasm = wasm;
        config.executors.wasm_slots = 2;
    });
    nodes.await
}

async fn join(node: &Node, inviter: &Node, scope: &[&str]) {
    let invitation = invite(inviter, scope).await;
    let request = v1::JoinFederationRequest { token: invitation.token, addresses: invitation.addresses };
    federation(node).join_federation(request).await.unwrap();
}

/// Two clusters of one node: the first has tasks, the second has what runs them.
async fn pair(wasm: bool) -> (Node, Node) {
    let (west, east) = (clustered("west", 1, false).await.remove(0), clustered("east", 1, wasm).await.remove(0));
    join(&west, &east, &["tasks"]).await;
    (west, east)
}

/// A worker that runs components, played by the test.
async fn played(node: &Node) -> String {
    play(node, "wasm", &[], v1::WorkerResources { slots: 4, ..resources("1") }).await
}

/// A task that may run anywhere. Its artifact is put at `node` alone.
async fn anywhere(node: &Node) -> v1::TaskSpec {
    let chunk = v1::PutArtifactRequest { artifact: String::new(), chunk: ANSWER.as_bytes().to_vec().into() };
    let artifact = node.artifacts().put_artifact(tokio_stream::iter([chunk])).await.unwrap().into_inner().artifact;
    let wasm = v1::WasmSpec { artifact, export: "answer".into(), ..Default::default() };
    let placement = v1::Placement { any_cluster: true, ..Default::default() };
    v1::TaskSpec { runtime: "auto".into(), wasm: Some(wasm), placement: Some(placement), ..task("jobs", b"payload") }
}

/// Transfers that the cluster still keeps.
fn kept(node: &Node) -> Vec<v1::TransferStatus> {
    node.running.consensus().read(|machine| machine.transfers("", 100).unwrap()).unwrap()
}

async fn forgotten(node: &Node) {
    until(|| kept(node).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_where_there_is_room_and_its_result_comes_home() {
    let (west, east) = pair(true).await;
    let spec = anywhere(&west).await;
    let mut at_home = spec.clone();
    at_home.placement = None;
    let stays = west.submit(at_home).await;
    let id = west.submit(spec).await;
    let ended = west.ended(&id).await;
    assert_eq!((ended.state(), &ended.result[..]), (TaskState::Succeeded, &b"42"[..]), "{:?}", ended.attempts);
    assert_eq!(ended.attempts.len(), 1);
    assert_eq!(get(&west, &stays).await.state(), TaskState::Ready, "it did not say that it may go");

    let response = explained(&west, &id).await;
    let story = response.story.clone().unwrap();
    let record = story.decisions.iter().find(|decision| decision.kind() == DecisionKind::Placed).unwrap();
    let scores = record.placement.clone().unwrap();
    assert_eq!(scores.cluster, "east");
    assert!(!scores.why_not_here.is_empty() && scores.candidates[0].node == "cluster/east", "{scores:?}");
    let said = said(&response);
    assert!(said.contains("The router had cluster east run it, with the runtime wasm, as here"), "{said}");

    // There it was submitted by a cluster, ran once, and is not kept.
    let tasks = east.tasks().list_tasks(v1::ListTasksRequest::default()).await.unwrap().into_inner().tasks;
    assert_eq!(tasks.len(), 1);
    assert_eq!((tasks[0].state(), tasks[0].attempts_begun), (TaskState::Succeeded, 1));
    forgotten(&east).await;
    assert!(west.metric("tarn_federation_errands_total{cluster=\"east\",result=\"succeeded\"}").await >= 1.0);
    shut_down([west, east]).await;
}

/// Without the scope, nothing moves, though the other cluster has room and says so.
#[tokio::test(flavor = "multi_thread")]
async fn only_members_that_may_hand_tasks_over_do() {
    let (west, east) = (clustered("west", 1, false).await.remove(0), clustered("east", 1, true).await.remove(0));
    join(&west, &east, &["context"]).await;
    let id = west.submit(anywhere(&west).await).await;
    eventually(|| async { status(&west).await.links.first().is_some_and(|link| link.free_slots > 0) }).await;
    // With the scope a worker is there within half a second.
    let known = Instant::now();
    eventually(|| async {
        let workers = west.workers().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
        assert!(workers.is_empty(), "{workers:?}");
        known.elapsed() > Duration::from_secs(2)
    })
    .await;
    assert_eq!(get(&west, &id).await.state(), TaskState::Ready);
    shut_down([west, east]).await;
}

/// What its submitter did not say the operator says for all.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_lets_every_task_go() {
    let (west, east) = pair(true).await;
    let mut spec = anywhere(&west).await;
    spec.placement = None;
    let id = west.submit(spec).await;
    eventually(|| async { west.workers().list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers.len() == 1 }).await;
    assert_eq!(get(&west, &id).await.state(), TaskState::Ready);
    let settings = v1::SchedulerSettings { any_cluster: Some(true), ..Default::default() };
    let mut scheduler = v1::scheduler_service_client::SchedulerServiceClient::new(west.channel.clone());
    let request = v1::PutSchedulerSettingsRequest { settings: Some(settings), ..Default::default() };
    scheduler.put_scheduler_settings(request).await.unwrap();
    assert_eq!(&west.ended(&id).await.result[..], b"42");
    shut_down([west, east]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_cancelled_stops_in_the_other_cluster() {
    let (west, east) = pair(false).await;
    let worker = played(&east).await;
    let id = west.submit(anywhere(&west).await).await;
    let leased = east.lease(&worker, 1).await;
    assert_eq!(leased[0].spec.as_ref().unwrap().payload, &b"payload"[..]);
    assert!(leased[0].lease_expires_at_ms <= kept(&east)[0].run_until_ms);
    let cancel = v1::CancelTaskRequest { task_id: id.clone(), ..Default::default() };
    west.tasks().cancel_task(cancel).await.unwrap();
    assert_eq!(west.ended(&id).await.state(), TaskState::Cancelled);
    eventually(|| async {
        let task = get(&east, &leased[0].task_id).await;
        task.state() == TaskState::Cancelled || task.cancel_requested
    })
    .await;
    forgotten(&east).await;
    shut_down([west, east]).await;
}

/// A failure there is an attempt here, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_there_is_tried_again_as_its_own_cluster_says() {
    let (west, east) = pair(false).await;
    let worker = played(&east).await;
    let mut spec = anywhere(&west).await;
    spec.retry = Some(v1::RetryPolicy { max_attempts: 2, initial_backoff_ms: 10, ..Default::default() });
    let id = west.submit(spec).await;
    for turn in 1..=2_u32 {
        let leased = east.lease(&worker, 1).await;
        assert_eq!(leased[0].attempt, 1, "there it is a new task each time");
        let request = v1::FailTaskRequest {
            task_id: leased[0].task_id.clone(),
            namespace: leased[0].namespace.clone(),
            token: leased[0].token,
            error: Some(v1::TaskError { reason: "NO_LUCK".into(), message: format!("turn {turn}") }),
            ..Default::default()
        };
        east.workers().fail_task(request).await.unwrap();
    }
    let ended = west.ended(&id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (TaskState::Dead, 2));
    assert_eq!(ended.attempts[1].error.as_ref().unwrap().reason, "NO_LUCK");
    forgotten(&east).await;
    shut_down([west, east]).await;
}

/// The leader that had the errand is lost; the next one takes it up, and the attempt is still the first.
#[tokio::test(flavor = "multi_thread")]
async fn another_leader_takes_errands_up() {
    let (mut west, east) = (clustered("west", 3, false).await, clustered("east", 1, false).await.remove(0));
    join(&west[0], &east, &["tasks"]).await;
    let worker = played(&east).await;
    let id = west[0].submit(anywhere(&west[0]).await).await;
    let leased = east.lease(&worker, 1).await;
    let leader = west.iter().position(|node| node.running.consensus().leadership().borrow().is_this_node).unwrap();
    west.remove(leader).running.shutdown().await;
    until(|| west.iter().any(|node| node.running.consensus().leadership().borrow().is_this_node)).await;
    // For longer than a lease lasts: it is renewed by the new leader.
    let begun = Instant::now();
    eventually(|| async {
        let beat = v1::HeartbeatTasksRequest {
            worker_id: worker.clone(),
            leases: vec![v1::TaskLease {
                namespace: leased[0].namespace.clone(),
                task_id: leased[0].task_id.clone(),
                token: leased[0].token,
                progress: Some(v1::Progress { permille: 500, message: "half".into() }),
            }],
            lease_ms: 0,
        };
        let held = east.workers().heartbeat_tasks(beat).await.unwrap().into_inner().leases;
        assert_eq!(held[0].status(), v1::LeaseStatus::Held, "the other cluster heard of no renewal");
        tokio::time::sleep(Duration::from_millis(100)).await;
        begun.elapsed() > 2 * LEASE
    })
    .await;
    east.complete(&leased[0], b"done").await;
    let ended = west[0].ended(&id).await;
    assert_eq!((ended.state(), &ended.result[..], ended.attempts.len()), (TaskState::Succeeded, &b"done"[..], 1), "{:?}", ended.attempts);
    assert_eq!(ended.progress.unwrap().permille, 500);
    forgotten(&east).await;
    shut_down(west.into_iter().chain([east])).await;
}

/// A cluster that vanishes with a task is waited for until the lease ends; then it is tried again here, and the attempt counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_vanishes_is_waited_for_until_the_lease_ends() {
    let (west, east) = pair(false).await;
    let worker = played(&east).await;
    let id = west.submit(anywhere(&west).await).await;
    let leased = east.lease(&worker, 1).await;
    assert_eq!(leased.len(), 1);
    let gone = Instant::now();
    shut_down([east]).await;
    let own = played(&west).await;
    let again = west.lease(&own, 1).await;
    assert_eq!((again[0].task_id.as_str(), again[0].attempt), (id.as_str(), 2));
    assert!(gone.elapsed() > LEASE / 2, "it was not given to somebody else while the attempt there could run");
    west.complete(&again[0], b"here").await;
    let ended = west.ended(&id).await;
    assert_eq!(ended.attempts[0].error.as_ref().unwrap().reason, "LEASE_EXPIRED");
    shut_down([west]).await;
}

/// A cluster with room keeps its work, and takes on no more than it has room for.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_room_keep_their_work() {
    let (west, east) = pair(false).await;
    let (here, there) = (played(&west).await, played(&east).await);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(west.submit(anywhere(&west).await).await);
    }
    let mut own = Vec::new();
    while own.len() < 4 {
        own.extend(west.lease(&here, 4).await);
    }
    assert!(kept(&east).is_empty());
    // Of six more, four fit there, and two wait.
    for _ in 0..6 {
        ids.push(west.submit(anywhere(&west).await).await);
    }
    let mut away = Vec::new();
    while away.len() < 4 {
        away.extend(east.lease(&there, 4).await);
    }
    assert_eq!(kept(&east).len(), 4);
    for task in &own {
        west.complete(task, b"here").await;
    }
    let mut rest = 0;
    while rest < 2 {
        for task in &west.lease(&here, 4).await {
            west.complete(task, b"here").await;
            rest += 1;
        }
    }
    for task in &away {
        east.complete(task, b"there").await;
    }
    let mut results = Vec::new();
    for id in &ids {
        results.push(west.ended(id).await.result);
    }
    let there = results.iter().filter(|result| &result[..] == b"there").count();
    assert_eq!(there, 4);
    forgotten(&east).await;
    shut_down([west, east]).await;
}

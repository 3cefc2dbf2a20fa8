//! Quotas under a race: many clients at once, on all nodes, while the leader dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tarn_proto::v1::{self, EventKind, command::Body, outcome};
use tarn_raft::{Consensus, Limits, ProposeError, Versions};
use tokio::task::JoinSet;

use super::cluster_test;
use super::support::{Cluster, soon};

const BOTH: Versions = Versions { min: 1, max: 2 };
const SUBMITTERS: usize = 48;
const WORKERS: usize = 16;
const MAX_QUEUED: u64 = 30;
const MAX_RUNNING: u64 = 7;
/// Tasks after which the quota on stored bytes is used up, because ended ones are kept.
const TASKS: u64 = 600;

fn spec() -> v1::TaskSpec {
    v1::TaskSpec { queue: "q".into(), payload: vec![7; 64].into(), ..v1::TaskSpec::default() }
}

fn command(body: Body) -> v1::Command {
    v1::Command { principal: "user/test".into(), body: Some(body), ..v1::Command::default() }
}

/// What all clients share: the nodes, and how many tasks were accepted and completed.
struct Shared {
    nodes: Vec<Consensus>,
    accepted: AtomicU64,
    completed: AtomicU64,
    submitting: AtomicU64,
}

impl Shared {
    /// Takes a command to its outcome: repeated, at the next node where one has stopped, until its fate is known. It has a request id, or is
    /// safe to repeat.
    async fn tell(&self, client: usize, body: Body) -> Result<outcome::Body, String> {
        for node in (client..).map(|number| &self.nodes[number % self.nodes.len()]) {
            match node.propose(command(body.clone()), soon()).await {
                Ok(v1::Outcome { body: Some(outcome::Body::Rejected(rejection)) }) => return Err(rejection.reason),
                Ok(outcome) => return Ok(outcome.body.expect("an outcome has a body")),
                Err(ProposeError::TooLarge { .. }) => panic!("the command is small"),
                Err(_) => {}
            }
        }
        unreachable!("there is always a next node")
    }

    /// Submits one task after the other until there is no room for what is stored.
    async fn submit(&self, client: usize) {
        for number in 0.. {
            let mut refused = 0;
            loop {
                let request =
                    v1::EnqueueRequest { request_id: format!("submit-{client}-{number}"), namespace: "team".into(), tasks: vec![spec()] };
                match self.tell(client, Body::Enqueue(request)).await {
                    Ok(_) => break,
                    Err(reason) if reason == "QUOTA_QUEUED" => refused += 1,
                    Err(reason) => {
                        assert_eq!(reason, "QUOTA_STORED_BYTES", "after {refused} others");
                        self.submitting.fetch_sub(1, Ordering::SeqCst);
                        return;
                    }
                }
                // There is room when somebody has completed something.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Leases and completes until nobody submits any more and everything is done.
    async fn work(&self, client: usize) {
        let register = v1::RegisterWorkerRequest { request_id: format!("register-{client}"), ttl_ms: 3_600_000, ..Default::default() };
        let Ok(outcome::Body::RegisterWorker(registered)) = self.tell(client, Body::RegisterWorker(register)).await else {
            panic!("the worker is registered");
        };
        for number in 0.. {
            let request = v1::LeaseTasksRequest {
                request_id: format!("lease-{client}-{number}"),
                worker_id: registered.worker_id.clone(),
                max_tasks: 3,
                lease_ms: 600_000,
                ..Default::default()
            };
            let Ok(outcome::Body::LeaseTasks(leased)) = self.tell(client, Body::LeaseTasks(request)).await else {
                panic!("a lease is never refused");
            };
            let none = leased.tasks.is_empty();
            for task in leased.tasks {
                let complete =
                    v1::CompleteTaskRequest { namespace: task.namespace, task_id: task.task_id, token: task.token, ..Default::default() };
                self.tell(client, Body::CompleteTask(complete)).await.expect("the lease is current");
                self.completed.fetch_add(1, Ordering::SeqCst);
            }
            let done = || self.completed.load(Ordering::SeqCst) >= self.accepted.load(Ordering::SeqCst);
            if none && self.submitting.load(Ordering::SeqCst) == 0 && done() {
                return;
            }
            if none {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }
}

/// The most tasks that had not ended, and that ran, after any revision: from what this node says happened.
fn most(node: &Consensus) -> (i64, i64) {
    let events = node.read(|machine| machine.events_after(0, usize::MAX)).unwrap();
    let mut at_revision: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
    for event in events.expect("nothing was dropped yet") {
        let (unended, running) = match event.kind() {
            EventKind::TaskEnqueued => (1, 0),
            EventKind::TaskLeased => (0, 1),
            EventKind::TaskSucceeded => (-1, -1),
            EventKind::TaskRetried | EventKind::TaskReturned | EventKind::TaskDead | EventKind::TaskCancelled => {
                panic!("every attempt succeeds: {event:?}")
            }
            _ => (0, 0),
        };
        let change = at_revision.entry(event.revision).or_default();
        *change = (change.0 + unended, change.1 + running);
    }
    let (mut now, mut most) = ((0, 0), (0, 0));
    for change in at_revision.into_values() {
        now = (now.0 + change.0, now.1 + change.1);
        most = (most.0.max(now.0), most.1.max(now.1));
    }
    assert_eq!(now, (0, 0), "everything has ended");
    most
}

cluster_test! {
    async fn sixty_four_clients_and_a_dying_leader_never_exceed_a_quota_and_leak_nothing() {
        let mut cluster = Cluster::founded_with(3, BOTH, Limits::default()).await;
        let leader = cluster.leader().await;
        cluster.node(leader).raise_version(2, soon()).await.unwrap();
        let stored = TASKS * spec().encoded_len() as u64;
        let shared = Arc::new(Shared {
            nodes: cluster.ids().into_iter().map(|id| cluster.node(id).clone()).collect(),
            accepted: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            submitting: AtomicU64::new(SUBMITTERS as u64),
        });
        let create = v1::CreateNamespaceRequest {
            request_id: "create".into(),
            name: "team".into(),
            quotas: Some(v1::Quotas {
                max_running: Some(MAX_RUNNING),
                max_queued: Some(MAX_QUEUED),
                max_stored_bytes: Some(stored),
                requests_per_minute: None,
            }),
            ..Default::default()
        };
        shared.tell(0, Body::CreateNamespace(create)).await.unwrap();

        let mut clients = JoinSet::new();
        for client in 0..SUBMITTERS {
            let shared = shared.clone();
            clients.spawn(async move { shared.submit(client).await });
        }
        for client in SUBMITTERS..SUBMITTERS + WORKERS {
            let shared = shared.clone();
            clients.spawn(async move { shared.work(client).await });
        }
        let index = cluster.node(leader).status().unwrap().applied.index;
        let mut applied = cluster.node(leader).applied();
        applied.wait_for(|applied| applied.index > index + 100).await.unwrap();
        let before = shared.completed.load(Ordering::SeqCst);
        cluster.kill(leader).await;
        cluster.leader_other_than(leader).await;
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        assert!(before < TASKS, "the leader died in the middle");
        assert_eq!(shared.accepted.load(Ordering::SeqCst), TASKS, "to the last byte, and not one more");
        drop(shared);
        cluster.start(leader, BOTH).await;
        cluster.converged().await;
        for id in cluster.ids() {
            let node = cluster.node(id);
            let (unended, running) = most(node);
            assert!(unended <= MAX_QUEUED as i64 && running <= MAX_RUNNING as i64, "{unended} and {running}");
            assert!(unended > MAX_QUEUED as i64 / 2 && running > MAX_RUNNING as i64 / 2, "{unended} and {running}");
            let request = v1::GetNamespaceRequest { name: "team".into() };
            let found = node.read(|machine| machine.get_namespace(&request)).unwrap();
            let usage = found.expect("it is there").usage.unwrap_or_default();
            let expected = v1::NamespaceUsage {
                ended: TASKS,
                stored_bytes: stored,
                queues: 1,
                ..Default::default()
            };
            assert_eq!(usage, expected, "node {id}");
        }
    }
}

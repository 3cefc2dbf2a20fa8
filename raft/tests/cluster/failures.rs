//! What a cluster does when something breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tarn_raft::{Consensus, Instant, ProposeError};
use tokio::task::JoinHandle;

use super::cluster_test;
use super::support::{Cluster, VERSIONS, enqueue, enqueued, leadership, soon, task_id};

/// Enqueues one task after the other until told to stop; returns what was acknowledged.
fn load(name: &str, node: Consensus, stop: Arc<AtomicBool>) -> JoinHandle<Vec<(String, String)>> {
    let name = name.to_owned();
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let request = format!("{name}-{n}");
            match node.propose(enqueue(&request), soon()).await {
                Ok(outcome) => acknowledged.push((request, task_id(outcome))),
                Err(ProposeError::Stopped { .. }) => break,
                Err(error) => panic!("{request}: {error}"),
            }
        }
        acknowledged
    })
}

/// Every acknowledged request is answered with the same task as the first time.
async fn nothing_lost(node: &Consensus, acknowledged: &[(String, String)]) {
    for (request, task) in acknowledged {
        assert_eq!(enqueued(node, request).await, *task, "{request}");
    }
}

cluster_test! {
    async fn a_killed_leader_loses_nothing_and_no_client_notices() {
        let mut cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        let stop = Arc::new(AtomicBool::new(false));
        let loads: Vec<_> = cluster
            .ids()
            .into_iter()
            .map(|id| load(&format!("n{id}"), cluster.node(id).clone(), stop.clone()))
            .collect();
        let index = cluster.node(leader).status().unwrap().applied.index;
        let mut applied = cluster.node(leader).applied();
        applied.wait_for(|applied| applied.index > index + 50).await.unwrap();

        cluster.kill(leader).await;
        let next = cluster.leader_other_than(leader).await;
        let index = cluster.node(next).status().unwrap().applied.index;
        let mut applied = cluster.node(next).applied();
        applied.wait_for(|applied| applied.index > index + 50).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for load in loads {
            acknowledged.extend(load.await.unwrap());
        }
        assert!(acknowledged.len() > 50);
        nothing_lost(cluster.node(next), &acknowledged).await;

        cluster.start(leader, VERSIONS).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn a_leader_without_a_majority_acknowledges_nothing_and_answers_no_reader() {
        let cluster = Cluster::founded(3).await;
        let old = cluster.leader().await;
        enqueued(cluster.node(old), "before").await;
        cluster.net.isolate(old);

        let deadline = Instant::now() + Duration::from_millis(700);
        let (unnamed, named, read) = tokio::join!(
            cluster.node(old).propose(enqueue(""), deadline),
            cluster.node(old).propose(enqueue("named"), deadline),
            cluster.node(old).read_barrier(deadline),
        );
        assert_eq!(unnamed, Err(ProposeError::OutcomeUnknown));
        assert_eq!(named, Err(ProposeError::OutcomeUnknown));
        assert!(read.is_err());

        let new = cluster.leader_other_than(old).await;
        enqueued(cluster.node(new), "after").await;
        cluster.net.heal();
        // The old leader follows, forgets what it could not commit, and serves again.
        leadership(cluster.node(old), |now| now.leader.as_ref().is_some_and(|leader| leader.id != old)).await;
        enqueued(cluster.node(old), "healed").await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn a_follower_that_was_away_does_not_disturb_the_leader() {
        let cluster = Cluster::founded(3).await;
        let follower = cluster.follower().await;
        let before = cluster.converged().await.term;
        cluster.net.isolate(follower);
        // Long enough for several elections, had it held any.
        for round in 0..30 {
            enqueued(cluster.node(cluster.leader_other_than(follower).await), &format!("r{round}")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cluster.net.heal();
        let after = cluster.converged().await;
        assert_eq!(after.term, before);
    }
}

cluster_test! {
    async fn all_nodes_restart_with_everything() {
        let mut cluster = Cluster::founded(3).await;
        let mut acknowledged = Vec::new();
        for n in 0..20 {
            let request = format!("r{n}");
            acknowledged.push((request.clone(), enqueued(cluster.node(1 + n % 3), &request).await));
        }
        let before = cluster.converged().await;
        for id in cluster.ids() {
            cluster.kill(id).await;
        }
        for id in 1..=3 {
            cluster.start(id, VERSIONS).await;
        }
        cluster.leader().await;
        let after = cluster.converged().await;
        assert!(after.applied.index > before.applied.index, "a new leadership begins with an entry");
        assert!(after.applied.now_ms >= before.applied.now_ms);
        nothing_lost(cluster.node(2), &acknowledged).await;
    }
}

cluster_test! {
    async fn a_data_directory_is_for_one_node_only() {
        let mut cluster = Cluster::founded(1).await;
        let second = Consensus::start(cluster.options(1, VERSIONS)).await;
        assert!(second.is_err(), "it is in use");
        cluster.kill(1).await;
        std::fs::rename(cluster.node_dir(1), cluster.node_dir(2)).unwrap();
        let error = Consensus::start(cluster.options(2, VERSIONS)).await.err().unwrap();
        assert!(error.to_string().contains("belongs to node 1"), "{error}");
    }
}

cluster_test! {
    async fn a_peer_that_speaks_for_another_is_refused() {
        use tarn_raft::{Method, PeerError};
        let cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        let node = cluster.node(leader);
        // A vote request in the name of node 9, field by field: vote { term: 100, node: 9 }.
        let body = bytes::Bytes::from_static(&[0x0a, 4, 0x08, 100, 0x10, 9]);
        let refused = node.handle_call(2, Method::Vote.number(), body.clone()).await;
        assert_eq!(refused, Err(PeerError::Impostor { sender: 2, claimed: 9 }));
        assert!(matches!(node.handle_call(2, 99, body).await, Err(PeerError::Malformed(_))));
        let rubbish = bytes::Bytes::from_static(b"\xff\xff\xff");
        assert!(matches!(node.handle_call(2, Method::Append.number(), rubbish).await, Err(PeerError::Malformed(_))));
        assert_eq!(cluster.leader().await, leader);
    }
}

cluster_test! {
    async fn a_node_whose_state_differs_stops() {
        use tarn_machine::keys::Key;
        use tarn_storage::{Batch, Durability, Engine, Profile, RocksEngine, RocksOptions};
        let mut cluster = Cluster::founded(3).await;
        enqueued(cluster.node(1), "before").await;
        cluster.converged().await;
        let odd = cluster.follower().await;
        cluster.kill(odd).await;
        // A bit of its state turns over, unnoticed by the engine's checksums.
        {
            let dir = cluster.node_dir(odd).join("state/g00000001");
            let keyspaces = &[tarn_machine::STATE];
            let engine = RocksEngine::open(&dir, RocksOptions { keyspaces, profile: Profile::State }).unwrap();
            let mut batch = Batch::new();
            batch.put(tarn_machine::STATE, Key::Digest.encode(), [7; 32]);
            engine.write(batch, Durability::Synced).unwrap();
        }
        let node = cluster.start(odd, VERSIONS).await;
        let leader = cluster.leader_other_than(odd).await;
        for n in 0..150 {
            enqueued(cluster.node(leader), &format!("r{n}")).await;
        }
        let mut fatal = node.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(reason.contains("differs from the majority's"), "{reason}");
        for id in cluster.ids().into_iter().filter(|id| *id != odd) {
            assert!(cluster.node(id).fatal().borrow().is_none());
        }
    }
}

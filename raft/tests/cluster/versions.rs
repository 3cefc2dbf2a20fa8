//! A rolling upgrade: two builds in one cluster.

use tarn_raft::{AdminError, Consensus, LaggingNode, Versions};

use super::cluster_test;
use super::support::{Cluster, address, enqueued, soon, status};

const OLD: Versions = Versions { min: 1, max: 1 };
const NEW: Versions = Versions { min: 1, max: 2 };

cluster_test! {
    async fn the_version_rises_when_every_voter_can_run_it_and_never_before() {
        let mut cluster = Cluster::founded_with(3, OLD, Default::default()).await;
        enqueued(cluster.node(1), "old").await;

        // Two of three are upgraded.
        for id in [1, 2] {
            cluster.shut_down(id).await;
            cluster.start(id, NEW).await;
        }
        cluster.leader().await;
        let refused = cluster.node(1).raise_version(2, soon()).await;
        let nodes = vec![LaggingNode { id: 3, version_max: Some(1) }];
        assert_eq!(refused, Err(AdminError::VersionNotSupported { version: 2, nodes }));
        assert!(refused.unwrap_err().to_string().contains("node 3 supports at most 1"));
        assert_eq!(cluster.node(1).status().unwrap().applied.version, 1);

        // Before the upgrade is committed, there is a way back.
        cluster.shut_down(2).await;
        cluster.start(2, OLD).await;
        enqueued(cluster.node(2), "back").await;
        cluster.converged().await;

        for id in [2, 3] {
            cluster.shut_down(id).await;
            cluster.start(id, NEW).await;
        }
        cluster.leader().await;
        assert_eq!(cluster.node(3).raise_version(2, soon()).await, Ok(2));
        assert_eq!(cluster.node(3).raise_version(2, soon()).await, Ok(2), "it is so already");
        assert!(matches!(cluster.node(3).raise_version(1, soon()).await, Err(AdminError::Refused(_))));
        enqueued(cluster.node(1), "new").await;
        assert_eq!(cluster.converged().await.applied.version, 2);

        // After it, the old build is refused by the state it finds.
        cluster.shut_down(2).await;
        let error = Consensus::start(cluster.options(2, OLD)).await.err().unwrap();
        assert!(error.to_string().contains("version 2"), "{error}");
        cluster.start(2, NEW).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn an_old_build_stops_at_the_first_entry_that_it_cannot_read() {
        let mut cluster = Cluster::founded_with(1, NEW, Default::default()).await;
        // A learner is not asked: it has no say.
        let learner = cluster.start(2, OLD).await;
        cluster.node(1).add_learner(2, address(2), soon()).await.unwrap();
        cluster.converged().await;
        assert_eq!(cluster.node(1).raise_version(2, soon()).await, Ok(2));
        let mut fatal = learner.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(reason.contains("version 2") && reason.contains("upgrade this node"), "{reason}");

        // Nothing is lost: the right build goes on where the old one stopped.
        cluster.kill(2).await;
        cluster.start(2, NEW).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn an_unreachable_voter_holds_the_version_back() {
        let mut cluster = Cluster::founded_with(3, NEW, Default::default()).await;
        let away = cluster.follower().await;
        cluster.kill(away).await;
        // It cannot say whether it will come back as it went.
        let leader = cluster.leader().await;
        let refused = cluster.node(leader).raise_version(2, soon()).await;
        let nodes = vec![LaggingNode { id: away, version_max: None }];
        assert_eq!(refused, Err(AdminError::VersionNotSupported { version: 2, nodes }));
    }
}

cluster_test! {
    async fn an_old_build_stops_at_a_snapshot_that_it_cannot_read() {
        let small = tarn_raft::Limits { snapshot_entries: 1_000_000, keep_entries: 0, ..Default::default() };
        let mut cluster = Cluster::founded_with(1, NEW, small).await;
        assert_eq!(cluster.node(1).raise_version(2, soon()).await, Ok(2));
        enqueued(cluster.node(1), "r").await;
        cluster.node(1).trigger_snapshot().await;
        status(cluster.node(1), |status| status.purged_index > 0).await;

        let node = cluster.start(2, OLD).await;
        cluster.node(1).add_learner(2, address(2), soon()).await.unwrap();
        let mut fatal = node.fatal();
        let reason = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(reason.contains("machine version 2"), "{reason}");
    }
}

//! Nodes that come, go and hand over.

use std::time::Duration;

use tarn_raft::{AdminError, Instant, Limits, Role};

use super::cluster_test;
use super::support::{Cluster, PATIENCE, VERSIONS, address, enqueued, soon, status};

/// A snapshot every 60 entries, and hardly a log behind it.
const SMALL: Limits = Limits { snapshot_entries: 60, keep_entries: 5, log_cache_bytes: 16 << 10, batch_bytes: 64 << 10 };

async fn enqueue_many(cluster: &Cluster, name: &str, count: u32) {
    let leader = cluster.leader().await;
    for n in 0..count {
        enqueued(cluster.node(leader), &format!("{name}-{n}")).await;
    }
}

cluster_test! {
    async fn a_new_node_catches_up_by_snapshot_and_gets_a_vote() {
        let mut cluster = Cluster::founded_with(3, VERSIONS, SMALL).await;
        enqueue_many(&cluster, "a", 150).await;
        let leader = cluster.leader().await;
        let purged = status(cluster.node(leader), |status| status.purged_index > 50).await;
        assert!(purged.snapshot_index >= purged.purged_index);

        let node = cluster.start(4, VERSIONS).await;
        // Any node takes the request.
        let asked = cluster.follower().await;
        cluster.node(asked).add_learner(4, address(4), soon()).await.unwrap();
        cluster.node(asked).add_learner(4, address(4), soon()).await.unwrap();
        let taken = cluster.node(asked).add_learner(4, "elsewhere:1".into(), soon()).await;
        assert_eq!(taken, Err(AdminError::AlreadyMember { node: 4, address: address(4) }));
        cluster.node(asked).promote(4, soon()).await.unwrap();
        let caught_up = cluster.converged().await;
        assert_eq!(caught_up.members.iter().filter(|member| member.voter).count(), 4);
        assert!(node.status().unwrap().snapshot_index > 0, "it came by snapshot");
        enqueued(&node, "b").await;

        // What came by snapshot is kept over a restart, and the next snapshot replaces it.
        cluster.kill(4).await;
        enqueue_many(&cluster, "c", 70).await;
        cluster.start(4, VERSIONS).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn a_follower_that_was_away_for_long_gets_a_snapshot() {
        let mut cluster = Cluster::founded_with(3, VERSIONS, SMALL).await;
        let follower = cluster.follower().await;
        enqueue_many(&cluster, "a", 10).await;
        cluster.converged().await;
        cluster.kill(follower).await;
        enqueue_many(&cluster, "b", 150).await;
        let leader = cluster.leader().await;
        status(cluster.node(leader), |status| status.purged_index > 50).await;
        cluster.start(follower, VERSIONS).await;
        cluster.converged().await;
        for n in 0..10 {
            enqueued(cluster.node(follower), &format!("a-{n}")).await;
        }
        // Once more from its own disk.
        cluster.kill(follower).await;
        cluster.start(follower, VERSIONS).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn members_are_removed_even_the_leader() {
        let mut cluster = Cluster::founded(3).await;
        let follower = cluster.follower().await;
        let unknown = cluster.node(1).remove(9, soon()).await;
        assert_eq!(unknown, Err(AdminError::UnknownNode { node: 9 }));
        cluster.node(follower).remove(follower, soon()).await.unwrap();
        cluster.kill(follower).await;
        let status = cluster.converged().await;
        assert_eq!((status.members.len(), status.applied.node_id_max), (2, 3));

        let leader = cluster.leader().await;
        cluster.node(leader).remove(leader, soon()).await.unwrap();
        let last = cluster.leader_other_than(leader).await;
        cluster.kill(leader).await;
        enqueued(cluster.node(last), "alone").await;
        let only = cluster.node(last).remove(last, soon()).await;
        assert_eq!(only, Err(AdminError::LastVoter { node: last }));
    }
}

cluster_test! {
    async fn the_highest_id_and_who_was_removed_are_remembered_over_removal_snapshot_and_restart() {
        let mut cluster = Cluster::founded_with(1, VERSIONS, SMALL).await;
        cluster.node(1).add_learner(7, address(7), soon()).await.unwrap();
        cluster.node(1).remove(7, soon()).await.unwrap();
        enqueue_many(&cluster, "a", 150).await;
        status(cluster.node(1), |status| status.purged_index > 50).await;
        cluster.kill(1).await;
        cluster.start(1, VERSIONS).await;
        assert_eq!(cluster.node(1).applied().borrow().node_id_max, 7);
        cluster.leader().await;
        let back = cluster.node(1).add_learner(7, address(7), soon()).await;
        assert_eq!(back, Err(AdminError::Removed(7)));
        cluster.start(2, VERSIONS).await;
        cluster.node(1).add_learner(2, address(2), soon()).await.unwrap();
        assert_eq!(cluster.converged().await.applied.node_id_max, 7);
        assert_eq!(cluster.node(2).status().unwrap().applied.node_id_max, 7, "it came by snapshot");
        assert!(cluster.node(2).was_removed(7) && !cluster.node(2).was_removed(1));
    }
}

cluster_test! {
    async fn a_dead_node_is_replaced_in_one_change() {
        let mut cluster = Cluster::founded(3).await;
        let dead = cluster.follower().await;
        enqueue_many(&cluster, "a", 10).await;
        cluster.kill(dead).await;
        cluster.start(4, VERSIONS).await;
        let leader = cluster.leader().await;
        cluster.node(leader).replace(dead, 4, address(4), soon()).await.unwrap();
        let status = cluster.converged().await;
        let voters: Vec<u64> = status.members.iter().filter(|member| member.voter).map(|member| member.peer.id).collect();
        assert_eq!(voters.len(), 3);
        assert!(voters.contains(&4) && !voters.contains(&dead));
        // Asking again changes nothing.
        cluster.node(leader).replace(dead, 4, address(4), soon()).await.unwrap();
    }
}

cluster_test! {
    async fn a_node_that_does_not_answer_gets_no_vote() {
        let cluster = Cluster::founded(1).await;
        let deadline = || Instant::now() + Duration::from_secs(2);
        cluster.node(1).add_learner(2, address(2), deadline()).await.unwrap();
        assert_eq!(cluster.node(1).promote(2, deadline()).await, Err(AdminError::Unreachable { node: 2 }));
        assert_eq!(
            cluster.node(1).transfer_leader(Some(2), deadline()).await,
            Err(AdminError::NotVoter { node: 2 })
        );
        cluster.node(1).remove(2, deadline()).await.unwrap();
    }
}

cluster_test! {
    async fn a_node_that_is_no_member_says_so_at_once() {
        let mut cluster = Cluster::empty();
        let node = cluster.start(3, VERSIONS).await;
        let asked = Instant::now();
        let refused = node.remove(2, soon()).await.unwrap_err();
        assert!(matches!(&refused, AdminError::Refused(text) if text.contains("node 3 is not a member")), "{refused}");
        assert!(asked.elapsed() < PATIENCE / 2);
    }
}

cluster_test! {
    async fn the_only_member_may_move_and_others_may_not() {
        let cluster = Cluster::founded(1).await;
        cluster.node(1).add_learner(1, "elsewhere:1".into(), soon()).await.unwrap();
        status(cluster.node(1), |status| status.members[0].peer.address == "elsewhere:1").await;
        assert!(cluster.node(1).status().unwrap().members[0].voter);
        enqueued(cluster.node(1), "moved").await;
        cluster.node(1).add_learner(2, address(2), soon()).await.unwrap();
        let refused = cluster.node(1).add_learner(1, address(1), soon()).await;
        assert_eq!(refused, Err(AdminError::AlreadyMember { node: 1, address: "elsewhere:1".into() }));
    }
}

cluster_test! {
    async fn leadership_is_handed_over_on_request_and_at_shutdown() {
        let mut cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        let target = cluster.follower().await;
        assert_eq!(cluster.node(target).transfer_leader(Some(target), soon()).await, Ok(target));
        assert_eq!(cluster.leader().await, target);
        let any = cluster.node(leader).transfer_leader(None, soon()).await.unwrap();
        assert_ne!(any, target);

        let leader = cluster.leader().await;
        let term = cluster.node(leader).status().unwrap().term;
        cluster.shut_down(leader).await;
        let next = cluster.leader_other_than(leader).await;
        let status = cluster.node(next).status().unwrap();
        assert_eq!(status.role, Role::Leader);
        assert_eq!(status.term, term + 1, "by one election, without waiting for a time-out");
        enqueued(cluster.node(next), "r").await;
        cluster.start(leader, VERSIONS).await;
        cluster.converged().await;
    }
}

cluster_test! {
    async fn a_hand_over_that_fails_does_not_stop_the_cluster() {
        let cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        let target = cluster.follower().await;
        cluster.net.isolate(target);
        let refused = cluster.node(leader).transfer_leader(Some(target), soon()).await;
        assert_eq!(refused, Err(AdminError::Unreachable { node: target }));
        enqueued(cluster.node(leader), "r").await;
    }
}

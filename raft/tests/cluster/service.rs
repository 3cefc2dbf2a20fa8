//! What a healthy cluster does.

use std::time::Duration;

use tarn_raft::{Instant, ProposalLimits, ProposeError, Role};

use super::cluster_test;
use super::support::{Cluster, enqueue, enqueued, soon, status};

cluster_test! {
    async fn every_node_takes_commands_and_all_states_are_equal() {
        let cluster = Cluster::founded(3).await;
        let mut tasks = Vec::new();
        for id in cluster.ids() {
            tasks.push(enqueued(cluster.node(id), &format!("r{id}")).await);
        }
        assert!(tasks.is_sorted(), "ids grow with the log");
        let status = cluster.converged().await;
        assert_eq!(status.members.len(), 3);
        assert!(status.members.iter().all(|member| member.voter));

        // A repeat finds the first outcome, whichever node it comes to.
        for (task, id) in tasks.iter().zip(cluster.ids()) {
            assert_eq!(*task, enqueued(cluster.node(1), &format!("r{id}")).await);
        }
        let leader = cluster.node(cluster.leader().await).status().unwrap();
        assert_eq!(leader.role, Role::Leader);
        assert!(leader.members.iter().all(|member| member.matched_index.is_some()));
    }
}

cluster_test! {
    async fn a_read_on_a_follower_sees_what_was_acknowledged_elsewhere() {
        let cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        for round in 0..20 {
            enqueued(cluster.node(leader), &format!("r{round}")).await;
            let acknowledged = cluster.node(leader).status().unwrap().applied.index;
            for id in cluster.ids() {
                let index = cluster.node(id).read_barrier(soon()).await.unwrap();
                assert!(index >= acknowledged);
                assert!(cluster.node(id).read(|machine| machine.applied_index()).unwrap() >= acknowledged);
            }
        }
    }
}

cluster_test! {
    async fn concurrent_commands_share_entries() {
        const COMMANDS: usize = 300;
        let cluster = Cluster::founded(3).await;
        let before = cluster.converged().await.last_log_index;
        let proposals = (0..COMMANDS).map(|n| {
            let node = cluster.node(1 + (n % 3) as u64).clone();
            tokio::spawn(async move { enqueued(&node, &format!("r{n}")).await })
        });
        let mut tasks: Vec<String> = Vec::new();
        for proposal in proposals.collect::<Vec<_>>() {
            tasks.push(proposal.await.unwrap());
        }
        tasks.sort();
        tasks.dedup();
        assert_eq!(tasks.len(), COMMANDS);
        let entries = cluster.converged().await.last_log_index - before;
        assert!(entries < COMMANDS as u64 / 3, "{entries} entries for {COMMANDS} commands");
    }
}

cluster_test! {
    async fn events_reach_subscribers_on_every_node() {
        let cluster = Cluster::founded(3).await;
        let mut events: Vec<_> = cluster.ids().into_iter().map(|id| cluster.node(id).events()).collect();
        let task = enqueued(cluster.node(1), "r").await;
        for receiver in &mut events {
            let batch = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await.unwrap().unwrap();
            assert!(batch.events.iter().all(|event| event.revision == batch.revision));
            assert!(batch.events.iter().any(|event| event.subject == task));
        }
    }
}

cluster_test! {
    async fn a_command_that_is_too_long_is_refused_before_the_log() {
        let cluster = Cluster::founded(1).await;
        let before = cluster.converged().await.last_log_index;
        let mut command = enqueue("r");
        command.principal = "x".repeat(tarn_raft::COMMAND_BYTES_MAX);
        let error = cluster.node(1).propose(command, soon()).await.unwrap_err();
        assert!(matches!(error, ProposeError::TooLarge { .. }));
        assert_eq!(cluster.converged().await.last_log_index, before);
    }
}

cluster_test! {
    async fn without_a_cluster_nothing_is_taken_and_nothing_hangs() {
        let mut cluster = Cluster::empty();
        let node = cluster.start(1, super::support::VERSIONS).await;
        assert!(!node.is_bootstrapped().await);
        let deadline = Instant::now() + Duration::from_millis(100);
        assert_eq!(node.propose(enqueue(""), deadline).await, Err(ProposeError::NotProposed));
        assert!(node.read_barrier(deadline).await.is_err());

        cluster.found(1).await;
        assert!(node.is_bootstrapped().await);
        assert!(node.bootstrap([(1, "elsewhere".into())].into()).await.is_err(), "once in its life");
        enqueued(&node, "r").await;
    }
}

cluster_test! {
    async fn time_passes_when_nothing_else_does() {
        use tarn_proto::v1::{self, command::Body, timer_action::Action};
        let cluster = Cluster::founded(3).await;
        let mark = v1::TimerAction { action: Some(Action::Mark("now".into())) };
        let schedule = v1::ScheduleTimerRequest {
            request_id: "t".into(),
            namespace: "default".into(),
            delay_ms: 300,
            action: Some(Box::new(mark)),
            ..Default::default()
        };
        let mut events = cluster.node(1).events();
        let command = v1::Command { principal: "test".into(), gate: None, body: Some(Body::ScheduleTimer(schedule)) };
        cluster.node(2).propose(command, soon()).await.unwrap();
        let fired = async {
            loop {
                let batch = events.recv().await.unwrap();
                if batch.events.iter().any(|event| event.kind == v1::EventKind::TimerFired as i32) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), fired).await.unwrap();
    }
}

cluster_test! {
    async fn a_full_queue_makes_callers_wait_until_their_deadline() {
        let mut cluster = Cluster::empty();
        let mut options = cluster.options(1, super::support::VERSIONS);
        options.proposals = ProposalLimits { queued_commands: 1, entries_in_flight: 1, ..ProposalLimits::default() };
        let node = cluster.start_with(options).await;
        cluster.found(1).await;
        let many = (0..50).map(|n| {
            let node = node.clone();
            tokio::spawn(async move { enqueued(&node, &format!("r{n}")).await })
        });
        for one in many.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        status(&node, |status| status.applied.index == status.last_log_index).await;
    }
}

cluster_test! {
    async fn a_leader_with_a_lease_answers_readers_too() {
        let mut cluster = Cluster::empty();
        for id in 1..=3 {
            let mut options = cluster.options(id, super::support::VERSIONS);
            options.reads = tarn_raft::ReadMode::Lease;
            cluster.start_with(options).await;
        }
        cluster.found(3).await;
        for id in cluster.ids() {
            enqueued(cluster.node(id), &format!("r{id}")).await;
            let acknowledged = cluster.node(id).status().unwrap().applied.index;
            for reader in cluster.ids() {
                assert!(cluster.node(reader).read_barrier(soon()).await.unwrap() >= acknowledged);
            }
        }
    }
}

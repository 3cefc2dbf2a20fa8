//! What wall clocks that lie do to a cluster's time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tarn_raft::clock::{Clock, SystemClock};
use tarn_raft::{NodeId, Options};

use super::cluster_test;
use super::support::{Cluster, VERSIONS, enqueued, soon, status};

const HOUR_MS: u64 = 3_600_000;

/// The system's clock, whose wall clock is ahead by what the test says.
#[derive(Default)]
struct Ahead {
    system: SystemClock,
    by_ms: AtomicU64,
}

impl Ahead {
    fn set(&self, by_ms: u64) {
        self.by_ms.store(by_ms, Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms() + self.by_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }
}

async fn start(cluster: &mut Cluster, id: NodeId, clock: &Arc<Ahead>) {
    let clock: Arc<dyn Clock> = clock.clone();
    let options = Options { clock, ..cluster.options(id, VERSIONS) };
    cluster.start_with(options).await;
}

cluster_test! {
    async fn one_clock_that_is_ahead_changes_nothing_and_a_night_without_the_cluster_passes() {
        let clocks: Vec<Arc<Ahead>> = (0..3).map(|_| Arc::default()).collect();
        let mut cluster = Cluster::empty();
        for (id, clock) in (1..).zip(&clocks) {
            start(&mut cluster, id, clock).await;
        }
        cluster.found(3).await;
        enqueued(cluster.node(1), "before").await;
        let ahead = cluster.follower().await;
        clocks[usize::try_from(ahead).unwrap() - 1].set(HOUR_MS);
        cluster.node(ahead).transfer_leader(Some(ahead), soon()).await.unwrap();
        enqueued(cluster.node(ahead), "by a leader whose clock is ahead").await;
        let led = cluster.converged().await;
        assert_eq!(led.leader.unwrap().id, ahead);
        let real_ms = SystemClock::new().wall_ms();
        assert!(led.applied.now_ms < real_ms + HOUR_MS / 2, "{} at {real_ms}", led.applied.now_ms);

        for id in cluster.ids() {
            cluster.kill(id).await;
        }
        for (id, clock) in (1..).zip(&clocks) {
            clock.set(8 * HOUR_MS);
            start(&mut cluster, id, clock).await;
        }
        let leader = cluster.leader().await;
        // Entries that were proposed before the voters had answered may still carry the old time.
        let mut n = 0;
        let deadline = soon();
        while cluster.node(leader).status().unwrap().applied.now_ms < real_ms + 8 * HOUR_MS {
            assert!(tarn_raft::Instant::now() < deadline, "the time of the night has not passed");
            n += 1;
            enqueued(cluster.node(leader), &format!("after the night {n}")).await;
        }
        status(cluster.node(leader), |status| status.applied.now_ms < real_ms + 9 * HOUR_MS).await;
    }
}

cluster_test! {
    async fn a_new_leader_knows_the_time_although_one_voter_is_silent() {
        let clocks: Vec<Arc<Ahead>> = (0..3).map(|_| Arc::default()).collect();
        let mut cluster = Cluster::empty();
        for (id, clock) in (1..).zip(&clocks) {
            start(&mut cluster, id, clock).await;
        }
        cluster.found(3).await;
        enqueued(cluster.node(1), "before").await;
        cluster.converged().await;
        let before = cluster.leader().await;
        cluster.net.isolate(before);
        for clock in &clocks {
            clock.set(HOUR_MS);
        }
        let leader = cluster.leader_other_than(before).await;
        let asked_ms = clocks[0].wall_ms();
        enqueued(cluster.node(leader), "after").await;
        // What comes first in the term is counted from now already, and not from the last entry of the leader before.
        let applied = status(cluster.node(leader), |status| status.applied.now_ms > 0).await.applied;
        assert!(applied.now_ms >= asked_ms, "{} is before {asked_ms}", applied.now_ms);
    }
}

//! Real tarn nodes on disks that fail. Each takes up to some minutes and is run by name:
//! `cargo test -p tarn-jepsen --lib disk::tarn_tests -- --ignored --nocapture`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng as _};
use tarn_client::{Client, Task};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::cluster::{Cluster, ClusterOptions, Disk};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(90);
/// How many submit at once.
const CLIENTS: usize = 4;

/// The binary that cargo put beside the tests.
fn tarn() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("tarn"))
        .find(|path| path.is_file());
    found.expect("there is no tarn beside the tests: build it with `cargo build -p tarn`")
}

/// A cluster on disks that fail, and what it has acknowledged.
struct Bench {
    cluster: Cluster,
    acknowledged: Arc<Mutex<Vec<String>>>,
    rng: StdRng,
    // Dropped last: the disks are mounted in it.
    _dir: TempDir,
}

impl Bench {
    async fn new(nodes: usize) -> Option<Self> {
        if let Err(reason) = available() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let cluster = Cluster::create(ClusterOptions {
            nodes,
            disk: Disk::Fuse,
            settings: vec![
                setting("raft.snapshot_entries", "200"),
                setting("raft.keep_entries", "50"),
                setting("executors.wasm", "false"),
            ],
            ..ClusterOptions::new(tarn(), dir.path())
        })
        .unwrap();
        cluster.start_all().unwrap();
        cluster.wait_ready(LONG).await.unwrap();
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(rand::random::<u64>);
        eprintln!("SEED={seed}");
        Some(Self {
            cluster,
            acknowledged: Arc::default(),
            rng: StdRng::seed_from_u64(seed),
            _dir: dir,
        })
    }

    /// Submits tasks until it is dropped.
    fn load(&self) -> JoinSet<()> {
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = self
                .cluster
                .client(&self.cluster.ids())
                .unwrap()
                .with_deadline(Duration::from_secs(5));
            let acknowledged = Arc::clone(&self.acknowledged);
            load.spawn(async move {
                loop {
                    if let Ok(id) = client
                        .enqueue(Task::new("q").handler("echo").payload(vec![7; 300]))
                        .await
                    {
                        acknowledged.lock().unwrap().push(id);
                    }
                }
            });
        }
        load
    }

    fn client(&self) -> Client {
        self.cluster.client(&self.cluster.ids()).unwrap().with_deadline(LONG)
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many more were acknowledged.
    async fn progress(&self, more: usize) {
        let (goal, end) = (self.count() + more, Instant::now() + LONG);
        while self.count() < goal {
            assert!(Instant::now() < end, "no progress:\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The tasks that were acknowledged and are not there.
    async fn lost(&self) -> Vec<String> {
        let client = self.client();
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut lost = Vec::new();
        for id in acknowledged {
            match client.get_task(&id).await {
                Ok(_) => {}
                Err(error) if error.refusal().is_some() => lost.push(id),
                Err(error) => panic!("nobody says whether {id} is there: {error}\n{}", self.logs()),
            }
        }
        lost
    }

    /// Every task that was acknowledged is there.
    async fn nothing_lost(&self) {
        let lost = self.lost().await;
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged tasks are lost\n{}",
            lost.len(),
            self.count(),
            self.logs()
        );
        eprintln!("{} acknowledged tasks are there", self.count());
    }

    /// Waits until a node has ended by itself, and returns how and what it wrote last.
    async fn ended(&self, id: u64) -> (i32, String) {
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = self.cluster.ended(id).unwrap() {
                return (status.code().unwrap_or(-1), self.cluster.log_end(id));
            }
            assert!(
                Instant::now() < end,
                "node {id} did not end:\n{}",
                self.cluster.log_end(id)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn back(&self) {
        if let Err(error) = self.cluster.wait_ready(LONG).await {
            panic!("the cluster is not back: {error:#}");
        }
    }

    fn logs(&self) -> String {
        let ids = self.cluster.all_ids().into_iter();
        ids.map(|id| format!("--- node {id}\n{}\n", self.cluster.log_end(id)))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn one_node_loses_nothing_when_its_power_is_cut() {
    power_cuts(1, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_cluster_loses_nothing_when_all_its_power_is_cut() {
    power_cuts(3, 8).await;
}

async fn power_cuts(nodes: usize, rounds: usize) {
    let Some(mut bench) = Bench::new(nodes).await else {
        return;
    };
    let ids = bench.cluster.ids();
    for round in 0..rounds {
        let survival = [Survival::Nothing, Survival::Torn, Survival::Scattered][round % 3];
        let load = bench.load();
        let more = bench.rng.random_range(1..400);
        bench.progress(more).await;
        bench.cluster.kill(&ids).await.unwrap();
        drop(load);
        for id in &ids {
            let loss = bench
                .cluster
                .disk(*id)
                .unwrap()
                .lose_unsynced(survival, &mut bench.rng)
                .unwrap();
            eprintln!("round {round}, node {id}, {survival:?}: {loss:?}");
        }
        bench.cluster.start_all().unwrap();
        bench.back().await;
        bench.nothing_lost().await;
    }
    assert_eq!(bench.cluster.endings(), []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_disk_that_lies_is_found_out() {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(50).await;
    let disk = bench.cluster.disk(1).unwrap();
    disk.lie(true);
    bench.progress(50).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    let loss = disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    disk.lie(false);
    bench.cluster.start(1).unwrap();
    bench.back().await;
    let lost = bench.lost().await;
    eprintln!(
        "{} of {} acknowledged tasks are lost; {loss:?}",
        lost.len(),
        bench.count()
    );
    assert!(
        lost.len() >= 50,
        "a node without syncs lost only {}: these tests would find nothing",
        lost.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_follower_gets_a_snapshot_although_the_leaders_is_damaged() {
    damaged_snapshot("raft/snapshots/s*/files/FORMAT").await;
}

/// Snapshots share their table files with the state: this damages both.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_follower_gets_a_snapshot_although_the_leaders_tables_are_damaged() {
    damaged_snapshot("raft/snapshots/s*/files/*.sst").await;
}

/// A follower that needs a snapshot cannot get one from a leader whose own is damaged. It must not be kept away for that: the leader finds the
/// damage and makes another, or stops.
async fn damaged_snapshot(files: &str) {
    let Some(mut bench) = Bench::new(3).await else { return };
    let leader = bench.cluster.leader().await.unwrap();
    let follower = bench.cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let load = bench.load();
    bench.progress(20).await;
    bench.cluster.kill(&[follower]).await.unwrap();
    bench.progress(1500).await;
    drop(load);
    let disk = bench.cluster.disk(leader).unwrap();
    let wound = disk.corrupt(files, Damage::BitFlip, &mut bench.rng).unwrap().unwrap();
    eprintln!("node {leader}: {wound:?}");
    bench.cluster.start(follower).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        // A leader that stopped because of the damage is replaced by hand: the others are enough.
        let stopped = bench.cluster.ended(leader).unwrap();
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() || stopped.is_some() {
            eprintln!("{stopped:?}\n{}", bench.cluster.log_end(leader));
            break;
        }
        assert!(
            Instant::now() < end,
            "node {follower} does not catch up:\n{}",
            bench.logs()
        );
    }
    bench.nothing_lost().await;
}

/// The end of one node's log is gone, and with it what only this node and the leader have. If it votes as if nothing were missing, the third
/// node, which never had it, becomes leader without it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_whose_log_lost_its_end_does_not_vote_others_into_losing_it() {
    let Some(mut bench) = Bench::new(3).await else { return };
    let leader = bench.cluster.leader().await.unwrap();
    let others: Vec<u64> = bench.cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (damaged, behind) = (others[0], others[1]);
    let load = bench.load();
    bench.progress(20).await;
    bench.cluster.kill(&[behind]).await.unwrap();
    bench.progress(100).await;
    bench.cluster.kill(&[leader, damaged]).await.unwrap();
    drop(load);
    let disk = bench.cluster.disk(damaged).unwrap();
    let loss = disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    let wound = disk
        .corrupt("raft/log/*.log", Damage::Truncation, &mut bench.rng)
        .unwrap()
        .unwrap();
    eprintln!("node {damaged}: {loss:?}, {wound:?}");
    // The leader stays away for a while.
    bench.cluster.start_idle(&[damaged, behind]).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end && bench.cluster.ended(damaged).unwrap().is_none() {
        if let Some(led) = bench.cluster.leader().await {
            eprintln!("node {led} leads");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bench.cluster.start(leader).unwrap();
    bench.back().await;
    bench.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_on_a_full_disk_stops_and_goes_on_when_there_is_room() {
    let Some(mut bench) = Bench::new(1).await else { return };
    for left in [0, 1000, 60_000] {
        let load = bench.load();
        bench.progress(50).await;
        let disk = bench.cluster.disk(1).unwrap();
        disk.limit(Some(left));
        let (code, log) = bench.ended(1).await;
        drop(load);
        eprintln!("{left} bytes left: exit code {code}\n{log}");
        assert_eq!(code, 70);
        assert!(log.to_lowercase().contains("space"), "{log}");
        // As long as the disk is full, it says so, or comes up and serves.
        disk.limit(None);
        disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
        bench.cluster.start(1).unwrap();
        bench.back().await;
        bench.nothing_lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_whose_disk_fails_stops_and_loses_nothing() {
    let Some(mut bench) = Bench::new(1).await else { return };
    for operation in [Operation::Write, Operation::Sync] {
        for files in ["raft/log/*", "raft/state/**", "**"] {
            let load = bench.load();
            bench.progress(50).await;
            let disk = bench.cluster.disk(1).unwrap();
            disk.io_errors(Some(IoErrors {
                operations: vec![operation],
                files: files.to_owned(),
                how: How::Next(1),
            }));
            let (code, log) = bench.ended(1).await;
            drop(load);
            eprintln!(
                "{operation:?} of {files}: exit code {code}, {} struck\n{log}",
                disk.struck()
            );
            assert_eq!(code, 70);
            disk.io_errors(None);
            disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
            bench.cluster.start(1).unwrap();
            bench.back().await;
            bench.nothing_lost().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_node_refuses_or_serves_what_was_acknowledged() {
    for (files, damage) in [
        ("raft/log/*.log", Damage::BitFlip),
        ("raft/log/*.log", Damage::Truncation),
        ("raft/log/*.log", Damage::ZeroChunk),
        ("raft/log/*.log", Damage::OldChunk),
        ("raft/log/*.sst", Damage::BitFlip),
        ("raft/log/MANIFEST*", Damage::BitFlip),
        ("raft/log/MANIFEST*", Damage::Truncation),
        ("raft/log/CURRENT", Damage::BitFlip),
        ("raft/state/*/*.sst", Damage::BitFlip),
        ("raft/state/*/*.log", Damage::BitFlip),
        ("raft/state/*/*.log", Damage::Truncation),
        ("raft/state/*/MANIFEST*", Damage::BitFlip),
        ("raft/state/CURRENT", Damage::BitFlip),
        ("raft/snapshots/**", Damage::BitFlip),
        ("raft/snapshots/**", Damage::Truncation),
    ] {
        damaged(files, damage, false).await;
    }
}

/// As above, and the power was cut, so that the state cannot hide what the log lost.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_log_is_refused_or_has_what_was_acknowledged() {
    for _ in 0..6 {
        for damage in [Damage::BitFlip, Damage::ZeroChunk] {
            damaged("raft/log/*.log", damage, true).await;
        }
    }
}

/// A snapshot's manifest says where in the log it stands and who the members are. Its folder is named after its hash.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_manifest_of_a_snapshot_is_noticed() {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(900).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    let disk = bench.cluster.disk(1).unwrap();
    let files = "raft/snapshots/s*/MANIFEST";
    let wound = disk.corrupt(files, Damage::BitFlip, &mut bench.rng).unwrap().unwrap();
    let damaged = std::fs::read(disk.path().join(&wound.file)).unwrap();
    bench.cluster.start(1).unwrap();
    let end = Instant::now() + LONG;
    loop {
        if let Some(status) = bench.cluster.ended(1).unwrap() {
            eprintln!("refused: {status}\n{}", bench.cluster.log_end(1));
            return;
        }
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(
            Instant::now() < end,
            "neither serves nor stops: {wound:?}\n{}",
            bench.logs()
        );
    }
    // It may have thrown the snapshot away, or made another.
    let now = std::fs::read(disk.path().join(&wound.file)).unwrap_or_default();
    assert!(
        now != damaged,
        "{wound:?} is still the node's snapshot:\n{}",
        bench.cluster.log_end(1)
    );
    bench.nothing_lost().await;
}

/// Damages a single node, which has nobody to repair it: it must refuse to start, stop, or still have everything.
async fn damaged(files: &str, damage: Damage, power_cut: bool) {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(300).await;
    let disk = bench.cluster.disk(1).unwrap();
    disk.remember(files).unwrap();
    bench.progress(600).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    if power_cut {
        disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    }
    let Some(wound) = disk.corrupt(files, damage, &mut bench.rng).unwrap() else {
        eprintln!("SKIPPED {files} {damage:?}: nothing fits");
        return;
    };
    bench.cluster.start(1).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = bench.cluster.ended(1).unwrap() {
            let log = bench.cluster.log_end(1);
            eprintln!(
                "REFUSED {wound:?}: {status}\n{}",
                log.lines().last().unwrap_or_default()
            );
            return;
        }
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(
            Instant::now() < end,
            "neither serves nor stops: {wound:?}\n{}",
            bench.cluster.log_end(1)
        );
    }
    let lost = bench.lost().await;
    eprintln!("SERVES {wound:?}");
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged tasks are lost in silence\n{}",
        lost.len(),
        bench.count(),
        bench.cluster.log_end(1)
    );
}

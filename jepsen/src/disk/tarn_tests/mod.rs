//! Real tarn nodes on disks that fail. Each takes up to some minutes and is run by name:
//! `cargo test -p tarn-jepsen --lib disk::tarn_tests -- --ignored --nocapture`.

mod damage;
mod failure;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tarn_client::{Client, Code, Task};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::cluster::{Cluster, ClusterOptions, Disk, Ending};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(90);
/// How many submit at once.
const CLIENTS: usize = 4;

/// The binary that cargo put beside the tests.
fn tarn() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|folder| folder.join("tarn")).find(|path| path.is_file());
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
            settings: vec![setting("raft.snapshot_entries", "200"), setting("raft.keep_entries", "50"), setting("executors.wasm", "false")],
            ..ClusterOptions::new(tarn(), dir.path())
        })
        .unwrap();
        cluster.start_all().unwrap();
        cluster.wait_ready(LONG).await.unwrap();
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(rand::random::<u64>);
        eprintln!("SEED={seed}");
        Some(Self { cluster, acknowledged: Arc::default(), rng: StdRng::seed_from_u64(seed), _dir: dir })
    }

    /// Submits tasks until it is dropped.
    fn load(&self) -> JoinSet<()> {
        let mut load = JoinSet::new();
        for _ in 0..CLIENTS {
            let client = self.cluster.client(&self.cluster.ids()).unwrap().with_deadline(Duration::from_secs(5));
            let acknowledged = Arc::clone(&self.acknowledged);
            load.spawn(async move {
                loop {
                    if let Ok(id) = client.enqueue(Task::new("q").handler("echo").payload(vec![7; 300])).await {
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

    /// Waits until so many of these nodes have ended, for the reason that their data are damaged.
    async fn stopped_by_damage(&self, ids: &[u64], enough: usize) {
        let mut stopped = 0;
        while stopped < enough {
            for Ending { node, how, code, log, .. } in ids.iter().filter_map(|id| self.cluster.ended(*id)) {
                assert!(matches!(code, Some(1 | 70)), "node {node}: {how}\n{log}");
                assert!(log.to_lowercase().contains("corrupt"), "node {node} does not say why it stopped:\n{log}");
                stopped += 1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The tasks that were acknowledged and that the cluster says are not there.
    async fn lost(&self) -> Vec<String> {
        let client = self.client();
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut lost = Vec::new();
        for id in acknowledged {
            match client.get_task(&id).await {
                Ok(_) => {}
                Err(error) if error.refusal().is_some_and(|refusal| refusal.code == Code::NotFound) => lost.push(id),
                Err(error) => panic!("nobody says whether {id} is there: {error}\n{}", self.logs()),
            }
        }
        lost
    }

    /// Every task that was acknowledged is there.
    async fn nothing_lost(&self) {
        let lost = self.lost().await;
        assert!(lost.is_empty(), "{} of {} acknowledged tasks are lost\n{}", lost.len(), self.count(), self.logs());
        eprintln!("{} acknowledged tasks are there", self.count());
    }

    /// Waits until a node has ended by itself, and returns how and what it wrote last.
    async fn ended(&self, id: u64) -> (i32, String) {
        let end = Instant::now() + LONG;
        loop {
            if let Some(ending) = self.cluster.ended(id) {
                return (ending.code.unwrap_or(-1), ending.log);
            }
            assert!(Instant::now() < end, "node {id} did not end:\n{}", self.cluster.log_end(id));
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
        ids.map(|id| format!("--- node {id}\n{}\n", self.cluster.log_end(id))).collect()
    }
}

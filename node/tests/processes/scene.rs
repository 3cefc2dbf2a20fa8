//! A cluster of processes in a folder of its own, with a seed for the test's choices.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tarn_client::{Client, proto};
use tarn_local::LocalCluster;
use tempfile::TempDir;

/// How long anything may take that a test waits for: far more than it needs, as the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The binary under test.
pub const TARN: &str = env!("CARGO_BIN_EXE_tarn");

/// A running cluster of three. The processes end before their folder goes.
pub struct Scene {
    pub cluster: LocalCluster,
    pub random: StdRng,
    seed: u64,
    dir: TempDir,
}

impl Scene {
    /// Starts a cluster of three with these settings. Every node may sign certificates of joining machines.
    pub async fn start(settings: &[(&str, &str)]) -> Scene {
        let seed = seed();
        let dir = tempfile::tempdir().unwrap();
        let ca = format!("{:?}", dir.path().join("ca").display().to_string());
        let settings = [settings, &[("identity.ca_dir", &ca), ("log.level", "\"warn,tarn=info,tarn_raft=info\"")]].concat();
        let cluster = LocalCluster::create(Path::new(TARN), dir.path(), 3, &settings).unwrap();
        let mut scene = Scene { cluster, random: StdRng::seed_from_u64(seed), seed, dir };
        scene.cluster.start().await.unwrap();
        scene
    }

    /// A client that knows the three founders. A node that is no member yet would have calls wait for a leader that it does not know.
    pub fn client(&self) -> Client {
        let credentials = self.cluster.credentials().unwrap();
        Client::builder().addresses(self.founders()).credentials(credentials).connect_lazy().unwrap()
    }

    fn founders(&self) -> Vec<String> {
        self.cluster.addresses().into_iter().take(3).collect()
    }

    pub async fn leader(&mut self) -> u64 {
        self.cluster.wait_for_leader().await.unwrap()
    }

    /// A node that does not lead.
    pub async fn follower(&mut self) -> u64 {
        let leader = self.leader().await;
        let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        followers[self.random.random_range(0..followers.len())]
    }

    /// The cluster as one node sees it; `None` where that node does not answer.
    pub async fn seen_by(&self, id: u64) -> Option<proto::GetClusterResponse> {
        let address = self.cluster.addresses()[usize::try_from(id).unwrap() - 1].clone();
        let client = Client::builder()
            .addresses([address])
            .credentials(self.cluster.credentials().unwrap())
            .deadline(Duration::from_secs(2))
            .connect_lazy()
            .unwrap();
        let seen = client.cluster().await.ok()?;
        assert_eq!(seen.answering_node_id, id);
        Some(seen)
    }

    /// Waits until these nodes were all seen at one index, not before what the first of them has applied by now, and returns it. Wherever
    /// two were seen at the same index, their states have the same digest.
    pub async fn agree(&self, ids: &[u64]) -> u64 {
        let mut digests: BTreeMap<u64, HashMap<u64, String>> = BTreeMap::new();
        let mut least = None;
        until("all nodes at one index", async || {
            for id in ids {
                let Some(seen) = self.seen_by(*id).await else { continue };
                least.get_or_insert(seen.applied_index);
                let at = digests.entry(seen.applied_index).or_default();
                for (other, digest) in &*at {
                    assert_eq!(*digest, seen.digest, "nodes {other} and {id} differ at index {}", seen.applied_index);
                }
                at.insert(*id, seen.digest);
            }
            let common = digests.iter().rev().find(|(_, at)| at.len() == ids.len()).map(|(index, _)| *index);
            common.filter(|index| Some(*index) >= least)
        })
        .await
    }

    /// Runs a command as the cluster's user.
    pub fn tarn(&self, args: &[&str]) -> Output {
        let [ca, cert, key] = self.cluster.credential_files();
        command(self.dir.path())
            .env("TARN_ADDRESS", self.founders().join(","))
            .env("TARN_CACERT", ca)
            .env("TARN_CERT", cert)
            .env("TARN_KEY", key)
            .args(args)
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn tarn_ok(&self, args: &[&str]) -> String {
        succeeded(self.tarn(args))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with TARN_TEST_SEED={}\n{}", self.seed, self.cluster.log_ends());
        }
    }
}

/// The command line without what the tester's own environment says about clusters.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(TARN);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TARN_") {
            command.env_remove(name);
        }
    }
    command.env("TARN_CONTEXTS", dir.join("contexts.toml"));
    command
}

/// What a command printed, if it succeeded.
pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a condition, and returns what it gives.
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

fn seed() -> u64 {
    match std::env::var("TARN_TEST_SEED") {
        Ok(seed) => seed.parse().expect("TARN_TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64,
    }
}

//! A process that dies at each crash point in turn, and what is there afterwards.
//!
//! The test runs itself again as a child with one crash point armed. The child founds a cluster of one, enqueues tasks
//! and writes each acknowledgement to its standard output, makes snapshots, purges, and adds a learner that needs a
//! snapshot. When it has died, the parent opens what it left.
//!
//! Only with the feature `crash-points`: `cargo test -p tarn-raft --features crash-points --test crash`.

#![cfg(feature = "crash-points")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Cluster, VERSIONS, address, enqueued, soon, status};
use tarn_raft::{CRASH_POINTS, Limits};

const CHILD_DIR: &str = "TARN_TEST_CRASH_DIR";

const LIMITS: Limits = Limits { snapshot_entries: 30, keep_entries: 0, log_cache_bytes: 16 << 10, batch_bytes: 64 << 10 };

/// Tasks before the learner comes, and in all.
const BEFORE_LEARNER: u32 = 50;
const TASKS: u32 = 80;

fn cluster(dir: &Path) -> Cluster {
    let mut cluster = Cluster::at(dir.to_path_buf());
    cluster.limits = LIMITS;
    cluster
}

/// The child. Does nothing when it runs as an ordinary test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let mut cluster = cluster(&PathBuf::from(dir));
    let node = cluster.start(1, VERSIONS).await;
    cluster.found(1).await;
    for n in 0..TASKS {
        if n == BEFORE_LEARNER {
            status(&node, |status| status.purged_index > 0).await;
            cluster.start(2, VERSIONS).await;
            node.add_learner(2, address(2), soon()).await.unwrap();
            cluster.converged().await;
        }
        let task = enqueued(&node, &format!("r{n}")).await;
        println!("\nacknowledged r{n} {task}");
        std::io::stdout().flush().unwrap();
    }
    cluster.converged().await;
    println!("\nfinished");
}

struct Outcome {
    acknowledged: BTreeMap<String, String>,
    finished: bool,
}

fn run_child(dir: &Path, point: &str) -> Outcome {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(tarn_storage::crash::VARIABLE, point)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let finished = text.contains("\nfinished");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(finished || errors.contains("crash point"), "{point}: the child failed by itself: {text}\n{errors}");
    let acknowledged = text.lines().filter_map(|line| {
        let mut words = line.strip_prefix("acknowledged ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    Outcome { acknowledged: acknowledged.collect(), finished }
}

/// Opens what is left, looks for everything that was acknowledged, and lets a new node build the state for itself.
async fn examine(dir: &Path, point: &str, acknowledged: &BTreeMap<String, String>) {
    let mut cluster = cluster(dir);
    let node = cluster.start(1, VERSIONS).await;
    if !node.is_bootstrapped().await {
        assert!(acknowledged.is_empty(), "{point}: the cluster is gone");
        cluster.found(1).await;
    }
    cluster.leader().await;
    for (request, task) in acknowledged {
        assert_eq!(enqueued(&node, request).await, *task, "{point}: {request} was acknowledged and is lost");
    }
    let members = node.status().unwrap().members;
    if members.iter().any(|member| member.peer.id == 2) {
        cluster.start(2, VERSIONS).await;
    }
    cluster.start(3, VERSIONS).await;
    node.add_learner(3, address(3), soon()).await.unwrap();
    enqueued(&node, "after").await;
    // The digests are a chain over all entries: equal ones mean that every node applied the same, each by itself.
    cluster.converged().await;
    for id in cluster.ids() {
        cluster.kill(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_at_any_crash_point() {
    for point in CRASH_POINTS {
        for visit in [1, 2, 3, 40] {
            let temp = tempfile::tempdir().unwrap();
            let armed = format!("{point}:{visit}");
            let dir = temp.path().to_path_buf();
            let outcome = tokio::task::spawn_blocking({
                let armed = armed.clone();
                move || run_child(&dir, &armed)
            });
            let outcome = outcome.await.unwrap();
            assert!(visit > 1 || !outcome.finished, "{point} was never reached");
            if outcome.finished {
                assert_eq!(outcome.acknowledged.len(), TASKS as usize);
                break;
            }
            examine(temp.path(), &armed, &outcome.acknowledged).await;
        }
    }
}

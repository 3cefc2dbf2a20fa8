//! SIGKILL at any instant loses nothing that was acknowledged, and does nothing twice.

use std::time::Duration;

use rand::Rng;

use crate::load::Load;
use crate::scene::{LIMIT, Scene};

const ROUNDS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant() {
    let mut scene = Scene::start(&[("raft.snapshot_entries", "300"), ("raft.keep_entries", "50")]).await;
    let load = Load::start(&scene.client(), LIMIT);
    load.progress(10).await;
    for round in 0..ROUNDS {
        let victim = match round % 2 {
            0 => scene.leader().await,
            _ => scene.random.random_range(1..=3),
        };
        // Not a wait for anything: the instant is to be any.
        tokio::time::sleep(Duration::from_millis(scene.random.random_range(0..200))).await;
        scene.cluster.kill_node(victim).unwrap();
        let meanwhile = scene.random.random_range(0..40);
        load.progress(meanwhile).await;
        scene.cluster.start_node(victim).unwrap();
        load.progress(20).await;
    }
    let done = load.finish().await;
    assert!(done >= 90, "only {done} tasks");
    scene.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_all_at_once() {
    let mut scene = Scene::start(&[]).await;
    let load = Load::start(&scene.client(), LIMIT);
    load.progress(20).await;
    for id in 1..=3 {
        scene.cluster.kill_node(id).unwrap();
    }
    scene.cluster.start().await.unwrap();
    load.progress(20).await;
    load.finish().await;
    scene.agree(&[1, 2, 3]).await;
}

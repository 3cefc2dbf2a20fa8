//! A node dies at each crash point in turn, under load, and nothing that was acknowledged is lost.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use rand::Rng;
use tarn_raft::CRASH_POINTS;

use crate::load::Load;
use crate::scene::{LIMIT, Scene};

const SIGABRT: i32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dies_at_every_crash_point() {
    let mut scene = Scene::start(&[("raft.snapshot_entries", "100"), ("raft.keep_entries", "0")]).await;
    let load = Load::start(&scene.client(), LIMIT);
    for point in CRASH_POINTS {
        eprintln!("{point}");
        load.progress(5).await;
        let victim = scene.random.random_range(1..=3);
        scene.cluster.kill_node(victim).unwrap();
        // The state is switched, and the old one removed, where a snapshot arrives: the others must have purged what the node lacks. A task
        // is three entries.
        load.progress(if point.starts_with("state.") { 120 } else { 5 }).await;
        // Visits at the start are few; those under load are many.
        let visit = if point.starts_with("log.append") || point.starts_with("apply") { scene.random.random_range(1..20) } else { 1 };
        scene.cluster.start_node_with(victim, &[("TARN_CRASH_POINT", &format!("{point}:{visit}"))]).unwrap();
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = scene.cluster.ended(victim).unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "node {victim} never came to {point}");
            if point.starts_with("log.vote") {
                // It votes when another term begins; that leadership moves may be refused while the node is starting.
                let _ = scene.client().transfer_leader(None).await;
            }
            load.progress(1).await;
        };
        assert_eq!(status.signal(), Some(SIGABRT), "{point}: {status}");
        scene.cluster.start_node(victim).unwrap();
    }
    load.finish().await;
    scene.agree(&[1, 2, 3]).await;
}

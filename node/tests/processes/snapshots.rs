//! A node that was away while the log was purged catches up by a snapshot.

use futures::StreamExt;
use tarn_client::Task;

use crate::scene::{Scene, until};

const KEEP: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshot_and_purge() {
    let keep = KEEP.to_string();
    let mut scene = Scene::start(&[("raft.snapshot_entries", "100"), ("raft.keep_entries", &keep)]).await;
    let client = scene.client();
    client.enqueue(Task::new("before").payload("0")).await.unwrap();

    let away = scene.follower().await;
    let last = scene.seen_by(away).await.unwrap().last_log_index;
    scene.cluster.kill_node(away).unwrap();
    let leader = scene.leader().await;
    let other = (1..=3).find(|id| ![leader, away].contains(id)).unwrap();
    let mut written = 0;
    loop {
        // A leader may keep the entries that a follower lacks; a follower keeps what it was told to. So one that has purged them leads next.
        let seen = until("the other follower answers", async || scene.seen_by(other).await).await;
        if seen.purged_index > last {
            break;
        }
        futures::stream::iter(written..written + 50)
            .for_each_concurrent(16, async |number| {
                client.enqueue(Task::new("meanwhile").payload(vec![number as u8; 1_000])).await.unwrap();
            })
            .await;
        written += 50;
        assert!(written < 5_000, "no snapshot after {written} entries: {seen:?}");
    }
    assert_eq!(client.transfer_leader(Some(other)).await.unwrap(), other);
    assert_eq!(arrived(&scene, away), 0);
    scene.cluster.start_node(away).unwrap();
    scene.agree(&[1, 2, 3]).await;
    assert!(arrived(&scene, away) > 0, "node {away} caught up without a snapshot");

    // What came as a snapshot is there after a crash too.
    scene.cluster.kill_node(away).unwrap();
    scene.cluster.start_node(away).unwrap();
    scene.agree(&[1, 2, 3]).await;
}

/// How many snapshots the node says that it has received.
fn arrived(scene: &Scene, id: u64) -> usize {
    std::fs::read_to_string(scene.cluster.log(id)).unwrap().matches("a snapshot has arrived").count()
}

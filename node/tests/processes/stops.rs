//! SIGTERM: the leader hands over, no request fails, and the node comes back.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::scene::{Scene, until};

/// How long a stop may take where nothing has to be waited for: the time of grace, and as long again for a busy machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graceful_stop_hands_over() {
    let mut scene = Scene::start(&[("limits.shutdown_grace_ms", "10_000")]).await;
    let load = Load::start(&scene.client(), Duration::from_secs(15));
    load.progress(10).await;

    let leader = scene.leader().await;
    let began = Instant::now();
    let status = scene.cluster.stop_node(leader).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < STOPPED_WITHIN, "{:?}", began.elapsed());
    let next = scene.leader().await;
    assert_ne!(next, leader);
    load.progress(20).await;

    scene.cluster.start_node(leader).unwrap();
    until("the node is back", async || scene.seen_by(leader).await.filter(|seen| seen.leader_id != 0)).await;
    load.progress(20).await;
    load.finish().await;
    scene.agree(&[1, 2, 3]).await;
}

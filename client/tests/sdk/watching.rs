//! Watches that resume.

use std::time::Duration;

use futures::StreamExt;
use tarn_client::Error;
use tonic::Status;

use crate::fake::{Fake, Fault};

#[tokio::test]
async fn interruptions_neither_lose_nor_repeat_events() {
    let fake = Fake::new();
    let mut nodes = vec![fake.node().await, fake.node().await];
    let client = fake.client(&[&nodes[0], &nodes[1]]).await;
    for index in 0..30 {
        fake.with(|state| state.event(&format!("before-{index}")));
    }
    let mut watcher = client.watch().after(0).start();
    let mut seen = Vec::new();
    for index in 0..30 {
        seen.push(watcher.next().await.unwrap());
        match index {
            5 | 11 => fake.cut_streams(),
            17 => drop(nodes.remove(0)),
            20 => fake.fault("watch", Fault::Fail(Status::unavailable("no leader"))),
            _ => {}
        }
    }
    let revisions: Vec<u64> = seen.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, (1..=30).collect::<Vec<u64>>());
    assert_eq!(watcher.revision(), 30);
}

#[tokio::test]
async fn from_now_on_means_from_the_first_message() {
    let (fake, _node, client) = Fake::alone().await;
    fake.with(|state| state.event("old"));
    let mut watcher = client.watch().start();
    // Nothing has happened yet, but the node has told where the stream begins.
    assert!(tokio::time::timeout(Duration::from_millis(200), watcher.next()).await.is_err());
    assert_eq!(watcher.revision(), 1);
    fake.cut_streams();
    fake.with(|state| state.event("new"));
    assert_eq!(watcher.next().await.unwrap().subject, "new");
}

#[tokio::test]
async fn compacted_events_are_told_and_never_skipped() {
    let (fake, _node, client) = Fake::alone().await;
    fake.with(|state| state.compacted = 10);
    let mut watcher = client.watch().after(3).start();
    for _ in 0..2 {
        assert!(matches!(watcher.next().await, Err(Error::Compacted { after_revision: 3 })));
    }
    let mut stream = Box::pin(watcher.into_stream());
    assert_eq!(stream.next().await.unwrap().unwrap_err().reason(), "COMPACTED");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_watch_without_nodes_gives_up_and_can_be_resumed() {
    let fake = Fake::new();
    let node = fake.node().await;
    let client = fake.client(&[&node]).await.with_deadline(Duration::from_millis(300));
    drop(node);
    let mut watcher = client.watch().after(0).start();
    for _ in 0..2 {
        assert!(matches!(watcher.next().await, Err(Error::Unavailable { .. })));
    }
}

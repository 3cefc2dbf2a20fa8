//! Three nodes in one process: any of them takes any request, and the end of the leader loses nothing.

use crate::common::{Node, cluster, eventually, task};
use tarn_proto::v1::{self, TaskState};

fn leader(nodes: &[Node]) -> usize {
    let leader = nodes.iter().find_map(|node| {
        node.running
            .consensus()
            .leadership()
            .borrow()
            .leader
            .as_ref()
            .map(|peer| peer.id)
    });
    leader.map_or(0, |id| id as usize - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_any_request_and_a_leader_may_go() {
    let mut nodes = cluster(3).await;
    // Submitted at one node, leased at the second, completed at the third, read at the first.
    let id = nodes[0].submit(task("q", b"")).await;
    let worker = nodes[1].register().await;
    let leased = nodes[1].lease(&worker, 1).await.remove(0);
    assert_eq!(leased.task_id, id);
    nodes[2].complete(&leased, b"done").await;
    assert_eq!(nodes[0].ended(&id).await.state(), TaskState::Succeeded);

    // A worker waits at a follower, and hears of a task that another node took.
    let follower = (0..3).find(|index| *index != leader(&nodes)).unwrap();
    let other = (0..3).find(|index| *index != follower).unwrap();
    let (waited, id) = tokio::join!(nodes[follower].lease(&worker, 1), nodes[other].submit(task("q", b"")));
    assert_eq!(waited[0].task_id, id);

    let gone = nodes.remove(leader(&nodes));
    gone.running.shutdown().await;
    nodes[0].complete(&waited[0], b"still").await;
    assert_eq!(nodes[1].ended(&id).await.state(), TaskState::Succeeded);
    let cluster = nodes[0].cluster();
    eventually(|| async {
        let told = cluster
            .clone()
            .get_cluster(v1::GetClusterRequest {})
            .await
            .unwrap()
            .into_inner();
        told.leader_id != 0 && told.leader_id != gone_id(&nodes)
    })
    .await;
    for node in nodes {
        node.running.shutdown().await;
    }
}

/// Of the ids 1 to 3, the one that none of these nodes has.
fn gone_id(nodes: &[Node]) -> u64 {
    6 - nodes.iter().map(|node| node.running.node_id()).sum::<u64>()
}

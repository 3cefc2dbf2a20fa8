//! Machines come and go: by token, by removal, in place of a dead one.

use tarn_client::Task;

use crate::scene::{Scene, until};

/// The voters' ids, as the cluster tells.
async fn voters(scene: &Scene) -> Vec<u64> {
    let cluster = scene.client().cluster().await.unwrap();
    let mut ids: Vec<u64> = cluster.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_joins() {
    let mut scene = Scene::start(&[]).await;
    let client = scene.client();
    let id = client.enqueue(Task::new("before").payload("kept")).await.unwrap();

    let answer = scene.tarn_ok(&["node", "token", "--ttl", "10m", "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let token = answer["token"].as_str().unwrap();
    let joined = scene.cluster.join_node(token).unwrap();
    assert_eq!(joined, 4);
    scene.cluster.start_node(joined).unwrap();
    until("the new node is a voter", async || (voters(&scene).await == [1, 2, 3, 4]).then_some(())).await;
    scene.agree(&[1, 2, 3, 4]).await;

    let again = scene.cluster.join_node(token).unwrap_err().to_string();
    assert!(again.contains("token"), "{again}");

    scene.tarn_ok(&["cluster", "remove", "4", "--yes"]);
    assert_eq!(voters(&scene).await, [1, 2, 3]);
    scene.cluster.kill_node(joined).unwrap();

    let dead = scene.follower().await;
    scene.cluster.kill_node(dead).unwrap();
    let fresh = scene.cluster.issue_node().unwrap();
    scene.cluster.start_node(fresh).unwrap();
    let address = scene.cluster.addresses().pop().unwrap();
    scene.tarn_ok(&["cluster", "add", &fresh.to_string(), &address, "--replaces", &dead.to_string(), "--deadline", "60s"]);
    let mut expected: Vec<u64> = (1..=3).filter(|id| *id != dead).collect();
    expected.push(fresh);
    assert_eq!(voters(&scene).await, expected);
    scene.agree(&expected).await;
    assert_eq!(client.get_task(id).await.unwrap().spec.unwrap().payload, "kept");
}

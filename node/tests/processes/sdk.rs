//! The SDK's example, as its documentation prints it, against a cluster.

use crate::scene::Scene;

#[allow(dead_code, reason = "its main function is for people")]
#[path = "../../../client/examples/greetings.rs"]
mod greetings;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_works_as_printed() {
    let scene = Scene::start(&[]).await;
    let client = scene.client();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(greetings::work(client.clone(), async {
        let _ = stopped.await;
    }));
    assert_eq!(greetings::greet(&client, "world").await.unwrap(), "Hello, world!");
    let refused = greetings::greet(&client, "").await.unwrap_err();
    assert_eq!(refused.to_string(), "there is nobody to greet");
    let dead = scene.tarn_ok(&["queue", "dead", "greetings"]);
    assert!(dead.contains("there is nobody to greet"), "{dead}");
    drop(stop);
    working.await.unwrap().unwrap();
}

//! Questions of callers that ask at the same time.

use std::time::Duration;

use futures::future::join_all;
use tarn_client::proto::TaskState;
use tarn_client::{Client, Task};

use crate::fake::{Fake, PATIENCE, State};

async fn ask(client: &Client, callers: usize) -> Vec<Option<Vec<u8>>> {
    let context = client.context("memory");
    let asked = (0..callers).map(|number| {
        let context = context.clone();
        async move { context.get(format!("k{number}")).await.unwrap().map(|found| found.value.to_vec()) }
    });
    join_all(asked).await
}

/// What they should hear: every second key is there.
fn expected(callers: usize) -> Vec<Option<Vec<u8>>> {
    (0..callers).map(|number| (number % 2 == 0).then(|| number.to_string().into_bytes())).collect()
}

fn fill(state: &mut State) {
    state.keys = (0..100).step_by(2).map(|number| (format!("k{number}"), number.to_string().into())).collect();
}

#[tokio::test]
async fn who_asks_at_the_same_time_shares_messages() {
    let (fake, _node, client) = Fake::streaming().await;
    fake.with(|state| {
        state.questions = true;
        fill(state);
    });
    assert_eq!(ask(&client, 1).await, expected(1));
    assert_eq!(ask(&client, 100).await, expected(100));
    fake.with(|state| {
        assert_eq!(state.asked.iter().sum::<usize>(), 101);
        assert_eq!(state.asked[0], 1, "who finds nobody waits for nobody");
        assert!(state.asked.len() < 20, "{:?}", state.asked);
        assert_eq!(state.count("get_key"), 0);
    });
    let error = client.context("memory").find(tarn_client::proto::GetKeyRequest { key: "k1".into(), ..Default::default() }).await;
    let refusal = error.unwrap_err().refusal().cloned().unwrap();
    assert_eq!((refusal.reason.as_str(), refusal.request_id.as_deref()), ("KEY_NOT_FOUND", Some("trace")));
}

#[tokio::test]
async fn a_cluster_that_takes_no_questions_is_asked_by_calls() {
    let (fake, _node, client) = Fake::streaming().await;
    fake.with(fill);
    assert_eq!(ask(&client, 20).await, expected(20));
    assert_eq!(ask(&client, 20).await, expected(20));
    fake.with(|state| {
        assert_eq!(state.asked.len(), 1, "it is asked only once: {:?}", state.asked);
        assert_eq!(state.count("get_key"), 40);
    });
    // A node that takes only calls.
    let (fake, _node, client) = Fake::alone().await;
    fake.with(fill);
    assert_eq!(ask(&client, 20).await, expected(20));
    fake.with(|state| assert_eq!(state.count("get_key"), 20));
}

#[tokio::test]
async fn who_waits_for_a_task_waits_on_the_stream() {
    for questions in [true, false] {
        let (fake, _node, client) = Fake::streaming().await;
        fake.with(|state| state.questions = questions);
        let id = client.enqueue(Task::new("q")).await.unwrap();
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let (client, id) = (client.clone(), id.clone());
                tokio::spawn(async move { client.wait_task(id, PATIENCE).await })
            })
            .collect();
        fake.until("all wait", |state| state.asked.len() == 10).await;
        // A stream that breaks is made again, and those who wait ask again.
        if questions {
            fake.cut_streams();
            fake.until("all ask again", |state| state.asked.len() == 20).await;
        }
        assert_eq!(client.terminate_task(&id).await.unwrap(), TaskState::Cancelled);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap().state(), TaskState::Cancelled);
        }
        let error = client.wait_task("77", Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(error.reason(), "TASK_NOT_FOUND");
        // Those whose stream broke have left their answers behind.
        assert!(fake.with(|state| state.count("get_task")) >= 11);
    }
}

//! Submits a task and runs it. Wants a cluster, as the variables `TARN_ADDRESS`, `TARN_CACERT`, `TARN_CERT` and `TARN_KEY` say.

use std::error::Error;
use std::time::Duration;

use tarn_client::{Client, JobError, Task, Worker};

/// Runs until `shutdown` ends.
pub async fn work(client: Client, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), tarn_client::Error> {
    Worker::builder(client)
        .queue("greetings")
        .handler("greet", |job| async move {
            let name = std::str::from_utf8(job.payload())?;
            if name.is_empty() {
                return Err(JobError::permanent("there is nobody to greet"));
            }
            Ok(format!("Hello, {name}!"))
        })
        .concurrency(8)
        .run(shutdown)
        .await
}

/// Submits a task and waits for its result.
pub async fn greet(client: &Client, name: &str) -> Result<String, Box<dyn Error>> {
    let task = Task::new("greetings").handler("greet").payload(name.to_owned());
    let id = client.enqueue(task).await?;
    let task = client.wait_task(id, Duration::from_secs(30)).await?;
    match task.error {
        None => Ok(String::from_utf8(task.result.into())?),
        Some(error) => Err(error.message.into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env().await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(work(client.clone(), async {
        let _ = stopped.await;
    }));
    println!("{}", greet(&client, "world").await?);
    drop(stop);
    Ok(working.await??)
}

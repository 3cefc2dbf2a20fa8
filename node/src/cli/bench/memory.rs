//! Loads on a context: clients that put keys, and clients that read them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tarn_client::Context;
use tokio::task::JoinHandle;

use super::Run;
use super::report::{Report, Samples};
use crate::cli::exit::Failure;

/// Keys that readers choose from: all of them lie in the nodes' memory.
const READ_KEYS: usize = 1_000;

/// Clients put new keys for the run's time, each its next when the last is acknowledged. The context is deleted afterwards.
pub async fn put(run: &Arc<Run>, clients: usize, time: Duration) -> Result<Report, Failure> {
    let report =
        load(run, "put", clients, time, |context, number, value| async move { context.put(number, value, None).await.map(drop) }).await;
    context(run, 0).delete_all().await?;
    Ok(report)
}

/// Clients read keys for the run's time, each certain to see what was acknowledged before it asked. The context is deleted afterwards.
pub async fn get(run: &Arc<Run>, clients: usize, time: Duration) -> Result<Report, Failure> {
    for number in 0..READ_KEYS {
        context(run, 0).put(format!("key/{number}"), run.payload.clone(), None).await?;
    }
    let report = load(run, "get", clients, time, |context, _, _| async move {
        let key = format!("key/{}", rand::random_range(0..READ_KEYS));
        context.get(key).await.map(drop)
    })
    .await;
    context(run, 0).delete_all().await?;
    Ok(report)
}

async fn load<F>(
    run: &Arc<Run>,
    title: &str,
    clients: usize,
    time: Duration,
    operation: impl Fn(Context, String, Bytes) -> F + Copy + Send + 'static,
) -> Report
where
    F: Future<Output = Result<(), tarn_client::Error>> + Send,
{
    let start = Instant::now();
    let clients: Vec<JoinHandle<Samples>> = (0..clients)
        .map(|number| {
            let run = run.clone();
            tokio::spawn(async move {
                let (context, mut samples) = (context(&run, number), Samples::default());
                while !run.end.is_cancelled() {
                    let (began, key) = (Instant::now(), format!("{number}/{}", samples.len()));
                    match operation(context.clone(), key, run.payload.clone()).await {
                        Ok(()) => samples.record(began.elapsed()),
                        Err(error) => samples.fail(&error.to_string()),
                    }
                }
                samples
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    run.end.cancel();
    super::clients::gather(clients).await.report(title, 1, start.elapsed())
}

fn context(run: &Run, number: usize) -> Context {
    run.client(number).context(&run.queue)
}

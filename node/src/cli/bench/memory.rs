//! Loads on a context: clients that put keys, and clients that read them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tarn_client::Context;
use tokio::task::JoinHandle;

use super::Run;
use super::beat::Beat;
use super::report::{Report, Samples};
use crate::cli::exit::Failure;

/// Keys that readers choose from: all of them lie in the nodes' memory.
const READ_KEYS: usize = 1_000;

/// Clients put new keys for the run's time, each its next when the last is acknowledged, or at a fixed rate. The context is deleted afterwards.
pub async fn put(run: &Arc<Run>, clients: usize, rate: Option<u32>, time: Duration) -> Result<Report, Failure> {
    let report =
        load(run, "put", clients, rate, time, |context, number, value| async move { context.put(number, value, None).await.map(drop) })
            .await;
    context(run, 0).delete_all().await?;
    Ok(report)
}

/// Clients read keys for the run's time, each certain to see what was acknowledged before it asked. The context is deleted afterwards.
pub async fn get(run: &Arc<Run>, clients: usize, rate: Option<u32>, time: Duration) -> Result<Report, Failure> {
    for number in 0..READ_KEYS {
        context(run, 0).put(format!("key/{number}"), run.payload.clone(), None).await?;
    }
    let report = load(run, "get", clients, rate, time, |context, _, _| async move {
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
    rate: Option<u32>,
    time: Duration,
    operation: impl Fn(Context, String, Bytes) -> F + Copy + Send + 'static,
) -> Report
where
    F: Future<Output = Result<(), tarn_client::Error>> + Send,
{
    let (start, beat) = (Instant::now(), Beat::start(rate, 1, run.end.clone()));
    let clients: Vec<JoinHandle<Samples>> = (0..clients)
        .map(|number| {
            let (run, beat) = (run.clone(), beat.clone());
            tokio::spawn(async move {
                let (context, mut samples) = (context(&run, number), Samples::default());
                while let Some(due) = beat.due().await {
                    let key = format!("{number}/{}", samples.len());
                    match operation(context.clone(), key, run.payload.clone()).await {
                        Ok(()) => samples.record(due.elapsed()),
                        Err(error) => samples.fail(&error.to_string()),
                    }
                }
                samples
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    run.end.cancel();
    super::clients::gather(clients, &beat).await.report(title, 1, start.elapsed())
}

fn context(run: &Run, number: usize) -> Context {
    run.client(number).context(&run.queue)
}

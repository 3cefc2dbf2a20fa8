//! The clients of a load run: each enqueues batch after batch.

use std::sync::Arc;
use std::time::Instant;

use tarn_proto::v1::TaskSpec;
use tokio::task::JoinHandle;

use super::Run;
use super::beat::Beat;
use super::report::Samples;

/// What becomes of a task's permit once the task is accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Permits {
    /// It is given back at once: nobody will complete the task.
    Kept,
    /// The worker that completes the task gives it back.
    Spent,
}

/// How long tasks of a run are kept after they ended: long enough to look at, short enough that runs do not fill the disk.
const RETENTION_MS: u64 = 60_000;

/// Starts the clients.
pub fn start(run: &Arc<Run>, clients: usize, beat: &Beat, permits: Permits) -> Vec<JoinHandle<Samples>> {
    (0..clients).map(|number| tokio::spawn(client(run.clone(), number, beat.clone(), permits))).collect()
}

/// Waits for the clients and merges what they measured.
pub async fn gather(clients: Vec<JoinHandle<Samples>>, beat: &Beat) -> Samples {
    let mut samples = Samples::default();
    for client in clients {
        samples.merge(client.await.unwrap_or_default());
    }
    samples.miss(beat.missed());
    samples
}

async fn client(run: Arc<Run>, number: usize, beat: Beat, permits: Permits) -> Samples {
    let client = run.client(number);
    let mut samples = Samples::default();
    while let Some(due) = beat.due().await {
        let Some(Ok(taken)) = run.end.run_until_cancelled(run.outstanding.acquire_many(run.batch)).await else {
            break;
        };
        let answer = client.enqueue_batch(tasks(&run, due)).await;
        match answer {
            Ok(_) => {
                samples.record(due.elapsed());
                if permits == Permits::Spent {
                    taken.forget();
                }
            }
            Err(error) => samples.fail(&error.to_string()),
        }
    }
    samples
}

fn tasks(run: &Run, due: Instant) -> Vec<TaskSpec> {
    let task = TaskSpec { queue: run.queue.clone(), payload: run.stamped(due), retention_ms: RETENTION_MS, ..Default::default() };
    vec![task; run.batch as usize]
}

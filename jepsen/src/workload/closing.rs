//! The end of a run with tasks: waiting until accepted work has ended, and reading what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tarn_client::{Client, Error, proto};
use tokio::time::Instant;

use super::submit::{QUEUE, item_of, name_of, state_name};
use crate::checker::facts::{CLOSING, Closing, FINAL, Final, has_ended};
use crate::history::Recorder;

/// Between two looks at the queue.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How many tasks are read at once.
const READS: usize = 16;

/// Waits until nothing of the queue waits or runs any more.
///
/// # Errors
/// What is left when the time is up, or that the queue could not be looked at.
pub async fn wait_until_ended(client: &Client, within: Duration) -> Result<()> {
    let end = Instant::now() + within;
    loop {
        let left = match stats(client).await {
            Ok(Some(stats)) if stats.blocked + stats.delayed + stats.ready + stats.running == 0 => return Ok(()),
            Ok(Some(stats)) => format!("{stats:?}"),
            Ok(None) => return Ok(()),
            Err(error) => error.to_string(),
        };
        ensure!(Instant::now() < end, "the queue did not drain within {within:?}: {left}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The queue's counts; `None` if there is no queue.
async fn stats(client: &Client) -> Result<Option<proto::QueueStats>, Error> {
    match client.get_queue(QUEUE).await {
        Ok(stats) => Ok(Some(stats)),
        Err(error) if error.reason() == "QUEUE_NOT_FOUND" => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads every task of the queue with its result, and the queue's counts, and records them.
///
/// # Errors
/// If they cannot be read within the time, or a task has not ended; what was read is recorded all the same.
pub async fn read_all(client: &Client, recorder: &Recorder, within: Duration) -> Result<()> {
    let read = tokio::time::timeout(within, tasks(client)).await;
    let Ok(tasks) = read else {
        anyhow::bail!("the final state could not be read within {within:?}");
    };
    let tasks = tasks?;
    for task in &tasks {
        recorder.info(FINAL, json!(task));
    }
    let closing = Closing {
        complete: true,
        counted: Some(stats(client).await?.map(counts).unwrap_or_default()),
        filtered: Some(filtered(client).await?),
    };
    recorder.info(CLOSING, json!(closing));
    let unended = tasks.iter().filter(|task| !has_ended(&task.state)).count();
    ensure!(unended == 0, "{unended} tasks have not ended");
    Ok(())
}

fn counts(stats: proto::QueueStats) -> BTreeMap<String, u64> {
    [("blocked", stats.blocked), ("delayed", stats.delayed), ("ready", stats.ready), ("running", stats.running), ("dead", stats.dead)]
        .map(|(state, count)| (state.to_owned(), count))
        .into()
}

/// How many tasks the list of each state has.
async fn filtered(client: &Client) -> Result<BTreeMap<String, u64>, Error> {
    let mut counts = BTreeMap::new();
    for state in [
        proto::TaskState::Ready,
        proto::TaskState::Running,
        proto::TaskState::Succeeded,
        proto::TaskState::Dead,
        proto::TaskState::Cancelled,
    ] {
        let request = proto::ListTasksRequest {
            queue: QUEUE.to_owned(),
            states: vec![state.into()],
            // Small, so that the filter meets the ends of pages.
            page_size: 100,
            ..Default::default()
        };
        let listed: Vec<proto::Task> = client.list_tasks(request).try_collect().await?;
        counts.insert(state_name(state), listed.len() as u64);
    }
    Ok(counts)
}

async fn tasks(client: &Client) -> Result<Vec<Final>, Error> {
    let request = proto::ListTasksRequest { queue: QUEUE.to_owned(), page_size: 1_000, ..Default::default() };
    let listed: Vec<proto::Task> = client.list_tasks(request).try_collect().await?;
    let reads = stream::iter(listed).map(|task| async move { client.get_task(task.task_id).await });
    reads.buffered(READS).map_ok(final_of).try_collect().await
}

/// A task as a history shows it. Where the payload is no item the name beside it is taken.
fn final_of(task: proto::Task) -> Final {
    let state = state_name(task.state());
    let spec = task.spec.unwrap_or_default();
    let read = item_of(&spec.payload);
    let damaged = read.is_none();
    let item = read.map_or_else(|| name_of(&spec), |item| item.name);
    Final {
        task: task.task_id,
        item,
        state,
        result: String::from_utf8_lossy(&task.result).into_owned(),
        reason: task.error.map(|error| error.reason).unwrap_or_default(),
        attempts_begun: task.attempts_begun,
        last_token: task.attempts.last().map_or(0, |attempt| attempt.token),
        started_at_ms: task.attempts.first().map_or(0, |attempt| attempt.started_at_ms),
        ended_at_ms: task.ended_at_ms,
        damaged,
    }
}

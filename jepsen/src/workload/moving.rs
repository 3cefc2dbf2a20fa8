//! Tasks that may run in any of the clusters that federate: submitted in each, done where there is an executor, and accounted for at the end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::Rng;
use serde_json::json;
use tarn_client::{Client, Error, Task, proto};
use tokio::time::{Instant, sleep, timeout};

use super::outcome::settle;
use crate::checker::federation::handover::{LOG, Line, OFFER, Offer};
use crate::history::{Process, Recorder};

/// The queue of these tasks.
const QUEUE: &str = "moving";
/// The queue of tasks that nobody runs, each of which marks an end of the log.
const MARKS: &str = "marks";
/// Attempts: enough that faults alone do not use them up.
const ATTEMPTS: u32 = 60;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Rounds of a sum: up to some tens of milliseconds.
const ROUNDS: std::ops::Range<u64> = 1..30;
/// How long tasks may take to end after the last fault was taken back: a lease and some attempts.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
/// How long a cluster's log may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// What the nodes of a cluster are told: the first has no executor, so that all of its tasks have to go, and the others have little room.
pub fn settings(number: u64) -> [(&'static str, &'static str); 3] {
    let executes = if number == 1 { "false" } else { "true" };
    [("executors.wasm", executes), ("executors.wasm_slots", "1"), ("federation.lease_ms", "4000")]
}

/// Adds up the numbers below 1,000,000, some times over.
const SUM: &str = r#"(module (func (export "sum") (param $rounds i64) (result i64)
    (local $n i64) (local $total i64)
    (loop $again
        (local.set $n (i64.const 0)) (local.set $total (i64.const 0))
        (loop $next
            (local.set $total (i64.add (local.get $total) (local.get $n)))
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (br_if $next (i64.lt_u (local.get $n) (i64.const 1000000))))
        (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
        (br_if $again (i64.ne (local.get $rounds) (i64.const 0))))
    (local.get $total)))"#;
const TOTAL: &str = "499999500000";

/// Puts what the tasks run, at the cluster that is to submit them.
///
/// # Errors
/// The cluster does not take it.
pub async fn prepare(client: &Client) -> Result<()> {
    client.put_artifact(SUM.as_bytes().to_vec()).await.map(drop).context("the artifact was not stored")
}

/// Submits a task that any cluster may run.
pub async fn submit(client: &Client, cluster: &str, process: u32, recorder: &Recorder, rng: &mut impl Rng) {
    let wasm = proto::WasmSpec {
        artifact: tarn_client::artifact_address(SUM.as_bytes()),
        export: "sum".to_owned(),
        params: vec![rng.random_range(ROUNDS).to_string()],
        ..proto::WasmSpec::default()
    };
    let placement = proto::Placement { any_cluster: true, ..proto::Placement::default() };
    let task = Task::new(QUEUE).wasm(wasm).placed(placement).max_attempts(ATTEMPTS).backoff(BACKOFF.0, BACKOFF.1);
    let asked = Offer { cluster: cluster.to_owned(), task: String::new() };
    let pending = recorder.invoke(Process::Client(process), OFFER, Some(QUEUE), json!(asked));
    let result = client.enqueue(task).await;
    settle(pending, &result, |task| json!(Offer { cluster: cluster.to_owned(), task: task.clone() }));
}

/// Waits until the tasks of a cluster have ended, those included that it does for others, and records what its log says of them.
///
/// # Errors
/// They do not end, have another result than they should, or the log cannot be read.
pub async fn account(client: &Client, cluster: &str, recorder: &Recorder) -> Result<()> {
    let end = Instant::now() + ENDED_WITHIN;
    loop {
        let left = match client.get_queue(QUEUE).await {
            Ok(stats) => (stats.blocked + stats.delayed + stats.ready + stats.running > 0).then(|| format!("{stats:?}")),
            Err(error) if error.reason() == "QUEUE_NOT_FOUND" => None,
            Err(error) => Some(error.to_string()),
        };
        let Some(left) = left else { break };
        ensure!(Instant::now() < end, "the tasks of cluster {cluster} do not end within {ENDED_WITHIN:?}: {left}");
        sleep(LOOK).await;
    }
    check_results(client, cluster).await?;
    timeout(READ_WITHIN, read_log(client, cluster, recorder)).await.context("the log cannot be read in time")??;
    Ok(())
}

async fn check_results(client: &Client, cluster: &str) -> Result<()> {
    let mut request = proto::ListTasksRequest { queue: QUEUE.to_owned(), page_size: 1_000, ..proto::ListTasksRequest::default() };
    loop {
        let page = client.list_tasks_page(request.clone()).await?;
        for task in page.tasks.iter().filter(|task| task.state() == proto::TaskState::Succeeded) {
            let task = client.get_task(task.task_id.clone()).await?;
            ensure!(task.result == TOTAL.as_bytes(), "task {} of {cluster} has the result {:?}", task.task_id, task.result);
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

/// Everything that the cluster's log has of tasks and transfers, from its beginning to a task that is submitted to mark the end.
async fn read_log(client: &Client, cluster: &str, recorder: &Recorder) -> Result<(), Error> {
    let mark = client.enqueue(Task::new(MARKS)).await?;
    let mut watcher = client.watch().after(0).start();
    loop {
        let event = watcher.next().await?;
        if event.subject == mark {
            return Ok(());
        }
        let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_owned();
        if kind.starts_with("TASK_") || kind.starts_with("TRANSFER_") {
            let line = Line { cluster: cluster.to_owned(), kind, subject: event.subject, detail: event.detail };
            recorder.info(LOG, json!(line));
        }
    }
}

//! Tasks of one cluster that the other does, also across a cut.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tarn_client::proto::{ExplainLevel, Placement, TaskState, WasmSpec};
use tarn_client::{Client, Task};

/// How long a task may take to come home. Generous: the machine may be busy with a build.
const HOME_WITHIN: Duration = Duration::from_secs(120);

/// Tasks that are handed over.
const TASKS: u32 = 24;

/// Adds up the numbers below a bound, `rounds` times over: something to do that takes as long as one likes.
const SUM: &str = r#"(module (func (export "sum") (param $bound i64) (param $rounds i64) (result i64)
    (local $n i64) (local $total i64)
    (loop $again
        (local.set $n (i64.const 0)) (local.set $total (i64.const 0))
        (loop $next
            (local.set $total (i64.add (local.get $total) (local.get $n)))
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (br_if $next (i64.lt_u (local.get $n) (local.get $bound))))
        (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
        (br_if $again (i64.ne (local.get $rounds) (i64.const 0))))
    (local.get $total)))"#;

/// A task that may run in any cluster.
fn sum(artifact: &str, bound: u64, rounds: u64) -> Task {
    let params = vec![bound.to_string(), rounds.to_string()];
    let wasm = WasmSpec { artifact: artifact.to_owned(), export: "sum".to_owned(), params, ..WasmSpec::default() };
    Task::new("sums").wasm(wasm).placed(Placement { any_cluster: true, ..Placement::default() })
}

/// The result of a task, which must have taken one attempt.
async fn home(client: &Client, id: &str) -> Result<String> {
    let task = client.wait_task(id, HOME_WITHIN).await?;
    ensure!(task.state() == TaskState::Succeeded, "task {id} is {:?}: {:?}", task.state(), task.error);
    ensure!(task.attempts.len() == 1, "task {id} took {} attempts: {:?}", task.attempts.len(), task.attempts);
    Ok(String::from_utf8_lossy(&task.result).into_owned())
}

/// West, which has no executor, has its sums done by east.
pub async fn hand_over(west: &Client, say: impl Fn(&str)) -> Result<()> {
    let artifact = west.put_artifact(SUM.as_bytes().to_vec()).await?;
    let began = Instant::now();
    let ids = west.enqueue_batch((1..=TASKS).map(|number| sum(&artifact, u64::from(number) * 1_000, 1))).await?;
    for (number, id) in (1_u64..).zip(&ids) {
        let bound = number * 1_000;
        ensure!(home(west, id).await? == (bound * (bound - 1) / 2).to_string(), "task {id} has another result");
    }
    say(&format!(
        "west, which has no executor, submits {TASKS} tasks that may run in any cluster: all ran in east, once each, and their results are home after {} ms",
        began.elapsed().as_millis()
    ));
    let explained = west.explain_task(ids[0].clone(), ExplainLevel::Brief).await?;
    let sentence = explained.sentences.iter().find(|sentence| sentence.topic == "PLACED").context("the placement is not explained")?;
    say(&format!("tarn explain task: {}", sentence.text));
    Ok(())
}

/// A task of west's that takes a while in east, with the wires cut meanwhile.
pub struct Long {
    id: String,
}

impl Long {
    /// Submits it, and waits until it runs.
    pub async fn begin(west: &Client) -> Result<Self> {
        let artifact = west.put_artifact(SUM.as_bytes().to_vec()).await?;
        let id = west.enqueue(sum(&artifact, 1_000_000, 4_000)).await?;
        let end = Instant::now() + HOME_WITHIN;
        while west.get_task(&id).await?.state() != TaskState::Running {
            ensure!(Instant::now() < end, "task {id} does not begin");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { id })
    }

    /// Waits for its result.
    pub async fn end(self, west: &Client) -> Result<String> {
        home(west, &self.id).await
    }
}

//! Submitting a plan: in its order, in batches that the cluster accepts whole.

use std::sync::Arc;

use anyhow::Result;
use tarn_client::{Client, Task, proto::WasmSpec};
use tarn_index::plan::Plan;

use super::QUEUE;
use super::follow::Registry;

/// Tasks of one request: a tenth of what the cluster takes, so that progress shows early.
const BATCH_TASKS: usize = 100;
/// Payload of one request.
const BATCH_BYTES: usize = 2 << 20;

/// Submits every task and returns the ids in the plan's order. Dependencies stand earlier in the plan, so their ids are known.
pub async fn all(client: Client, plan: Arc<Plan>, artifact: String, registry: Registry) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::with_capacity(plan.tasks().len());
    while ids.len() < plan.tasks().len() {
        let first = ids.len();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for task in &plan.tasks()[first..] {
            // A task that depends on one of this very batch waits for the next, where the id is known.
            let unknown = task.after.iter().any(|dependency| *dependency >= first);
            let full = batch.len() == BATCH_TASKS || bytes + task.payload.len() > BATCH_BYTES;
            if !batch.is_empty() && (full || unknown) {
                break;
            }
            bytes += task.payload.len();
            batch.push(spec(task, &artifact, &ids));
        }
        let accepted = client.enqueue_batch(batch).await?;
        registry.submitted(first, &accepted);
        ids.extend(accepted);
    }
    Ok(ids)
}

fn spec(task: &tarn_index::plan::Task, artifact: &str, ids: &[String]) -> Task {
    let wasm = WasmSpec {
        artifact: artifact.to_owned(),
        args: task.args.clone(),
        feed_dependency_results: !task.after.is_empty(),
        ..Default::default()
    };
    let spec = Task::new(QUEUE).payload(task.payload.clone()).wasm(wasm).annotation("label", &task.label);
    task.after.iter().fold(spec, |spec, dependency| spec.after(&ids[*dependency]))
}

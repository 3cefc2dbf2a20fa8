//! Submitting items as tasks.

use std::time::Duration;

use serde_json::json;
use tarn_client::{Client, Error, Priority, Task, proto};

use super::outcome::settle;
use crate::checker::facts::{ENQUEUE, Item};
use crate::history::{Process, Recorder};

/// The queue of all workloads with tasks.
pub const QUEUE: &str = "jepsen";
/// The handler that all of their tasks name.
pub const HANDLER: &str = "work";
/// Attempts of a task, unless its item says otherwise: enough that faults alone do not use them up.
pub const ATTEMPTS: u32 = 60;
/// The first pause after a failed attempt, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A client that submits items, one call after the other.
#[derive(Clone)]
pub struct Submitter {
    /// The client that it submits with.
    pub client: Client,
    recorder: Recorder,
    process: u32,
    node: Option<u64>,
}

impl Submitter {
    /// Submits for this process with this client, which is bound to `node` if that is given.
    pub fn new(client: Client, recorder: Recorder, process: u32, node: Option<u64>) -> Self {
        Self {
            client,
            recorder,
            process,
            node,
        }
    }

    /// Submits items in one call, and returns the tasks' ids.
    ///
    /// # Errors
    /// What the SDK says; it has been recorded.
    pub async fn submit(&self, items: &[Item], tasks: Vec<Task>) -> Result<Vec<String>, Error> {
        let pending = self.invoke(items);
        let result = self.client.enqueue_batch(tasks).await;
        settle(pending, &result, |ids| json!(ids));
        result
    }

    /// Records that these items are about to be submitted by other means.
    pub fn invoke(&self, items: &[Item]) -> crate::history::Pending {
        let process = Process::Client(self.process);
        self.recorder
            .invoke_at(process, ENQUEUE, Some(QUEUE), json!(items), self.node)
    }
}

/// The task of an item, without its dependencies.
pub fn task_of(item: &Item) -> Task {
    let payload = serde_json::to_vec(item).expect("an item is plain data");
    Task::new(QUEUE)
        .handler(HANDLER)
        .payload(payload)
        .priority(priority_of(item.priority))
        .max_attempts(item.max_attempts)
        .backoff(BACKOFF.0, BACKOFF.1)
        .annotation("name", item.name.clone())
}

/// The item in a task's payload, if there is one.
pub fn item_of(payload: &[u8]) -> Option<Item> {
    serde_json::from_slice(payload).ok()
}

/// The name of the item that a specification carries beside its payload.
pub fn name_of(spec: &proto::TaskSpec) -> String {
    spec.annotations.get("name").cloned().unwrap_or_default()
}

fn priority_of(level: u32) -> Priority {
    i32::try_from(level)
        .ok()
        .and_then(|level| Priority::try_from(level).ok())
        .unwrap_or(Priority::Normal)
}

/// A state in the words of a history.
pub fn state_name(state: proto::TaskState) -> String {
    state.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()
}

/// An item with a name made of who submits it and its place.
pub fn plain_item(producer: u32, place: u64) -> Item {
    Item {
        name: format!("p{producer}-{place}"),
        producer,
        place,
        priority: 3,
        max_attempts: ATTEMPTS,
        ..Item::default()
    }
}

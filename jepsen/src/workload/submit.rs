//! Submitting items as tasks.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use serde_json::json;
use tarn_client::{Client, Error, Priority, Task, proto};

use super::outcome::settle;
use crate::checker::facts::{ENQUEUE, Item, hash_of};
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
        Self { recorder: recorder.with_deadline(client.deadline()), client, process, node }
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
        self.recorder.invoke_at(process, ENQUEUE, Some(QUEUE), json!(items), self.node)
    }
}

/// The task of an item, without its dependencies.
pub fn task_of(item: &Item) -> Task {
    Task::new(QUEUE)
        .handler(HANDLER)
        .payload(payload_of(item))
        .priority(priority_of(item.priority))
        .max_attempts(item.max_attempts)
        .backoff(BACKOFF.0, BACKOFF.1)
        .annotation("name", item.name.clone())
}

/// An item as a payload: itself, and its padding behind it, which is a function of the item's name, so that anybody can tell whether a byte of it
/// was lost.
fn payload_of(item: &Item) -> Vec<u8> {
    let mut payload = serde_json::to_vec(item).expect("an item is plain data");
    payload.extend(padding_of(item));
    payload
}

/// Bytes that no compression makes small.
fn padding_of(item: &Item) -> Vec<u8> {
    let mut padding = vec![0; item.padding as usize];
    StdRng::seed_from_u64(hash_of([item.name.as_str()])).fill_bytes(&mut padding);
    padding
}

/// The item in a task's payload, if there is one, and it is whole.
pub fn item_of(payload: &[u8]) -> Option<Item> {
    let mut parts = serde_json::Deserializer::from_slice(payload).into_iter();
    let item: Item = parts.next()?.ok()?;
    (payload[parts.byte_offset()..] == padding_of(&item)).then_some(item)
}

/// The name of the item that a specification carries beside its payload.
pub fn name_of(spec: &proto::TaskSpec) -> String {
    spec.annotations.get("name").cloned().unwrap_or_default()
}

fn priority_of(level: u32) -> Priority {
    i32::try_from(level).ok().and_then(|level| Priority::try_from(level).ok()).unwrap_or(Priority::Normal)
}

/// A state in the words of a history.
pub fn state_name(state: proto::TaskState) -> String {
    state.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()
}

/// An item with a name made of who submits it and its place.
pub fn plain_item(producer: u32, place: u64) -> Item {
    Item { name: format!("p{producer}-{place}"), producer, place, priority: 3, max_attempts: ATTEMPTS, ..Item::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_its_item_only_as_long_as_it_is_whole() {
        let small = plain_item(1, 2);
        assert_eq!(item_of(&payload_of(&small)), Some(small.clone()));
        let large = Item { padding: 20_000, ..small };
        let payload = payload_of(&large);
        assert!(payload.len() > 20_000);
        assert_eq!(item_of(&payload), Some(large));
        assert_eq!(item_of(&payload[..payload.len() - 1]), None, "cut");
        let mut changed = payload.clone();
        changed[10_000] ^= 1;
        assert_eq!(item_of(&changed), None, "changed");
        assert_eq!(item_of(&[payload, vec![0]].concat()), None, "longer");
        assert_eq!(item_of(b"no item"), None);
    }
}

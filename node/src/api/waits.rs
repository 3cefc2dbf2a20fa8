//! Who waits for a task to end. One ear hears all applied events and wakes only those whose task was named.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tarn_proto::v1::EventKind;
use tarn_raft::Consensus;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Whoever waits looks again after this long even without an event: a state that came by snapshot brings none.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Waiting = Mutex<HashMap<String, watch::Sender<()>>>;

/// Who waits for a task to end. Clones share it.
#[derive(Clone, Default)]
pub struct TaskWaits {
    waiting: Arc<Waiting>,
}

/// A wait for one task. Ends when it is dropped.
pub(super) struct Wait {
    task: String,
    ended: watch::Receiver<()>,
    waiting: Arc<Waiting>,
}

impl TaskWaits {
    /// Starts to listen; ends with `stop`.
    #[must_use]
    pub fn start(consensus: &Consensus, stop: CancellationToken) -> Self {
        let waits = Self::default();
        let ear = waits.clone();
        let mut events = consensus.events();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                match events.recv().await {
                    Ok(batch) => {
                        let ended = |kind| matches!(kind, EventKind::TaskSucceeded | EventKind::TaskDead | EventKind::TaskCancelled);
                        let waiting = ear.lock();
                        for event in batch.events.iter().filter(|event| ended(event.kind())) {
                            if let Some(task) = waiting.get(&event.subject) {
                                task.send_replace(());
                            }
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => ear.lock().values().for_each(|task| task.send_replace(())),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }));
        waits
    }

    /// Begins to wait for a task. Its end is noticed from now on.
    pub(super) fn wait(&self, task: &str) -> Wait {
        let ended = self.lock().entry(task.to_owned()).or_default().subscribe();
        Wait { task: task.to_owned(), ended, waiting: self.waiting.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<()>>> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

impl Wait {
    /// Waits until it is worth looking at the task again. False if the time is up.
    pub async fn changed_until(&mut self, until: Instant) -> bool {
        let look = (Instant::now() + LOOK_EVERY).min(until);
        match timeout_at(look, self.ended.changed()).await {
            Ok(changed) => changed.is_ok(),
            Err(_) => look < until,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        // This wait is still counted.
        if waiting.get(&self.task).is_some_and(|task| task.receiver_count() <= 1) {
            waiting.remove(&self.task);
        }
    }
}

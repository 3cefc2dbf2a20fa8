//! Tasks that may go but that another cluster would not have, for a reason that does not pass soon: the router does not send them there for a
//! while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a task is kept here before it is offered again: the other cluster's settings may have changed.
const STAYS_FOR: Duration = Duration::from_secs(60);

/// Tasks that are remembered. When more are refused, the first are offered again too early, which costs time and nothing else.
const STAYS_MAX: usize = 16_384;

/// What is remembered. Clones share it.
#[derive(Clone, Default)]
pub struct Stays(Arc<Mutex<HashMap<String, BTreeMap<String, Instant>>>>);

impl Stays {
    /// This cluster would not have this task.
    pub(super) fn note(&self, task_id: &str, cluster: &str) {
        let mut stays = self.stays();
        if stays.len() >= STAYS_MAX {
            stays.clear();
        }
        stays.entry(task_id.to_owned()).or_default().insert(cluster.to_owned(), Instant::now() + STAYS_FOR);
    }

    /// The names of the clusters to which the task is not to go now.
    #[must_use]
    pub fn of(&self, task_id: &str) -> BTreeSet<String> {
        let mut stays = self.stays();
        let Some(known) = stays.get_mut(task_id) else { return BTreeSet::new() };
        known.retain(|_, until| Instant::now() < *until);
        let clusters: BTreeSet<String> = known.keys().cloned().collect();
        if clusters.is_empty() {
            stays.remove(task_id);
        }
        clusters
    }

    fn stays(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_stays_for_a_while() {
        let stays = Stays::default();
        let (west, east) = ("west".to_owned(), "east".to_owned());
        stays.note("a", &west);
        assert_eq!((stays.of("a"), stays.of("b")), ([west.clone()].into(), [].into()));
        tokio::time::advance(STAYS_FOR / 2).await;
        stays.note("a", &east);
        assert_eq!(stays.of("a"), [west.clone(), east.clone()].into());
        tokio::time::advance(STAYS_FOR / 2).await;
        assert_eq!(stays.of("a"), [east].into());
        (0..2 * STAYS_MAX).for_each(|number| stays.note(&number.to_string(), &west));
        assert!(stays.stays().len() <= STAYS_MAX);
    }
}

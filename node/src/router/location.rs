//! Where the artifacts lie that tasks want near: asked of the nodes, and remembered for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, timeout};

use crate::artifacts::Artifacts;

/// How long it counts that some nodes have an artifact. Artifacts are never deleted, and are copied to all nodes before long.
const FOUND_FRESH: Duration = Duration::from_secs(60);

/// How long it counts that none has it: somebody may be about to store it.
const ABSENT_FRESH: Duration = Duration::from_secs(5);

/// Artifacts that are asked after in one round, and how many at once. The others wait for a later round, those first that were never asked
/// after.
const LOOKUPS: usize = 32;
const LOOKUPS_AT_ONCE: usize = 8;

/// How long the answers of one round are waited for.
const LOOKUP_TIME: Duration = Duration::from_secs(1);

/// What was heard lately.
#[derive(Default)]
pub(super) struct Locations {
    known: BTreeMap<String, (Instant, BTreeSet<String>)>,
}

impl Locations {
    /// The nodes that have each of these artifacts, by name. What cannot be found, or was not yet asked after, lies nowhere.
    pub(super) async fn of(&mut self, artifacts: &Artifacts, node_id: u64, names: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
        self.known.retain(|name, _| names.contains(name));
        let asked = futures::stream::iter(self.stale(names)).map(|name| async move {
            let holders = artifacts.holders(node_id, &name).await.unwrap_or_default();
            (name, holders.iter().map(u64::to_string).collect())
        });
        let mut answers = asked.buffer_unordered(LOOKUPS_AT_ONCE);
        let hear = async {
            while let Some((name, nodes)) = answers.next().await {
                self.known.insert(name, (Instant::now(), nodes));
            }
        };
        if timeout(LOOKUP_TIME, hear).await.is_err() {
            tracing::debug!("not every node said in time which artifacts it has");
        }
        self.known.iter().map(|(name, (_, nodes))| (name.clone(), nodes.clone())).collect()
    }

    /// What is to be asked after now: what never was, then what was the longest ago.
    fn stale(&self, names: &BTreeSet<String>) -> Vec<String> {
        let now = Instant::now();
        let is_stale = |(at, nodes): &(Instant, BTreeSet<String>)| {
            now.duration_since(*at) >= if nodes.is_empty() { ABSENT_FRESH } else { FOUND_FRESH }
        };
        let mut stale: Vec<_> = names
            .iter()
            .filter(|name| self.known.get(*name).is_none_or(is_stale))
            .map(|name| (self.known.get(name).map(|(at, _)| *at), name.clone()))
            .collect();
        stale.sort_unstable();
        stale.into_iter().take(LOOKUPS).map(|(_, name)| name).collect()
    }
}

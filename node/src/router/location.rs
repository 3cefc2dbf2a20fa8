//! Where the artifacts lie that tasks want near: asked of the nodes, and remembered for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::artifacts::Artifacts;

/// An answer counts for so long. Artifacts are never deleted, and copied to all nodes before long.
const FRESH: Duration = Duration::from_secs(5);

/// Names that are remembered.
const NAMES_MAX: usize = 4_096;

/// What was heard lately.
#[derive(Default)]
pub(super) struct Locations {
    known: BTreeMap<String, (Instant, BTreeSet<String>)>,
}

impl Locations {
    /// The nodes that have each of these artifacts, by name. What cannot be found lies nowhere.
    pub(super) async fn of(&mut self, artifacts: &Artifacts, node_id: u64, names: BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
        let now = Instant::now();
        self.known.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
        let mut found = BTreeMap::new();
        for name in names.into_iter().take(NAMES_MAX) {
            if !self.known.contains_key(&name) {
                let holders = artifacts.holders(node_id, &name).await.unwrap_or_default();
                let nodes = holders.iter().map(u64::to_string).collect();
                self.known.insert(name.clone(), (now, nodes));
            }
            if let Some((_, nodes)) = self.known.get(&name) {
                found.insert(name, nodes.clone());
            }
        }
        found
    }
}

//! Getting what this node has missed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tarn_executor::Hash;
use tarn_raft::Peer;
use tokio_util::sync::CancellationToken;

use super::{ArtifactError, Artifacts};
use crate::peer::Fault;

/// Peers often come back together, after a restart of this node for one: their lists are compared in one go.
const GATHER: Duration = Duration::from_millis(500);

/// Lists are compared this often even if nothing seems to have happened, for what no event tells: a file that was found
/// damaged, a push that failed while its receiver was in touch.
const INTERVAL: Duration = Duration::from_secs(120);

/// And this soon after a round in which a peer that is there did not tell its list: one that has just started may not know yet that this
/// node is a member. The return of one that is not there is noticed.
const AGAIN: Duration = Duration::from_secs(2);

/// Missing artifacts fetched at once: fewer than may be fetched in all, so that those whom a task waits for find a place.
const AT_ONCE: usize = 2;

impl Artifacts {
    /// Fetches what peers have and this node has not: now, whenever a peer is back, and now and then. Runs until `stop`.
    pub async fn reconcile(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut returns = self.shared.links.contacts().returns();
            loop {
                let pause = if self.compare_with_all().await { INTERVAL } else { AGAIN };
                // An error would mean that the links are gone, which this task itself keeps.
                let _ = tokio::time::timeout(pause, returns.changed()).await;
                tokio::time::sleep(GATHER).await;
                // What came back within the pause is asked in the coming round.
                returns.mark_unchanged();
            }
        })
        .await;
    }

    /// Whether every peer that can be reached has told its whole list.
    async fn compare_with_all(&self) -> bool {
        let mut told = true;
        for member in self.shared.members.others() {
            match self.compare_with(&member.peer).await {
                Ok(whole) => told &= whole,
                Err(error) => {
                    tracing::warn!(peer = member.peer.id, %error, "the artifacts of a peer could not be copied");
                }
            }
        }
        told
    }

    /// Compares lists page by page, so that memory stays bounded however many artifacts there are. Returns whether the peer, if it can be
    /// reached, has told its whole list.
    async fn compare_with(&self, peer: &Peer) -> Result<bool, ArtifactError> {
        let mut after = String::new();
        loop {
            let page = match self.shared.list_page(peer, after.clone()).await {
                Ok(page) => page,
                Err(fault) => {
                    tracing::debug!(peer = peer.id, %fault, "a peer's artifacts could not be listed");
                    return Ok(matches!(fault, Fault::Unreachable(_)));
                }
            };
            match page.last() {
                // A page that does not go on would be asked for again for ever.
                Some(last) if *last > after => after.clone_from(last),
                Some(_) | None => return Ok(true),
            }
            self.fetch_missing(page).await?;
        }
    }

    async fn fetch_missing(&self, names: Vec<String>) -> Result<(), ArtifactError> {
        let here = self.names().await?;
        let missing: Vec<Hash> = names.iter().filter_map(|name| name.parse().ok()).filter(|hash| !here.contains(hash)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        tracing::info!(artifacts = missing.len(), "copying artifacts that this node has missed");
        stream::iter(missing)
            .for_each_concurrent(AT_ONCE, |hash| async move {
                if let Err(error) = self.fetch(hash).await {
                    tracing::warn!(artifact = %hash, %error, "an artifact could not be copied");
                }
            })
            .await;
        Ok(())
    }

    async fn names(&self) -> Result<BTreeSet<Hash>, ArtifactError> {
        Ok(self.list().await?.into_iter().map(|info| info.hash).collect())
    }
}

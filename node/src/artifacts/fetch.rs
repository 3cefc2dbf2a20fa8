//! Getting an artifact that this node misses, once for all who wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared as SharedFuture};
use tarn_executor::Hash;
use tokio::sync::Semaphore;

use super::pull::Pulled;
use super::{ArtifactError, Artifacts, Shared};

/// Fetches at once. Each streams to disk and holds about two chunks; more would only share the same network. When all are in
/// use, more of them wait.
const FETCHES_MAX: usize = 4;

type Fetch = SharedFuture<BoxFuture<'static, Result<(), ArtifactError>>>;

/// The fetches under way.
pub(super) struct Fetches {
    under_way: Mutex<BTreeMap<Hash, Fetch>>,
    places: Semaphore,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { under_way: Mutex::default(), places: Semaphore::new(FETCHES_MAX) }
    }
}

impl Artifacts {
    /// Copies an artifact to this node's disk from whichever peer has it. Goes on when those who wait for it give up.
    pub(super) async fn fetch(&self, hash: Hash) -> Result<(), ArtifactError> {
        let fetch = {
            let mut under_way = self.shared.fetches.lock();
            under_way.entry(hash).or_insert_with(|| spawn(self.shared.clone(), hash)).clone()
        };
        fetch.await
    }
}

impl Fetches {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Hash, Fetch>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(shared: Arc<Shared>, hash: Hash) -> Fetch {
    let task = tokio::spawn(async move {
        let place = shared.fetches.places.acquire().await.expect("the places are never closed");
        let result = shared.ask_all(hash).await;
        drop(place);
        shared.fetches.lock().remove(&hash);
        result
    });
    task.map(|joined| joined.unwrap_or(Err(ArtifactError::Stopping))).boxed().shared()
}

impl Shared {
    /// Asks peer after peer, those who were in touch lately first.
    async fn ask_all(&self, hash: Hash) -> Result<(), ArtifactError> {
        let members = self.members.members();
        let mut others = self.members.others();
        others.sort_by_key(|member| !self.links.contacts().is_fresh(member.peer.id));
        // This node has looked at its own disk.
        let own_id = self.members.own_id();
        let mut voters_without = members.iter().filter(|member| member.voter && member.peer.id == own_id).count();
        let mut unreachable = 0;
        for member in others {
            match self.pull(&member.peer, hash).await? {
                Pulled::Stored => return Ok(()),
                Pulled::Absent => voters_without += usize::from(member.voter),
                Pulled::Unreachable => unreachable += 1,
            }
        }
        // An acknowledged artifact is at a majority of the voters, so a majority without it proves that there is none.
        let voters = members.iter().filter(|member| member.voter).count();
        if unreachable == 0 || voters_without > voters / 2 {
            return Err(ArtifactError::NotFound(hash));
        }
        Err(ArtifactError::Unreachable { artifact: hash, unreachable })
    }
}

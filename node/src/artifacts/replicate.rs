//! Giving an artifact to all other nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tarn_executor::Hash;

use super::{ArtifactError, Artifacts};

/// How long a put waits for a majority. Longer than the deadline of most requests, shorter than a person's patience.
const MAJORITY_TIMEOUT: Duration = Duration::from_secs(60);

impl Artifacts {
    /// Copies an artifact that is on this node's disk to all members, and returns when a majority of the voters has it. The
    /// rest of the copies goes on in the background; a node that cannot be reached gets its own when it is back.
    ///
    /// # Errors
    /// [`ArtifactError::NotReplicated`].
    pub async fn replicate(&self, hash: Hash) -> Result<(), ArtifactError> {
        let members = self.shared.members.members();
        let own_id = self.shared.members.own_id();
        let voters = members.iter().filter(|member| member.voter).count();
        let needed = voters / 2 + 1;
        let mut stored = members.iter().filter(|member| member.voter && member.peer.id == own_id).count();

        let loaded = self.shared.loader.load(hash).await?.ok_or(ArtifactError::Store)?;
        let mut pushes: FuturesUnordered<_> = members
            .into_iter()
            .filter(|member| member.peer.id != own_id)
            .map(|member| {
                let shared = Arc::clone(&self.shared);
                let loaded = Arc::clone(&loaded);
                // A task of its own, so that it goes on after the answer.
                tokio::spawn(async move {
                    let pushed = shared.push(&member.peer, hash, loaded).await;
                    if let Err(fault) = &pushed {
                        tracing::warn!(peer = member.peer.id, artifact = %hash, %fault, "an artifact was not copied to a peer");
                    }
                    member.voter && pushed.is_ok()
                })
            })
            .collect();
        drop(loaded);

        let majority = async {
            while stored < needed {
                match pushes.next().await {
                    Some(pushed) => stored += usize::from(pushed.unwrap_or(false)),
                    None => break,
                }
            }
        };
        // Whether time ran out or everybody has answered, what counts is how many have it.
        let _ = tokio::time::timeout(MAJORITY_TIMEOUT, majority).await;
        if stored >= needed {
            return Ok(());
        }
        Err(ArtifactError::NotReplicated { artifact: hash, stored, needed, voters })
    }
}

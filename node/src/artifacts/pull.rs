//! What this node asks of one peer.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tarn_executor::Hash;
use tarn_proto::v1::{PeerArtifactChunk, PeerArtifactList, PeerArtifactWanted};
use tarn_raft::Peer;
use tonic::{Code, Streaming};

use super::Shared;
use super::error::ArtifactError;
use super::receive::{Chunk, receive};
use super::send::{Loaded, outgoing};
use crate::peer::limits::OPEN_TIMEOUT;
use crate::peer::{Answered, Fault, Traffic};

/// A peer whose next chunk takes longer than this has failed.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest artifact at half a megabyte a second: a peer that is slower than this is no help.
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// What came of asking a peer for an artifact.
pub(super) enum Pulled {
    Stored,
    /// The peer does not have it, or what it sent was not it.
    Absent,
    Unreachable,
}

impl Shared {
    /// Copies an artifact from a peer to this node's disk.
    ///
    /// # Errors
    /// Only this node's own: its disk, or that it is stopping.
    pub(super) async fn pull(&self, peer: &Peer, hash: Hash) -> Result<Pulled, ArtifactError> {
        let wanted = PeerArtifactWanted { artifact: hash.to_string() };
        let exchange =
            self.links.exchange(peer, Traffic::Bulk, OPEN_TIMEOUT, |mut client| async move { client.pull_artifact(wanted).await });
        let answered = match exchange.await {
            Ok(answered) => answered,
            Err(Fault::Refused(status)) if status.code() == Code::NotFound => return Ok(Pulled::Absent),
            Err(fault) => {
                tracing::debug!(peer = peer.id, artifact = %hash, %fault, "an artifact was not pulled");
                return Ok(Pulled::Unreachable);
            }
        };
        match receive(&self.store, named(hash, answered)).await {
            Ok(_) => Ok(Pulled::Stored),
            Err(ArtifactError::Interrupted) => Ok(Pulled::Unreachable),
            Err(error @ (ArtifactError::Store | ArtifactError::Stopping)) => Err(error),
            Err(error) => {
                tracing::warn!(peer = peer.id, artifact = %hash, %error, "a peer sent something else than the artifact");
                Ok(Pulled::Absent)
            }
        }
    }

    /// Copies an artifact to a peer's disk.
    pub(super) async fn push(&self, peer: &Peer, hash: Hash, loaded: Arc<Loaded>) -> Result<(), Fault> {
        let name = hash.to_string();
        let chunks = outgoing(loaded, move |index, chunk| PeerArtifactChunk {
            artifact: if index == 0 { name.clone() } else { String::new() },
            chunk,
        });
        self.links
            .exchange(peer, Traffic::Bulk, PUSH_TIMEOUT, |mut client| async move { client.push_artifact(chunks).await })
            .await
            .map(drop)
    }

    /// The names of a peer's artifacts after `after`, one page of them.
    pub(super) async fn list_page(&self, peer: &Peer, after: String) -> Result<Vec<String>, Fault> {
        let request = PeerArtifactList { after };
        let answered = self
            .links
            .exchange(peer, Traffic::Bulk, CHUNK_TIMEOUT, |mut client| async move { client.list_peer_artifacts(request).await })
            .await?;
        Ok(answered.body.artifacts)
    }
}

/// A peer's chunks, under the name that was asked for, whatever the peer calls them.
fn named(hash: Hash, answered: Answered<Streaming<PeerArtifactChunk>>) -> impl Stream<Item = Result<Chunk, ArtifactError>> + Unpin {
    let chunks = stream::unfold(Some((answered, hash.to_string())), |state| async move {
        let (mut answered, artifact) = state?;
        match tokio::time::timeout(CHUNK_TIMEOUT, answered.body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => {
                answered.watch.works();
                Some((Ok(Chunk { artifact, bytes: chunk.chunk }), Some((answered, String::new()))))
            }
            Ok(Some(Err(status))) => {
                answered.watch.failed(status);
                Some((Err(ArtifactError::Interrupted), None))
            }
            Err(_) => Some((Err(ArtifactError::Interrupted), None)),
        }
    });
    Box::pin(chunks)
}

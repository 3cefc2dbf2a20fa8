//! What peers ask of this node.

use std::ops::Bound;

use futures::{Stream, StreamExt as _};
use tarn_executor::Hash;
use tarn_proto::v1::{PeerArtifactChunk, PeerArtifactHeld, PeerArtifactList, PeerArtifactStored, PeerArtifactWanted};
use tonic::{Status, Streaming};

use super::error::parse_name;
use super::receive::{Chunk, receive};
use super::{ArtifactError, Artifacts, send};
use crate::peer::limits::LIST_PAGE;

impl Artifacts {
    /// Stores what a peer pushes. The answer is the peer's proof that it is on this disk.
    ///
    /// # Errors
    /// [`ArtifactError`], also when the sender did not name the artifact.
    pub async fn accept_push(&self, chunks: Streaming<PeerArtifactChunk>) -> Result<PeerArtifactStored, ArtifactError> {
        let chunks = chunks.enumerate().map(|(index, chunk)| match chunk {
            // A peer always knows the name: without it nothing would be verified.
            Ok(chunk) if index == 0 && chunk.artifact.is_empty() => Err(()),
            Ok(chunk) => Ok(Chunk { artifact: chunk.artifact, bytes: chunk.chunk }),
            Err(_) => Err(()),
        });
        receive(&self.shared.store, chunks).await?;
        Ok(PeerArtifactStored {})
    }

    /// Sends a peer what it asks for, if it is here: peers do not ask on behalf of each other, so no question goes in
    /// circles.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], or a name that is none.
    pub async fn answer_pull(
        &self,
        wanted: PeerArtifactWanted,
    ) -> Result<impl Stream<Item = Result<PeerArtifactChunk, Status>> + Send + use<>, ArtifactError> {
        let hash = parse_name(&wanted.artifact)?;
        let loaded = self.shared.loader.load(hash).await?.ok_or(ArtifactError::NotFound(hash))?;
        let name = hash.to_string();
        Ok(send::answer(loaded, move |index, chunk| PeerArtifactChunk {
            artifact: if index == 0 { name.clone() } else { String::new() },
            chunk,
        }))
    }

    /// One page of what is here.
    ///
    /// # Errors
    /// What this node's disk refuses; a name that is none.
    pub async fn answer_list(&self, request: PeerArtifactList) -> Result<PeerArtifactHeld, ArtifactError> {
        let after = match request.after.as_str() {
            "" => Bound::Unbounded,
            name => Bound::Excluded(parse_name(name)?),
        };
        Ok(PeerArtifactHeld { artifacts: page(self.list().await?.into_iter().map(|info| info.hash), after) })
    }
}

fn page(hashes: impl Iterator<Item = Hash>, after: Bound<Hash>) -> Vec<String> {
    let behind = |hash: &Hash| match &after {
        Bound::Excluded(after) => hash > after,
        Bound::Included(_) | Bound::Unbounded => true,
    };
    hashes.filter(behind).take(LIST_PAGE).map(|hash| hash.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once_in_order() {
        let mut hashes: Vec<Hash> = (0_u32..25_000).map(|n| Hash::of(&n.to_be_bytes())).collect();
        hashes.sort_unstable();
        let mut seen = Vec::new();
        let mut after = Bound::Unbounded;
        loop {
            let page = page(hashes.iter().copied(), after);
            let Some(last) = page.last() else { break };
            after = Bound::Excluded(last.parse().unwrap());
            seen.extend(page.iter().map(|name| name.parse::<Hash>().unwrap()));
        }
        assert_eq!(seen, hashes);
    }
}

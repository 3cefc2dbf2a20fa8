//! From a stream of chunks to a file in the store.

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tarn_executor::{ArtifactStore, ArtifactWriter, Hash, StoreError};

use super::error::{ArtifactError, parse_name};
use crate::peer::limits::CHUNK_BYTES;

/// A message of a stream that carries an artifact.
pub struct Chunk {
    /// The artifact's name, in the first message, if the sender knows it; then the bytes must be its. Empty otherwise.
    pub artifact: String,
    /// At most [`CHUNK_BYTES`].
    pub bytes: Bytes,
}

/// Stores what a stream brings and returns its name and size. When this returns, it is on disk, verified. Only one chunk is
/// held in memory at a time.
///
/// A stream that ends in an error leaves nothing behind.
pub(super) async fn receive<S, E>(store: &ArtifactStore, mut chunks: S) -> Result<(Hash, u64), ArtifactError>
where
    S: Stream<Item = Result<Chunk, E>> + Unpin,
{
    let mut writer = blocking({
        let store = store.clone();
        move || store.writer()
    })
    .await?;
    let mut announced = None;
    let mut first = true;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ArtifactError::Interrupted)?;
        if first && !chunk.artifact.is_empty() {
            announced = Some(parse_name(&chunk.artifact)?);
        }
        first = false;
        if chunk.bytes.len() > CHUNK_BYTES {
            return Err(ArtifactError::ChunkTooLarge { bytes: chunk.bytes.len() });
        }
        writer = blocking(move || writer.append(&chunk.bytes).map(|()| writer)).await?;
    }
    let size = writer.size_bytes();
    let hash = blocking(move || finish(writer, announced)).await?;
    Ok((hash, size))
}

fn finish(writer: ArtifactWriter, announced: Option<Hash>) -> Result<Hash, StoreError> {
    match announced {
        Some(hash) => writer.finish(&hash).map(|()| hash),
        None => writer.finish_unnamed(),
    }
}

/// Runs what blocks on the disk where that is allowed.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, ArtifactError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(ArtifactError::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tarn_executor::ARTIFACT_BYTES_MAX;

    use super::*;

    fn chunk(artifact: &str, bytes: impl Into<Bytes>) -> Result<Chunk, ()> {
        Ok(Chunk { artifact: artifact.into(), bytes: bytes.into() })
    }

    async fn put(chunks: Vec<Result<Chunk, ()>>) -> (Result<(Hash, u64), ArtifactError>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path()).unwrap();
        let result = receive(&store, stream::iter(chunks)).await;
        let unfinished = std::fs::read_dir(dir.path().join("incoming")).unwrap().count();
        assert_eq!(unfinished, 0);
        (result, store.list().unwrap().len())
    }

    #[tokio::test]
    async fn chunks_become_one_artifact_named_or_not() {
        let hash = Hash::of(b"hello");
        let stored = (Ok((hash, 5)), 1);
        assert_eq!(put(vec![chunk("", "he"), chunk("", "llo")]).await, stored);
        assert_eq!(put(vec![chunk(&hash.to_string(), "he"), chunk("ignored", "llo")]).await, stored);
        assert_eq!(put(vec![]).await, (Ok((Hash::of(b""), 0)), 1));
    }

    #[tokio::test]
    async fn what_is_wrong_leaves_nothing() {
        let (result, left) = put(vec![chunk(&Hash::of(b"other").to_string(), "hello")]).await;
        assert_eq!((result.unwrap_err().reason(), left), ("HASH_MISMATCH", 0));
        let (result, left) = put(vec![chunk("nonsense", "hello")]).await;
        assert_eq!((result.unwrap_err().reason(), left), ("ARTIFACT_NAME_INVALID", 0));
        let (result, left) = put(vec![chunk("", "hel"), Err(())]).await;
        assert_eq!((result.unwrap_err(), left), (ArtifactError::Interrupted, 0));
        let (result, left) = put(vec![chunk("", vec![0; CHUNK_BYTES + 1])]).await;
        assert_eq!((result.unwrap_err().reason(), left), ("ARTIFACT_CHUNK_TOO_LARGE", 0));
    }

    #[tokio::test]
    async fn too_large_is_refused_as_soon_as_it_shows() {
        let piece = Bytes::from(vec![0; CHUNK_BYTES]);
        let pieces = usize::try_from(ARTIFACT_BYTES_MAX).unwrap() / CHUNK_BYTES + 1;
        let (result, left) = put(vec![piece; pieces].into_iter().map(|piece| chunk("", piece)).collect()).await;
        assert_eq!((result.unwrap_err().reason(), left), ("ARTIFACT_TOO_LARGE", 0));
    }
}

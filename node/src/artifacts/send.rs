//! From a file in the store to a stream of chunks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use tarn_executor::{ArtifactStore, Hash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::error::ArtifactError;
use super::receive::blocking;
use crate::peer::limits::CHUNK_BYTES;

/// Artifacts held in memory at once for sending. Each is verified as a whole before its first byte goes out, so this times
/// the largest artifact (64 MiB) is what sending may take. When all are in use, more transfers wait.
const LOADED_MAX: usize = 4;

/// A receiver that takes no chunk for this long is given up, so that it does not hold one of the few places.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Chunks that wait between this task and the connection: one in use, one ready.
const CHUNKS_AHEAD: usize = 2;

/// An artifact in memory, verified.
pub(super) struct Loaded {
    pub bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

/// Loads artifacts for sending, a few at a time.
pub(super) struct Loader {
    store: ArtifactStore,
    places: Arc<Semaphore>,
}

impl Loader {
    pub fn new(store: ArtifactStore) -> Self {
        Self { store, places: Arc::new(Semaphore::new(LOADED_MAX)) }
    }

    /// Loads an artifact; `None` if it is not here, or damaged.
    pub async fn load(&self, hash: Hash) -> Result<Option<Arc<Loaded>>, ArtifactError> {
        let place = self.places.clone().acquire_owned().await.expect("the places are never closed");
        let store = self.store.clone();
        let bytes = blocking(move || store.get(&hash)).await?;
        Ok(bytes.map(|bytes| Arc::new(Loaded { bytes, _place: place })))
    }
}

/// The chunks of an artifact: at least one, so that an empty artifact has a message for its name.
pub(super) fn chunks(bytes: &Bytes) -> impl Iterator<Item = Bytes> + Send + use<> {
    let bytes = bytes.clone();
    let count = bytes.len().div_ceil(CHUNK_BYTES).max(1);
    (0..count).map(move |index| {
        let start = index * CHUNK_BYTES;
        bytes.slice(start..bytes.len().min(start + CHUNK_BYTES))
    })
}

/// The chunks of an artifact as messages of an outgoing request.
pub(super) fn outgoing<M>(loaded: Arc<Loaded>, message: impl Fn(usize, Bytes) -> M + Send + 'static) -> impl Stream<Item = M> + Send {
    let chunks = chunks(&loaded.bytes).enumerate();
    stream::iter(chunks.map(move |(index, chunk)| {
        let _held = &loaded;
        message(index, chunk)
    }))
}

/// The chunks of an artifact as messages of an answer, whose receiver may be slow or gone. Ends with an error unless all of
/// them were taken.
pub(super) fn answer<M: Send + 'static>(
    loaded: Arc<Loaded>,
    message: impl Fn(usize, Bytes) -> M + Send + 'static,
) -> impl Stream<Item = Result<M, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let owed = chunks(&loaded.bytes).count();
    tokio::spawn(async move {
        for (index, chunk) in chunks(&loaded.bytes).enumerate() {
            if sender.send_timeout(message(index, chunk), TAKE_TIMEOUT).await.is_err() {
                return;
            }
        }
    });
    stream::unfold(Some((receiver, owed)), |state| async move {
        let (mut receiver, owed) = state?;
        match receiver.recv().await {
            Some(message) => Some((Ok(message), Some((receiver, owed - 1)))),
            None if owed == 0 => None,
            None => Some((Err(Status::aborted("the artifact was taken too slowly: get it again")), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[test]
    fn chunks_cover_everything_once() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes = Bytes::from((0..length).map(|byte| byte as u8).collect::<Vec<_>>());
            let parts: Vec<Bytes> = chunks(&bytes).collect();
            assert_eq!(parts.len(), length.div_ceil(CHUNK_BYTES).max(1));
            assert!(parts.iter().all(|part| part.len() <= CHUNK_BYTES));
            assert_eq!(parts.concat(), bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_takes_nothing_frees_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path()).unwrap();
        let hash = store.put(&vec![1; 5 * CHUNK_BYTES]).unwrap();
        let loader = Loader::new(store);
        let mut stuck = Vec::new();
        for _ in 0..LOADED_MAX {
            let loaded = loader.load(hash).await.unwrap().unwrap();
            stuck.push(Box::pin(answer(loaded, |_, chunk| chunk)));
        }
        assert!(loader.load(hash).await.unwrap().is_some(), "a place became free in the end");
        let taken: Vec<_> = stuck.remove(0).collect().await;
        assert!(taken.len() < 5 && taken.last().unwrap().is_err(), "what is cut short says so");
        assert!(loader.load(Hash::of(b"absent")).await.unwrap().is_none());
    }
}

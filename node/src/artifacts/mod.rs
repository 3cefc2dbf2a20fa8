//! Artifacts: content-addressed bytes, put once, verified on every read, on every node.
//!
//! ```text
//!   put ─► receive ─► this node's disk ─► replicate ─► every peer's disk
//!                                             └── acknowledged when a majority of the voters has it
//!   get, executor ─► this node's disk ─┬─ intact ─► answer
//!                                      └─ missing or damaged ─► fetch, from any peer, once for all who wait
//!   reconcile ─► compares lists with peers at the start and when one is back, and fetches what is missing
//! ```
//!
//! Artifacts do not travel in the log, because they are larger than anything that should wait there. They need no order
//! either: a name can only ever mean the same bytes. So replication is pushing on put and pulling afterwards, and an
//! acknowledged artifact survives because a majority has it on disk before the acknowledgement.
//!
//! Invariants: nothing is acknowledged that is not on disk, synced; nothing leaves this node that was not verified when it was
//! read; memory is bounded by named constants whatever the number of requests.

mod error;
mod fetch;
mod locate;
mod pull;
mod receive;
mod reconcile;
mod replicate;
mod send;
mod serve;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tarn_executor::{ArtifactInfo, ArtifactSource, ArtifactStore, Hash, SourceError};
use tonic::Status;

use crate::peer::{Links, Members};

pub use crate::api::ArtifactApi;
pub use error::ArtifactError;
pub use receive::Chunk;

/// This node's artifacts, and its peers' where they are needed. Clones share everything.
#[derive(Clone)]
pub struct Artifacts {
    shared: Arc<Shared>,
}

struct Shared {
    store: ArtifactStore,
    links: Arc<Links>,
    members: Arc<dyn Members>,
    loader: send::Loader,
    fetches: fetch::Fetches,
}

impl Artifacts {
    /// Artifacts in this store, exchanged over these links with these members. Call [`Artifacts::reconcile`] once for what
    /// this node has missed.
    #[must_use]
    pub fn new(store: ArtifactStore, links: Arc<Links>, members: Arc<dyn Members>) -> Self {
        let loader = send::Loader::new(store.clone());
        Self { shared: Arc::new(Shared { store, links, members, loader, fetches: fetch::Fetches::default() }) }
    }

    /// Stores what a stream of chunks brings, here and on a majority of the voters, and returns its name and size in bytes. Takes
    /// one chunk at a time, each of at most [`CHUNK_BYTES`](crate::peer::CHUNK_BYTES).
    ///
    /// # Errors
    /// [`ArtifactError`]; after `NotReplicated` the artifact is on some nodes, and putting it again is cheap and safe.
    pub async fn put<S, E>(&self, chunks: S) -> Result<(Hash, u64), ArtifactError>
    where
        S: Stream<Item = Result<Chunk, E>> + Unpin,
    {
        let (hash, size) = receive::receive(&self.shared.store, chunks).await?;
        self.replicate(hash).await?;
        Ok((hash, size))
    }

    /// The bytes of an artifact in chunks of at most [`CHUNK_BYTES`](crate::peer::CHUNK_BYTES), for an answer whose receiver may be
    /// slow. Ends with an error unless all of them were taken.
    ///
    /// # Errors
    /// Those of [`Artifacts::get`]; a name that is none.
    pub async fn stream_named(&self, name: &str) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + use<>, ArtifactError> {
        let hash = error::parse_name(name)?;
        Ok(send::answer(self.loaded(hash).await?, |_, chunk| chunk))
    }

    /// What is on this node's disk, in the order of the names.
    ///
    /// # Errors
    /// What the disk refuses.
    pub async fn list(&self) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let store = self.shared.store.clone();
        receive::blocking(move || store.list()).await
    }

    /// The bytes of an artifact: this node's, or a peer's, from whom they are stored here as well.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`], [`ArtifactError::Unreachable`] where those who may have it gave no answer, and what this
    /// node's disk refuses.
    pub async fn get(&self, hash: Hash) -> Result<Bytes, ArtifactError> {
        Ok(self.loaded(hash).await?.bytes.clone())
    }

    async fn loaded(&self, hash: Hash) -> Result<Arc<send::Loaded>, ArtifactError> {
        if let Some(loaded) = self.shared.loader.load(hash).await? {
            return Ok(loaded);
        }
        self.fetch(hash).await?;
        // Damaged again before it could be read: the disk is failing.
        self.shared.loader.load(hash).await?.ok_or(ArtifactError::Store)
    }
}

/// Executors get artifacts from the whole cluster.
#[async_trait]
impl ArtifactSource for Artifacts {
    async fn load(&self, hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        match self.get(*hash).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ArtifactError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

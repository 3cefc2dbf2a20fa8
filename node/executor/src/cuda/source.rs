//! The sources of kernels: verified, and the last few kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::SOURCE_BYTES_MAX;
use crate::{ExecutionError, Hash, Source};

/// How many sources are kept. They are small; more than a few dozen kernels in turn are fetched again.
const KEPT_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Sources {
    kept: Mutex<VecDeque<(Hash, Bytes)>>,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Hash, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies and keeps a source.
    pub(super) fn keep(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        if self.lock().iter().any(|(kept, _)| kept == hash) {
            return Ok(());
        }
        if bytes.len() > SOURCE_BYTES_MAX {
            return Err(ExecutionError::ArtifactTooLarge { size_bytes: bytes.len() as u64, max_bytes: SOURCE_BYTES_MAX as u64 });
        }
        let actual = Hash::of(&bytes);
        if actual != *hash {
            return Err(ExecutionError::HashMismatch { expected: *hash, actual });
        }
        if bytes.contains(&0) || std::str::from_utf8(&bytes).is_err() {
            return Err(ExecutionError::InvalidKernel { detail: "it is not text".into() });
        }
        let mut kept = self.lock();
        kept.push_back((*hash, bytes));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
        Ok(())
    }

    pub(super) async fn load(&self, hash: &Hash, source: Source) -> Result<Bytes, ExecutionError> {
        let find = || self.lock().iter().find(|(kept, _)| kept == hash).map(|(_, bytes)| bytes.clone());
        if let Some(bytes) = find() {
            return Ok(bytes);
        }
        let unavailable = |detail: String| ExecutionError::ArtifactUnavailable { hash: *hash, detail };
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::Prepared => return Err(unavailable("it was not prepared, or long ago".into())),
            Source::Provider(provider) => match provider.load(hash).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Err(unavailable("no source has it".into())),
                Err(error) => return Err(unavailable(error.to_string())),
            },
        };
        self.keep(hash, bytes.clone())?;
        Ok(bytes)
    }
}

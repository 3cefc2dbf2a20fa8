//! What can go wrong with artifacts, sorted by what the caller does next.

use tarn_executor::{Hash, StoreError};
use tarn_proto::v1;
use tonic::Code;

use crate::peer::limits::CHUNK_BYTES;

/// Why an artifact could not be put or had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    // The request has to change.
    /// The name is not one.
    #[error("{0:?} is no artifact's name: write blake3: and 64 hexadecimal digits, as `put` printed it")]
    BadName(String),
    /// Nobody has it.
    #[error("artifact {0} is nowhere in this cluster: put it first")]
    NotFound(Hash),
    /// It is larger than any may be.
    #[error("the artifact has more than {max_bytes} bytes: make it smaller")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// One message is too long.
    #[error("a chunk of the artifact has {bytes} bytes and the limit is {CHUNK_BYTES}: send smaller ones")]
    ChunkTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The bytes are not those that were announced.
    #[error("the bytes hash to {actual} but {expected} was announced: send the artifact again, or correct its name")]
    HashMismatch {
        /// The announced name.
        expected: Hash,
        /// The name that the bytes have.
        actual: Hash,
    },
    /// The stream ended in the middle.
    #[error("the stream ended before the artifact was complete: send it again")]
    Interrupted,

    // The same request may succeed later.
    /// Too few nodes have it on disk.
    #[error(
        "artifact {artifact} is on the disk of {stored} of {voters} voters and {needed} are needed: put it again once more \
         nodes are up; it costs little where it is already"
    )]
    NotReplicated {
        /// The artifact.
        artifact: Hash,
        /// Voters that have it, for certain.
        stored: usize,
        /// What makes a majority.
        needed: usize,
        /// All voters.
        voters: usize,
    },
    /// Those who may have it could not be asked.
    #[error("artifact {artifact} is not on this node and {unreachable} of its peers cannot be asked: try again when they are up")]
    Unreachable {
        /// The artifact.
        artifact: Hash,
        /// Peers that gave no answer.
        unreachable: usize,
    },
    /// This node is stopping.
    #[error("this node is stopping: ask another one")]
    Stopping,
    /// This node's disk refused. The details are in its log.
    #[error("this node's artifact store failed: see its log, and ask another node")]
    Store,
}

impl ArtifactError {
    /// The stable name.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.verdict().1
    }

    /// As the contract tells it.
    #[must_use]
    pub fn rejection(&self) -> v1::Rejection {
        let (code, reason, field, limit) = self.verdict();
        v1::Rejection {
            code: code as u32,
            reason: reason.into(),
            message: self.to_string(),
            field: field.into(),
            limit,
            retry_after_ms: 0,
            ..v1::Rejection::default()
        }
    }

    fn verdict(&self) -> (Code, &'static str, &'static str, u64) {
        match self {
            Self::BadName(_) => (Code::InvalidArgument, "ARTIFACT_NAME_INVALID", "artifact", 0),
            Self::NotFound(_) => (Code::NotFound, "ARTIFACT_NOT_FOUND", "artifact", 0),
            Self::TooLarge { max_bytes } => (Code::InvalidArgument, "ARTIFACT_TOO_LARGE", "chunk", *max_bytes),
            Self::ChunkTooLarge { .. } => (Code::InvalidArgument, "ARTIFACT_CHUNK_TOO_LARGE", "chunk", CHUNK_BYTES as u64),
            Self::HashMismatch { .. } => (Code::InvalidArgument, "HASH_MISMATCH", "artifact", 0),
            Self::Interrupted => (Code::Aborted, "ARTIFACT_INTERRUPTED", "", 0),
            Self::NotReplicated { .. } => (Code::Unavailable, "NOT_REPLICATED", "", 0),
            Self::Unreachable { .. } => (Code::Unavailable, "ARTIFACT_UNREACHABLE", "artifact", 0),
            Self::Stopping => (Code::Unavailable, "NODE_STOPPING", "", 0),
            Self::Store => (Code::Internal, "ARTIFACT_STORE_FAILED", "", 0),
        }
    }
}

impl From<StoreError> for ArtifactError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge { max_bytes } => Self::TooLarge { max_bytes },
            StoreError::WrongHash { expected, actual } => Self::HashMismatch { expected, actual },
            error => {
                tracing::error!(%error, "the artifact store failed");
                Self::Store
            }
        }
    }
}

/// Reads an artifact's name out of a message.
pub(super) fn parse_name(name: &str) -> Result<Hash, ArtifactError> {
    // What is quoted comes from outside: it is cut.
    name.parse().map_err(|_| ArtifactError::BadName(name.chars().take(80).collect()))
}

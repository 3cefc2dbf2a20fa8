//! What can go wrong, sorted by what the caller does next.

use tarn_proto::v1::Rejection;
use tarn_storage::StorageError;

/// This node can no longer apply the log: stop it before it spreads or answers anything else.
///
/// None of these is ever caused by what a client sent.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry or the state needs another build. Run one that reads this version, then start again: nothing is lost.
    #[error("{what} has machine version {found}, and this build reads versions {min} to {max}: upgrade this node")]
    UnknownVersion {
        /// What has the version.
        what: &'static str,
        /// The version it has.
        found: u32,
        /// Lowest version that this build reads.
        min: u32,
        /// Highest version that this build reads.
        max: u32,
    },
    /// An entry carries what this build does not understand, though its version says that it should. Run the build that wrote it.
    #[error("log entry {index} cannot be applied: {detail}")]
    Malformed {
        /// The entry's log index.
        index: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// The state contradicts itself: a defect, or damage below the engine's checksums. Restore this node from its peers.
    #[error("the machine's state contradicts itself: {detail}")]
    Assertion {
        /// What should have been so.
        detail: String,
    },
}

impl Fatal {
    pub(crate) fn assertion(detail: impl Into<String>) -> Self {
        Fatal::Assertion { detail: detail.into() }
    }
}

/// Why a read or a command gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Tell the client; the state is untouched.
    #[error("{}: {}", .0.reason, .0.message)]
    Rejected(Box<Rejection>),
    /// Stop the node.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal::Rejected(Box::new(rejection))
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Refusal::Fatal(Fatal::Storage(error))
    }
}

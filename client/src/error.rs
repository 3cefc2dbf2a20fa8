//! What can go wrong, sorted by what the caller does next.

use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto;

/// The reason that a node gives for a worker whose registration has ended.
pub(crate) const WORKER_NOT_FOUND: &str = "WORKER_NOT_FOUND";
/// The reason that a node gives for a write that expected another version.
const VERSION_CONFLICT: &str = "VERSION_CONFLICT";
/// The reason that a node gives when the events after a revision are gone.
pub(crate) const COMPACTED: &str = "COMPACTED";

/// Why a call did not succeed.
///
/// The variants are sorted by what the caller does next. All but [`Error::Refused`] and [`Error::Compacted`] were met after the SDK's own
/// retries. Errors are cheap enough to clone, because a [`Batcher`](crate::Batcher) hands one to several callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The cluster read the request and refused it. Nothing was changed, and nothing will be. Repeating the same request is of no use: look
    /// at the refusal's reason and change the request, or what it refers to. A refusal of a repeat, after a try whose answer was lost, is
    /// [`Error::Unavailable`] with [`Fate::Unknown`], because that earlier try may still take effect.
    #[error("{0}")]
    Refused(Box<Refusal>),

    /// No node served the call within its deadline. Try again later, and see [`Fate`] for whether the call may have had its effect.
    #[error("no node served the call ({tries} tries, {fate}): {message}")]
    Unavailable {
        /// What the last try met.
        message: String,
        /// How many tries were made.
        tries: u32,
        /// Whether the call may have had its effect.
        fate: Fate,
    },

    /// The deadline passed before an answer came. Try again with more time, and see [`Fate`] for whether the call may have had its effect.
    #[error("the deadline passed without an answer ({tries} tries, {fate})")]
    DeadlineExceeded {
        /// How many tries were made.
        tries: u32,
        /// Whether the call may have had its effect.
        fate: Fate,
    },

    /// The nodes were reached, but no session with them is possible: a certificate was refused, or the other end does not speak tarn's
    /// protocol. Check the credentials and the addresses; waiting does not help.
    #[error("no session with the cluster is possible: {0}")]
    Transport(String),

    /// What the program itself gave is unusable: an address, a missing certificate, an option out of its range. Nothing was sent.
    #[error("{0}")]
    Config(String),

    /// The events after the revision that a watch asked for are gone. List the present state, then watch from that list's revision.
    #[error("the events after revision {after_revision} are gone: list the present state and watch from its revision")]
    Compacted {
        /// The revision after which events were wanted.
        after_revision: u64,
    },
}

/// Whether a failed call may have had its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The call had no effect: it reads only, or it never reached a node.
    NotDone,
    /// The call may have had its effect, or may still have it. Repeat it with the same request id to learn its answer, or read the state.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::NotDone => "nothing was done",
            Fate::Unknown => "outcome unknown",
        })
    }
}

/// What the cluster says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code: the coarse kind of the refusal.
    pub code: Code,
    /// Stable and machine-readable, in UPPER_SNAKE, such as `TASK_NOT_FOUND`. The code's own name where the node gave none.
    pub reason: String,
    /// One sentence that tells a person what to do.
    pub message: String,
    /// The offending field of the request, if one is.
    pub field: Option<String>,
    /// The limit that was hit, if one was.
    pub limit: Option<u64>,
    /// With the reason `VERSION_CONFLICT`: the version that the key has; 0 if it has no value.
    pub actual_version: Option<u64>,
    /// The id by which the cluster's records name the request: of a command its request id, or that of the batch in which it went, of a
    /// read its trace.
    pub request_id: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)?;
        if let Some(field) = &self.field {
            write!(f, " (field {field})")?;
        }
        if let Some(limit) = self.limit {
            write!(f, " (limit {limit})")?;
        }
        Ok(())
    }
}

impl Error {
    /// The stable reason, in UPPER_SNAKE: the cluster's where it refused, otherwise `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `TRANSPORT`,
    /// `CONFIG` or `COMPACTED`.
    pub fn reason(&self) -> &str {
        match self {
            Error::Refused(refusal) => &refusal.reason,
            Error::Unavailable { .. } => "UNAVAILABLE",
            Error::DeadlineExceeded { .. } => "DEADLINE_EXCEEDED",
            Error::Transport(_) => "TRANSPORT",
            Error::Config(_) => "CONFIG",
            Error::Compacted { .. } => COMPACTED,
        }
    }

    /// The refusal, where the cluster refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Error::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the call may have had its effect although it failed.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Error::Unavailable { fate: Fate::Unknown, .. } | Error::DeadlineExceeded { fate: Fate::Unknown, .. })
    }

    /// Whether the same call may succeed later without any change.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::DeadlineExceeded { .. })
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::Refused(Box::new(refusal))
    }
}

impl Refusal {
    /// Reads the details that a node attaches to a status.
    pub(crate) fn from_status(status: &Status) -> Refusal {
        let details = status.get_error_details();
        let info = details.error_info();
        let detail = |key: &str| info.and_then(|info| info.metadata.get(key)).cloned();
        Refusal {
            code: status.code(),
            reason: info.map_or_else(|| code_name(status.code()).to_owned(), |info| info.reason.clone()),
            message: status.message().to_owned(),
            field: detail("field").filter(|field| !field.is_empty()),
            limit: detail("limit").and_then(|limit| limit.parse().ok()),
            actual_version: detail("actual_version").and_then(|version| version.parse().ok()),
            request_id: details.request_info().map(|info| info.request_id.clone()),
        }
    }

    /// Reads a refusal that came over a stream; who sent the request knows its id.
    pub(crate) fn from_rejection(rejection: proto::Rejection) -> Refusal {
        Refusal {
            code: Code::from(i32::try_from(rejection.code).unwrap_or(i32::MAX)),
            actual_version: (rejection.reason == VERSION_CONFLICT).then_some(rejection.actual_version),
            reason: rejection.reason,
            message: rejection.message,
            field: Some(rejection.field).filter(|field| !field.is_empty()),
            limit: Some(rejection.limit).filter(|limit| *limit != 0),
            request_id: None,
        }
    }

    /// Whether the same request may be taken later without any change.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
    }
}

/// A status code's name as the gRPC specification writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

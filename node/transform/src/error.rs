//! Why a transform was not done.

/// Why a transform was not done. Each has a stable [`reason`](Self::reason) for programs and a sentence for people. Nothing is
/// retryable but [`Cancelled`](Self::Cancelled): the same request ends the same way everywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// No transform has this name.
    #[error("there is no transform `{name}`: choose one of {known}")]
    Unknown {
        /// The name that was asked for, cut to a sensible length.
        name: String,
        /// All names there are.
        known: String,
    },
    /// A parameter is missing, unknown, of the wrong type or out of range.
    #[error("the parameters do not fit: {detail}")]
    BadParams {
        /// Which parameter, and what is wanted instead.
        detail: String,
    },
    /// The input is not a sequence of arrays as this transform wants them.
    #[error("the input does not fit: {detail}")]
    BadInput {
        /// Which array, and what is wanted instead.
        detail: String,
    },
    /// A number of the input lies where the transform is not defined, for example outside of the Poincaré ball.
    #[error("the input leaves the domain of the transform: {detail}")]
    OutOfDomain {
        /// Which element, and what the domain is.
        detail: String,
    },
    /// Something is larger than it may be.
    #[error("{what} is {value} and the limit is {limit}: split the work into smaller transforms")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The largest allowed.
        limit: u64,
    },
    /// The transform needs more memory than its budget.
    #[error("the transform needs {needed_bytes} bytes of memory and may have {limit_bytes}: raise the limit or split it")]
    MemoryLimit {
        /// What it needs, in bytes.
        needed_bytes: u64,
        /// What it may have, in bytes.
        limit_bytes: u64,
    },
    /// The caller stopped it.
    #[error("the transform was cancelled: start it again if it is still wanted")]
    Cancelled,
}

impl TransformError {
    /// All the reasons there are.
    pub const REASONS: &[&'static str] = &[
        "TRANSFORM_UNKNOWN",
        "TRANSFORM_BAD_PARAMS",
        "TRANSFORM_BAD_INPUT",
        "TRANSFORM_OUT_OF_DOMAIN",
        "TRANSFORM_TOO_LARGE",
        "TRANSFORM_MEMORY_LIMIT",
        "TRANSFORM_CANCELLED",
    ];

    /// The stable name of this error. A name is never reused for something else.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "TRANSFORM_UNKNOWN",
            Self::BadParams { .. } => "TRANSFORM_BAD_PARAMS",
            Self::BadInput { .. } => "TRANSFORM_BAD_INPUT",
            Self::OutOfDomain { .. } => "TRANSFORM_OUT_OF_DOMAIN",
            Self::TooLarge { .. } => "TRANSFORM_TOO_LARGE",
            Self::MemoryLimit { .. } => "TRANSFORM_MEMORY_LIMIT",
            Self::Cancelled => "TRANSFORM_CANCELLED",
        }
    }

    pub(crate) fn params(detail: impl Into<String>) -> Self {
        Self::BadParams { detail: detail.into() }
    }

    pub(crate) fn input(detail: impl Into<String>) -> Self {
        Self::BadInput { detail: detail.into() }
    }

    pub(crate) fn domain(detail: impl Into<String>) -> Self {
        Self::OutOfDomain { detail: detail.into() }
    }
}

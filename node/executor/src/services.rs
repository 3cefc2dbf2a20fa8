//! What a node does for guests that were granted it: the services behind context, log and progress.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

/// The services of a node for the guest of one attempt. The node makes one for each attempt, so that it knows the
/// namespace and the task for which a call is made. The executor has checked the grants before it calls, and has bounded
/// sizes and numbers; how long a call takes counts towards the attempt's time.
#[async_trait]
pub trait HostServices: Send + Sync + fmt::Debug {
    /// The value of a key in a context, if it has one.
    async fn context_get(&self, context: &str, key: &str) -> Result<Option<ContextEntry>, ServiceError>;

    /// Sets a key and returns its new version. With `expected`, only if the key has that version now; 0 stands for a key
    /// that has no value.
    async fn context_set(&self, context: &str, key: &str, value: Bytes, expected: Option<u64>) -> Result<u64, ServiceError>;

    /// Removes a key; removing what is not there is no error. `expected` as for [`context_set`](Self::context_set).
    async fn context_delete(&self, context: &str, key: &str, expected: Option<u64>) -> Result<(), ServiceError>;

    /// The keys that start with `prefix` and come after `after`, in order of their bytes, at most `limit` of them.
    async fn context_list(&self, context: &str, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, ServiceError>;

    /// Takes note of how far the attempt is, from 0 to 1. Only the latest counts, so a node may skip some.
    async fn progress(&self, fraction: f64, message: &str) -> Result<(), ServiceError>;

    /// Takes a line of the guest's log. It stands in the attempt's logs in any case; a node may pass it on as it comes.
    async fn log(&self, level: LogLevel, message: &str);
}

/// What becomes of what a driver does beside answering. Nothing of it may take effect before the present call of the driver has
/// returned without an error: the node then does all of it at once, or nothing.
pub trait DriverServices: Send + Sync + fmt::Debug {
    /// Takes a line of the driver's log, which counts at once.
    fn log(&self, level: LogLevel, message: &str);

    /// Takes the driver's new state.
    ///
    /// # Errors
    /// Why it cannot be, for the driver.
    fn save(&self, state: Bytes) -> Result<(), String>;

    /// Takes a task to be enqueued: a `TaskSpec` as JSON, and its payload.
    ///
    /// # Errors
    /// Why it cannot be.
    fn enqueue(&self, spec: &str, payload: Option<Bytes>) -> Result<(), NotEnqueued>;
}

/// Why a driver's task is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotEnqueued {
    /// The driver is told what is wrong with it.
    Refused(String),
    /// The driver was not granted this queue, and ends.
    NotGranted {
        /// The queue's name.
        queue: String,
    },
}

/// A value in a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// The value.
    pub value: Bytes,
    /// Its version: at least 1, and larger after each change of the key.
    pub version: u64,
}

/// How much a line of a log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For who looks for a mistake.
    Debug,
    /// For who wants to know what goes on.
    Info,
    /// Something that should be looked at.
    Warn,
    /// Something that went wrong.
    Error,
}

impl LogLevel {
    /// In capital letters, as it stands in front of a line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// Why a service did not do what a guest asked for. The guest is told, and decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The key had another version than the expected one.
    #[error("the key has version {current}")]
    Conflict {
        /// The version that it has; 0 if it has no value.
        current: u64,
    },
    /// It will not do that, now or later.
    #[error("{0}")]
    Refused(String),
    /// It cannot do that now.
    #[error("{0}")]
    Unavailable(String),
}

/// No services: log lines stay in the attempt's logs, progress goes nowhere, and there are no contexts.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoServices;

const NO_CONTEXTS: &str = "this node keeps no contexts";

#[async_trait]
impl HostServices for NoServices {
    async fn context_get(&self, _: &str, _: &str) -> Result<Option<ContextEntry>, ServiceError> {
        Err(ServiceError::Unavailable(NO_CONTEXTS.into()))
    }

    async fn context_set(&self, _: &str, _: &str, _: Bytes, _: Option<u64>) -> Result<u64, ServiceError> {
        Err(ServiceError::Unavailable(NO_CONTEXTS.into()))
    }

    async fn context_delete(&self, _: &str, _: &str, _: Option<u64>) -> Result<(), ServiceError> {
        Err(ServiceError::Unavailable(NO_CONTEXTS.into()))
    }

    async fn context_list(&self, _: &str, _: &str, _: Option<&str>, _: u32) -> Result<Vec<String>, ServiceError> {
        Err(ServiceError::Unavailable(NO_CONTEXTS.into()))
    }

    async fn progress(&self, _: f64, _: &str) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn log(&self, _: LogLevel, _: &str) {}
}

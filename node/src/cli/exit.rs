//! How a command ends: what it says on standard error, and its exit code.

use std::fmt;

use tarn_client::Error as ClientError;

/// The exit codes, as `tarn --help` lists them. Scripts depend on them: they never change.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   success
  1   refused, or failed for another reason
  2   wrong usage
  3   no node answered; nothing was done
  4   the time was up, or no answer came: the outcome is unknown
  5   the task that was waited for died
  6   the task that was waited for was cancelled
  70  the node stopped because going on could have lost data; see its log";

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The cluster refused, or could not be asked.
    Client(ClientError),
    /// The arguments do not make sense together.
    Usage(String),
    /// A task that was waited for died or was cancelled.
    Task {
        /// Its id.
        task_id: String,
        /// Why.
        error: tarn_proto::v1::TaskError,
        /// Whether it was cancelled rather than dead.
        cancelled: bool,
    },
    /// The node stopped by itself.
    Node(String),
    /// Anything else: a file, the terminal.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Client(error) if error.outcome_unknown() => 4,
            Failure::Client(ClientError::DeadlineExceeded { .. }) => 4,
            Failure::Client(ClientError::Unavailable { .. } | ClientError::Transport(_)) => 3,
            Failure::Client(ClientError::Config(_)) | Failure::Usage(_) => 2,
            Failure::Client(_) | Failure::Other(_) => 1,
            Failure::Task { cancelled: false, .. } => 5,
            Failure::Task { cancelled: true, .. } => 6,
            Failure::Node(_) => 70,
        }
    }

    /// The failure as one JSON object, for `--output json`.
    pub fn to_json(&self) -> serde_json::Value {
        let (reason, message) = match self {
            Failure::Client(error) => (error.reason().to_owned(), error.to_string()),
            Failure::Usage(message) => ("USAGE".to_owned(), message.clone()),
            Failure::Task { error, .. } => (error.reason.clone(), error.message.clone()),
            Failure::Node(message) => ("NODE_STOPPED".to_owned(), message.clone()),
            Failure::Other(error) => ("FAILED".to_owned(), format!("{error:#}")),
        };
        let mut object = serde_json::json!({ "reason": reason, "message": message, "exit_code": self.code() });
        if let Failure::Client(error) = self
            && let Some(refusal) = error.refusal()
        {
            object["code"] = format!("{:?}", refusal.code).into();
            object["field"] = refusal.field.clone().into();
            object["limit"] = refusal.limit.into();
            object["request_id"] = refusal.request_id.clone().into();
            object["message"] = refusal.message.clone().into();
        }
        if let Failure::Task { task_id, .. } = self {
            object["task_id"] = task_id.clone().into();
        }
        serde_json::json!({ "error": object })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Client(error) => error.fmt(f),
            Failure::Usage(message) | Failure::Node(message) => f.write_str(message),
            Failure::Task {
                task_id,
                error,
                cancelled,
            } => {
                let fate = if *cancelled { "was cancelled" } else { "died" };
                write!(f, "task {task_id} {fate}: {}: {}", error.reason, error.message)
            }
            Failure::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Client(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Other(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Other(error.into())
    }
}

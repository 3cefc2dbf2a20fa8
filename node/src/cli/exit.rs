//! How a command ends: what it says on standard error, and its exit code.

use std::fmt;

use tarn_client::{Code, Error as ClientError, Refusal};

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

/// Fields of requests that refusals name, and what sets them on the command line.
const FLAGS: [(&str, &str); 28] = [
    ("action.mark", "--mark"),
    ("environment", "--environment"),
    ("expected_version", "--expect"),
    ("holder", "--holder"),
    ("isolation", "--isolation"),
    ("namespace", "--namespace"),
    ("replaces", "--replaces"),
    ("request_id", "--request-id"),
    ("states", "--state"),
    ("tasks.after", "--after"),
    ("tasks.attempt_timeout_ms", "--attempt-timeout, in milliseconds,"),
    ("tasks.deadline_at_ms", "--deadline-at, in milliseconds since 1970,"),
    ("tasks.handler", "--handler"),
    ("tasks.not_before_at_ms", "--not-before, in milliseconds since 1970,"),
    ("tasks.payload", "--payload"),
    ("tasks.queue", "--queue"),
    ("tasks.requires", "--requires"),
    ("tasks.retention_ms", "--retention, in milliseconds,"),
    ("tasks.retry.max_attempts", "--max-attempts"),
    ("tasks.wasm.artifact", "--wasm"),
    ("tasks.wasm.memory_bytes", "--memory"),
    ("tasks.native.artifact", "--native"),
    ("tasks.native.memory_bytes", "--memory"),
    ("tasks.grants", "--grant"),
    ("tasks.grants.context.name", "--grant"),
    ("token", "--token"),
    ("ttl_ms", "--ttl, in milliseconds,"),
    ("weight", "--weight"),
];

/// A refusal in the words of the command line: flags where the contract has fields.
fn refused(refusal: &Refusal) -> String {
    let Refusal { reason, message, .. } = refusal;
    let field = refusal.field.as_deref().unwrap_or_default();
    let limit = match refusal.limit {
        Some(limit) if !message.contains(&limit.to_string()) => format!(" (limit {limit})"),
        _ => String::new(),
    };
    let Some((_, flag)) = FLAGS.iter().find(|(known, _)| *known == field) else {
        // What has no flag is the command's argument, whose name usage shows.
        return format!("{reason}: {message}{limit}");
    };
    let (name, _) = flag.split_once(',').unwrap_or((flag, ""));
    match message.strip_prefix(field) {
        Some(rest) => format!("{reason}: {flag}{rest}{limit}"),
        None => format!("{reason}: {message} ({name}){limit}"),
    }
}

/// How to learn more, where the cluster has a record of the refusal: of what a role, a policy or a quota refused, or a stale token.
fn how_to_learn_why(refusal: &Refusal) -> Option<String> {
    let recorded = matches!(refusal.code, Code::PermissionDenied | Code::ResourceExhausted);
    let id = refusal.request_id.as_ref().filter(|id| !id.is_empty())?;
    (recorded || refusal.reason == "STALE_TOKEN").then(|| format!("\nwhy: tarn explain request {id}"))
}

/// An error and its causes, each said once: many errors say their cause themselves.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

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
    /// The answer to a question was no, and has been printed.
    No,
    /// The answer to a question is not known, because not everybody could be asked; what is known has been printed.
    NotKnown,
    /// Anything else: a file, the terminal.
    Other(anyhow::Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Client(error) if error.outcome_unknown() => 4,
            Failure::Client(ClientError::DeadlineExceeded { .. }) | Failure::NotKnown => 4,
            Failure::Client(ClientError::Unavailable { .. } | ClientError::Transport(_)) => 3,
            Failure::Client(ClientError::Config(_)) | Failure::Usage(_) => 2,
            Failure::Client(_) | Failure::No | Failure::Other(_) => 1,
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
            Failure::No => ("NO".to_owned(), self.to_string()),
            Failure::NotKnown => ("NOT_KNOWN".to_owned(), self.to_string()),
            Failure::Other(error) => ("FAILED".to_owned(), with_causes(error)),
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
            if let Some(version) = refusal.actual_version {
                object["actual_version"] = version.to_string().into();
            }
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
            Failure::Client(ClientError::Refused(refusal)) => {
                f.write_str(&refused(refusal))?;
                f.write_str(&how_to_learn_why(refusal).unwrap_or_default())
            }
            Failure::Client(error) => error.fmt(f),
            Failure::Usage(message) | Failure::Node(message) => f.write_str(message),
            Failure::Task { task_id, error, cancelled } => {
                let fate = if *cancelled { "was cancelled" } else { "died" };
                write!(f, "task {task_id} {fate}: {}: {}", error.reason, error.message)
            }
            Failure::No => f.write_str("the answer is no"),
            Failure::NotKnown => f.write_str("the answer is not known"),
            Failure::Other(error) => f.write_str(&with_causes(error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(field: &str, message: &str, limit: u64) -> String {
        let refusal = Refusal {
            code: tarn_client::Code::InvalidArgument,
            reason: "NO".into(),
            message: message.into(),
            field: Some(field.into()),
            limit: Some(limit),
            actual_version: None,
            request_id: None,
        };
        Failure::from(ClientError::Refused(Box::new(refusal))).to_string()
    }

    #[test]
    fn a_refusal_names_what_was_typed() {
        assert_eq!(
            said("tasks.retry.max_attempts", "tasks.retry.max_attempts is 200: it must be from 0 to 100", 100),
            "NO: --max-attempts is 200: it must be from 0 to 100"
        );
        assert_eq!(
            said("tasks.retention_ms", "tasks.retention_ms is 9: it must be from 0 to 7", 7),
            "NO: --retention, in milliseconds, is 9: it must be from 0 to 7"
        );
        assert_eq!(
            said("tasks.deadline_at_ms", "the deadline has passed already", 5),
            "NO: the deadline has passed already (--deadline-at) (limit 5)"
        );
        assert_eq!(said("timer_id", "there is no timer x", 1), "NO: there is no timer x (limit 1)");
    }

    #[test]
    fn a_refusal_that_is_recorded_tells_by_which_id() {
        let refused = |code, reason: &str| {
            let refusal = Refusal {
                code,
                reason: reason.into(),
                message: "no".into(),
                field: None,
                limit: None,
                actual_version: None,
                request_id: Some("ID".into()),
            };
            Failure::from(ClientError::from(refusal)).to_string()
        };
        assert_eq!(refused(Code::PermissionDenied, "PERMISSION_DENIED"), "PERMISSION_DENIED: no\nwhy: tarn explain request ID");
        assert_eq!(refused(Code::NotFound, "TASK_NOT_FOUND"), "TASK_NOT_FOUND: no");
    }

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read x: {0}")]
        struct Read(#[source] std::io::Error);
        let read = || Read(std::io::Error::other("the disk is gone"));
        assert_eq!(Failure::from(anyhow::Error::from(read())).to_string(), "cannot read x: the disk is gone");
        let outer = anyhow::Error::from(read()).context("nothing was done");
        assert_eq!(Failure::from(outer).to_string(), "nothing was done: cannot read x: the disk is gone");
    }

    #[test]
    fn every_flag_exists() {
        use clap::CommandFactory as _;
        fn flags(command: &clap::Command, found: &mut Vec<String>) {
            found.extend(command.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")));
            command.get_subcommands().for_each(|command| flags(command, found));
        }
        let mut found = Vec::new();
        flags(&crate::cli::Cli::command(), &mut found);
        for (field, flag) in FLAGS {
            let name = flag.split(',').next().unwrap();
            assert!(found.iter().any(|flag| flag == name), "{field}: there is no {name}");
        }
    }
}

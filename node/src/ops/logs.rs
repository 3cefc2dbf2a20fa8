//! Log lines: structured, on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log.level is not a filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something in this process set logging up before.
    #[error("logging is already set up")]
    Twice,
}

/// Sets logging up for this process.
///
/// # Errors
/// See [`LogError`].
pub fn init(log: &Log) -> Result<(), LogError> {
    let filter = EnvFilter::builder().parse(&log.level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    result.map_err(|_| LogError::Twice)
}

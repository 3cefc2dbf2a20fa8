//! What a failed exchange with a peer means for the sender.

use std::error::Error;

use tarn_client::tls::refusal_in;
use tarn_raft::TransportError;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// Why an exchange with a peer failed. They differ in what the sender knows afterwards.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// Nothing was delivered, for certain.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. The request may have been handled.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The connection broke after something was sent. The request may have been handled.
    #[error("the connection to the peer broke: {0}")]
    Broken(String),
    /// The peer answered with an error.
    #[error("the peer refused: {}", .0.message())]
    Refused(Status),
}

impl Fault {
    /// Reads a failed request's status.
    ///
    /// A status that the peer sent has no cause on this side; one that was made here, because something broke on the way,
    /// has. Only a connection that never came about proves that nothing was delivered.
    pub fn of(status: Status) -> Self {
        let Some(cause) = status.source() else {
            return match status.code() {
                // What a server answers when the deadline in the request has passed.
                Code::DeadlineExceeded | Code::Cancelled => Self::Timeout,
                _ => Self::Refused(status),
            };
        };
        if chain(cause).any(|error| error.is::<ConnectError>()) {
            return Self::Unreachable(describe(cause));
        }
        if chain(cause).any(|error| error.is::<TimeoutExpired>()) {
            return Self::Timeout;
        }
        Self::Broken(describe(cause))
    }

    /// Whether the connection is to blame, so that the next exchange should use another.
    pub fn blames_connection(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) => true,
            Self::Timeout | Self::Refused(_) => false,
        }
    }
}

impl From<Fault> for TransportError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreachable(reason) => Self::Unreachable(reason),
            Fault::Timeout => Self::Timeout,
            Fault::Broken(reason) => Self::Broken(reason),
            Fault::Refused(status) => Self::Remote(status.message().to_owned()),
        }
    }
}

/// The refusal if a certificate was refused, else the innermost cause: the outer ones only say "transport error".
fn describe(error: &(dyn Error + 'static)) -> String {
    match refusal_in(error) {
        Some(refusal) => refusal.to_string(),
        None => chain(error).last().map_or_else(String::new, ToString::to_string),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_words_are_kept_and_its_time_out_is_one() {
        let refused = Fault::of(Status::permission_denied("go away"));
        assert!(!refused.blames_connection());
        assert!(matches!(TransportError::from(refused), TransportError::Remote(text) if text == "go away"));
        assert!(matches!(Fault::of(Status::cancelled("Timeout expired")), Fault::Timeout));
    }

    #[test]
    fn only_a_connection_that_never_was_proves_that_nothing_arrived() {
        let never = Fault::of(Status::from_error(Box::new(ConnectError("refused".into()))));
        assert!(never.blames_connection());
        assert!(TransportError::from(never).certainly_undelivered());
        let broken = Fault::of(Status::from_error(Box::new(std::io::Error::other("reset"))));
        assert!(matches!(broken, Fault::Broken(_)), "{broken:?}");
        assert!(broken.blames_connection());
        assert!(!TransportError::from(broken).certainly_undelivered());
    }
}

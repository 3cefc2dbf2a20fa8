//! What time alone changes.

use std::sync::Arc;

/// Something that happens when its time comes. Of what is due in the same millisecond, the kinds happen in the order of this list: an end
/// comes before a beginning, so that a task whose deadline and earliest start coincide never starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wake {
    /// The task dies.
    Deadline { ns: u64, id: u64 },
    /// The worker has not been heard of.
    Worker { id: u64 },
    /// The attempt has not been renewed, or took too long.
    Attempt { ns: u64, id: u64 },
    /// The named lease has not been renewed.
    NamedLease { ns: u64, name: Arc<str> },
    /// The delayed task is ready.
    Eligible { ns: u64, id: u64 },
    /// The timer fires.
    Timer { ns: u64, id: u64 },
    /// The queue goes, if it is empty.
    IdleQueue { ns: u64, id: u64 },
    /// The join token is void.
    JoinToken { hash: Box<[u8; 32]> },
    /// The token is void.
    Token { id: u64 },
    /// The revoked certificate has expired: nobody takes it anyway.
    Revocation { serial: Arc<str> },
    /// The violation is old enough to be forgotten.
    Violation { id: u64 },
    /// The invitation is void.
    Invitation { hash: Box<[u8; 32]> },
    /// Nobody has confirmed the transfer in time; or it is closed, and may be forgotten.
    Transfer { id: Arc<str> },
}

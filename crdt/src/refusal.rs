//! What is refused, and why.

use std::fmt;

use crate::codec::{Malformed, Reader, Writer, whole};
use crate::id::ClusterId;

/// Bytes of a refusal's detail.
const DETAIL_BYTES_MAX: usize = 200;

/// Why a change set was refused. The names are stable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The signature is not the author's, or is over something else.
    BadSignature,
    /// Nobody introduced the author in what the change set knows of.
    UnknownCluster,
    /// The author signed two different change sets of one number.
    Equivocation,
    /// The number does not follow the author's last one that the change set knows of.
    Replay,
    /// The author may not write that key.
    OutOfScope,
    /// It is no change set, or not in its one encoding.
    Malformed,
    /// A key, a value or the whole is larger than allowed.
    TooLarge,
    /// The author's trust was withdrawn.
    RemovedCluster,
    /// A member folded an epoch to another content than this replica would: they have diverged.
    Diverged,
}

impl Reason {
    const ALL: [Self; 9] = [
        Self::BadSignature,
        Self::UnknownCluster,
        Self::Equivocation,
        Self::Replay,
        Self::OutOfScope,
        Self::Malformed,
        Self::TooLarge,
        Self::RemovedCluster,
        Self::Diverged,
    ];

    /// The machine-readable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadSignature => "BAD_SIGNATURE",
            Self::UnknownCluster => "UNKNOWN_CLUSTER",
            Self::Equivocation => "EQUIVOCATION",
            Self::Replay => "REPLAY",
            Self::OutOfScope => "OUT_OF_SCOPE",
            Self::Malformed => "MALFORMED",
            Self::TooLarge => "TOO_LARGE",
            Self::RemovedCluster => "REMOVED_CLUSTER",
            Self::Diverged => "DIVERGED",
        }
    }
}

/// A change set that was refused, for whoever looks after the federation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The peer that sent it.
    pub from: ClusterId,
    /// Whom it says to be by; of malformed bytes, the peer.
    pub author: ClusterId,
    /// Why.
    pub reason: Reason,
    /// One sentence more, for people; at most 200 bytes.
    pub detail: String,
    /// When, in milliseconds, by the clock of the caller.
    pub at_ms: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (by {}, from {})", self.reason.name(), self.detail, self.author, self.from)
    }
}

impl Refusal {
    pub(crate) fn new(from: ClusterId, author: ClusterId, reason: Reason, mut detail: String, at_ms: u64) -> Self {
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        Self { from, author, reason, detail, at_ms }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = [self.from.0, self.author.0].concat();
        out.push(self.reason as u8);
        out.bytes(self.detail.as_bytes());
        out.number(self.at_ms);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        whole(bytes, |r: &mut Reader<'_>| {
            let (from, author) = (ClusterId(r.array()?), ClusterId(r.array()?));
            let reason = *Reason::ALL.get(usize::from(r.byte()?)).ok_or(Malformed("a refusal has an unknown reason"))?;
            Ok(Self { from, author, reason, detail: r.text(DETAIL_BYTES_MAX)?.to_owned(), at_ms: r.number()? })
        })
    }
}

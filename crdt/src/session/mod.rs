//! Synchronisation with one peer: bytes in, bytes out.
//!
//! ```text
//!   link      an in-order stream over whatever loses, repeats and reorders; silent when idle
//!   message   what goes through it, bounded before it is decoded
//!   sync      automerge's protocol for each epoch that both sides have; a snapshot where the peer is too far behind
//!   pending   change sets whose past has not come yet
//! ```

mod link;
mod message;
mod pending;
mod snapshot;
mod sync;

use crate::codec::{Malformed, TOO_LONG};
use crate::commit::Commit;
use crate::id::{ClusterId, FederationId};
use crate::limits::FRAME_BYTES_MAX;
use crate::refusal::{Reason, Refusal};
use crate::replica::Replica;
use link::Link;
use message::Message;
use sync::Sync;

/// Why a session ended. It takes and says nothing more; a new one can be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer sent something that no peer of this version sends.
    #[error("the peer sent bytes that are no message: {0}")]
    Malformed(Malformed),
    /// A frame, or something in it, is larger than allowed.
    #[error("the peer sent more at once than is allowed")]
    TooLarge,
    /// The peer is in another federation.
    #[error("the peer belongs to the federation {0}: check which cluster was connected")]
    WrongFederation(FederationId),
    /// Nobody has introduced the peer, as far as this replica knows.
    #[error("nobody has introduced the cluster {0} here yet: synchronise with the one that invited it first")]
    UnknownPeer(ClusterId),
    /// Trust in the peer was withdrawn.
    #[error("the federation has withdrawn its trust in the cluster {0}: nothing is taken from it")]
    RemovedPeer(ClusterId),
    /// A change set, or a snapshot, was refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer sends change sets without the past that they name.
    #[error("the peer sent too many change sets without what they build on")]
    TooMuchPending,
    /// The session had ended before.
    #[error("the session has ended: make a new one")]
    Ended,
}

/// What came of a frame.
#[must_use]
#[derive(Debug)]
pub struct Received {
    /// What changed. There is something even beside an error: what was taken before it, and the record of the refusal.
    pub commit: Commit,
    /// Whether the session goes on.
    pub outcome: Result<(), SessionError>,
}

/// A synchronisation with one peer.
///
/// The caller carries frames: it asks [`Session::poll`] until there is none, hands what comes to [`Session::receive`], stores the commit,
/// lets the replica [`tend`](Replica::tend) to what is due, and polls again. The link must tell which peer a frame is from: who holds the
/// other end is known from mutual TLS, not from here.
pub struct Session {
    peer: ClusterId,
    link: Link,
    sync: Sync,
    ended: bool,
    /// A removed peer was told what there was to say when it was removed, so that it knows; nothing more.
    parted: bool,
}

impl Session {
    /// A session with a peer. `incarnation` is a number above 0 and above that of all earlier sessions with that peer, such as the time in
    /// milliseconds: it tells frames of this session from those of an earlier one.
    pub fn new(peer: ClusterId, incarnation: u64) -> Self {
        Self { peer, link: Link::new(incarnation.max(1)), sync: Sync::default(), ended: false, parted: false }
    }

    /// The peer.
    pub fn peer(&self) -> ClusterId {
        self.peer
    }

    /// The next frame to send, if there is one: at most about 1 MiB. The replica does not change, except that automerge is handed what was
    /// taken since the last time.
    pub fn poll(&mut self, replica: &mut Replica) -> Option<Vec<u8>> {
        let removed = replica.removed.contains(&self.peer);
        // Whoever is removed in the midst of a session is told of it; in a new one it hears nothing.
        let known = if removed { self.sync.has_met() } else { self.check_peer(replica).is_ok() };
        if self.ended || self.parted || !known {
            return None;
        }
        let frame = self.next_frame(replica);
        self.parted = removed && frame.is_none();
        frame
    }

    fn next_frame(&mut self, replica: &mut Replica) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = self.link.poll_message() {
                return Some(frame);
            }
            match self.link.has_room().then(|| self.sync.next(replica)).flatten() {
                Some(message) => self.link.push(message),
                None => return self.link.poll_bare(),
            }
        }
    }

    /// Takes a frame from the peer. Change sets are taken one by one, in the order of cause and effect: the first that is refused is
    /// recorded, changes nothing, and ends the session; those before it stay.
    pub fn receive(&mut self, replica: &mut Replica, frame: &[u8], now_ms: u64) -> Received {
        let outcome = match self.ended {
            true => Err(SessionError::Ended),
            false => self.take(replica, frame, now_ms),
        };
        self.ended |= outcome.is_err();
        let malformed = match &outcome {
            Err(SessionError::Malformed(malformed)) => Some((Reason::Malformed, malformed.to_string())),
            Err(error @ (SessionError::TooLarge | SessionError::TooMuchPending)) => Some((Reason::TooLarge, error.to_string())),
            Err(error @ SessionError::RemovedPeer(_)) => Some((Reason::RemovedCluster, error.to_string())),
            Err(error @ SessionError::UnknownPeer(_)) => Some((Reason::UnknownCluster, error.to_string())),
            _ => None,
        };
        if let Some((reason, detail)) = malformed {
            replica.refuse(Refusal::new(self.peer, self.peer, reason, detail, now_ms));
        }
        Received { commit: replica.commit(), outcome }
    }

    /// Says that time has passed, such as a second or two round trips, since the last frame came: what is unacknowledged is sent again. On
    /// a link that loses nothing it is not needed, and where nothing is under way it leads to nothing.
    pub fn tick(&mut self) {
        self.link.retry();
        self.sync.retry();
    }

    /// Have both sides met, and has the peer acknowledged all that was sent?
    pub fn is_quiet(&self) -> bool {
        self.link.is_quiet()
    }

    fn take(&mut self, replica: &mut Replica, frame: &[u8], now_ms: u64) -> Result<(), SessionError> {
        self.check_peer(replica)?;
        if frame.len() > FRAME_BYTES_MAX {
            return Err(SessionError::TooLarge);
        }
        let delivery = self.link.receive(frame)?;
        if delivery.restarted {
            self.sync = Sync::default();
        }
        match delivery.message {
            Some(message) => self.sync.receive(replica, self.peer, Message::decode(message)?, now_ms),
            None => Ok(()),
        }
    }

    /// A member, or whoever invited this cluster.
    fn check_peer(&self, replica: &Replica) -> Result<(), SessionError> {
        match () {
            () if replica.removed.contains(&self.peer) => Err(SessionError::RemovedPeer(self.peer)),
            () if replica.members.contains_key(&self.peer) || replica.inviter == Some(self.peer) => Ok(()),
            () => Err(SessionError::UnknownPeer(self.peer)),
        }
    }
}

impl From<Malformed> for SessionError {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            TOO_LONG => Self::TooLarge,
            other => Self::Malformed(other),
        }
    }
}

impl From<Refusal> for SessionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

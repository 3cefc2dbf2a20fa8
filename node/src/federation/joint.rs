//! A connection to another cluster with the session on it.

use tarn_crdt::{Received, Replica, Session};
use tarn_proto::v1::{LinkFrame, LinkPing, link_frame};
use tokio::time::Instant;

use super::link::Link;
use super::members::Member;

/// A connection to another cluster with the session on it.
pub(super) struct Joint {
    link: Link,
    session: Session,
    broken: bool,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) round_trip_us: u64,
    /// When both had the same last.
    pub(super) equal_at_ms: u64,
    /// Since when they have differed; `None` while they are equal.
    pub(super) differs_since_ms: Option<u64>,
    /// The digest of the other's document, as it last said; empty until it has.
    theirs: Vec<u8>,
    /// The digest that the other was last told.
    told: [u8; 32],
    ping: Option<(u64, Instant)>,
    /// Bytes sent and received that the metrics have heard of.
    measured: (u64, u64),
}

impl Joint {
    /// A new connection begins a new session: what the other has is asked for.
    pub fn new(link: Link, now_ms: u64) -> Self {
        let session = Session::new(link.cluster, now_ms);
        Self {
            link,
            session,
            broken: false,
            bytes_sent: 0,
            bytes_received: 0,
            round_trip_us: 0,
            equal_at_ms: 0,
            differs_since_ms: Some(now_ms),
            theirs: Vec::new(),
            told: [0; 32],
            ping: None,
            measured: (0, 0),
        }
    }

    /// Whether it stands on the root that the member has now.
    pub fn is_of(&self, member: &Member) -> bool {
        self.link.cluster == member.id && self.link.root == *member.root.fingerprint()
    }

    pub fn number(&self) -> u64 {
        self.link.number
    }

    pub fn address(&self) -> &str {
        &self.link.address
    }

    /// Takes a message of the session.
    pub fn receive(&mut self, replica: &mut Replica, bytes: &[u8], now_ms: u64) -> Received {
        self.bytes_received += bytes.len() as u64;
        self.session.receive(replica, bytes, now_ms)
    }

    /// Says what the session has to say.
    pub fn speak(&mut self, replica: &mut Replica) {
        while !self.broken {
            let Some(bytes) = self.session.poll(replica) else { break };
            self.bytes_sent += bytes.len() as u64;
            self.send(link_frame::Frame::Sync(bytes.into()));
        }
    }

    /// Notes what the other's document is, and whether this one is the same.
    pub fn compare(&mut self, theirs: Option<Vec<u8>>, ours: &[u8; 32], now_ms: u64) {
        if let Some(theirs) = theirs {
            self.theirs = theirs;
        }
        if self.theirs == ours {
            self.equal_at_ms = now_ms;
            self.differs_since_ms = None;
        } else {
            self.differs_since_ms.get_or_insert(now_ms);
        }
    }

    /// A connection whose other end does not read is broken.
    pub fn send(&mut self, frame: link_frame::Frame) {
        self.broken |= self.link.frames.try_send(LinkFrame { frame: Some(frame) }).is_err();
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Asks for a sign of life, and says what this document is.
    pub fn ping(&mut self, number: u64, ours: [u8; 32]) {
        self.ping = Some((number, Instant::now()));
        self.told = ours;
        self.send(link_frame::Frame::Ping(LinkPing { number, digest: ours.to_vec().into() }));
    }

    /// Whether the other has not heard yet what this document is now.
    pub fn owes(&self, ours: &[u8; 32]) -> bool {
        self.told != *ours
    }

    /// The bytes since the last time that this was asked, by direction.
    pub fn bytes_since_measured(&mut self) -> [(&'static str, u64); 2] {
        let (sent, received) = std::mem::replace(&mut self.measured, (self.bytes_sent, self.bytes_received));
        [("sent", self.bytes_sent - sent), ("received", self.bytes_received - received)]
    }

    /// When it was last asked for a sign of life.
    pub fn pinged(&self) -> Option<Instant> {
        self.ping.map(|(_, at)| at)
    }

    pub fn answered(&mut self, number: u64) {
        if let Some((_, at)) = self.ping.filter(|(asked, _)| *asked == number) {
            self.round_trip_us = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
    }
}

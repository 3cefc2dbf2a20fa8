//! What the connections between nodes may carry, and how long they may take.

use std::time::Duration;

/// The longest message between nodes, in bytes: the longest of consensus, and room for the frame around it (two tags and
/// a length).
pub const FRAME_BYTES_MAX: usize = tarn_raft::MESSAGE_BYTES_MAX + 64;

/// Bytes of an artifact in one message: framing costs nothing at this size, and a transfer holds only a few of them.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Artifact names in one page of a list: about 700 kB.
pub const LIST_PAGE: usize = 10_000;

/// Limit on dialling a peer: TCP connect and handshake. Peers are near each other; a node that needs longer is as good as
/// away, and the next attempt follows soon.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Limit on the first answer of a stream.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that takes no piece of a snapshot for this long has failed. A slow disk may stall for seconds.
pub const SNAPSHOT_STALL: Duration = Duration::from_secs(30);

/// After the last piece the receiver compares checksums, installs the state and builds its indices, which takes a while
/// for a state of many gigabytes.
pub const SNAPSHOT_INSTALL: Duration = Duration::from_secs(300);

/// After a failure, a peer is left alone for this long, and for twice as long after each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// The longest that a peer is left alone: below the shortest election time-out, because a peer that came back must be
/// found before the next election is lost for want of it.
pub const BACKOFF_MAX: Duration = Duration::from_millis(400);

/// Without a frame from the peer for this long, a ping is sent, and the connection ends when that stays unanswered for as
/// long again. Shorter than for clients, because a half-dead connection holds up replication.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// A link that nobody used for this long is dropped when another is made: its peer has left or moved.
pub const LINK_IDLE: Duration = Duration::from_secs(120);

/// A peer that was in touch within this time counts as reachable. A leader's heartbeats come far more often.
pub const CONTACT_FRESH: Duration = Duration::from_secs(5);

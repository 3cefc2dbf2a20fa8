//! The messages between nodes and the records in the log: protobuf, written out here with prost's derive, because they
//! are this crate's own business and no client ever sees them.
//!
//! [`decode`] is strict. A message with a field that this build does not know is refused, not read without it: two nodes
//! that understand one message differently is how replicas drift apart.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::{Message, Oneof};
use tarn_proto::v1;

use crate::transport::{MESSAGE_BYTES_MAX, PeerError};

/// The version of a log record. A node stops at a record of another version.
pub(crate) const LOG_FORMAT: u32 = 1;

/// The version of a snapshot's manifest and layout.
pub(crate) const SNAPSHOT_FORMAT: u32 = 1;

/// Reads a message that has nothing unknown in it.
pub(crate) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, PeerError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(PeerError::Malformed(format!("{} bytes are more than {MESSAGE_BYTES_MAX}", bytes.len())));
    }
    let length = bytes.len();
    let message = M::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))?;
    // prost drops what it does not know, so a message that got shorter had something unknown in it.
    if message.encoded_len() != length {
        return Err(PeerError::Malformed("it has fields that this build does not know; upgrade this node".into()));
    }
    Ok(message)
}

pub(crate) fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct LogId {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The leader that proposed the entry.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Vote {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeSet {
    #[prost(uint64, repeated, tag = "1")]
    pub ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Membership {
    /// The voters. Two sets while a change is under way.
    #[prost(message, repeated, tag = "1")]
    pub configs: Vec<NodeSet>,
    /// Voters and learners with their addresses.
    #[prost(btree_map = "uint64, string", tag = "2")]
    pub nodes: BTreeMap<u64, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredMembership {
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<LogId>,
    #[prost(message, optional, tag = "2")]
    pub membership: Option<Membership>,
}

/// A record of the log, on disk and on the way to a follower.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogEntry {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(message, optional, tag = "2")]
    pub log_id: Option<LogId>,
    #[prost(oneof = "Payload", tags = "3, 4, 5")]
    pub payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Payload {
    /// The first entry of a leadership.
    #[prost(message, tag = "3")]
    Blank(Empty),
    /// A kernel entry.
    #[prost(bytes = "bytes", tag = "4")]
    Normal(Bytes),
    #[prost(message, tag = "5")]
    Membership(Membership),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendRequest {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub prev_log_id: Option<LogId>,
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<LogEntry>,
    #[prost(message, optional, tag = "4")]
    pub leader_commit: Option<LogId>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppendReply {
    #[prost(oneof = "AppendResult", tags = "1, 2, 3")]
    pub result: Option<AppendResult>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum AppendResult {
    /// Everything up to here is the same and durable.
    #[prost(message, tag = "1")]
    Matched(Matched),
    /// The entry before the new ones is missing or another.
    #[prost(message, tag = "2")]
    Conflict(LogId),
    #[prost(message, tag = "3")]
    HigherVote(Vote),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Matched {
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<LogId>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteRequest {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub last_log_id: Option<LogId>,
    #[prost(bool, tag = "3")]
    pub leadership_transfer: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VoteReply {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last_log_id: Option<LogId>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransferRequest {
    #[prost(message, optional, tag = "1")]
    pub from: Option<Vote>,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(message, optional, tag = "3")]
    pub last_log_id: Option<LogId>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TransferReply {
    #[prost(oneof = "TransferResult", tags = "1, 2, 3")]
    pub result: Option<TransferResult>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum TransferResult {
    #[prost(message, tag = "1")]
    Accepted(Empty),
    /// The receiver follows another vote by now.
    #[prost(message, tag = "2")]
    VoteChanged(Vote),
    /// The receiver's log is behind.
    #[prost(message, tag = "3")]
    Behind(Matched),
}

/// A [`v1::Entry`] whose commands are encoded already: the same bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncodedEntry {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub now_ms: u64,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub commands: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProposeRequest {
    /// Encoded [`v1::Command`]s.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub commands: Vec<Bytes>,
    /// How long the sender will wait, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub timeout_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProposeReply {
    /// In the order of the commands.
    #[prost(message, repeated, tag = "1")]
    pub results: Vec<ProposeResult>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ProposeResult {
    #[prost(oneof = "ProposeOutcome", tags = "1, 2, 3")]
    pub outcome: Option<ProposeOutcome>,
}

#[expect(clippy::large_enum_variant, reason = "it lives from one call to the next, and a box for every command would cost more")]
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ProposeOutcome {
    #[prost(message, tag = "1")]
    Applied(v1::Outcome),
    /// Certainly not in the log.
    #[prost(message, tag = "2")]
    NotProposed(Empty),
    /// Perhaps in the log.
    #[prost(message, tag = "3")]
    Unknown(Empty),
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct ReadIndexReply {
    /// False: the receiver is not the leader, or cannot prove it.
    #[prost(bool, tag = "1")]
    pub confirmed: bool,
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeInfo {
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    #[prost(string, tag = "2")]
    pub build_version: String,
    #[prost(uint32, tag = "3")]
    pub machine_version_min: u32,
    #[prost(uint32, tag = "4")]
    pub machine_version_max: u32,
    #[prost(uint64, tag = "5")]
    pub applied_index: u64,
    /// Of recent states, for comparison.
    #[prost(message, repeated, tag = "6")]
    pub digests: Vec<DigestAt>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct WallClock {
    /// Since the Unix epoch, in milliseconds.
    #[prost(uint64, tag = "1")]
    pub wall_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DigestAt {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AdminRequest {
    #[prost(oneof = "AdminAction", tags = "1, 2, 3, 4, 5, 6")]
    pub action: Option<AdminAction>,
    #[prost(uint64, tag = "15")]
    pub timeout_ms: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum AdminAction {
    #[prost(message, tag = "1")]
    AddLearner(Node),
    #[prost(message, tag = "2")]
    Promote(Node),
    #[prost(message, tag = "3")]
    Remove(Node),
    #[prost(message, tag = "4")]
    Replace(Replace),
    /// Id 0: the most advanced voter.
    #[prost(message, tag = "5")]
    TransferLeader(Node),
    #[prost(uint32, tag = "6")]
    RaiseVersion(u32),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Replace {
    #[prost(uint64, tag = "1")]
    pub dead: u64,
    #[prost(message, optional, tag = "2")]
    pub new: Option<Node>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AdminReply {
    /// Of the node that leads afterwards, or the version in force; 0 where neither was asked for.
    #[prost(uint64, tag = "1")]
    pub value: u64,
    /// Absent: done.
    #[prost(message, optional, tag = "2")]
    pub refusal: Option<AdminRefusal>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AdminRefusal {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(uint64, tag = "3")]
    pub number: u64,
    #[prost(string, tag = "4")]
    pub text: String,
    #[prost(message, repeated, tag = "5")]
    pub nodes: Vec<LaggingNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LaggingNode {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    #[prost(bool, tag = "3")]
    pub reachable: bool,
}

/// What a snapshot is made of. Its encoding is the file `MANIFEST`, and its hash the snapshot's name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The machine version that the state is in: a node needs to support it to read the snapshot.
    #[prost(uint32, tag = "2")]
    pub machine_version: u32,
    /// The last entry that the state contains; absent if it contains none.
    #[prost(message, optional, tag = "3")]
    pub last_log_id: Option<LogId>,
    #[prost(message, optional, tag = "4")]
    pub membership: Option<StoredMembership>,
    /// In the order of their names.
    #[prost(message, repeated, tag = "5")]
    pub files: Vec<ManifestFile>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ManifestFile {
    /// Relative, without directories.
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub blake3: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotOffer {
    #[prost(bytes = "bytes", tag = "1")]
    pub manifest: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotProgress {
    /// Bytes that the receiver has of each file, in the order of the manifest.
    #[prost(uint64, repeated, tag = "1")]
    pub received: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotFrame {
    #[prost(oneof = "SnapshotPart", tags = "1, 2, 3")]
    pub part: Option<SnapshotPart>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum SnapshotPart {
    /// First.
    #[prost(message, tag = "1")]
    Begin(SnapshotBegin),
    #[prost(message, tag = "2")]
    Chunk(SnapshotChunk),
    /// Last: everything was sent.
    #[prost(message, tag = "3")]
    End(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotBegin {
    /// The leader's.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(bytes = "bytes", tag = "2")]
    pub manifest: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotChunk {
    /// Position in the manifest's list.
    #[prost(uint32, tag = "1")]
    pub file: u32,
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// Of `data`.
    #[prost(bytes = "bytes", tag = "4")]
    pub blake3: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotReply {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let entry = LogEntry {
            format: LOG_FORMAT,
            log_id: Some(LogId { term: 3, node: 1, index: 7 }),
            payload: Some(Payload::Normal(Bytes::from_static(b"entry"))),
        };
        assert_eq!(decode::<LogEntry>(encode(&entry)).unwrap(), entry);
    }

    #[test]
    fn an_entry_of_encoded_commands_has_the_bytes_of_an_entry() {
        let command = |name: &str| v1::Command { principal: name.to_owned(), ..v1::Command::default() };
        let commands = vec![command("user:a"), command("user:b"), v1::Command::default()];
        let entry = v1::Entry { version: 5, now_ms: 7, commands: commands.clone() };
        let commands = commands.iter().map(|command| command.encode_to_vec().into()).collect();
        assert_eq!(EncodedEntry { version: 5, now_ms: 7, commands }.encode_to_vec(), entry.encode_to_vec());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut bytes = encode(&Vote { term: 1, node: 2, committed: true }).to_vec();
        // Field 15, a varint.
        bytes.extend_from_slice(&[15 << 3, 1]);
        assert!(matches!(decode::<Vote>(bytes.into()), Err(PeerError::Malformed(_))));
    }

    #[test]
    fn rubbish_and_oversize_are_refused() {
        assert!(decode::<AppendRequest>(Bytes::from_static(&[0xff; 9])).is_err());
        assert!(decode::<Empty>(vec![0; MESSAGE_BYTES_MAX + 1].into()).is_err());
    }
}

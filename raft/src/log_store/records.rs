//! How the log lies in its engine. Keys are part of the format on disk.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `log` | index, 8 bytes, big-endian | `wire::LogEntry` |
//! | `log-meta` | `node` | the owner's id, 8 bytes, big-endian |
//! | `log-meta` | `vote` | `wire::Vote` |
//! | `log-meta` | `committed`, `purged` | `wire::LogId` |

use std::io;

use prost::Message;
use tarn_storage::{Batch, Durability, Engine, Keyspace};

use super::storage;
use crate::convert;
use crate::types::{Entry, LogId, NodeId, Vote};
use crate::wire;

pub(super) const ENTRIES: Keyspace = Keyspace::new("log");
pub(super) const META: Keyspace = Keyspace::new("log-meta");

/// Every keyspace of the log's engine.
pub(crate) const KEYSPACES: &[Keyspace] = &[ENTRIES, META];

pub(super) const NODE: &[u8] = b"node";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";

/// Above every entry's key.
pub(super) const ENTRIES_END: [u8; 9] = [0xff; 9];

pub(super) fn entry_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    convert::entry_to_wire(entry).encode_to_vec()
}

pub(super) fn decode_entry(value: Vec<u8>) -> Result<Entry, io::Error> {
    wire::decode(value.into()).and_then(convert::entry_from_wire).map_err(|error| unreadable("a record of the log", error))
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    convert::vote_to_wire(vote).encode_to_vec()
}

pub(super) fn encode_log_id(id: &LogId) -> Vec<u8> {
    convert::log_id_to_wire(id).encode_to_vec()
}

pub(super) fn read_vote(engine: &dyn Engine) -> Result<Option<Vote>, io::Error> {
    let Some(value) = engine.get(META, VOTE).map_err(storage)? else {
        return Ok(None);
    };
    wire::decode(value.into()).and_then(|vote| convert::vote_from_wire(Some(vote))).map(Some).map_err(|error| unreadable("the vote", error))
}

pub(super) fn read_log_id(engine: &dyn Engine, key: &[u8]) -> Result<Option<LogId>, io::Error> {
    let Some(value) = engine.get(META, key).map_err(storage)? else {
        return Ok(None);
    };
    wire::decode(value.into()).map(|id| Some(convert::log_id_from_wire(id))).map_err(|error| unreadable("a mark of the log", error))
}

/// Writes the owner into a new log, and refuses a log of another owner: two nodes with one vote each, kept in one place,
/// would vote twice.
pub(super) fn claim(engine: &dyn Engine, node_id: NodeId) -> Result<(), io::Error> {
    match engine.get(META, NODE).map_err(storage)? {
        None => {
            let mut batch = Batch::new();
            batch.put(META, NODE, node_id.to_be_bytes());
            engine.write(batch, Durability::Synced).map_err(storage)
        }
        Some(owner) if owner == node_id.to_be_bytes() => Ok(()),
        Some(owner) => {
            let owner = owner.try_into().map_or(0, u64::from_be_bytes);
            Err(io::Error::other(format!(
                "the data directory belongs to node {owner}, and this is node {node_id}; give each node a directory of its own"
            )))
        }
    }
}

fn unreadable(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what} cannot be read: {error}"))
}

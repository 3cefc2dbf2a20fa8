//! What was written here and is not signed yet.

use std::collections::BTreeMap;

use tarn_crdt::{Commit, Identity, Replica, WriteError, limits};
use tarn_proto::v1::SharedEntry;

/// Writes that are signed together at most.
pub(super) const BATCH_MAX: usize = limits::PUTS_MAX - 1;

/// What the room may add to a change set on its own: which change sets of the epoch below it knows.
const BOOKS_BYTES: usize = 32 << 10;

/// Writes that go into one change set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Each key once.
    pub puts: Vec<(String, Option<Vec<u8>>)>,
    /// The number of the last write that is in it; `None`: there is none.
    pub last: Option<u64>,
}

/// As many of these writes, the oldest first, as fit into one change set. Of several to one key the last counts: nobody else has seen the
/// others.
pub(super) fn batch(writes: Vec<(u64, SharedEntry)>) -> Batch {
    let mut puts: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    let (mut last, mut bytes) = (None, 0);
    for (number, SharedEntry { key, value }) in writes {
        bytes += key.len() + value.as_ref().map_or(0, bytes::Bytes::len);
        if last.is_some() && bytes > limits::CHANGE_BYTES_MAX - BOOKS_BYTES {
            break;
        }
        puts.insert(key, value.map(Into::into));
        last = Some(number);
    }
    Batch { puts: puts.into_iter().collect(), last }
}

/// Signs writes. One that this cluster may not make, which whoever let it in has excluded, is left out, and told of in the log.
///
/// # Errors
/// The cluster may not write at all yet, or not any more.
pub(super) fn write(
    replica: &mut Replica,
    identity: &Identity,
    puts: Vec<(String, Option<Vec<u8>>)>,
    now_ms: u64,
) -> Result<Vec<Commit>, WriteError> {
    match replica.put(identity, puts.clone(), now_ms) {
        Ok(commit) => Ok(vec![commit]),
        Err(WriteError::Refused { .. }) => {
            let mut commits = Vec::new();
            for put in puts {
                let key = put.0.clone();
                match replica.put(identity, vec![put], now_ms) {
                    Ok(commit) => commits.push(commit),
                    Err(WriteError::Refused { reason, detail }) => {
                        tracing::warn!(key, reason = reason.name(), detail, "a write is not shared with the federation");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(commits)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, bytes: usize) -> SharedEntry {
        SharedEntry { key: key.into(), value: Some(vec![7; bytes].into()) }
    }

    #[test]
    fn the_last_write_of_a_key_counts_and_what_is_too_much_waits() {
        assert_eq!(batch(Vec::new()), Batch::default());
        let found = batch(vec![(4, entry("b", 1)), (5, entry("a", 2)), (6, entry("b", 3))]);
        let puts = vec![("a".to_owned(), Some(vec![7; 2])), ("b".to_owned(), Some(vec![7; 3]))];
        assert_eq!(found, Batch { puts, last: Some(6) });
        let large = limits::VALUE_BYTES_MAX;
        let found = batch((0..9).map(|number| (number, entry(&number.to_string(), large))).collect());
        assert!(found.puts.len() > 1 && found.puts.len() < 9 && found.last == Some(found.puts.len() as u64 - 1), "{:?}", found.last);
    }
}

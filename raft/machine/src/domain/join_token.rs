//! Join tokens: each lets one new node in, once.
//!
//! The kernel knows only the hash of a token's key. Using a token up gives the joining node its id; a repeat by the same node gives the same.

use bytes::Bytes;
use tarn_proto::v1::{ConsumeJoinToken, JoinTokenConsumed, JoinTokenPut, PutJoinToken};

use crate::error::{Fatal, Refusal};
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::JoinTokenRow;
use crate::task::spec::or_default;
use crate::txn::Txn;

/// The command: a new token.
pub fn put_join_token(txn: &mut Txn<'_>, request: PutJoinToken) -> Result<JoinTokenPut, Refusal> {
    let hash = hash(&request.key_hash)?;
    if txn.ix.join_tokens.contains_key(&hash) {
        let message = "there is a join token with this key already: make another key";
        return Err(reject::exists("JOIN_TOKEN_EXISTS", "key_hash", message).into());
    }
    if txn.ix.join_tokens.len() >= limits::JOIN_TOKENS_MAX {
        let message = "too many join tokens are outstanding: wait until some expire";
        return Err(reject::full("TOO_MANY_JOIN_TOKENS", "", limits::JOIN_TOKENS_MAX as u64, message).into());
    }
    let expires_at_ms = txn.now + or_default(request.ttl_ms, limits::JOIN_TOKEN_MS_DEFAULT);
    save(txn, hash, JoinTokenRow { expires_at_ms, ..JoinTokenRow::default() });
    Ok(JoinTokenPut { expires_at_ms })
}

/// The command: a node joins with a token and gets its id.
pub fn consume_join_token(txn: &mut Txn<'_>, request: ConsumeJoinToken) -> Result<JoinTokenConsumed, Refusal> {
    let hash = hash(&request.key_hash)?;
    let row = txn.ix.join_tokens.get(&hash).filter(|row| row.expires_at_ms > txn.now).cloned();
    let Some(mut row) = row else {
        let message = "the join token is unknown or has expired: make a new one on a node of the cluster";
        return Err(reject::denied("JOIN_TOKEN_INVALID", "key_hash", message).into());
    };
    if row.node_id != 0 {
        if row.node_key_hash != request.node_key_hash {
            let message = "the join token was used by another node: make a new one for each node";
            return Err(reject::denied("JOIN_TOKEN_USED", "key_hash", message).into());
        }
        return Ok(JoinTokenConsumed { node_id: row.node_id });
    }
    let node_id = txn.meta.node_id.max(request.node_id_min) + 1;
    txn.meta.node_id = node_id;
    row.node_id = node_id;
    row.node_key_hash = Bytes::copy_from_slice(&request.node_key_hash);
    save(txn, hash, row);
    Ok(JoinTokenConsumed { node_id })
}

/// The token's time is up.
pub fn expire(txn: &mut Txn<'_>, hash: &[u8; 32]) -> Result<(), Fatal> {
    let Some(row) = txn.ix.join_tokens.remove(hash) else {
        return Err(Fatal::assertion("an index has a join token that does not exist"));
    };
    txn.ix.wakes.remove(&(row.expires_at_ms, Wake::JoinToken { hash: Box::new(*hash) }));
    txn.rows.delete(Key::JoinToken { hash });
    Ok(())
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], Refusal> {
    let found = <[u8; 32]>::try_from(bytes);
    Ok(found.map_err(|_| reject::invalid("INVALID_HASH", "key_hash", "key_hash is a BLAKE3 hash of 32 bytes"))?)
}

fn save(txn: &mut Txn<'_>, hash: [u8; 32], row: JoinTokenRow) {
    txn.rows.put(Key::JoinToken { hash: &hash }, &row);
    txn.ix.wakes.insert((row.expires_at_ms, Wake::JoinToken { hash: Box::new(hash) }));
    txn.ix.join_tokens.insert(hash, row);
}

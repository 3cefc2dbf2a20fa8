//! Request ids: a repeat within the retention window gets the first answer, and changes nothing.
//!
//! An id belongs to whoever used it: two principals with the same id do not meet. A refusal is not remembered, because a refused command
//! changed nothing and may well succeed when repeated; for the same reason neither is a lease command that found no task. A batch is
//! remembered as a whole, with what was refused in it, because the rest has taken effect; but not the sentences, which are for people and
//! may read differently in every build: the state has to be the same on all nodes.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tarn_proto::v1::{LeaseTasksRequest, Outcome, Rejection, command, outcome};

use crate::advance::{damaged, expired};
use crate::domain::queue::lease;
use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first};
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::{RequestExpiryRow, RequestRow};
use crate::txn::Txn;
use crate::wire;

/// What is known of a command's request id.
pub enum Seen {
    /// It has none: nothing to remember.
    Without,
    /// It is new: the answer is to be remembered under this.
    New(Fresh),
    /// The command was applied before, with this answer.
    Before(outcome::Body),
}

/// A request id that was not used before.
pub struct Fresh {
    hash: [u8; 32],
    body: Bytes,
}

/// Looks a command's request id up. Its body lies in the log as `said`.
pub fn look_up(txn: &Txn<'_>, principal: &str, body: &command::Body, said: &[u8]) -> Result<Seen, Refusal> {
    let id = body.request_id();
    if id.is_empty() {
        return Ok(Seen::Without);
    }
    let fresh = Fresh { hash: id_hash(principal, id), body: body_hash(body, said) };
    let Some(row) = txn.rows.row::<RequestRow>(Key::Request { hash: &fresh.hash })? else {
        return Ok(Seen::New(fresh));
    };
    if row.body != fresh.body {
        return Err(reject::request_id_reused().into());
    }
    if !row.leases.is_empty() {
        return Ok(Seen::Before(outcome::Body::LeaseTasks(lease::repeat(txn, &row.leases)?)));
    }
    let outcome = Outcome::decode(row.outcome).ok().and_then(|outcome| outcome.body);
    let mut outcome = outcome.ok_or_else(|| Fatal::assertion("a remembered outcome cannot be decoded"))?;
    refusals(&mut outcome).for_each(|refusal| {
        refusal.message = format!("it was refused when it first came, with the reason {}: send it again under a new id", refusal.reason);
    });
    Ok(Seen::Before(outcome))
}

/// What was refused in a batch.
fn refusals(answer: &mut outcome::Body) -> impl Iterator<Item = &mut Rejection> {
    let outcomes = match answer {
        outcome::Body::Batch(answer) => answer.outcomes.as_mut_slice(),
        _ => &mut [],
    };
    outcomes.iter_mut().filter_map(|outcome| match &mut outcome.body {
        Some(outcome::Body::Rejected(rejection)) => Some(rejection),
        _ => None,
    })
}

/// Remembers a command's answer.
pub fn remember(txn: &mut Txn<'_>, fresh: Fresh, answer: &outcome::Body) {
    let mut row = RequestRow { body: fresh.body, ..RequestRow::default() };
    let plain;
    let outcome = match answer {
        outcome::Body::LeaseTasks(answer) if answer.tasks.is_empty() => return,
        outcome::Body::LeaseTasks(answer) => {
            row.leases = lease::references(txn, answer);
            None
        }
        outcome::Body::Batch(batch) if batch.outcomes.iter().any(|one| matches!(one.body, Some(outcome::Body::Rejected(_)))) => {
            let mut answer = answer.clone();
            refusals(&mut answer).for_each(|refusal| refusal.message.clear());
            plain = answer;
            Some(&plain)
        }
        answer => Some(answer),
    };
    txn.rows.put_with(Key::Request { hash: &fresh.hash }, |to| {
        row.encode_raw(to);
        // The field `outcome`, without another copy in between: there are either leases, or there is this.
        if let Some(outcome) = outcome {
            encode_key(2, WireType::LengthDelimited, to);
            encode_varint(outcome.encoded_len() as u64, to);
            outcome.encode(to);
        }
    });
    encode_key(1, WireType::LengthDelimited, &mut txn.request_hashes);
    encode_varint(fresh.hash.len() as u64, &mut txn.request_hashes);
    txn.request_hashes.extend_from_slice(&fresh.hash);
}

/// Writes down when the request ids of this entry can be forgotten.
pub fn seal(txn: &mut Txn<'_>) {
    if txn.request_hashes.is_empty() {
        return;
    }
    let at = txn.now + limits::REQUEST_RETENTION_MS;
    txn.rows.put_bytes(Key::RequestExpiry { at, index: txn.index }, std::mem::take(&mut txn.request_hashes));
    let sweep = &mut txn.ix.sweeps.requests;
    *sweep = Some(sweep.map_or(at, |known| known.min(at)));
}

/// Forgets request ids whose window is over.
pub fn sweep(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let (due, next) = expired(txn, first::REQUEST_EXPIRY, txn.ix.sweeps.requests)?;
    txn.ix.sweeps.requests = next;
    let mut forgotten = 0;
    for bytes in due {
        let Some(key @ Key::RequestExpiry { at, .. }) = Key::decode(&bytes) else {
            return Err(damaged(&bytes));
        };
        if forgotten >= limits::SWEEPS_PER_ENTRY_MAX {
            // One row stands for all ids of an entry, which are what costs time.
            txn.ix.sweeps.requests = Some(at);
            break;
        }
        let row: RequestExpiryRow = txn.rows.row(key)?.unwrap_or_default();
        forgotten += row.hashes.len();
        for hash in &row.hashes {
            let hash = <&[u8; 32]>::try_from(hash.as_ref()).map_err(|_| damaged(&bytes))?;
            txn.rows.delete(Key::Request { hash });
        }
        txn.rows.delete(key);
    }
    Ok(())
}

fn id_hash(principal: &str, id: &str) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(8 + principal.len() + id.len());
    bytes.extend_from_slice(&(principal.len() as u64).to_le_bytes());
    bytes.extend_from_slice(principal.as_bytes());
    bytes.extend_from_slice(id.as_bytes());
    *blake3::hash(&bytes).as_bytes()
}

/// Tells two bodies apart; half of a hash is enough among the bodies that one principal sends under one id.
fn body_hash(body: &command::Body, said: &[u8]) -> Bytes {
    let hash = match body {
        // A client that repeats a call has less time left to wait.
        command::Body::LeaseTasks(request) if request.wait_ms != 0 => {
            let mut bytes = Vec::with_capacity(said.len());
            command::Body::LeaseTasks(LeaseTasksRequest { wait_ms: 0, ..request.clone() }).encode(&mut bytes);
            blake3::hash(&bytes)
        }
        // Nor does the gate say the same of a repeat.
        command::Body::Batch(_) => {
            let mut bytes = Vec::with_capacity(said.len());
            wire::commands_of_batch(said).for_each(|command| bytes.extend_from_slice(wire::body(command)));
            blake3::hash(&bytes)
        }
        _ => blake3::hash(said),
    };
    Bytes::copy_from_slice(&hash.as_bytes()[..16])
}

//! What the leader's node says that has become of the document.
//!
//! What belongs together may be larger than one command: then it comes in pieces, which are kept until the last one comes. All of them take
//! effect with that one, or none does.

use tarn_proto::v1::{CommitReplica, FederationStanding, Rejection, ReplicaCommitted, ReplicaRow, SharedEntry};

use super::{member, save_books, scope_bits, show};
use crate::domain::{context, nodes_only};
use crate::error::{Fatal, Refusal};
use crate::keys::Key;
use crate::limits;
use crate::overlay::Rows;
use crate::reject;
use crate::rows::FederationBooksRow;
use crate::txn::Txn;

/// The command: rows, entries, and how much of the outbox is in them.
pub fn commit_replica(txn: &mut Txn<'_>, principal: &str, request: CommitReplica) -> Result<ReplicaCommitted, Refusal> {
    nodes_only(principal, "commit the federation's document")?;
    member(txn)?;
    let books = txn.ix.federation.books;
    // A first piece takes the place of whatever was begun before.
    let is_next = request.piece == 0 || (request.piece == books.staged && request.hub == books.hub);
    if books.revision != request.expected_revision || !is_next {
        return Err(changed_meanwhile(books.revision).into());
    }
    if request.more {
        return stage(txn, books, request);
    }
    let pieces = pieces(txn, request)?;
    let entries = pieces.iter().map(|piece| piece.entries.len() as u64).sum();
    if !txn.has_ids_for(entries) {
        return Err(reject::full("ENTRY_FULL", "", entries, "too much is going on at once: try again").into());
    }
    discard(txn, books.staged);
    let revision = books.revision + 1;
    let standing = pieces.iter().rev().find_map(|piece| piece.standing.as_ref());
    let books = standing.map_or(books, |standing| stand(books, standing));
    save_books(txn, FederationBooksRow { revision, staged: 0, ..books });
    for piece in &pieces {
        piece.rows.iter().for_each(|row| keep(txn, row));
    }
    // What was written here is in the rows now: what readers see of it is the document's business from here on.
    let taken = pieces.iter().map(|piece| piece.taken).max().unwrap_or_default();
    let signed: Vec<u64> = txn.ix.federation.outbox.range(..=taken).map(|(number, _)| *number).collect();
    for number in signed {
        txn.rows.delete(Key::Outbox { number });
        txn.ix.federation.remove_write(number);
    }
    for entry in pieces.into_iter().flat_map(|piece| piece.entries) {
        receive(txn, entry)?;
    }
    Ok(ReplicaCommitted { revision })
}

/// What this cluster may write from now on.
fn stand(books: FederationBooksRow, standing: &FederationStanding) -> FederationBooksRow {
    FederationBooksRow { scope: scope_bits(&standing.scope), removed: standing.removed, room: standing.room, ..books }
}

fn changed_meanwhile(revision: u64) -> Rejection {
    let message = "the document's copy was changed since it was read: load it again";
    let mut rejection = reject::precondition("REPLICA_CHANGED", "expected_revision", message);
    rejection.actual_version = revision;
    rejection
}

/// Keeps a piece until the last one comes.
fn stage(txn: &mut Txn<'_>, books: FederationBooksRow, piece: CommitReplica) -> Result<ReplicaCommitted, Refusal> {
    if piece.piece >= limits::COMMIT_PIECES_MAX {
        let message = "the commit has too many pieces: the document has grown beyond what a cluster keeps";
        return Err(reject::full("TOO_MANY_PIECES", "piece", limits::COMMIT_PIECES_MAX.into(), message).into());
    }
    if piece.piece == 0 {
        discard(txn, books.staged);
    }
    txn.rows.put(Key::StagedCommit { number: piece.piece.into() }, &piece);
    save_books(txn, FederationBooksRow { staged: piece.piece + 1, hub: piece.hub, ..books });
    Ok(ReplicaCommitted { revision: books.revision })
}

/// All pieces of a commit whose last one has come.
fn pieces(txn: &Txn<'_>, last: CommitReplica) -> Result<Vec<CommitReplica>, Fatal> {
    let missing = |number| Fatal::assertion(format!("piece {number} of a commit is not there"));
    let before = (0..last.piece).map(|number| {
        let piece: Option<CommitReplica> = txn.rows.row(Key::StagedCommit { number: number.into() })?;
        piece.ok_or_else(|| missing(number))
    });
    let mut all = before.collect::<Result<Vec<_>, Fatal>>()?;
    all.push(last);
    Ok(all)
}

fn discard(txn: &mut Txn<'_>, staged: u32) {
    (0..staged).for_each(|number| txn.rows.delete(Key::StagedCommit { number: number.into() }));
}

fn keep(txn: &mut Txn<'_>, row: &ReplicaRow) {
    let at = Key::Replica { row: &row.key };
    match &row.value {
        Some(value) => txn.rows.put_bytes(at, value),
        None => txn.rows.delete(at),
    }
}

fn receive(txn: &mut Txn<'_>, entry: SharedEntry) -> Result<(), Fatal> {
    if txn.ix.federation.pending.contains_key(&entry.key) {
        return Ok(());
    }
    match context_key(&entry.key) {
        Some((namespace, name, key)) => context::receive(txn, namespace, name, key, entry.value),
        None => {
            show(txn, &entry);
            Ok(())
        }
    }
}

/// The namespace, the context and the key that a key of the document names.
pub fn context_key(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.strip_prefix("context/")?.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

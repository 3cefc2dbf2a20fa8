//! Federation: what this cluster shares with others, as far as the kernel knows of it.
//!
//! ```text
//!   put into a shared context ─┐                       leader's node: signs            ┌─► rows of the document's copy
//!   WriteShared ───────────────┴─► outbox, by number ──────────────────► CommitReplica ┼─► outbox up to `taken` goes
//!                                  other clusters' change sets, merged ──►             └─► contexts, shared entries
//! ```
//!
//! The document itself is no business of the kernel's: rows and entries come from the one node that leads, and the revision sees to it that
//! two which both believe so do not mix them. A write that lies in the outbox is later than anything that comes in, because the change set
//! that it goes into is made on top of that: what comes in for its key is not shown.

mod inbox;
mod invitation;
mod leave;
mod share;

use tarn_proto::v1::{EventKind, FederationStarted, Rejection, SharedEntry, SharedWritten, StartFederation, WriteShared};

use crate::error::Refusal;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{FederationBooksRow, FederationRow};
use crate::txn::Txn;

pub use inbox::{commit_replica, context_key};
pub use invitation::{consume, expire, put_invitation};
pub use leave::{advance, leave};
pub use share::{changed, forget, own, room, share_context};

/// The command: this cluster is in a federation from now on.
pub fn start(txn: &mut Txn<'_>, request: StartFederation) -> Result<FederationStarted, Refusal> {
    match &txn.ix.federation.row {
        None => {}
        Some(row) if row.leaving => {
            let message = "what the cluster kept of the federation that it left is still being removed: try again in a moment";
            return Err(reject::precondition("FEDERATION_LEAVING", "", message).into());
        }
        // The answer to the first time may have been lost.
        Some(row) if row.identity == request.identity => return Ok(FederationStarted {}),
        Some(_) => {
            let message = "this cluster is in a federation already: leave that first, with `tarn federation leave`";
            return Err(reject::exists("FEDERATION_EXISTS", "", message).into());
        }
    }
    let scope = request.identity.as_ref().map_or(0, |identity| scope_bits(&identity.scope));
    save(txn, FederationRow { identity: request.identity, leaving: false });
    // Greater than every revision of a federation before, so that nobody's commit to that is taken for one to this.
    let revision = txn.next_id();
    save_books(txn, FederationBooksRow { revision, scope, room: limits::SHARED_ROOM_BYTES, ..FederationBooksRow::default() });
    tell(txn, "", "federation", "started");
    Ok(FederationStarted {})
}

/// The command: writes to the shared document.
pub fn write_shared(txn: &mut Txn<'_>, request: WriteShared) -> Result<SharedWritten, Refusal> {
    member(txn)?;
    room_for(txn, &wishes(&request.writes))?;
    for entry in request.writes {
        show(txn, &entry);
        write(txn, entry);
    }
    Ok(SharedWritten {})
}

/// Puts a write into the outbox. There must be room.
fn write(txn: &mut Txn<'_>, entry: SharedEntry) {
    let mut books = txn.ix.federation.books;
    books.written += 1;
    txn.rows.put(Key::Outbox { number: books.written }, &entry);
    txn.ix.federation.insert_write(books.written, &entry);
    save_books(txn, books);
}

/// Shows readers an entry outside of contexts.
fn show(txn: &mut Txn<'_>, entry: &SharedEntry) {
    let key = Key::Shared { key: &entry.key };
    match &entry.value {
        // The whole request must not live as long as the value.
        Some(value) => txn.rows.put_bytes(key, value),
        None => txn.rows.delete(key),
    }
}

fn save(txn: &mut Txn<'_>, row: FederationRow) {
    txn.rows.put(Key::Federation, &row);
    txn.ix.federation.row = Some(row);
}

fn save_books(txn: &mut Txn<'_>, books: FederationBooksRow) {
    txn.rows.put(Key::FederationBooks, &books);
    txn.ix.federation.books = books;
}

/// Refuses where there is no federation.
pub fn member(txn: &Txn<'_>) -> Result<(), Rejection> {
    if txn.ix.federation.is_member() {
        return Ok(());
    }
    let message = "this cluster is in no federation: `tarn federation invite` founds one, `tarn federation join` joins one";
    Err(reject::precondition("NO_FEDERATION", "", message))
}

/// A key that somebody wants to write, and the bytes of its value; none of a deletion.
type Wish<'k> = (&'k str, usize);

fn wishes(writes: &[SharedEntry]) -> Vec<Wish<'_>> {
    writes.iter().map(|entry| (entry.key.as_str(), entry.value.as_ref().map_or(0, bytes::Bytes::len))).collect()
}

/// Refuses writes that would reach nobody, or that the outbox or the document has no room for: what is taken here is never dropped later.
fn room_for(txn: &Txn<'_>, writes: &[Wish<'_>]) -> Result<(), Rejection> {
    let sections = || writes.iter().filter_map(|(key, _)| section_bit(key.split('/').next()?));
    may_write(txn, sections().fold(0, |all, bit| all | bit))?;
    let (index, more) = (&txn.ix.federation, writes.iter().map(|(key, value)| (key.len() + value) as u64).sum::<u64>());
    if index.outbox.len() + writes.len() > limits::OUTBOX_MAX || index.outbox_bytes + more > limits::OUTBOX_BYTES_MAX {
        let message = "too many writes wait to be signed for the federation: try again when the leader's node has caught up";
        return Err(reject::full("OUTBOX_FULL", "", limits::OUTBOX_MAX as u64, message));
    }
    // A deletion makes room, and what is a cluster's own is small.
    let grows = writes.iter().any(|(_, value)| *value > 0) && sections().next().is_some();
    if grows && index.outbox_bytes + more > index.books.room {
        let message = "the federation's document is full, or this cluster has written all that it may until the others have caught up: delete \
                       keys, or see in `tarn federation status` who is away";
        return Err(reject::full("DOCUMENT_FULL", "", index.books.room, message));
    }
    Ok(())
}

/// Refuses writes to sections that this cluster may not write, or all if the others do not listen to it any more.
fn may_write(txn: &Txn<'_>, sections: u32) -> Result<(), Rejection> {
    let books = txn.ix.federation.books;
    if books.removed {
        let message = "the federation has withdrawn its trust in this cluster, so nothing that is shared can be written here: take contexts back \
                       with `tarn federation unshare`, or leave with `tarn federation leave`";
        return Err(reject::precondition("REMOVED_FROM_FEDERATION", "", message));
    }
    if sections & !books.scope != 0 {
        let message =
            "this cluster may only read that section of the federation's document: see `tarn federation list` for what it may write";
        return Err(reject::denied("OUT_OF_SCOPE", "", message));
    }
    Ok(())
}

fn section_bit(section: &str) -> Option<u32> {
    Some(1 << limits::SHARED_SECTIONS.iter().position(|known| *known == section)?)
}

/// Sections as bits; those that are not known count for nothing.
fn scope_bits(sections: &[String]) -> u32 {
    sections.iter().filter_map(|section| section_bit(section)).fold(0, |all, bit| all | bit)
}

fn tell(txn: &mut Txn<'_>, namespace: &str, subject: &str, detail: &str) {
    let event = txn.event(EventKind::FederationChanged, subject);
    event.namespace = namespace.to_owned();
    event.detail = detail.to_owned();
}

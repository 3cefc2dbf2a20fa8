//! Invitations: each lets one cluster in, once. The kernel knows only the hash of an invitation's key.

use bytes::Bytes;
use tarn_proto::v1::{ConsumeInvitation, InvitationConsumed, InvitationPut, PutInvitation};

use super::{member, room_for, save_books, show, tell, wishes, write};
use crate::domain::nodes_only;
use crate::error::{Fatal, Refusal};
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::reject;
use crate::rows::{FederationBooksRow, InvitationRow};
use crate::task::spec::or_default;
use crate::txn::Txn;

/// The command: a new invitation.
pub fn put_invitation(txn: &mut Txn<'_>, request: PutInvitation) -> Result<InvitationPut, Refusal> {
    member(txn)?;
    let hash = hash(&request.key_hash)?;
    if txn.ix.federation.invitations.contains_key(&hash) {
        return Err(
            reject::exists("INVITATION_EXISTS", "key_hash", "there is an invitation with this key already: make another key").into()
        );
    }
    if txn.ix.federation.invitations.len() >= limits::INVITATIONS_MAX {
        let message = "too many invitations are outstanding: wait until some expire";
        return Err(reject::full("TOO_MANY_INVITATIONS", "", limits::INVITATIONS_MAX as u64, message).into());
    }
    let expires_at_ms = txn.now + or_default(request.ttl_ms, limits::INVITATION_MS_DEFAULT);
    save(txn, hash, InvitationRow { expires_at_ms, scope: request.scope, cluster_id: Bytes::new() });
    tell(txn, "", "invitation", "made");
    Ok(InvitationPut { expires_at_ms })
}

/// The command: a cluster that has proven to be invited is introduced.
pub fn consume(txn: &mut Txn<'_>, principal: &str, request: ConsumeInvitation) -> Result<InvitationConsumed, Refusal> {
    nodes_only(principal, "admit clusters")?;
    member(txn)?;
    let hash = hash(&request.key_hash)?;
    let row = txn.ix.federation.invitations.get(&hash).filter(|row| row.expires_at_ms > txn.now).cloned();
    let Some(mut row) = row else {
        let message = "the invitation is unknown or has expired: ask for a new one";
        return Err(reject::denied("INVITATION_INVALID", "key_hash", message).into());
    };
    if row.cluster_id == request.cluster_id {
        return Ok(InvitationConsumed {});
    }
    if !row.cluster_id.is_empty() {
        let message = "the invitation was used by another cluster: ask for a new one";
        return Err(reject::denied("INVITATION_USED", "key_hash", message).into());
    }
    let books = txn.ix.federation.books;
    if books.admitted != request.expected_admitted {
        let message = "another cluster was admitted meanwhile: look again whether the name is free";
        let mut rejection = reject::precondition("ADMITTED_MEANWHILE", "expected_admitted", message);
        rejection.actual_version = books.admitted;
        return Err(rejection.into());
    }
    room_for(txn, &wishes(&request.writes))?;
    save_books(txn, FederationBooksRow { admitted: books.admitted + 1, ..books });
    row.cluster_id = Bytes::copy_from_slice(&request.cluster_id);
    save(txn, hash, row);
    for entry in request.writes {
        show(txn, &entry);
        write(txn, entry);
    }
    tell(txn, "", "invitation", "used");
    Ok(InvitationConsumed {})
}

/// The invitation's time is up.
pub fn expire(txn: &mut Txn<'_>, hash: &[u8; 32]) -> Result<(), Fatal> {
    let Some(row) = txn.ix.federation.invitations.remove(hash) else {
        return Err(Fatal::assertion("an index has an invitation that does not exist"));
    };
    txn.ix.wakes.remove(&(row.expires_at_ms, Wake::Invitation { hash: Box::new(*hash) }));
    txn.rows.delete(Key::Invitation { hash });
    Ok(())
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], Refusal> {
    let found = <[u8; 32]>::try_from(bytes);
    Ok(found.map_err(|_| reject::invalid("INVALID_HASH", "key_hash", "key_hash is a BLAKE3 hash of 32 bytes"))?)
}

fn save(txn: &mut Txn<'_>, hash: [u8; 32], row: InvitationRow) {
    txn.rows.put(Key::Invitation { hash: &hash }, &row);
    txn.ix.wakes.insert((row.expires_at_ms, Wake::Invitation { hash: Box::new(hash) }));
    txn.ix.federation.invitations.insert(hash, row);
}

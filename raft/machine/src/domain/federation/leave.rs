//! The end of a federation, here: what is kept of it goes, a part with every entry.

use tarn_proto::v1::{LeaveFederationRequest, LeaveFederationResponse};
use tarn_storage::Range;

use super::{expire, member, save, share, tell};
use crate::advance::damaged;
use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first};
use crate::limits;
use crate::overlay::STATE;
use crate::reject;
use crate::rows::FederationBooksRow;
use crate::txn::Txn;

/// The command: this cluster is in no federation any more.
pub fn leave(txn: &mut Txn<'_>, _: LeaveFederationRequest) -> Result<LeaveFederationResponse, Refusal> {
    member(txn)?;
    let open = txn.ix.transfers.open();
    if open > 0 {
        let message = format!("{open} tasks of other clusters have been taken over: wait until they are closed, or close them");
        return Err(reject::precondition("TRANSFERS_OPEN", "", message).into());
    }
    if let Some(mut row) = txn.ix.federation.row.clone() {
        // Nobody needs the key any more.
        (row.leaving, row.identity) = (true, None);
        save(txn, row);
    }
    let invitations: Vec<[u8; 32]> = txn.ix.federation.invitations.keys().copied().collect();
    for hash in invitations {
        expire(txn, &hash)?;
    }
    tell(txn, "", "federation", "left");
    Ok(LeaveFederationResponse {})
}

/// Takes the next step: with what has just been shared, or with what is to go.
pub fn advance(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    if !txn.ix.federation.row.as_ref().is_some_and(|row| row.leaving) {
        return share::advance(txn);
    }
    let mut room = limits::SWEEPS_PER_ENTRY_MAX;
    room -= share::forget_in(txn, room)?;
    for kind in [first::REPLICA, first::OUTBOX, first::SHARED, first::STAGED_COMMIT] {
        let entries = txn.rows.engine().scan(STATE, Range::prefix(&[kind])).take(room);
        let keys: Vec<Vec<u8>> = entries.map(|entry| Ok(entry?.0)).collect::<Result<_, Fatal>>()?;
        for bytes in &keys {
            let key = Key::decode(bytes).ok_or_else(|| damaged(bytes))?;
            txn.rows.delete(key);
            if let Key::Outbox { number } = key {
                txn.ix.federation.remove_write(number);
            }
        }
        room -= keys.len();
    }
    if room > 0 {
        txn.rows.delete(Key::Federation);
        txn.rows.delete(Key::FederationBooks);
        txn.ix.federation.row = None;
        txn.ix.federation.books = FederationBooksRow::default();
    }
    Ok(())
}

//! Tasks that other clusters have handed over: which task came by which transfer, and how many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_storage::Engine;

use super::rebuild::{each, misplaced};
use super::{Indices, Wake};
use crate::error::Fatal;
use crate::keys::{Key, first};
use crate::rows::TransferRow;

/// See the module's page.
#[derive(Debug, Default, PartialEq)]
pub struct Transfers {
    /// The transfer of each task that came by one, as (namespace, task). The task may have been purged.
    pub tasks: BTreeMap<(u64, u64), Arc<str>>,
    /// Transfers that are held, and the bytes of their specifications.
    pub held: u64,
    pub held_bytes: u64,
    /// Closed ones that are remembered.
    pub closed: u64,
}

impl Transfers {
    /// The transfer by which a task came.
    pub fn of_task(&self, ns: u64, id: u64) -> Option<&Arc<str>> {
        self.tasks.get(&(ns, id))
    }

    /// Those that are not closed.
    pub fn open(&self) -> u64 {
        self.held + self.tasks.len() as u64
    }
}

/// Puts a transfer in.
pub fn insert(indices: &mut Indices, id: &str, row: &TransferRow) {
    let (id, transfers): (Arc<str>, _) = (id.into(), &mut indices.transfers);
    if row.task != 0 {
        transfers.tasks.insert((row.ns, row.task), id);
        return;
    }
    match row.closed {
        true => transfers.closed += 1,
        false => {
            transfers.held += 1;
            transfers.held_bytes += row.spec_bytes();
        }
    }
    indices.wakes.insert((row.hold_until_ms, Wake::Transfer { id }));
}

/// Takes a transfer out: as it was put in.
pub fn remove(indices: &mut Indices, id: &str, row: &TransferRow) {
    let transfers = &mut indices.transfers;
    if row.task != 0 {
        transfers.tasks.remove(&(row.ns, row.task));
        return;
    }
    match row.closed {
        true => transfers.closed -= 1,
        false => {
            transfers.held -= 1;
            transfers.held_bytes -= row.spec_bytes();
        }
    }
    indices.wakes.remove(&(row.hold_until_ms, Wake::Transfer { id: id.into() }));
}

/// Fills the index from the rows.
pub(super) fn fill(engine: &dyn Engine, indices: &mut Indices) -> Result<(), Fatal> {
    each(engine, first::TRANSFER, |key, row: TransferRow| {
        let Key::Transfer { id } = key else { return Err(misplaced(key)) };
        insert(indices, id, &row);
        Ok(())
    })
}

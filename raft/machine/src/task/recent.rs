//! Tasks of the last entries, as they stand: what is leased and completed soon after it came is not read and decoded again.
//!
//! This is memory of this node alone and decides nothing: it holds what the rows say, or nothing. In a debug build every use is compared
//! with the rows.

use std::collections::BTreeMap;

use crate::rows::{SpecRow, TaskRow};

/// Tasks that are known: each has up to some 2 KiB.
const TASKS_MAX: usize = 8_192;
/// Specifications up to this size, payload included, are kept.
const SPEC_BYTES_MAX: u64 = 1_536;

/// Unended tasks that came lately, by number.
#[derive(Default)]
pub struct Recent {
    tasks: BTreeMap<u64, Known>,
    /// The last specification that came, until its task is saved for the first time.
    newest: Option<(u64, SpecRow)>,
}

struct Known {
    ns: u64,
    row: Box<TaskRow>,
    spec: Option<SpecRow>,
}

impl Recent {
    /// The row of an unended task.
    pub fn row(&self, ns: u64, id: u64) -> Option<&TaskRow> {
        self.tasks.get(&id).filter(|known| known.ns == ns).map(|known| &*known.row)
    }

    /// What never changes of a task: it is asked for once, by whoever leases it.
    pub fn take_spec(&mut self, ns: u64, id: u64) -> Option<SpecRow> {
        self.tasks.get_mut(&id).filter(|known| known.ns == ns)?.spec.take()
    }

    /// Notes what a new task is, if it is small.
    pub fn keep_spec(&mut self, id: u64, spec: SpecRow, bytes: u64) {
        self.newest = (bytes <= SPEC_BYTES_MAX).then_some((id, spec));
    }

    /// Notes the row of an unended task as it is saved. Few tasks have more than one attempt, and those need not be fast.
    pub fn keep_row(&mut self, ns: u64, id: u64, row: &TaskRow) {
        if row.attempts.len() > 1 || row.progress.is_some() {
            return self.forget(id);
        }
        if let Some(known) = self.tasks.get_mut(&id) {
            *known.row = row.clone();
            return;
        }
        if self.tasks.len() >= TASKS_MAX {
            // Who has waited longest will wait longer still.
            self.tasks.pop_first();
        }
        let spec = self.newest.take().filter(|(newest, _)| *newest == id).map(|(_, spec)| spec);
        self.tasks.insert(id, Known { ns, row: Box::new(row.clone()), spec });
    }

    /// The task has ended, or went.
    pub fn forget(&mut self, id: u64) {
        self.tasks.remove(&id);
    }
}

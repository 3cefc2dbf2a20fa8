//! Reads of tasks that other clusters have handed over.

use tarn_proto::v1::{TaskState, TransferStatus};
use tarn_storage::Range;

use super::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use crate::Machine;
use crate::advance::damaged;
use crate::domain::transfer::is_live;
use crate::error::Fatal;
use crate::ids::Id;
use crate::keys::{Key, first};
use crate::overlay::{Rows, STATE, decode};
use crate::rows::TransferRow;
use crate::task::find;

impl Machine {
    /// One transfer, and what its task is now; none if it is unknown, was dropped or is closed.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn transfer(&self, id: &str) -> Result<Option<TransferStatus>, Fatal> {
        let row: Option<TransferRow> = self.rows().row(Key::Transfer { id })?;
        row.filter(|row| !row.closed).map(|row| self.transfer_status(row)).transpose()
    }

    /// Up to so many transfers after an id, in the order of their ids; fewer where they are large, and none only where there is none. Each says
    /// what its task is now.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn transfers(&self, after: &str, max: usize) -> Result<Vec<TransferStatus>, Fatal> {
        let start = [&Key::Transfer { id: after }.encode()[..], &[0]].concat();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in self.engine.scan(STATE, Range::between(&start, &[first::TRANSFER + 1])) {
            let (key, value) = entry?;
            bytes += value.len();
            let row: TransferRow = decode(&Key::decode(&key).ok_or_else(|| damaged(&key))?, &value)?;
            if row.closed {
                continue;
            }
            if found.len() == max.min(PAGE_ROWS_MAX) || (bytes > PAGE_BYTES_MAX && !found.is_empty()) {
                break;
            }
            found.push(self.transfer_status(row)?);
        }
        Ok(found)
    }

    fn transfer_status(&self, row: TransferRow) -> Result<TransferStatus, Fatal> {
        let task = match row.task {
            0 => None,
            id => find(&self.rows(), row.ns, id)?,
        };
        let state = task.as_ref().map_or(TaskState::Unspecified, |task| task.state());
        Ok(TransferStatus {
            transfer: row.transfer,
            accepted_at_ms: row.accepted_at_ms,
            hold_until_ms: row.hold_until_ms,
            task_id: if row.task == 0 { String::new() } else { Id(row.task).to_string() },
            state: state.into(),
            run_until_ms: task.filter(|task| is_live(task.state())).map_or(0, |task| task.deadline_at_ms),
            ended: row.task != 0 && !is_live(state),
        })
    }
}

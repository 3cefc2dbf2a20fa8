//! Batches: commands of one caller that share a request id and a place in the log, and are carried out or refused one by one.

use tarn_proto::v1::{Command, CommandBatch, CommandBatchOutcome};

use crate::apply;
use crate::error::Refusal;
use crate::limits;
use crate::txn::Txn;
use crate::wire;

/// Things that may need ids: tasks, and one for each command that is about something else.
const THINGS_MAX: u64 = (limits::BATCH_TASKS_MAX + limits::BATCH_COMMANDS_MAX) as u64;

/// The command, whose body lies in the log as `said`: carries each of them out. One that is refused changes nothing, and the others go on.
pub fn carry_out(txn: &mut Txn<'_>, principal: &str, batch: CommandBatch, said: &[u8]) -> Result<CommandBatchOutcome, Refusal> {
    // Asked once for all of them: that an entry was full is not to be remembered as what became of a command.
    if !txn.has_ids_for(THINGS_MAX) {
        return Err(apply::entry_full().into());
    }
    txn.batch_id = batch.request_id;
    let mut outcomes = Vec::with_capacity(batch.commands.len());
    let mut said = wire::commands_of_batch(said);
    for command in batch.commands {
        outcomes.push(apply::command(txn, Command { principal: principal.to_owned(), ..command }, said.next().unwrap_or_default())?);
    }
    txn.batch_id.clear();
    Ok(CommandBatchOutcome { outcomes })
}

//! What of a batch of commands can be refused without the state. Its commands are checked one by one when their turn comes.

use tarn_proto::v1::{Command, CommandBatch, TaskSpec, command};

use super::{Check, count, dependencies, invalid};
use crate::limits;

pub(super) fn batch(r: &CommandBatch) -> Check {
    if r.commands.is_empty() {
        return Err(invalid("NO_COMMAND", "batch.commands", "the batch is empty: name what to do"));
    }
    count("TOO_MANY_COMMANDS", "batch.commands", r.commands.len(), limits::BATCH_COMMANDS_MAX)?;
    r.commands.iter().try_for_each(member)?;
    // Together no more than one enqueue may have: this is one command too.
    let tasks = || r.commands.iter().filter_map(enqueued).flatten();
    count("TOO_MANY_TASKS", "batch.commands.tasks", tasks().count(), limits::BATCH_TASKS_MAX)?;
    let dependencies = tasks().map(dependencies).sum();
    count("TOO_MANY_DEPENDENCIES", "batch.commands.tasks.after", dependencies, limits::BATCH_DEPENDENCIES_MAX)
}

fn enqueued(command: &Command) -> Option<&[TaskSpec]> {
    match &command.body {
        Some(command::Body::Enqueue(r)) => Some(&r.tasks),
        _ => None,
    }
}

fn member(command: &Command) -> Check {
    let Some(body) = command.body.as_ref().filter(|body| body.fits_batches()) else {
        return Err(invalid("NOT_FOR_A_BATCH", "batch.commands.body", "a command of this kind is sent alone"));
    };
    if !command.principal.is_empty() || !body.request_id().is_empty() {
        let message = "the batch has the principal and the request id: leave those of its commands empty";
        return Err(invalid("NOT_FOR_A_BATCH", "batch.commands", message));
    }
    Ok(())
}

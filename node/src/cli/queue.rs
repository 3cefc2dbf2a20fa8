//! `tarn queue …`: what is in the queues, and their dead letters.

use futures::TryStreamExt;
use tarn_client::Client;
use tarn_proto::v1::{self as proto, QueueStats, TaskState};

use super::connect::parse_count;
use super::exit::Failure;
use super::output::{Printer, duration, time};
use super::task::StateArg;

/// Look into queues, and deal with their dead letters.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum QueueCommand {
    /// List the queues
    List {
        /// Of all namespaces
        #[arg(long, short = 'A')]
        all_namespaces: bool,
    },
    /// Show one queue's counts
    Stats {
        /// Its name
        queue: String,
    },
    /// List a queue's dead letters, with the error that each died of
    Dead {
        /// Its name
        queue: String,
        /// At most this many
        #[arg(long, default_value = "100", value_parser = parse_count)]
        limit: usize,
    },
    /// Put dead tasks back, with their attempts counted from zero
    #[command(
        after_help = "Examples:\n  tarn queue requeue mail                 all its dead letters\n  tarn queue requeue mail 000000800000g   one of them"
    )]
    Requeue {
        /// The queue's name
        queue: String,
        /// These tasks only
        task_ids: Vec<String>,
    },
    /// Delete tasks of a queue for good; running ones are never touched
    #[command(after_help = "Example:\n  tarn queue purge mail --state dead --yes")]
    Purge {
        /// The queue's name
        queue: String,
        /// Which: blocked, delayed, ready, dead, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        state: Vec<StateArg>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

const HEAD: [&str; 7] = ["queue", "ready", "running", "delayed", "blocked", "dead", "oldest ready"];

/// Runs `tarn queue …`.
pub async fn run(command: QueueCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        QueueCommand::List { all_namespaces: false } => printer.list(&client.list_queues().await?, &HEAD, row),
        QueueCommand::List { all_namespaces: true } => printer.list(&client.list_all_queues().await?, &HEAD, |stats| {
            let mut cells = row(stats);
            cells[0] = format!("{}/{}", stats.namespace, stats.queue);
            cells
        }),
        QueueCommand::Stats { queue } => {
            let stats = client.get_queue(queue).await?;
            printer.message(&stats, |stats| super::output::table(&HEAD, std::iter::once(row(stats))))
        }
        QueueCommand::Dead { queue, limit } => dead(queue, limit, client, printer).await,
        QueueCommand::Requeue { queue, task_ids } => requeue(queue, task_ids, client, printer).await,
        QueueCommand::Purge { queue, state, yes } => {
            let states: Vec<TaskState> = state.into_iter().map(Into::into).collect();
            super::confirm(&format!("Delete these tasks of {queue} for good?"), yes)?;
            purge(queue, states, client, printer).await
        }
    }
}

async fn dead(queue: String, limit: usize, client: Client, printer: Printer) -> Result<(), Failure> {
    // An unknown queue is an error here, while a list of its tasks would only be empty.
    client.get_queue(&queue).await?;
    let request = proto::ListTasksRequest { queue, states: vec![TaskState::Dead.into()], page_size: 1_000, ..Default::default() };
    let mut tasks = Vec::new();
    let mut pages = std::pin::pin!(client.list_tasks(request));
    while tasks.len() < limit
        && let Some(task) = pages.try_next().await?
    {
        tasks.push(task);
    }
    printer.list(&tasks, &["task", "died", "attempts", "reason", "message"], |task| {
        let error = task.error.clone().unwrap_or_default();
        vec![task.task_id.clone(), time(task.ended_at_ms), task.attempts_begun.to_string(), error.reason, error.message]
    })
}

/// Repeats the call, which does a bounded number of tasks at once, until all are done.
async fn requeue(queue: String, task_ids: Vec<String>, client: Client, printer: Printer) -> Result<(), Failure> {
    let mut total = proto::RequeueDeadResponse::default();
    loop {
        let answer = client.requeue_dead(&queue, task_ids.iter().cloned()).await?;
        total.requeued += answer.requeued;
        total.remaining = answer.remaining;
        if !task_ids.is_empty() || answer.remaining == 0 || answer.requeued == 0 {
            return printer.message(&total, |total| format!("requeued {}, still dead {}", total.requeued, total.remaining));
        }
    }
}

async fn purge(queue: String, states: Vec<TaskState>, client: Client, printer: Printer) -> Result<(), Failure> {
    let mut total = proto::PurgeQueueResponse::default();
    loop {
        let answer = client.purge_queue(&queue, states.iter().copied()).await?;
        total.purged += answer.purged;
        total.remaining = answer.remaining;
        if answer.remaining == 0 || answer.purged == 0 {
            return printer.message(&total, |total| format!("purged {}, remaining {}", total.purged, total.remaining));
        }
    }
}

fn row(stats: &QueueStats) -> Vec<String> {
    let mut cells = vec![stats.queue.clone()];
    cells.extend([stats.ready, stats.running, stats.delayed, stats.blocked, stats.dead].map(|count| count.to_string()));
    cells.push(if stats.ready == 0 { "-".into() } else { duration(stats.oldest_ready_ms) });
    cells
}

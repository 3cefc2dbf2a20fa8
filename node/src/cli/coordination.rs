//! `tarn worker …`, `tarn lease …` and `tarn timer …`: short commands over the rest of the kernel.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use tarn_client::{Client, Task, When};
use tarn_proto::v1::{self as proto, NamedLease, timer_action};

use super::connect::{parse_duration, parse_time};
use super::exit::Failure;
use super::output::{Printer, time};
use super::task::short_name;

/// See who leases tasks.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum WorkerCommand {
    /// List the registered workers
    List,
    /// Give a worker no more tasks; those that it has may finish
    Drain {
        /// Its id
        worker_id: String,
    },
}

/// Runs `tarn worker …`.
pub async fn worker(command: WorkerCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        WorkerCommand::List => {
            let head = ["worker", "name", "state", "running", "runtimes", "labels", "last heartbeat"];
            printer.list(&client.list_workers().await?, &head, |worker| {
                let capabilities = worker.capabilities.clone().unwrap_or_default();
                vec![
                    worker.worker_id.clone(),
                    worker.name.clone(),
                    short_name(worker.state().as_str_name(), "WORKER_STATE_"),
                    worker.running.to_string(),
                    capabilities.runtimes.join(","),
                    capabilities.labels.join(","),
                    time(worker.heartbeat_at_ms),
                ]
            })
        }
        WorkerCommand::Drain { worker_id } => {
            let running = client.drain_worker(worker_id).await?;
            printer.message(&proto::DrainWorkerResponse { running }, |answer| format!("draining; {} tasks still run", answer.running))
        }
    }
}

/// Take, keep and give back named leases: locks with a fencing token.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum LeaseCommand {
    /// Take a lease, if nobody holds it, and print its token
    #[command(after_help = "Example:\n  token=$(tarn lease acquire nightly --holder $(hostname) --ttl 5m -o json | jq -r .token)")]
    Acquire {
        /// Its name
        name: String,
        /// Who takes it
        #[arg(long)]
        holder: String,
        /// How long it lasts unless renewed; 0 stands for 30s
        #[arg(long, default_value = "30s", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// Extend a lease
    Renew {
        /// Its name
        name: String,
        /// The token that acquiring it gave
        #[arg(long)]
        token: u64,
        /// How long it lasts from now; 0 stands for 30s
        #[arg(long, default_value = "30s", value_parser = parse_duration)]
        ttl: Duration,
    },
    /// Give a lease back
    Release {
        /// Its name
        name: String,
        /// The token that acquiring it gave
        #[arg(long)]
        token: u64,
    },
    /// Show a lease
    Get {
        /// Its name
        name: String,
    },
    /// List the leases that are held
    List,
}

/// Runs `tarn lease …`.
pub async fn lease(command: LeaseCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    let show = |lease: &NamedLease| {
        format!("{} is held by {} until {} (token {})", lease.name, lease.holder, time(lease.expires_at_ms), lease.token)
    };
    match command {
        LeaseCommand::Acquire { name, holder, ttl } => printer.message(&client.acquire_lease(&name, &holder, ttl).await?, show),
        LeaseCommand::Renew { name, token, ttl } => printer.message(&client.renew_lease(&name, token, ttl).await?, show),
        LeaseCommand::Release { name, token } => {
            client.release_lease(&name, token).await?;
            printer.message(&proto::ReleaseLeaseResponse {}, |_| format!("{name} is released"))
        }
        LeaseCommand::Get { name } => printer.message(&client.get_lease(name).await?, show),
        LeaseCommand::List => {
            let leases: Vec<NamedLease> = client.list_leases().try_collect().await?;
            printer.list(&leases, &["lease", "holder", "token", "acquired", "expires"], |lease| {
                vec![
                    lease.name.clone(),
                    lease.holder.clone(),
                    lease.token.to_string(),
                    time(lease.acquired_at_ms),
                    time(lease.expires_at_ms),
                ]
            })
        }
    }
}

/// At a time, enqueue a task or mark an event.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TimerCommand {
    /// Schedule a timer
    #[command(after_help = "\
Examples:
  tarn timer schedule +10m --queue mail --payload 'remind ann'
  tarn timer schedule 2027-01-01T00:00:00Z --mark 'happy new year'       seen by `tarn task watch`")]
    Schedule {
        /// When, such as +10m or 2027-01-01T00:00:00Z
        #[arg(value_parser = parse_time)]
        when: SystemTime,
        /// Enqueue a task in this queue
        #[arg(long, required_unless_present = "mark", conflicts_with = "mark")]
        queue: Option<String>,
        /// The task's input
        #[arg(long, conflicts_with = "mark")]
        payload: Option<String>,
        /// Put this text into the event stream
        #[arg(long)]
        mark: Option<String>,
    },
    /// Cancel a timer that has not fired
    Cancel {
        /// Its id
        timer_id: String,
    },
    /// Show a timer
    Get {
        /// Its id
        timer_id: String,
    },
    /// List pending timers, and those that fired lately
    List,
}

/// Runs `tarn timer …`.
pub async fn timer(command: TimerCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        TimerCommand::Schedule { when, queue, payload, mark } => {
            let timer = match (queue, mark) {
                (_, Some(text)) => client.schedule_mark(When::At(when), text).await?,
                (Some(queue), None) => client.schedule_task(When::At(when), Task::new(queue).payload(payload.unwrap_or_default())).await?,
                (None, None) => return Err(Failure::Usage("name a --queue for a task, or a --mark".into())),
            };
            printer.message(&timer, |timer| format!("{} fires at {}", timer.timer_id, time(timer.due_at_ms)))
        }
        TimerCommand::Cancel { timer_id } => {
            client.cancel_timer(&timer_id).await?;
            printer.message(&proto::CancelTimerResponse {}, |_| format!("{timer_id} is cancelled"))
        }
        TimerCommand::Get { timer_id } => printer.message(&client.get_timer(timer_id).await?, |timer| timer_row(timer).join("  ")),
        TimerCommand::List => {
            let timers: Vec<proto::Timer> = client.list_timers().try_collect().await?;
            printer.list(&timers, &["timer", "state", "due", "does"], timer_row)
        }
    }
}

fn timer_row(timer: &proto::Timer) -> Vec<String> {
    let does = match timer.action.as_ref().and_then(|action| action.action.as_ref()) {
        Some(timer_action::Action::Enqueue(spec)) if timer.task_id.is_empty() => format!("enqueues in {}", spec.queue),
        Some(timer_action::Action::Enqueue(spec)) => format!("enqueued {} in {}", timer.task_id, spec.queue),
        Some(timer_action::Action::Mark(text)) => format!("marks {text:?}"),
        None => String::new(),
    };
    vec![timer.timer_id.clone(), short_name(timer.state().as_str_name(), "TIMER_STATE_"), time(timer.due_at_ms), does]
}

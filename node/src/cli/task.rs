//! `tarn task …`: submit tasks and follow them.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures::TryStreamExt;
use tarn_client::{Client, Task};
use tarn_machine::limits::PAYLOAD_BYTES_MAX;
use tarn_proto::v1::{self as proto, Priority, TaskState};

use super::connect::{parse_count, parse_duration, parse_time};
use super::exit::Failure;
use super::output::{Printer, duration, time};
use super::work::WorkArgs;

/// Submit tasks and follow them.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TaskCommand {
    /// Submit a task
    #[command(after_help = "\
Examples:
  tarn task submit --queue mail --payload '{\"to\":\"ann\"}'             for a worker built with an SDK
  tarn task submit --queue tools --native ./convert.sh --arg=--fast --memory 256Mi --wait
  tarn task submit --queue math --transform fft --payload-file x.npy --wait > spectrum.npy
  tarn task submit --queue fetch --wasm fetch.wasm --grant clock --grant http=https://api.example.com
  tarn task submit --queue wasm --wasm wordcount.wasm --payload-file text.txt --wait
  tarn task submit --queue wasm --wasm wordcount.wasm --payload-file text.txt --auto --any-cluster
  tarn task submit --queue nightly --not-before +2h --priority low --max-attempts 3 --payload x
  echo 3 | tarn task submit --queue q --payload-file - -o json          the payload from standard input")]
    Submit(Box<SubmitArgs>),
    /// Show a task: its state, its attempts and what became of them
    #[command(after_help = "Example:\n  tarn task get 0000000040001 -o json | jq .attempts")]
    Get {
        /// Its id
        task_id: String,
    },
    /// Wait for a task to end and print its result
    #[command(
        after_help = "Example:\n  tarn task wait 0000000040001 --timeout 5m || echo \"exit code $?: 4 not yet, 5 died, 6 cancelled\""
    )]
    Wait {
        /// Its id
        task_id: String,
        /// Give up after this long
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// List tasks, oldest first
    #[command(after_help = "Example:\n  tarn task list --queue mail --state dead,running -o jsonl | jq -r .task_id")]
    List {
        /// Only this queue
        #[arg(long)]
        queue: Option<String>,
        /// Only these states, separated by commas
        #[arg(long, value_delimiter = ',')]
        state: Vec<StateArg>,
        /// At most this many
        #[arg(long, default_value = "100", value_parser = parse_count)]
        limit: usize,
    },
    /// Print what happens to tasks, as it happens
    #[command(after_help = "\
Examples:
  tarn task watch --queue mail                    until Ctrl-C, which prints where to resume
  tarn task watch --after 1042 -o jsonl           what happened since revision 1042, and what follows")]
    Watch {
        /// Only this task
        task_id: Option<String>,
        /// Only this queue
        #[arg(long)]
        queue: Option<String>,
        /// Begin after this revision instead of now
        #[arg(long)]
        after: Option<u64>,
    },
    /// Ask for a task's cancellation: a running one is told, and may still finish
    #[command(after_help = "Example:\n  tarn task cancel 0000000040001        ask; `tarn task terminate` does not")]
    Cancel {
        /// Its id
        task_id: String,
    },
    /// End a task now: whatever its worker reports later is not taken
    Terminate {
        /// Its id
        task_id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Print what a task's attempts wrote to their logs
    Logs {
        /// Its id
        task_id: String,
    },
}

/// What to submit.
#[derive(Clone, Debug, clap::Args)]
pub struct SubmitArgs {
    /// The queue; its first task creates it
    #[arg(long, short)]
    queue: String,
    /// The input, as text
    #[arg(long, conflicts_with = "payload_file")]
    payload: Option<String>,
    /// The input, from a file; - is standard input
    #[arg(long)]
    payload_file: Option<PathBuf>,
    /// For SDK workers: the handler's name
    #[arg(long, conflicts_with = "what")]
    handler: Option<String>,
    /// How urgent it is
    #[arg(long, value_enum, default_value = "normal")]
    priority: PriorityArg,
    /// Tasks that must end first, by id
    #[arg(long, value_delimiter = ',')]
    after: Vec<String>,
    /// Run even if one of these dies
    #[arg(long, requires = "after")]
    run_anyway: bool,
    /// Not before this time, such as +5m or 2026-01-31T12:00:00Z
    #[arg(long, value_parser = parse_time)]
    not_before: Option<SystemTime>,
    /// Must be finished by then, or it goes to the dead letters; a time to come
    #[arg(long, value_parser = parse_time)]
    deadline_at: Option<SystemTime>,
    /// The longest time of one attempt; 0 stands for an hour
    #[arg(long, value_parser = parse_duration)]
    attempt_timeout: Option<Duration>,
    /// Attempts in all; 0 stands for 5
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Labels that the worker must carry
    #[arg(long, value_delimiter = ',')]
    requires: Vec<String>,
    /// How long the ended task is kept; 0 stands for a day
    #[arg(long, value_parser = parse_duration)]
    retention: Option<Duration>,
    /// Makes the submission safe to repeat: the same id with the same task gives the same task id
    #[arg(long)]
    request_id: Option<String>,
    /// Wait for it to end and print its result
    #[arg(long)]
    wait: bool,
    /// With --wait: give up waiting after this long; the task goes on
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    work: WorkArgs,
}

/// Priorities, as the command line writes them.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PriorityArg {
    Critical,
    High,
    Normal,
    Low,
    Background,
}

/// Task states, as the command line writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StateArg {
    /// Waits for tasks that it depends on
    Blocked,
    /// Waits for its time
    Delayed,
    /// Waits for a worker
    Ready,
    /// A worker has it
    Running,
    /// Ended well
    Succeeded,
    /// In the dead letters
    Dead,
    /// Ended by request
    Cancelled,
}

impl From<StateArg> for TaskState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Blocked => TaskState::Blocked,
            StateArg::Delayed => TaskState::Delayed,
            StateArg::Ready => TaskState::Ready,
            StateArg::Running => TaskState::Running,
            StateArg::Succeeded => TaskState::Succeeded,
            StateArg::Dead => TaskState::Dead,
            StateArg::Cancelled => TaskState::Cancelled,
        }
    }
}

/// Runs `tarn task …`.
pub async fn run(command: TaskCommand, client: Client, printer: Printer) -> Result<(), Failure> {
    match command {
        TaskCommand::Submit(args) => submit(*args, client, printer).await,
        TaskCommand::Get { task_id } => printer.message(&client.get_task(task_id).await?, describe),
        TaskCommand::Wait { task_id, timeout } => finish(client.wait_task(task_id, timeout).await?, printer),
        TaskCommand::List { queue, state, limit } => list(queue, state, limit, client, printer).await,
        TaskCommand::Watch { task_id, queue, after } => super::event::watch(client, queue, task_id, after, printer).await,
        TaskCommand::Cancel { task_id } => ended(client.cancel_task(&task_id).await?, task_id, printer),
        TaskCommand::Terminate { task_id, yes } => {
            super::confirm(&format!("End task {task_id} now, even while it runs?"), yes)?;
            ended(client.terminate_task(&task_id).await?, task_id, printer)
        }
        TaskCommand::Logs { task_id } => {
            let logs = client.task_logs(task_id).await?;
            for log in &logs {
                printer.item(log, |log| format!("--- attempt {} ---\n{}", log.attempt, String::from_utf8_lossy(&log.text)))?;
            }
            Ok(())
        }
    }
}

async fn submit(args: SubmitArgs, client: Client, printer: Printer) -> Result<(), Failure> {
    let mut task = Task::new(&args.queue).payload(payload(&args)?).priority(match args.priority {
        PriorityArg::Critical => Priority::Critical,
        PriorityArg::High => Priority::High,
        PriorityArg::Normal => Priority::Normal,
        PriorityArg::Low => Priority::Low,
        PriorityArg::Background => Priority::Background,
    });
    task = args.work.describe(task, &client).await?;
    if let Some(handler) = args.handler {
        task = task.handler(handler);
    }
    for id in args.after {
        task = task.after(id);
    }
    if args.run_anyway {
        task = task.run_anyway();
    }
    for label in args.requires {
        task = task.requires(label);
    }
    if let Some(at) = args.not_before {
        task = task.not_before(at);
    }
    if let Some(at) = args.deadline_at {
        task = task.deadline(at);
    }
    if let Some(timeout) = args.attempt_timeout {
        task = task.attempt_timeout(timeout);
    }
    if let Some(attempts) = args.max_attempts {
        task = task.max_attempts(attempts);
    }
    if let Some(retention) = args.retention {
        task = task.retention(retention);
    }
    let ids = client.enqueue_once(args.request_id.unwrap_or_default(), [task]).await?;
    if args.wait {
        let id = ids.into_iter().next().unwrap_or_default();
        printer.note(&format!("submitted {id}"));
        return finish(client.wait_task(id, args.timeout).await?, printer);
    }
    printer.message(&proto::EnqueueResponse { task_ids: ids }, |answer| answer.task_ids.join("\n"))
}

fn payload(args: &SubmitArgs) -> Result<Vec<u8>, Failure> {
    let bytes = match (&args.payload, &args.payload_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, None) => Vec::new(),
        (None, Some(path)) if path.as_os_str() == "-" => bounded(std::io::stdin())?,
        (None, Some(path)) => std::fs::File::open(path).and_then(bounded).with_context(|| format!("cannot read {}", path.display()))?,
    };
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "a payload is at most {PAYLOAD_BYTES_MAX} bytes: put larger data where the task can fetch them, and name the place in the payload"
        )));
    }
    Ok(bytes)
}

/// Reads no more than it takes to see that it is too much.
fn bounded(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(PAYLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn list(queue: Option<String>, states: Vec<StateArg>, limit: usize, client: Client, printer: Printer) -> Result<(), Failure> {
    let request = proto::ListTasksRequest {
        queue: queue.unwrap_or_default(),
        states: states.into_iter().map(|state| TaskState::from(state).into()).collect(),
        page_size: u32::try_from(limit.clamp(1, 1_000)).unwrap_or(1_000),
        ..Default::default()
    };
    let mut tasks: Vec<proto::Task> = Vec::new();
    let mut pages = std::pin::pin!(client.list_tasks(request));
    while tasks.len() < limit
        && let Some(task) = pages.try_next().await?
    {
        tasks.push(task);
    }
    if tasks.len() == limit && pages.try_next().await?.is_some() {
        printer.note(&format!("only the first {limit} are shown: raise --limit for more"));
    }
    printer.list(&tasks, &["task", "queue", "state", "priority", "attempts", "created", "error"], |task| {
        let spec = task.spec.clone().unwrap_or_default();
        vec![
            task.task_id.clone(),
            spec.queue.clone(),
            state_name(task.state()),
            priority_name(spec.priority()),
            task.attempts_begun.to_string(),
            time(task.created_at_ms),
            task.error.as_ref().map(|error| error.reason.clone()).unwrap_or_default(),
        ]
    })
}

/// Prints an ended task: its result where it succeeded; otherwise it is a failure with its own exit code.
fn finish(task: proto::Task, printer: Printer) -> Result<(), Failure> {
    if task.state() == TaskState::Succeeded {
        return match printer.format() {
            super::output::Format::Text => printer.result(&task.result),
            _ => printer.message(&task, describe),
        };
    }
    Err(Failure::Task { cancelled: task.state() == TaskState::Cancelled, error: task.error.unwrap_or_default(), task_id: task.task_id })
}

fn ended(state: TaskState, task_id: String, printer: Printer) -> Result<(), Failure> {
    printer.message(&proto::CancelTaskResponse { state: state.into() }, |_| match state {
        TaskState::Running => format!("{task_id} is running: its worker was told to stop"),
        _ => format!("{task_id} is cancelled"),
    })
}

/// A state's name, as the command line writes it.
pub fn state_name(state: TaskState) -> String {
    short_name(state.as_str_name(), "TASK_STATE_")
}

fn priority_name(priority: Priority) -> String {
    short_name(priority.as_str_name(), "PRIORITY_")
}

/// An enumeration's value without its prefix, in lower case.
pub fn short_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn describe(task: &proto::Task) -> String {
    let spec = task.spec.clone().unwrap_or_default();
    let mut lines = vec![
        format!("task        {}", task.task_id),
        format!("namespace   {}", task.namespace),
        format!("queue       {}", spec.queue),
        format!("state       {}", state_name(task.state())),
        format!("priority    {}", priority_name(spec.priority())),
        format!("created     {}", time(task.created_at_ms)),
    ];
    let mut say = |title: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{title:<12}{text}"));
        }
    };
    say("runtime", spec.runtime.clone());
    say("handler", spec.handler.clone());
    say("waits for", task.waits_for.join(", "));
    if task.ended_at_ms > 0 {
        say(
            "ended",
            format!("{} ({} after it was created)", time(task.ended_at_ms), duration(task.ended_at_ms.saturating_sub(task.created_at_ms))),
        );
    }
    if task.token > 0 && task.state() == TaskState::Running {
        say("worker", format!("{} until {} (token {})", task.worker, time(task.lease_expires_at_ms), task.token));
    }
    if let Some(progress) = &task.progress {
        let (whole, tenth) = (progress.permille / 10, progress.permille % 10);
        say("progress", format!("{whole}.{tenth}% {}", progress.message));
    }
    if let Some(error) = task.error.as_ref().filter(|error| !error.reason.is_empty()) {
        say("error", format!("{}: {}", error.reason, error.message));
    }
    for attempt in &task.attempts {
        let how = match attempt.error.as_ref().filter(|error| !error.reason.is_empty()) {
            Some(error) => format!("{}: {}", error.reason, error.message),
            None if attempt.ended_at_ms == 0 => "running".into(),
            None => format!("done in {}", duration(attempt.ended_at_ms.saturating_sub(attempt.started_at_ms))),
        };
        say("attempt", format!("{} at {} by {}: {how}", attempt.number, time(attempt.started_at_ms), attempt.worker));
    }
    if !task.result.is_empty() {
        say("result", String::from_utf8_lossy(&task.result).into_owned());
    }
    lines.join("\n")
}

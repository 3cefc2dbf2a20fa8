//! `tarn bench fair`: how long a tenant's tasks wait for their start, without and with a noisy neighbour.
//!
//! The quiet tenant enqueues single tasks at a fixed rate. The noisy one has a backlog of as many tasks as the user says, and takes every slot
//! that it can get. The same workers serve both, with a fixed number of slots; every task keeps its slot for a fixed time. What is measured is
//! the time from the quiet client's request to the task's arrival at a worker: acceptance by a majority, its turn among the namespaces, a free
//! slot. The phases are: without, with, without again, so that a machine that becomes slower does not look like a neighbour.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tarn_client::Client;
use tarn_proto::v1::worker_service_client::WorkerServiceClient;
use tarn_proto::v1::{
    self as proto, CompleteTaskRequest, TaskSpec, WorkOpen, WorkRequest, WorkerCapabilities, work_request, work_response,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::report::{Report, Samples};
use super::{BenchArgs, Run};
use crate::cli::exit::Failure;
use crate::cli::output::{Printer, table};

/// Tasks of the backlog in one request, and requests under way at once.
const FILL: (usize, usize) = (1_000, 4);
/// Longer than any run: a task's lease needs no heartbeats.
const LEASE_MS: u64 = 3_600_000;
/// How long a worker's registration outlives the run: there is no other end to it.
const TTL: Duration = Duration::from_secs(15);
/// How long tasks are held, as parts of what the user says: were it the same for all, those that began together would end together, and slots
/// would become free in waves.
const HELD: std::ops::Range<f64> = 0.5..1.5;
/// Both tenants' weight, the default.
const WEIGHT: u32 = 100;
/// Room in a worker's stream.
const MESSAGES: usize = 1_024;

/// The tenants' names, new for each run.
struct Tenants {
    quiet: String,
    noisy: String,
}

/// How long taking namespaces and workers away may last: a cluster that does not answer is left alone.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a phase says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Refuses a backlog that would be used up while the neighbour is measured: every slot takes its next task when the last was held, and the
/// quiet tenant's last tasks may be waited for beyond the time.
pub fn check(args: &BenchArgs) -> Result<(), Failure> {
    let needed = backlog_needed(args);
    if (args.backlog as u64) < needed {
        return Err(Failure::Usage(format!(
            "--backlog {} would be used up: {} slots that hold each task for {:?} take up to {needed} tasks in {:?}; write --backlog {needed}, or \
             less --workers, --credit or --time, or a longer --hold",
            args.backlog,
            slots(args),
            args.hold,
            args.time
        )));
    }
    Ok(())
}

fn slots(args: &BenchArgs) -> u64 {
    args.workers as u64 * u64::from(args.credit.max(1))
}

/// Tasks that the slots can take while the backlog is filled and measured, and then all at once once more. One that is held for no time
/// still needs a turn to the cluster and back.
fn backlog_needed(args: &BenchArgs) -> u64 {
    let hold_ms = u64::try_from(args.hold.as_millis()).unwrap_or(u64::MAX).max(1);
    let time_ms = u64::try_from(args.time.as_millis()).unwrap_or(u64::MAX);
    let turns = time_ms.div_ceil(hold_ms).saturating_add(1);
    let slots = match args.noisy_running {
        0 => slots(args),
        most => slots(args).min(most),
    };
    slots.saturating_mul(turns)
}

/// Measures, and takes the namespaces away again, also when it is interrupted.
pub async fn run(run: &Arc<Run>, args: &BenchArgs, printer: Printer) -> Result<(), Failure> {
    check(args)?;
    let client = run.client(0);
    let tenants = Arc::new(Tenants { quiet: format!("{}-quiet", run.queue), noisy: format!("{}-noisy", run.queue) });
    let (stop, mut workers) = (CancellationToken::new(), JoinSet::new());
    let measured = tokio::select! {
        measured = measure(run, args, &tenants, &stop, &mut workers, printer) => measured,
        () = interrupted() => Err(Failure::Other(anyhow::anyhow!("interrupted before the end: nothing was measured"))),
    };
    printer.note("taking workers and namespaces away …");
    stop.cancel();
    let cleaned = tokio::time::timeout(CLEAN_UP_TIMEOUT, clean_up(&client, &tenants, &mut workers)).await;
    if !matches!(cleaned, Ok(Ok(()))) {
        eprintln!(
            "warning: the cluster was not cleaned up: tarn namespace delete {} --drain --cancel, and likewise {}",
            tenants.quiet, tenants.noisy
        );
    }
    let (without, with, ratio) = measured?;
    let reports = [without, with];
    let value = json!({
        "backlog": args.backlog,
        "slots": args.workers as u64 * u64::from(args.credit),
        "hold_ms": u64::try_from(args.hold.as_millis()).unwrap_or(u64::MAX),
        "noisy_max_running": args.noisy_running,
        "rate": rate(args),
        "median_ratio": ratio,
        "results": reports.iter().map(Report::to_json).collect::<Vec<_>>(),
    });
    printer.note(reports.iter().map(Report::failures).collect::<String>().trim_end());
    printer.value(&value, || {
        let table = table(&Report::HEAD, reports.iter().map(Report::row));
        format!("{table}\nmedian start delay with the neighbour: {ratio:.2} times that without")
    })
}

/// Returns at SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Lets the workers, which were told to stop, say good-bye, and ends what is in the namespaces with them.
async fn clean_up(client: &Client, tenants: &Tenants, workers: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while workers.join_next().await.is_some() {}
    for name in [&tenants.quiet, &tenants.noisy] {
        match client.drain_namespace(name, true).await {
            // It was not made yet.
            Err(error) if error.reason() == "NAMESPACE_NOT_FOUND" => {}
            drained => drained?,
        }
    }
    Ok(())
}

/// Makes the tenants. The noisy one runs next to nothing at first, so that its backlog is not used up while it is filled.
async fn create(client: &Client, tenants: &Tenants) -> Result<(), Failure> {
    client.create_namespace(&tenants.quiet, WEIGHT).await?;
    let request =
        proto::CreateNamespaceRequest { name: tenants.noisy.clone(), weight: WEIGHT, quotas: Some(max_running(1)), ..Default::default() };
    client.create_namespace_with(request).await?;
    Ok(())
}

fn max_running(most: u64) -> proto::Quotas {
    proto::Quotas { max_running: Some(most), ..Default::default() }
}

/// Lets the noisy tenant run as much as the user says it may.
async fn release(client: &Client, tenants: &Tenants, most: u64) -> Result<(), Failure> {
    let request = proto::UpdateNamespaceRequest { name: tenants.noisy.clone(), quotas: Some(max_running(most)), ..Default::default() };
    client.update_namespace(request).await?;
    Ok(())
}

fn rate(args: &BenchArgs) -> u32 {
    args.rate.unwrap_or(100).max(1)
}

/// The two reports, and the ratio of their medians.
async fn measure(
    run: &Arc<Run>,
    args: &BenchArgs,
    tenants: &Arc<Tenants>,
    stop: &CancellationToken,
    workers: &mut JoinSet<Result<(), Failure>>,
    printer: Printer,
) -> Result<(Report, Report, f64), Failure> {
    create(&run.client(0), tenants).await?;
    let (started, mut starts) = mpsc::unbounded_channel();
    for number in 0..args.workers.max(1) {
        workers.spawn(worker(run.clone(), number, args.credit.max(1), args.hold, tenants.clone(), started.clone(), stop.clone()));
    }
    drop(started);
    // What the first tasks cost alone, connections and queues, is nobody's delay.
    phase(run, args, tenants, Duration::from_secs(1), &mut starts, printer).await?;
    printer.note("the quiet tenant alone …");
    let (mut without, mut took) = phase(run, args, tenants, args.time, &mut starts, printer).await?;
    printer.note(&format!("filling a backlog of {} tasks …", args.backlog));
    fill(run, &tenants.noisy, args.backlog, printer).await?;
    release(&run.client(0), tenants, args.noisy_running).await?;
    printer.note("with the noisy neighbour …");
    let (with, with_took) = phase(run, args, tenants, args.time, &mut starts, printer).await?;
    let left = run.client(0).get_namespace(&tenants.noisy).await?.usage.unwrap_or_default();
    printer.note(&format!("{} tasks of the backlog still wait; ending them …", left.ready));
    run.client(0).drain_namespace(&tenants.noisy, true).await?;
    gone(&run.client(0), &tenants.noisy).await?;
    run.client(0).create_namespace(&tenants.noisy, WEIGHT).await?;
    printer.note("the quiet tenant alone again …");
    let (again, again_took) = phase(run, args, tenants, args.time, &mut starts, printer).await?;
    without.merge(again);
    took += again_took;
    if left.ready == 0 {
        return Err(Failure::Usage("the backlog was used up before the end: allow more, or less time".into()));
    }
    let (without, with) = (without.report("start, alone", 1, took), with.report("start, beside a backlog", 1, with_took));
    let ratio = f64::from(with.median()) / f64::from(without.median().max(1));
    Ok((without, with, ratio))
}

/// Waits until a namespace that drains is gone.
async fn gone(client: &Client, name: &str) -> Result<(), Failure> {
    while client.list_namespaces().await?.iter().any(|namespace| namespace.name == name) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Enqueues the quiet tenant's tasks at the rate for this long, and gathers when each started. Ends when all have, or after a minute more.
async fn phase(
    run: &Arc<Run>,
    args: &BenchArgs,
    tenants: &Tenants,
    time: Duration,
    starts: &mut mpsc::UnboundedReceiver<Duration>,
    printer: Printer,
) -> Result<(Samples, Duration), Failure> {
    let begin = tokio::time::Instant::now();
    let mut progress = tokio::time::interval_at(begin + PROGRESS_EVERY, PROGRESS_EVERY);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate(args));
    let mut requests = JoinSet::new();
    let mut samples = Samples::default();
    let mut number = 0;
    while begin.elapsed() < time {
        tokio::select! {
            _ = ticks.tick() => {
                let (client, namespace) = (run.client(number), tenants.quiet.clone());
                let task = task(&run.stamped(Instant::now()));
                requests.spawn(async move { enqueue(&client, &namespace, vec![task]).await });
                number += 1;
            }
            Some(delay) = starts.recv() => samples.record(delay),
            _ = progress.tick() => {
                printer.note(&format!("  {} s of {} s", begin.elapsed().as_secs(), time.as_secs()));
            }
        }
    }
    let mut accepted = 0;
    while let Some(request) = requests.join_next().await {
        match request.map_err(|error| anyhow::anyhow!("{error}"))? {
            Ok(()) => accepted += 1,
            Err(error) => samples.fail(error.reason()),
        }
    }
    let late = tokio::time::Instant::now() + Duration::from_secs(60);
    while samples.len() < accepted {
        match tokio::time::timeout_at(late, starts.recv()).await {
            Ok(Some(delay)) => samples.record(delay),
            Ok(None) | Err(_) => {
                samples.fail("NOT_STARTED_WITHIN_60_S");
                break;
            }
        }
    }
    Ok((samples, begin.elapsed()))
}

async fn enqueue(client: &Client, namespace: &str, tasks: Vec<TaskSpec>) -> Result<(), tarn_client::Error> {
    client.in_namespace(namespace).enqueue_batch(tasks).await.map(drop)
}

fn task(payload: &bytes::Bytes) -> TaskSpec {
    TaskSpec { queue: "bench".to_owned(), payload: payload.clone(), ..TaskSpec::default() }
}

/// Enqueues the backlog.
async fn fill(run: &Arc<Run>, namespace: &str, backlog: usize, printer: Printer) -> Result<(), Failure> {
    let (size, at_once) = FILL;
    let mut told = Instant::now();
    let mut left = backlog;
    let mut requests: JoinSet<Result<(), tarn_client::Error>> = JoinSet::new();
    let mut number = 0;
    loop {
        while left > 0 && requests.len() < at_once {
            let tasks = vec![task(&run.payload); left.min(size)];
            left -= tasks.len();
            number += 1;
            let (client, namespace) = (run.client(number), namespace.to_owned());
            requests.spawn(async move { enqueue(&client, &namespace, tasks).await });
        }
        match requests.join_next().await {
            Some(request) => request.map_err(|error| anyhow::anyhow!("{error}"))??,
            None => return Ok(()),
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            printer.note(&format!("  {} of {backlog} tasks", backlog - left));
        }
    }
}

/// One worker with so many slots. Tells how long each of the quiet tenant's tasks waited, and completes every task after it was held.
async fn worker(
    run: Arc<Run>,
    number: usize,
    slots: u32,
    hold: Duration,
    tenants: Arc<Tenants>,
    started: mpsc::UnboundedSender<Duration>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let failed = |status: tonic::Status| Failure::from(anyhow::anyhow!("{status}"));
    let mut service = WorkerServiceClient::new(run.channel(number)).max_decoding_message_size(64 << 20);
    let registration = proto::RegisterWorkerRequest {
        name: format!("bench-fair-{number}"),
        capabilities: Some(WorkerCapabilities { namespaces: vec![tenants.quiet.clone(), tenants.noisy.clone()], ..Default::default() }),
        ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    let worker_id = service.register_worker(registration).await.map_err(failed)?.into_inner().worker_id;
    let alive = keep_alive(run.client(number), worker_id.clone());
    let alive = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(alive));
    let (sender, receiver) = mpsc::channel(MESSAGES);
    let message = |message| WorkRequest { correlation: 0, message: Some(message) };
    for first in
        [work_request::Message::Open(WorkOpen { worker_id: worker_id.clone(), lease_ms: LEASE_MS }), work_request::Message::Credit(slots)]
    {
        let _ = sender.send(message(first)).await;
    }
    let mut stream = service.work(ReceiverStream::new(receiver)).await.map_err(failed)?.into_inner();
    while let Some(Ok(Some(response))) = stop.run_until_cancelled(stream.message()).await {
        match response.message {
            Some(work_response::Message::Task(task)) => {
                let due = task.spec.as_ref().and_then(|spec| run.due(&spec.payload));
                if let Some(due) = due.filter(|_| task.namespace == tenants.quiet) {
                    let _ = started.send(due.elapsed());
                }
                let complete =
                    CompleteTaskRequest { namespace: task.namespace, task_id: task.task_id, token: task.token, ..Default::default() };
                let sender = sender.clone();
                let hold = hold.mul_f64(rand::random_range(HELD));
                tokio::spawn(async move {
                    tokio::time::sleep(hold).await;
                    let _ = sender.send(message(work_request::Message::Complete(complete))).await;
                });
            }
            // The slot is free, whatever became of the report.
            Some(work_response::Message::Completed(_) | work_response::Message::Rejected(_)) => {
                let _ = sender.send(message(work_request::Message::Credit(1))).await;
            }
            _ => {}
        }
    }
    drop(alive);
    run.client(number).drain_worker(worker_id).await?;
    Ok(())
}

/// Keeps a registration alive until it is aborted.
async fn keep_alive(client: Client, worker_id: String) {
    loop {
        tokio::time::sleep(TTL / 3).await;
        // Should the cluster forget the worker, its stream ends.
        let _ = client.heartbeat_worker(worker_id.as_str()).await;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn a_backlog_that_would_be_used_up_is_refused_with_what_is_needed() {
        let checked = |line: &str| check(&Line::parse_from(line.split(' ')).args);
        assert!(checked("fair fair").is_ok(), "the defaults suffice");
        let refused = checked("fair fair --workers 2 --credit 10 --hold 100ms --time 10s --backlog 100").unwrap_err();
        assert!(refused.to_string().contains("--backlog 2020"), "{refused}");
        assert!(checked("fair fair --workers 2 --credit 10 --hold 100ms --time 10s --backlog 2020").is_ok());
        assert!(checked("fair fair --noisy-running 1 --time 10s --backlog 101").is_ok());
    }
}

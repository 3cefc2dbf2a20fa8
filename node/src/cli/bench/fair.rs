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
    self as proto, CompleteTaskRequest, TaskSpec, WorkOpen, WorkRequest, WorkerCapabilities, work_request,
    work_response,
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
/// Longer than any run: registration needs no heartbeats.
const TTL_MS: u64 = 3_600_000;
/// Room in a worker's stream.
const MESSAGES: usize = 1_024;

/// The tenants' names, new for each run.
struct Tenants {
    quiet: String,
    noisy: String,
}

/// Measures, and takes the namespaces away again.
pub async fn run(run: &Arc<Run>, args: &BenchArgs, printer: Printer) -> Result<(), Failure> {
    let client = run.client(0);
    let tenants = Arc::new(Tenants {
        quiet: format!("{}-quiet", run.queue),
        noisy: format!("{}-noisy", run.queue),
    });
    for name in [&tenants.quiet, &tenants.noisy] {
        let quotas = (*name == tenants.noisy && args.noisy_running > 0).then(|| proto::Quotas {
            max_running: Some(args.noisy_running),
            ..Default::default()
        });
        let request = proto::CreateNamespaceRequest {
            name: name.clone(),
            quotas,
            ..Default::default()
        };
        client.create_namespace_with(request).await?;
    }
    let measured = measure(run, args, &tenants, printer).await;
    for name in [&tenants.quiet, &tenants.noisy] {
        client.drain_namespace(name, true).await?;
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

fn rate(args: &BenchArgs) -> u32 {
    args.rate.unwrap_or(100).max(1)
}

/// The two reports, and the ratio of their medians.
async fn measure(
    run: &Arc<Run>,
    args: &BenchArgs,
    tenants: &Arc<Tenants>,
    printer: Printer,
) -> Result<(Report, Report, f64), Failure> {
    let stop = CancellationToken::new();
    let (started, mut starts) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for number in 0..args.workers.max(1) {
        workers.spawn(worker(run.clone(), number, args.credit.max(1), args.hold, tenants.clone(), started.clone(), stop.clone()));
    }
    drop(started);
    // What the first tasks cost alone, connections and queues, is nobody's delay.
    phase(run, args, tenants, Duration::from_secs(1), &mut starts).await?;
    printer.note("the quiet tenant alone …");
    let (mut without, mut took) = phase(run, args, tenants, args.time, &mut starts).await?;
    printer.note(&format!("filling a backlog of {} tasks …", args.backlog));
    fill(run, &tenants.noisy, args.backlog).await?;
    printer.note("with the noisy neighbour …");
    let (with, with_took) = phase(run, args, tenants, args.time, &mut starts).await?;
    let left = run.client(0).get_namespace(&tenants.noisy).await?.usage.unwrap_or_default();
    printer.note(&format!("{} tasks of the backlog still wait; ending them …", left.ready));
    run.client(0).drain_namespace(&tenants.noisy, true).await?;
    gone(&run.client(0), &tenants.noisy).await?;
    run.client(0).create_namespace(&tenants.noisy, 100).await?;
    printer.note("the quiet tenant alone again …");
    let (again, again_took) = phase(run, args, tenants, args.time, &mut starts).await?;
    without.merge(again);
    took += again_took;
    stop.cancel();
    while workers.join_next().await.is_some() {}
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
) -> Result<(Samples, Duration), Failure> {
    let begin = tokio::time::Instant::now();
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
    TaskSpec {
        queue: "bench".to_owned(),
        payload: payload.clone(),
        ..TaskSpec::default()
    }
}

/// Enqueues the backlog.
async fn fill(run: &Arc<Run>, namespace: &str, backlog: usize) -> Result<(), Failure> {
    let (size, at_once) = FILL;
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
        capabilities: Some(WorkerCapabilities {
            namespaces: vec![tenants.quiet.clone(), tenants.noisy.clone()],
            ..Default::default()
        }),
        ttl_ms: TTL_MS,
        ..Default::default()
    };
    let worker_id = service.register_worker(registration).await.map_err(failed)?.into_inner().worker_id;
    let (sender, receiver) = mpsc::channel(MESSAGES);
    let message = |message| WorkRequest {
        correlation: 0,
        message: Some(message),
    };
    for first in [
        work_request::Message::Open(WorkOpen { worker_id, lease_ms: TTL_MS }),
        work_request::Message::Credit(slots),
    ] {
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
                let complete = CompleteTaskRequest {
                    namespace: task.namespace,
                    task_id: task.task_id,
                    token: task.token,
                    ..Default::default()
                };
                let sender = sender.clone();
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
    Ok(())
}

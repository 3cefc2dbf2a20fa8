//! `tarn bench`: load against a running cluster.
//!
//! Clients enqueue in a closed loop, each its next batch as soon as the last is acknowledged, or at a fixed rate all together. With
//! `work`, workers lease and complete what the clients enqueue over the streams that SDK workers use. A latency is measured from the moment
//! at which an operation was due, so that a cluster that stalls cannot hide its stall by slowing the clients down.
//!
//! ```text
//! clients ── enqueue ──► cluster ── lease ──► workers
//!    ▲                      ▲                    │
//!    └─ outstanding permits └───── complete ─────┘
//! ```

mod beat;
mod clients;
mod fair;
mod memory;
mod report;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tarn_client::Client;
use tarn_client::tls::{self, Credentials, Expect};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::connect::{ConnectArgs, parse_count, parse_duration};
use super::exit::Failure;
use super::output::{Printer, table};
use report::{Report, Samples};

/// Load against a running cluster.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tarn bench enqueue --clients 64 --payload 256 --time 10s
  tarn bench work --clients 64 --workers 8 --outstanding 1024 --time 30s -o json
  tarn bench work --rate 500 --time 30s                  at a fixed rate, for latency
  tarn bench put --clients 64 --time 10s                 keys of a context: puts
  tarn bench get --clients 64 --time 10s                 and reads that see every put acknowledged before
  tarn bench fair --backlog 1000000 --rate 100 --time 30s")]
pub struct BenchArgs {
    /// What to do
    #[arg(value_enum)]
    load: Load,
    /// Clients that enqueue at once
    #[arg(long, default_value = "64", value_parser = parse_count)]
    clients: usize,
    /// Connections that the clients share
    #[arg(long, default_value = "6", value_parser = parse_count)]
    connections: usize,
    /// Tasks in one enqueue request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Payload of a task, in bytes
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// Worker streams, for `work`
    #[arg(long, default_value = "6", value_parser = parse_count)]
    workers: usize,
    /// Tasks that one worker holds at once
    #[arg(long, default_value_t = 64)]
    credit: u32,
    /// Tasks that are accepted but not completed, at most; clients wait beyond
    #[arg(long, default_value_t = 1_024)]
    outstanding: usize,
    /// Tasks, puts or gets a second, all clients together, instead of as many as possible
    #[arg(long)]
    rate: Option<u32>,
    /// How long to generate load
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    time: Duration,
    /// For `fair`: tasks that the neighbour has waiting
    #[arg(long, default_value = "1000000", value_parser = parse_count)]
    backlog: usize,
    /// For `fair`: how long a task keeps its slot, on average; there are as many slots as workers times credit
    #[arg(long, default_value = "200ms", value_parser = parse_duration)]
    hold: Duration,
    /// For `fair`: the neighbour's quota max_running; 0: none
    #[arg(long, default_value_t = 0)]
    noisy_running: u64,
    /// The queue; a name of its own for each run if left out
    #[arg(long)]
    queue: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// Enqueue only; purge the queue afterwards with `tarn queue purge`
    Enqueue,
    /// Enqueue, lease and complete, end to end
    Work,
    /// Put keys into a context of its own, which is deleted afterwards
    Put,
    /// Read keys, each read certain to see what was acknowledged before it
    Get,
    /// How long a tenant's tasks wait for their start, without and with a neighbour that has a backlog; creates two namespaces for it
    Fair,
}

/// What clients and workers of one run share.
struct Run {
    /// One connection each, for those who enqueue.
    clients: Vec<Client>,
    /// The connections of the workers' streams.
    channels: Vec<Channel>,
    namespace: String,
    queue: String,
    payload: Bytes,
    batch: u32,
    /// One permit for each task that may be outstanding.
    outstanding: Arc<Semaphore>,
    /// Ends the clients' loops.
    end: CancellationToken,
    /// When payloads' time stamps count from.
    epoch: Instant,
}

impl Run {
    fn client(&self, number: usize) -> Client {
        self.clients[number % self.clients.len()].clone()
    }

    fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// A payload that says when its task was due: microseconds since the epoch, then filling.
    fn stamped(&self, due: Instant) -> Bytes {
        let mut payload = self.payload.to_vec();
        let stamp = u64::try_from(due.duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX);
        payload[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
        payload.into()
    }

    /// When the task with this payload was due; `None` for a payload of somebody else's.
    fn due(&self, payload: &[u8]) -> Option<Instant> {
        let stamp = payload.get(..STAMP_BYTES)?.try_into().ok()?;
        self.epoch.checked_add(Duration::from_micros(u64::from_le_bytes(stamp)))
    }
}

/// Room for the time stamp in a payload.
const STAMP_BYTES: usize = 8;

/// Runs `tarn bench …`.
pub async fn run(args: BenchArgs, connect: &ConnectArgs, printer: Printer) -> Result<(), Failure> {
    if args.payload < STAMP_BYTES {
        return Err(Failure::Usage(format!("--payload must be at least {STAMP_BYTES} bytes: a time stamp goes into it")));
    }
    let (credentials, addresses, namespace) = connect.resolved()?;
    let run = Arc::new(Run {
        clients: clients(&credentials, &addresses, &namespace, args.connections)?,
        channels: channels(&credentials, &addresses).await?,
        namespace,
        queue: args.queue.clone().unwrap_or_else(|| format!("bench-{:08x}", rand::random::<u32>())),
        payload: vec![b'x'; args.payload].into(),
        batch: args.batch,
        outstanding: Arc::new(Semaphore::new(args.outstanding.max(args.batch as usize))),
        end: CancellationToken::new(),
        epoch: Instant::now(),
    });
    printer.note(&format!("load for {:?} on queue {} …", args.time, run.queue));
    let reports = match args.load {
        Load::Enqueue => vec![enqueue(&run, &args).await],
        Load::Work => work(&run, &args).await?,
        Load::Put => vec![memory::put(&run, args.clients, args.rate, args.time).await?],
        Load::Get => vec![memory::get(&run, args.clients, args.rate, args.time).await?],
        Load::Fair => return fair::run(&run, &args, printer).await,
    };
    let value = serde_json::json!({
        "queue": run.queue,
        "clients": args.clients,
        "connections": args.connections,
        "workers": args.workers,
        "outstanding": args.outstanding,
        "batch": args.batch,
        "payload_bytes": args.payload,
        "rate": args.rate,
        "results": reports.iter().map(Report::to_json).collect::<Vec<_>>(),
    });
    printer.note(reports.iter().map(Report::failures).collect::<String>().trim_end());
    printer.value(&value, || table(&Report::HEAD, reports.iter().map(Report::row)))
}

fn clients(credentials: &Credentials, addresses: &[String], namespace: &str, count: usize) -> Result<Vec<Client>, Failure> {
    let client = || Client::builder().addresses(addresses).credentials(credentials.clone()).namespace(namespace).connect_lazy();
    Ok((0..count.max(1)).map(|_| client()).collect::<Result<_, _>>()?)
}

/// Connections to the leader, where its address is known, and otherwise to every address: as SDK clients end up.
async fn channels(credentials: &Credentials, addresses: &[String]) -> Result<Vec<Channel>, Failure> {
    let leader = leader(credentials, addresses).await?;
    let addresses = leader.as_ref().map_or(addresses, std::slice::from_ref);
    let config = tls::client_config(credentials, Expect::AnyNode);
    let mut channels = Vec::new();
    for address in addresses {
        let address = address.parse().map_err(|error| Failure::Usage(format!("{address}: {error}")))?;
        channels.push(tls::connect_lazy(&address, config.clone(), &tls::ConnectOptions::default()));
    }
    Ok(channels)
}

/// The leader's address, if it is one of these.
async fn leader(credentials: &Credentials, addresses: &[String]) -> Result<Option<String>, Failure> {
    let client = Client::builder().addresses(addresses).credentials(credentials.clone()).connect_lazy()?;
    let members = client.cluster().await?.members;
    let leader = members.into_iter().find(|member| member.leader);
    Ok(leader.map(|leader| leader.address).filter(|address| addresses.contains(address)))
}

/// Lets clients enqueue for the run's time; nobody takes the tasks, so permits are not given back to them by workers.
async fn enqueue(run: &Arc<Run>, args: &BenchArgs) -> Report {
    let (start, beat) = (Instant::now(), beat::Beat::start(args.rate, args.batch, run.end.clone()));
    let clients = clients::start(run, args.clients, &beat, clients::Permits::Kept);
    tokio::time::sleep(args.time).await;
    run.end.cancel();
    let samples = clients::gather(clients, &beat).await;
    samples.report("enqueue", u64::from(args.batch), start.elapsed())
}

/// Lets clients enqueue and workers complete for the run's time, then waits until everything accepted is completed.
async fn work(run: &Arc<Run>, args: &BenchArgs) -> Result<Vec<Report>, Failure> {
    let stop_workers = CancellationToken::new();
    let workers = workers::start(run, args.workers, args.credit, &stop_workers).await?;
    let (start, beat) = (Instant::now(), beat::Beat::start(args.rate, args.batch, run.end.clone()));
    let clients = clients::start(run, args.clients, &beat, clients::Permits::Spent);
    tokio::time::sleep(args.time).await;
    run.end.cancel();
    let enqueued = clients::gather(clients, &beat).await;
    let enqueue_took = start.elapsed();
    // Every permit is back once every accepted task is completed.
    let all = u32::try_from(args.outstanding.max(args.batch as usize)).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(Duration::from_secs(60), run.outstanding.acquire_many(all)).await.is_ok();
    let took = start.elapsed();
    stop_workers.cancel();
    let mut completed = Samples::default();
    for worker in workers {
        completed.merge(worker.await.unwrap_or_default());
    }
    if !drained {
        completed.fail("NOT_COMPLETED_WITHIN_60_S");
    }
    let accepted = enqueued.len() as u64 * u64::from(args.batch);
    if drained && completed.len() as u64 != accepted {
        completed.fail(&format!("ACCEPTED_{accepted}_COMPLETED_{}", completed.len()));
    }
    Ok(vec![enqueued.report("enqueue", u64::from(args.batch), enqueue_took), completed.report("enqueue to completed", 1, took)])
}

//! From the start of the processes to the first accepted operation, and the servers' memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tarn_client::{Client, Task};

use crate::args::Args;
use crate::record::Record;
use crate::scenario::Scenario;
use crate::sink::Sink;
use crate::system::System;
use crate::tarn::Tarn;
use crate::usage::memory;

/// How long a system is left alone before its idle memory is read.
const IDLE_FOR: Duration = Duration::from_secs(3);
/// How long the first operation may take.
const SERVES_WITHIN: Duration = Duration::from_secs(300);
/// How long one try at it may take, and the pause after one that failed.
const TRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(2));
/// Nodes of each system.
const NODES: usize = 3;
/// Memory is said for so many queued tasks.
const MEMORY_OF: usize = 100_000;

/// Runs the rounds.
///
/// # Errors
/// If results cannot be written.
pub async fn run(args: &Args, sink: &mut Sink) -> Result<()> {
    for round in 1..=args.rounds() {
        for system in args.systems(Scenario::Start) {
            sink.note(&format!("start round {round} of {}: {}", args.rounds(), system.name()));
            take(sink, "empty", system, round, empty(system, args).await)?;
            if system == System::Tarn {
                take(sink, "restarted", system, round, filled(args).await)?;
            }
        }
    }
    Ok(())
}

/// Figures and facts by name.
type Measured = (BTreeMap<&'static str, f64>, Vec<(&'static str, String)>);

fn take(sink: &mut Sink, case: &str, system: System, round: usize, measured: Result<Measured>) -> Result<()> {
    let mut record = Record::new(Scenario::Start, case, system.name(), round);
    match measured {
        Ok((figures, facts)) => (record.figures, record.facts) = (figures, facts.into_iter().collect()),
        Err(error) => record.failed = Some(format!("{error:#}")),
    }
    sink.take(record)
}

/// A new cluster: until all nodes serve, forming the cluster included, and then its memory.
async fn empty(system: System, args: &Args) -> Result<Measured> {
    let (mut figures, began) = (BTreeMap::new(), Instant::now());
    let (_dir, running) = system.start(args).await?;
    figures.insert("new_cluster_serves_after_s", began.elapsed().as_secs_f64());
    tokio::time::sleep(IDLE_FOR).await;
    let used = memory(&running.pids()?)?;
    figures.insert("idle_resident_mib_per_node", mib(used.resident) / NODES as f64);
    figures.insert("idle_own_memory_mib_per_node", mib(used.anonymous) / NODES as f64);
    Ok((figures, running.facts()))
}

/// tarn alone: all nodes are killed and started again, empty and with many tasks queued.
async fn filled(args: &Args) -> Result<Measured> {
    let dir = args.data_dir()?;
    let mut tarn = Tarn::create(&args.tarn, dir.path(), NODES)?;
    let mut figures = BTreeMap::new();
    figures.insert("new_cluster_accepts_after_s", start_all(&mut tarn).await?);
    kill_all(&mut tarn)?;
    figures.insert("empty_accepts_after_s", start_all(&mut tarn).await?);
    tokio::time::sleep(IDLE_FOR).await;
    let before = memory(&tarn.pids()?)?;
    let tasks = args.backlogs()[1];
    // A queue takes a million, and the first tasks are in it.
    tarn.fill("backlog", tasks - tasks / 100, args.payload).await?;
    tarn.fill("backlog-beside", tasks / 100, args.payload).await?;
    tokio::time::sleep(IDLE_FOR).await;
    let after = memory(&tarn.pids()?)?;
    let each = |bytes: u64| mib(bytes) / NODES as f64 / (tasks as f64 / MEMORY_OF as f64);
    figures.insert("own_memory_mib_per_100000_queued", each(after.anonymous.saturating_sub(before.anonymous)));
    kill_all(&mut tarn)?;
    figures.insert("with_backlog_accepts_after_s", start_all(&mut tarn).await?);
    tokio::time::sleep(IDLE_FOR).await;
    let again = memory(&tarn.pids()?)?;
    figures.insert("own_memory_mib_per_100000_after_restart", each(again.anonymous.saturating_sub(before.anonymous)));
    figures.insert("backlog_tasks", tasks as f64);
    Ok((figures, tarn.facts()))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn kill_all(tarn: &mut Tarn) -> Result<()> {
    let cluster = tarn.cluster();
    cluster.ids().into_iter().try_for_each(|id| cluster.kill_node(id))
}

/// Starts all nodes, and says after how many seconds the first task was accepted.
async fn start_all(tarn: &mut Tarn) -> Result<f64> {
    let client = tarn.clients(1)?.remove(0).with_deadline(TRY.0);
    let began = Instant::now();
    let cluster = tarn.cluster();
    cluster.ids().into_iter().try_for_each(|id| cluster.start_node(id))?;
    first_accepted(&client, began).await
}

async fn first_accepted(client: &Client, began: Instant) -> Result<f64> {
    loop {
        match client.enqueue(Task::new("first")).await {
            Ok(_) => return Ok(began.elapsed().as_secs_f64()),
            Err(error) if began.elapsed() > SERVES_WITHIN => bail!("nothing was accepted within {SERVES_WITHIN:?}: {error}"),
            Err(_) => tokio::time::sleep(TRY.1).await,
        }
    }
}

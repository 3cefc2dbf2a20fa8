//! How tarn's work queue changes as the cluster fills and grows: with a backlog, with more nodes, larger payloads, many namespaces.
//!
//! Each is measured twice: as many tasks as possible, and at a fixed rate for latency. One thing at a time differs from three nodes,
//! nothing queued, the usual payload and one namespace.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;

use crate::args::Args;
use crate::measure::Load;
use crate::record::Record;
use crate::rounds::undisturbed;
use crate::scenario::{self, Scenario};
use crate::sink::Sink;
use crate::system::{System, started};
use crate::tarn::{Consumer, Lane, Tarn};
use crate::usage::Meter;

/// Tasks a second where latency is measured.
const LATENCY_RATE: u32 = 500;
/// Workers, as in the comparison's largest case.
const WORKERS: usize = 64;
/// The queue of the backlog.
const BACKLOG: &str = "backlog";
/// Of this many tasks of a backlog one lies in a queue beside: a queue takes a million, and the load needs room in it.
const BESIDE: usize = 100;
/// Namespaces where there are many.
const NAMESPACES: usize = 1_000;
/// Namespaces that are made at once.
const MADE_AT_ONCE: usize = 16;
/// How much of one core all nodes together use, at most, when their engines have merged what came: somewhat more than when they are idle.
const SETTLED_CORES_MAX: f64 = 0.15;
/// How long that is looked at, and after how many looks it is not waited for any more.
const LOOK: Duration = Duration::from_secs(2);
const LOOKS_MAX: usize = 90;
/// Numbers of nodes beside the usual three.
const NODES: [usize; 2] = [1, 5];
/// Payloads beside the usual one, in bytes.
const PAYLOADS: [usize; 2] = [4 << 10, 64 << 10];

/// Runs the rounds.
///
/// # Errors
/// If results cannot be written.
pub async fn run(args: &Args, sink: &mut Sink) -> Result<()> {
    for round in 1..=args.rounds() {
        sink.note(&format!("growth round {round} of {}", args.rounds()));
        let mut growth = Growth { args, sink, round };
        growth.attempt("backlog", backlog).await?;
        for nodes in NODES {
            growth.attempt("nodes", async |growth| growth.with_nodes(nodes).await).await?;
        }
        growth.attempt("payloads", payloads).await?;
        growth.attempt("namespaces", namespaces).await?;
    }
    Ok(())
}

/// One round.
struct Growth<'a> {
    args: &'a Args,
    sink: &'a mut Sink,
    round: usize,
}

impl Growth<'_> {
    /// One part of a round. That it fails is a result.
    async fn attempt(&mut self, what: &str, part: impl AsyncFnOnce(&mut Self) -> Result<()>) -> Result<()> {
        match part(self).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let record = Record::new(Scenario::Growth, what, System::Tarn.name(), self.round);
                self.sink.take(Record { failed: Some(format!("{error:#}")), ..record })
            }
        }
    }

    /// Both loads in one surrounding.
    async fn measure(&mut self, tarn: &Tarn, name: &str, lane: &Lane, payload: usize) -> Result<()> {
        let most = Load { workers: WORKERS, payload, ..scenario::base(self.args) };
        let steady = Load { rate: Some(LATENCY_RATE), ..most.clone() };
        for (name, load) in [(name.to_owned(), most), (format!("{name}, {LATENCY_RATE}/s"), steady)] {
            let mut record = Record::new(Scenario::Growth, &name, System::Tarn.name(), self.round);
            record.facts = tarn.facts().into_iter().collect();
            let run = async |load: &Load| Ok((tarn.work_in(load, Consumer::Stream, lane.clone()).await?, tarn.pids()?));
            let record = undisturbed(record, &load, self.args, run).await;
            self.sink.take(record)?;
        }
        Ok(())
    }

    async fn with_nodes(&mut self, nodes: usize) -> Result<()> {
        let (_dir, tarn) = cluster(self.args, nodes).await?;
        let name = format!("{nodes} node{}", if nodes == 1 { "" } else { "s" });
        self.measure(&tarn, &name, &Lane::default(), self.args.payload).await
    }
}

/// A new cluster. The folder outlives the processes where it is bound first.
async fn cluster(args: &Args, nodes: usize) -> Result<(TempDir, Tarn)> {
    started(args, async |dir| Tarn::start(&args.tarn, dir, nodes).await).await
}

/// With nothing queued, and with ever more tasks that are ready and that none of the load's workers can run, in the load's queue and in others:
/// as soon as these are queued, and for the most of them once more when the engines have merged them.
async fn backlog(growth: &mut Growth<'_>) -> Result<()> {
    let (_dir, tarn) = cluster(growth.args, 3).await?;
    let payload = growth.args.payload;
    growth.measure(&tarn, "3 nodes, nothing queued", &Lane::default(), payload).await?;
    let same = Lane { queue: Some(BACKLOG.to_owned()), ..Lane::default() };
    let mut queued = 0;
    for tasks in growth.args.backlogs() {
        growth.sink.note(&format!("  queueing {} more tasks", tasks - queued));
        let (more, beside) = (tasks - queued, (tasks - queued) / BESIDE);
        tarn.fill(BACKLOG, more - beside, payload).await?;
        tarn.fill(&format!("{BACKLOG}-beside"), beside, payload).await?;
        queued = tasks;
        growth.measure(&tarn, &format!("{tasks} queued elsewhere"), &Lane::default(), payload).await?;
        growth.measure(&tarn, &format!("{tasks} queued in the same queue"), &same, payload).await?;
    }
    growth.sink.note("  waiting until the nodes have merged them");
    settled().await?;
    growth.measure(&tarn, &format!("{queued} queued in the same queue, and merged"), &same, payload).await
}

/// Waits until the nodes are nearly idle.
async fn settled() -> Result<()> {
    for _ in 0..LOOKS_MAX {
        let (meter, now) = (Meter::default(), Instant::now());
        meter.watch(now, now + LOOK);
        if meter.read().await?.servers <= SETTLED_CORES_MAX {
            return Ok(());
        }
    }
    anyhow::bail!("after {} s the nodes were still busy", LOOK.as_secs() * LOOKS_MAX as u64)
}

async fn payloads(growth: &mut Growth<'_>) -> Result<()> {
    let (_dir, tarn) = cluster(growth.args, 3).await?;
    for payload in PAYLOADS {
        growth.measure(&tarn, &format!("{} KiB payloads", payload >> 10), &Lane::default(), payload).await?;
    }
    Ok(())
}

async fn namespaces(growth: &mut Growth<'_>) -> Result<()> {
    let (_dir, tarn) = cluster(growth.args, 3).await?;
    let client = tarn.clients(1)?.remove(0);
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("tenant-{number}")).collect();
    let made = stream::iter(names.clone()).map(|name| client.create_namespace(name, 0)).buffer_unordered(MADE_AT_ONCE);
    made.try_for_each(|_| async { Ok(()) }).await?;
    let lane = Lane { namespaces: names, ..Lane::default() };
    growth.measure(&tarn, &format!("{NAMESPACES} namespaces"), &lane, growth.args.payload).await
}

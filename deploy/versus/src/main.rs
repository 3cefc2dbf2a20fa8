//! The same machine, the same run: durable work on tarn beside puts on etcd.
//!
//! A round starts a fresh three-node cluster of each on loopback, in turn, runs the load, and ends it. tarn runs with mutual post-quantum TLS,
//! etcd without any TLS. For tarn a task counts when its three steps, enqueue, lease and complete, have each been acknowledged by a majority
//! after fsync; for etcd a put counts when it has been acknowledged so once.

mod etcd;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tarn_local::LocalCluster;

/// Durable work on three nodes of tarn beside puts on three nodes of etcd, in turns on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "deploy/bench")]
struct Args {
    /// Rounds; medians are over these
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load for each system in each round
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Clients at once
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections that the clients share
    #[arg(long, default_value_t = 6)]
    connections: usize,
    /// Bytes of payload
    #[arg(long, default_value_t = 256)]
    payload: usize,
    /// One JSON line for each measurement instead of the table
    #[arg(long)]
    json: bool,
    /// The tarn binary
    #[arg(long, hide = true)]
    tarn: PathBuf,
}

/// One measurement.
struct Measured {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Measured {
    fn new(mut micros: Vec<u32>, took: Duration) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| micros.get((micros.len() * percent / 100).min(micros.len().saturating_sub(1))).copied().unwrap_or(0);
        Self { per_second: micros.len() as f64 / took.as_secs_f64(), p50_ms: f64::from(at(50)) / 1e3, p99_ms: f64::from(at(99)) / 1e3 }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let mut tarn = Vec::new();
    let mut etcd = Vec::new();
    for round in 1..=args.rounds {
        etcd.push(etcd_round(args).await?);
        tarn.push(tarn_round(args).await?);
        report_round(args, round, "etcd puts", etcd.last());
        report_round(args, round, "tarn tasks", tarn.last());
    }
    let (tarn, etcd) = (median(&mut tarn), median(&mut etcd));
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "medians": { "tarn_tasks_per_second": tarn, "etcd_puts_per_second": etcd, "ratio": tarn / etcd } })
        );
    } else {
        println!("median: tarn {tarn:.0} tasks/s, etcd {etcd:.0} puts/s, ratio {:.2}", tarn / etcd);
    }
    Ok(())
}

fn report_round(args: &Args, round: usize, what: &str, measured: Option<&Measured>) {
    let Some(Measured { per_second, p50_ms, p99_ms }) = measured else {
        return;
    };
    if args.json {
        let line = serde_json::json!({
            "round": round, "what": what, "per_second": per_second, "p50_ms": p50_ms, "p99_ms": p99_ms, "clients": args.clients,
            "connections": args.connections, "payload_bytes": args.payload, "seconds": args.seconds, "nodes": 3, "fsync": "majority, before acknowledgement",
        });
        println!("{line}");
    } else {
        println!("round {round}  {what:<10}  {per_second:>8.0}/s  p50 {p50_ms:>7.2} ms  p99 {p99_ms:>7.2} ms");
    }
}

async fn etcd_round(args: &Args) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let etcd = etcd::Etcd::start(dir.path()).await?;
    etcd.puts(args.clients, args.connections, args.payload, Duration::from_secs(args.seconds)).await
}

async fn tarn_round(args: &Args) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    // The executors have nothing to do here and would only be three more waiting workers.
    let mut cluster = LocalCluster::create(&args.tarn, dir.path(), 3, &[("executors.wasm", "false")])?;
    cluster.start().await?;
    let report = tarn_bench(args, &cluster, &args.tarn).await?;
    let whole = report["results"].as_array().and_then(|results| results.last()).context("tarn bench reported nothing")?;
    ensure!(whole["failures"].as_object().is_none_or(serde_json::Map::is_empty), "tarn bench met failures: {}", whole["failures"]);
    let number = |value: &serde_json::Value| value.as_f64().context("tarn bench reported no number");
    Ok(Measured {
        per_second: number(&whole["tasks_per_second"])?,
        p50_ms: number(&whole["latency_us"]["p50"])? / 1e3,
        p99_ms: number(&whole["latency_us"]["p99"])? / 1e3,
    })
}

/// Runs `tarn bench work` as a process of its own, as users do.
async fn tarn_bench(args: &Args, cluster: &LocalCluster, tarn: &Path) -> Result<serde_json::Value> {
    let [ca, certificate, key] = cluster.credential_files();
    let output = tokio::process::Command::new(tarn)
        .args(["bench", "work", "--output", "json", "--clients", &args.clients.to_string()])
        .args(["--connections", &args.connections.to_string(), "--payload", &args.payload.to_string()])
        .args(["--time", &format!("{}s", args.seconds), "--address", &cluster.addresses().join(",")])
        .arg("--cacert")
        .arg(ca)
        .arg("--cert")
        .arg(certificate)
        .arg("--key")
        .arg(key)
        .output()
        .await?;
    ensure!(output.status.success(), "tarn bench failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn median(rounds: &mut [Measured]) -> f64 {
    rounds.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    rounds.get(rounds.len() / 2).map_or(0.0, |measured| measured.per_second)
}

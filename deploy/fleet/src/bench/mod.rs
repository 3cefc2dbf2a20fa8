//! The bars of federation, measured with two clusters on this machine.

mod agree;
mod delay;
mod idle;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::side::{self, PLAN, Side, join, wait_for};
use report::Report;

/// What is measured, and how.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Rounds, each with clusters of its own; medians are over these
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Nodes of each cluster
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Changes a second that are offered, half of them at each cluster
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Seconds for which they are offered
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Different keys that these changes are of, at each cluster
    #[arg(long, default_value_t = 2_000)]
    keys: u64,
    /// Changes that each cluster takes while they are cut off from each other
    #[arg(long, default_value_t = 10_000)]
    changes: u64,
    /// Seconds of the cut, over which these changes are spread; the bar is meant for 600. 0: as short as they take
    #[arg(long, default_value_t = 0)]
    cut: u64,
    /// Seconds for which an idle link is looked at
    #[arg(long, default_value_t = 40)]
    idle: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// How to print the result
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
    /// Where the nodes keep their data and logs; a temporary folder, removed at the end, if left out
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What one round has measured.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    delay: delay::Delay,
    agree: agree::Agreed,
    idle: idle::Idle,
}

/// Measures, and prints.
///
/// # Errors
/// If the clusters do not start, refuse something, or do not come to agree.
pub async fn run(tarn: &Path, args: &BenchArgs) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        rounds.push(round(tarn, args, number).await?);
    }
    let report = Report::of(args, rounds);
    match args.output {
        Format::Text => print!("{}", report.text()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

async fn round(tarn: &Path, args: &BenchArgs, number: usize) -> Result<Round> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path()).join(number.to_string());
    let west = side::start(tarn, "west", args.nodes, &dir.join("west"), false).await?;
    let east = side::start(tarn, "east", args.nodes, &dir.join("east"), false).await?;
    join(&west, &east).await?;
    west.client.context(PLAN).put("begun", "yes", None).await?;
    west.client.share_context(PLAN, true).await?;
    east.client.share_context(PLAN, true).await?;
    wait_for(&east, "begun", "yes").await?;
    let sides = [west, east];
    let delay = delay::measure(args, &sides).await?;
    eprintln!("  {}", delay.text());
    let agree = agree::measure(args, &sides).await?;
    eprintln!("  {}", agree.text());
    let idle = idle::measure(args, &sides).await?;
    eprintln!("  {}", idle.text());
    Ok(Round { delay, agree, idle })
}

/// Bytes that went between them, both ways.
fn bytes(sides: &[Side; 2]) -> u64 {
    sides.iter().flat_map(|side| &side.wires).map(|wire| wire.bytes()).sum()
}

/// The value of this change: each its own.
fn payload(args: &BenchArgs, number: u64) -> Vec<u8> {
    let mut value = number.to_string().into_bytes();
    value.resize(args.payload.max(value.len()), b'.');
    value
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which so many of a thousand lie. 0 of none.
fn quantile(sorted: &[f64], thousandths: usize) -> f64 {
    let place = (sorted.len() * thousandths / 1_000).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

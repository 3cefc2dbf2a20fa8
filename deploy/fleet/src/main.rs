//! Two clusters of real nodes on this machine that federate: shown to people, and measured.

mod bench;
mod demo;
mod side;
mod wire;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Two clusters of real nodes on this machine that federate.
#[derive(Debug, Parser)]
#[command(name = "tarn-fleet")]
struct Cli {
    /// The tarn binary
    #[arg(long, hide = true)]
    tarn: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Two clusters share a context, hand work over, are cut off from each other, go on, and agree again
    #[command(name = "demo")]
    Demo(demo::DemoArgs),
    /// How soon changes arrive, how soon two clusters agree after a cut, and what an idle link costs
    #[command(name = "bench")]
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match &cli.command {
                Command::Demo(args) => demo::run(&cli.tarn, args).await,
                Command::Bench(args) => bench::run(&cli.tarn, args).await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

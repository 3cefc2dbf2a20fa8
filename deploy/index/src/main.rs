//! The demonstration: three real nodes index a folder of documents, and the index equals the one computed without tarn.

mod driver;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Three real nodes on this machine index a folder of documents, as one job of WASM tasks that depend on each other.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "deploy/demo",
    after_help = "\
Examples:
  deploy/demo                              the texts under /usr/share/common-licenses and /usr/share/doc
  deploy/demo --kill leader                with kill -9 on the leader in the middle
  deploy/demo ~/notes --query 'raft log'   your own documents and question
  deploy/demo --keep                       leave the cluster running until Enter is pressed, to look around with `tarn`
  deploy/demo --federation                 two clusters instead, which are cut off from each other (deploy/demo --federation --help)"
)]
pub struct Args {
    /// Folders of documents, instead of those that every Debian machine has
    folders: Vec<PathBuf>,
    /// Kill a node with SIGKILL in the middle, and start it again
    #[arg(long, value_enum)]
    kill: Option<Kill>,
    /// Index the first so many documents
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// Ask the index; can be given several times
    #[arg(long = "query", default_values = ["free software license", "redistribution without warranty", "bug fix release"])]
    queries: Vec<String>,
    /// Keep the cluster running at the end until Enter is pressed
    #[arg(long)]
    keep: bool,
    /// Where the nodes keep their data and logs; a temporary folder, removed at the end, if left out
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The tarn binary
    #[arg(long, hide = true)]
    tarn: PathBuf,
    /// The compiled guest
    #[arg(long, hide = true)]
    guest: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kill {
    /// The node that leads
    Leader,
    /// One that follows
    Follower,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(driver::run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

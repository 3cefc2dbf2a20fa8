//! The command line of `jepsen`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::checker::Outcome;
use crate::cluster::{Disk, Network, Shape};
use crate::coverage::{TESTS, covered};
use crate::recovery::{self, RecoveryOptions};
use crate::report::{Folder, Report};
use crate::run::{self, RunOptions, say};
use crate::soak::{self, SoakOptions};
use crate::{nemesis, workload};

const EXIT_CODES: &str = "\
Exit codes:
  0   valid: everything that clients saw is possible
  1   invalid: clients saw what no correct cluster shows
  2   unknown: the run proves nothing, because the cluster did not drain or a search was given up
  3   the harness or the machine failed, it was interrupted, or the command line is wrong; nothing is known about tarn
A soak ends with 1 if any run was invalid, else with 3 if any has no verdict or it was interrupted, else with the worst.
recovery ends with 0 if the median is at most 3 s, else with 1.";

const EXAMPLES: &str = "\
Examples:
  jepsen list                                                  workloads, nemeses, and what they cover
  jepsen run --workload queue --nemesis kill,partition         a minute of each, by turns and together
  jepsen run --workload register --nemesis all --time 10m --nodes 5
  jepsen run --workload federation --nemesis links,kill-leader --clusters 3 --nodes 1
  jepsen run --workload queue --nemesis kill --seed 7          the same schedule of faults again
  jepsen check jepsen-reports/20261121-101500-queue-kill-7     judge a stored history again
  jepsen soak --time 8h                                        all of them in turns, overnight
  jepsen recovery --kills 20                                   how soon writes return after the leader is killed";

/// Attacks clusters of real tarn processes with faults, and judges what their clients saw
#[derive(Debug, Parser)]
#[command(name = "jepsen", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How to print the result; progress follows on standard error
    #[arg(long, short, global = true, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attack one cluster, and judge what its clients saw
    Run(RunArgs),
    /// List workloads, nemeses, and the tests that they cover
    List,
    /// Judge a stored history again, and write its report anew
    Check {
        /// A report folder
        folder: PathBuf,
    },
    /// Run all workloads under all nemeses in turns, for hours
    Soak(SoakArgs),
    /// Kill leaders, and measure how soon a write is acknowledged again and what the time goes into
    #[command(after_help = "Exit codes: 0 if the median is at most 3 s, 1 if it is longer, 3 if nothing was measured")]
    Recovery(RecoveryArgs),
}

/// What every cluster is made of.
#[derive(Debug, Clone, Args)]
struct ClusterArgs {
    /// How many voters the cluster has at first
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// How the nodes reach each other: namespaces of their own (needs root), or loopback through a proxy
    #[arg(long, value_enum, default_value = "auto")]
    network: NetworkArg,
    /// The tarn binary [default: beside this one]
    #[arg(long, value_name = "PATH")]
    tarn: Option<PathBuf>,
    /// A setting for every node; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkArg {
    Auto,
    Namespaces,
    Loopback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LinksArg {
    Full,
    Line,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DiskArg {
    /// The failing file system where a nemesis needs it
    Auto,
    /// The machine's file system
    Plain,
    /// The failing file system
    Fuse,
}

#[derive(Debug, Clone, Args)]
struct RunArgs {
    /// What clients do; see `jepsen list`
    #[arg(long, short)]
    workload: String,
    /// Which faults are made, separated by commas; `all` is one of each kind, `none` is none
    #[arg(long, short, value_delimiter = ',', default_value = "none")]
    nemesis: Vec<String>,
    /// How long faults are made: 90s, 10m, 8h. A quarter of it is quiet
    #[arg(long, default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Decides the schedule of faults, their targets and the clients' choices [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients work at once
    #[arg(long, default_value_t = 10)]
    clients: u32,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How many clusters federate, each of so many nodes; for the workload federation
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=5))]
    clusters: u8,
    /// Which clusters reach each other: all, or each its neighbours
    #[arg(long, value_enum, default_value = "full")]
    links: LinksArg,
    /// What the nodes' data is on
    #[arg(long, value_enum, default_value = "auto")]
    disk: DiskArg,
    /// A second build of tarn, for rolling upgrades
    #[arg(long, value_name = "PATH")]
    tarn_next: Option<PathBuf>,
    /// Where the report folder is made
    #[arg(long, value_name = "DIR", default_value = "jepsen-reports")]
    out: PathBuf,
    /// Keep the nodes' data even if the run is valid
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Args)]
struct SoakArgs {
    /// For how long runs are begun: 30m, 8h
    #[arg(long, default_value = "8h", value_parser = duration)]
    time: Duration,
    /// How long each run makes faults
    #[arg(long, default_value = "60s", value_parser = duration)]
    each: Duration,
    /// Only these workloads, separated by commas [default: all]
    #[arg(long, short, value_delimiter = ',')]
    workload: Vec<String>,
    /// Only these nemeses, separated by commas [default: one of each kind]
    #[arg(long, short, value_delimiter = ',')]
    nemesis: Vec<String>,
    /// The first run's seed; the following runs count up from it [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients work at once
    #[arg(long, default_value_t = 10)]
    clients: u32,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// A second build of tarn, for rolling upgrades
    #[arg(long, value_name = "PATH")]
    tarn_next: Option<PathBuf>,
    /// Where the folder of this soak is made
    #[arg(long, value_name = "DIR", default_value = "jepsen-reports")]
    out: PathBuf,
}

#[derive(Debug, Clone, Args)]
struct RecoveryArgs {
    /// How often the leader is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() { NO_VERDICT } else { 0 };
        // Nothing can be done where even this cannot be printed.
        let _ = error.print();
        std::process::exit(code.into())
    });
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error,tarn_jepsen=warn".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(NO_VERDICT)
        }
    }
}

/// The exit code where nothing is known about tarn.
pub(crate) const NO_VERDICT: u8 = 3;

/// The exit code of a verdict.
pub(crate) fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Valid => 0,
        Outcome::Invalid => 1,
        Outcome::Unknown => 2,
    }
}

/// Does what the command line says, and returns the exit code.
async fn dispatch(cli: Cli) -> Result<u8> {
    let interrupt = interrupt()?;
    match cli.command {
        Command::Run(args) => {
            let finished = run::run(&run_options(args)?, &interrupt).await?;
            print_report(&finished.report, &finished.folder, cli.output)?;
            Ok(code(finished.report.outcome))
        }
        Command::List => {
            list(cli.output);
            Ok(code(Outcome::Valid))
        }
        Command::Check { folder } => {
            let folder = Folder::open(&folder);
            let report = run::check(&folder)?;
            print_report(&report, &folder, cli.output)?;
            Ok(code(report.outcome))
        }
        Command::Soak(args) => {
            let soaked = soak::soak(&soak_options(args)?, &interrupt).await?;
            match cli.output {
                Format::Text => print!("{}", soaked.text()),
                Format::Json => println!("{}", serde_json::to_string_pretty(&soaked)?),
            }
            Ok(soaked.code())
        }
        Command::Recovery(args) => {
            let measured = recovery::measure(&recovery_options(args)?, &interrupt).await?;
            match cli.output {
                Format::Text => print!("{}", measured.text()),
                Format::Json => println!("{}", serde_json::to_string_pretty(&measured)?),
            }
            Ok(u8::from(!measured.within_bar))
        }
    }
}

/// Cancelled by Ctrl-C or SIGTERM, so that whatever was done to the machine is taken back.
fn interrupt() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let interrupt = token.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut hang_up = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        say("interrupted: healing and ending all processes");
        interrupt.cancel();
    });
    Ok(token)
}

fn run_options(args: RunArgs) -> Result<RunOptions> {
    let seed = args.seed.unwrap_or_else(random_seed);
    let mut options = RunOptions {
        command: command_of(&args, seed),
        workload: args.workload,
        nemeses: Vec::new(),
        time: args.time,
        nodes: args.cluster.nodes.into(),
        clusters: args.clusters.into(),
        links: match args.links {
            LinksArg::Full => Shape::Full,
            LinksArg::Line => Shape::Line,
        },
        seed,
        clients: args.clients,
        network: network(args.cluster.network),
        disk: match args.disk {
            DiskArg::Auto => None,
            DiskArg::Plain => Some(Disk::Plain),
            DiskArg::Fuse => Some(Disk::Fuse),
        },
        tarn: tarn(args.cluster.tarn)?,
        tarn_next: args.tarn_next,
        out: args.out,
        settings: args.cluster.settings,
        keep: args.keep,
    };
    options.nemeses = chosen(args.nemesis, &options)?;
    Ok(options)
}

/// The nemeses that were asked for, with `all` and `none` spelt out.
fn chosen(names: Vec<String>, options: &RunOptions) -> Result<Vec<String>> {
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["none"] => Ok(Vec::new()),
        ["all"] => {
            let (usable, left_out) = run::all_nemeses(options);
            for reason in left_out {
                say(&format!("left out: {reason}"));
            }
            Ok(usable)
        }
        list if list.iter().any(|name| ["all", "none"].contains(name)) => {
            bail!("`all` and `none` stand alone, not in a list of nemeses")
        }
        _ => Ok(names),
    }
}

/// The command that does the same run again: with the seed, whether or not it was given.
fn command_of(args: &RunArgs, seed: u64) -> String {
    let mut words = vec![
        "jepsen run".to_owned(),
        format!("--workload {}", args.workload),
        format!("--nemesis {}", args.nemesis.join(",")),
        format!("--time {}s", args.time.as_secs()),
        format!("--nodes {}", args.cluster.nodes),
        format!("--clients {}", args.clients),
        format!("--seed {seed}"),
    ];
    if args.workload == workload::FEDERATION {
        words.push(format!("--clusters {}", args.clusters));
    }
    let names = [
        ("--links", value_name(args.links), "full"),
        ("--network", value_name(args.cluster.network), "auto"),
        ("--disk", value_name(args.disk), "auto"),
    ];
    words.extend(names.iter().filter(|(_, value, default)| value != default).map(|(flag, value, _)| format!("{flag} {value}")));
    words.extend(args.cluster.settings.iter().map(|(key, value)| format!("--set {key}={value}")));
    let paths = [("--tarn", &args.cluster.tarn), ("--tarn-next", &args.tarn_next)];
    words.extend(paths.iter().filter_map(|(flag, path)| Some(format!("{flag} {}", path.as_ref()?.display()))));
    words.join(" ")
}

fn value_name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn soak_options(args: SoakArgs) -> Result<SoakOptions> {
    let workloads =
        if args.workload.is_empty() { workload::names().iter().map(|(name, _)| (*name).to_owned()).collect() } else { args.workload };
    let seed = args.seed.unwrap_or_else(random_seed);
    let base = RunOptions {
        workload: String::new(),
        nemeses: Vec::new(),
        time: args.each,
        nodes: args.cluster.nodes.into(),
        clusters: 2,
        links: Shape::Full,
        seed,
        clients: args.clients,
        network: network(args.cluster.network),
        disk: None,
        tarn: tarn(args.cluster.tarn)?,
        tarn_next: args.tarn_next,
        out: args.out,
        settings: args.cluster.settings,
        keep: false,
        command: String::new(),
    };
    let names = if args.nemesis.is_empty() { vec!["all".to_owned()] } else { args.nemesis };
    let nemeses = chosen(names, &base)?;
    Ok(SoakOptions { time: args.time, workloads, nemeses, base })
}

fn recovery_options(args: RecoveryArgs) -> Result<RecoveryOptions> {
    ensure!(args.cluster.nodes >= 3, "with fewer than three nodes there is no majority without the leader");
    Ok(RecoveryOptions {
        kills: args.kills,
        nodes: args.cluster.nodes.into(),
        network: network(args.cluster.network),
        tarn: tarn(args.cluster.tarn)?,
        settings: args.cluster.settings,
    })
}

fn network(wanted: NetworkArg) -> Option<Network> {
    match wanted {
        NetworkArg::Auto => None,
        NetworkArg::Namespaces => Some(Network::Namespaces),
        NetworkArg::Loopback => Some(Network::Loopback),
    }
}

/// The tarn binary: the one given, else the one beside this program.
fn tarn(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => {
            let own = std::env::current_exe().context("this program does not know where it is")?;
            own.parent().unwrap_or(Path::new(".")).join("tarn")
        }
    };
    path.canonicalize()
        .with_context(|| format!("{} is not there: build it with `cargo build -p tarn`, or name it with --tarn", path.display()))
}

fn random_seed() -> u64 {
    // Short enough to be typed.
    u64::from(rand::random::<u32>())
}

fn print_report(report: &Report, folder: &Folder, format: Format) -> Result<()> {
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
        Format::Text => {
            for check in &report.checks {
                println!("{:8} {}: {}", word(check.outcome), check.name, check.detail);
            }
            let tally = report.figures.operations;
            let gap = &report.figures.longest_gap;
            println!(
                "\n{}: {} answered, {} failed, {} unknown in {:.0} s; longest without an answer {:.0} ms\n{}",
                word(report.outcome),
                tally.ok,
                tally.fail,
                tally.unknown,
                report.figures.seconds,
                gap.ms,
                folder.page().display()
            );
        }
    }
    Ok(())
}

/// An outcome as it is printed.
pub(crate) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Valid => "valid",
        Outcome::Invalid => "INVALID",
        Outcome::Unknown => "unknown",
    }
}

fn list(format: Format) {
    let (workloads, nemeses) = (workload::names(), nemesis::names());
    if format == Format::Json {
        let named = |(name, what): &(&str, &str)| json!({ "name": name, "what": what });
        let list = json!({
            "workloads": workloads.iter().map(named).collect::<Vec<_>>(),
            "nemeses": nemeses.iter().map(named).collect::<Vec<_>>(),
            "mixed": nemesis::mixed(),
            "tests": TESTS.iter().map(|test| json!({
                "number": test.number, "subject": test.subject, "covered": covered(&test.by),
            })).collect::<Vec<_>>(),
        });
        println!("{list:#}");
        return;
    }
    println!("Workloads:");
    for (name, what) in workloads.iter() {
        println!("  {name:18} {what}");
    }
    println!("\nNemeses (* in `all`):");
    for (name, what) in nemeses.iter() {
        let mark = if nemesis::mixed().contains(name) { '*' } else { ' ' };
        println!("{mark} {name:18} {what}");
    }
    println!("\nTests, and what covers them:");
    for test in TESTS {
        println!("  {:2}  {}\n      {}", test.number, test.subject, covered(&test.by));
    }
}

/// Reads `90s`, `10m`, `8h`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write 90s, 10m, 8h or 1h30m");
    let mut seconds = 0u64;
    let mut number = String::new();
    for letter in text.chars() {
        let unit = match letter {
            digit if digit.is_ascii_digit() => {
                number.push(digit);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            _ => return Err(wrong()),
        };
        let count: u64 = number.parse().map_err(|_| wrong())?;
        seconds = count.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
        number.clear();
    }
    if !number.is_empty() || seconds == 0 {
        return Err(wrong());
    }
    Ok(Duration::from_secs(seconds))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is no setting; write raft.snapshot_entries=500")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["", "90", "s", "-1s", "0s", "1d", "99999999999999999999h", "9999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_of_a_run_gives_the_same_run_again() {
        let words = "jepsen run --workload queue --nemesis kill,pause --time 1m30s --seed 7 --network loopback --set raft.keep_entries=9";
        let Command::Run(args) = Cli::parse_from(words.split(' ')).command else { panic!("not a run") };
        let command = command_of(&args, 7);
        let Command::Run(again) = Cli::parse_from(command.split(' ')).command else { panic!("not a run") };
        assert_eq!(format!("{args:?}"), format!("{again:?}"));
    }
}

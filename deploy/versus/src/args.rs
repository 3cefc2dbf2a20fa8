//! The command line.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::TypedValueParser as _;
use clap::{Parser, ValueEnum};
use tempfile::TempDir;

use crate::scenario::Scenario;
use crate::system::{Peer, System};

/// The same durable work on tarn and on systems that people know, on this machine, in one run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "deploy/bench",
    args_override_self = true,
    after_long_help = "\
What it does: starts each system as a cluster of three nodes on loopback, in its durable mode, runs the same load against each in turn, and
ends it, round after round; the report has medians over the rounds, their least and greatest, and what tarn does per unit that the other
does.
Progress goes to standard error, the report to standard output, and results.jsonl, report.txt and picture.svg into the folder --out.
Ctrl-C ends all servers.

Examples:
  deploy/bench put get                          etcd and tarn: puts and linearizable gets at 1, 16, 64 and 256 clients
  deploy/bench put --quick                      one short round, to see that it works
  deploy/bench queue latency --peers nats       NATS JetStream and tarn: tasks a second, and latency at 500 a second
  deploy/bench growth                           tarn alone: with backlogs, more nodes, larger payloads, many namespaces
  deploy/bench all --rounds 5 --seconds 10      everything; takes more than an hour
  deploy/bench guard                            is this build slower than those recorded? fails if it is, twice in a row
  deploy/bench guard --record                   the same, and keeps the figures in deploy/versus/history.jsonl

A figure is marked as disturbed where somebody else used more than a tenth of a core in every try: run it again on a quiet machine."
)]
pub struct Args {
    /// What to measure; several are possible
    #[arg(value_enum, default_value = "all")]
    what: Vec<What>,
    /// Rounds; medians are over these [default: 3, with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: Option<u64>,
    /// Seconds that each load is measured, after a warm-up of a fifth of that and at least half a second [default: 5, with --quick 2]
    #[arg(long)]
    seconds: Option<f64>,
    /// Fewer loads, one short round: to see that everything works
    #[arg(long)]
    pub quick: bool,
    /// Peers to compare with, separated by commas [default: all that the scenario has]
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    /// Leave the peers out: tarn alone
    #[arg(long, conflicts_with = "peers")]
    alone: bool,
    /// Connections that all clients of a system share, and as many for its workers
    #[arg(long, default_value_t = 6)]
    pub connections: usize,
    /// Bytes of a value or of a task's payload, at least 16
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1 << 20).map(|bytes| bytes as usize))]
    pub payload: usize,
    /// How often a measurement is made at most until nobody disturbs it
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    tries: u32,
    /// What goes to standard output: the report, or each measurement as a line of JSON
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
    /// The folder for results and, while they run, for the servers' data: it should be on a real disk
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Another folder for the servers' data
    #[arg(long)]
    data: Option<PathBuf>,
    /// For `guard`: keep the figures, so that later builds are compared with them
    #[arg(long)]
    pub record: bool,
    /// For `guard`: where figures are kept
    #[arg(long, hide = true, default_value = "deploy/versus/history.jsonl")]
    pub history: PathBuf,
    /// The tarn binary
    #[arg(long, hide = true)]
    pub tarn: PathBuf,
    /// Only print what has to be installed, one a line: `debian PACKAGE` or `npm PACKAGE`
    #[arg(long, hide = true)]
    pub needs: bool,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Put a new key: etcd
    Put,
    /// Get one of 10,000 keys, linearizably: etcd
    Get,
    /// Submit, work and acknowledge tasks: NATS JetStream, RabbitMQ
    Queue,
    /// The same at 500 tasks a second, for latency: NATS JetStream, RabbitMQ
    Latency,
    /// Submit a trivial task and wait for its result: Restate
    Call,
    /// tarn alone, with backlogs, more nodes, larger payloads, many namespaces
    Growth,
    /// From start to the first accepted operation; memory
    Start,
    /// All of these
    All,
    /// Whether this build of tarn is slower than those recorded
    Guard,
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// The report
    Text,
    /// Each measurement as a line of JSON
    Jsonl,
}

/// The scenarios in the order in which they run.
const SCENARIOS: [(What, Scenario); 7] = [
    (What::Put, Scenario::Put),
    (What::Get, Scenario::Get),
    (What::Queue, Scenario::Queue),
    (What::Latency, Scenario::Latency),
    (What::Call, Scenario::Call),
    (What::Growth, Scenario::Growth),
    (What::Start, Scenario::Start),
];

impl Args {
    /// Whether the guard was asked for, instead of scenarios.
    pub fn guard(&self) -> bool {
        self.what.contains(&What::Guard)
    }

    /// The scenarios that were asked for.
    pub fn scenarios(&self) -> Vec<Scenario> {
        let wanted = |what: What| self.what.contains(&what) || self.what.contains(&What::All);
        SCENARIOS.iter().filter(|(what, _)| wanted(*what)).map(|(_, scenario)| *scenario).collect()
    }

    /// Who takes part in a scenario.
    pub fn systems(&self, scenario: Scenario) -> Vec<System> {
        let takes_part = |system: &&System| match (system.peer(), &self.peers) {
            (None, _) => true,
            (Some(_), _) if self.alone => false,
            (Some(_), None) => true,
            (Some(peer), Some(peers)) => peers.contains(&peer),
        };
        scenario.systems().iter().filter(takes_part).copied().collect()
    }

    /// The peers of all scenarios that were asked for, each once.
    pub fn all_peers(&self) -> Vec<Peer> {
        let systems = self.scenarios().into_iter().flat_map(|scenario| self.systems(scenario));
        let mut peers: Vec<Peer> = systems.filter_map(System::peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// Rounds.
    pub fn rounds(&self) -> usize {
        let default = if self.quick { 1 } else { 3 };
        self.rounds.map_or(default, |rounds| usize::try_from(rounds).unwrap_or(usize::MAX))
    }

    /// Seconds that each load is measured.
    pub fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 2.0 } else { 5.0 }).max(0.1)
    }

    /// Seconds of each load that are not counted.
    pub fn warm_up(&self) -> f64 {
        (self.seconds() / 5.0).max(0.5)
    }

    /// Tasks that are queued before, where it is about a backlog: some, and many.
    pub fn backlogs(&self) -> [usize; 2] {
        if self.quick { [10_000, 100_000] } else { [100_000, 1_000_000] }
    }

    /// How often a measurement is made at most.
    pub fn tries(&self) -> usize {
        self.tries as usize
    }

    /// A new folder for a cluster's data; dropping it deletes it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn data_dir(&self) -> Result<TempDir> {
        let base = self.data.as_ref().unwrap_or(&self.out);
        fs::create_dir_all(base)?;
        Ok(tempfile::Builder::new().prefix("data-").tempdir_in(base.canonicalize()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::try_parse_from(["deploy/bench", "--tarn", "tarn"].into_iter().chain(line.split_whitespace())).expect(line)
    }

    #[test]
    fn without_a_word_everything_is_measured_but_nothing_guarded() {
        assert_eq!(args("").scenarios().len(), SCENARIOS.len());
        assert!(!args("").guard());
        assert!(args("guard --record").guard() && args("guard").scenarios().is_empty());
    }

    #[test]
    fn peers_can_be_chosen_or_left_out() {
        assert_eq!(args("put").systems(Scenario::Put), [System::Tarn, System::TarnContexts, System::Etcd]);
        assert_eq!(args("put --alone").systems(Scenario::Put), [System::Tarn, System::TarnContexts]);
        assert_eq!(args("get --alone").systems(Scenario::Get), [System::Tarn]);
        assert!(args("put --alone").all_peers().is_empty());
        assert_eq!(args("put get --peers etcd").all_peers(), [Peer::Etcd]);
    }

    #[test]
    fn a_quick_run_is_short_unless_told_otherwise() {
        assert_eq!((args("--quick").rounds(), args("--quick").seconds()), (1, 2.0));
        assert_eq!((args("--quick --rounds 2").rounds(), args("--seconds 1").warm_up()), (2, 0.5));
        assert_eq!(args("--out a --out b").out, PathBuf::from("b"));
    }
}

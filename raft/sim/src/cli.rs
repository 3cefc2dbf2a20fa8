//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::plan::Kind;
use crate::{single, sweep};

/// Runs whole clusters of tarn in one thread, under faults that one seed decides, and checks every invariant.
///
/// With --seed one run; with --seeds many, one process each, until the time is up. The same seed gives the same run, byte for byte.
#[derive(Parser, Clone, Debug)]
#[command(
    version,
    after_help = "Examples:
  tarn-sim --seeds 200 --time 60s               as many of 200 runs as fit into a minute
  tarn-sim --seed 42 --trace /tmp/trace         one run, with everything that happened
  tarn-sim --seed 42 --nodes 5 --faults 30s     five nodes, half a minute of simulated faults

Exit codes: 0 nothing found; 1 an invariant is broken; 2 wrong usage; 3 the simulation itself failed."
)]
pub struct Args {
    /// Run this seed.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    pub seed: Option<u64>,

    /// Run so many seeds, from --from on.
    #[arg(long)]
    pub seeds: Option<u64>,

    /// The first of many seeds.
    #[arg(long, default_value_t = 1)]
    pub from: u64,

    /// Begin no further run after this time, such as 60s or 10m. Of many seeds.
    #[arg(long, value_parser = duration, requires = "seeds")]
    pub time: Option<Duration>,

    /// Kill a run that takes longer than this, in real time, and count it as failed. Of many seeds.
    #[arg(long, value_parser = duration, default_value = "120s", value_name = "TIME")]
    pub limit: Duration,

    /// Processes at a time. Of many seeds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub jobs: u64,

    /// Go on after a failing seed. Of many seeds.
    #[arg(long)]
    pub keep_going: bool,

    /// Founding voters; without it the seed decides.
    #[arg(long, value_parser = ["1", "3", "5"])]
    pub nodes: Option<String>,

    /// How long faults happen, in simulated time; without it the seed decides.
    #[arg(long, value_parser = duration)]
    pub faults: Option<Duration>,

    /// Only these kinds of faults; without it the seed decides.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Kind>,

    /// Write what happened to this file. Of one seed.
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    pub trace: Option<PathBuf>,

    /// Where the simulated disks keep their files; without it, in memory where /dev/shm is there.
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,

    /// Plant this bug: ack-before-fsync, ignore-token or index-apart.
    #[cfg(feature = "canary")]
    #[arg(long)]
    pub canary: Option<String>,

    /// Show the log of the code under test. Of one seed.
    #[arg(short, long, conflicts_with = "seeds")]
    pub verbose: bool,

    /// What to print on standard output.
    #[arg(short, long, default_value = "text")]
    pub output: Output,
}

/// Forms of the result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Args {
    /// What a run is given by these arguments, as arguments again.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut settings = Vec::new();
        if let Some(nodes) = &self.nodes {
            settings.extend(["--nodes".to_owned(), nodes.clone()]);
        }
        if let Some(faults) = self.faults {
            settings.extend(["--faults".to_owned(), format!("{}ms", faults.as_millis())]);
        }
        for kind in self.only.iter().filter_map(ValueEnum::to_possible_value) {
            settings.extend(["--only".to_owned(), kind.get_name().to_owned()]);
        }
        if let Some(scratch) = &self.scratch {
            settings.extend(["--scratch".to_owned(), scratch.display().to_string()]);
        }
        #[cfg(feature = "canary")]
        if let Some(canary) = &self.canary {
            settings.extend(["--canary".to_owned(), canary.clone()]);
        }
        settings
    }
}

/// Reads `500ms`, `60s`, `10m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "a number with a unit, such as 60s".to_owned())?;
    let ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("{other:?} is no unit: ms, s, m or h")),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

/// The binary.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => single::main(seed, args),
        None => sweep::main(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("60").is_err() && duration("s").is_err() && duration("1d").is_err());
    }

    #[test]
    fn the_arguments_make_sense() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["tarn-sim"]).is_err());
        assert!(Args::try_parse_from(["tarn-sim", "--seed", "1", "--seeds", "2"]).is_err());
        let args = Args::try_parse_from(["tarn-sim", "--seed", "1", "--nodes", "5", "--faults", "2s"]).unwrap();
        assert_eq!(args.settings(), ["--nodes", "5", "--faults", "2000ms"]);
    }
}

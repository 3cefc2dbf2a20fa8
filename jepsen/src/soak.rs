//! Runs for hours: all workloads under all nemeses in turns, each with a seed of its own.
//!
//! Every fourth run mixes all nemeses; the others take one each. What a run finds does not end the soak, nor does a failure of the harness,
//! unless it fails several times in a row. Either way the exit code tells that a run came to no verdict. The folder keeps everything of runs that were not valid, and of the valid ones the verdict and
//! the page; `index.html` in it lists them all.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checker::Outcome;
use crate::cli::{NO_VERDICT, code, word};
use crate::figures::{Figures, Tally};
use crate::report::{self, Folder};
use crate::run::{self, Finished, RunOptions, say};
use crate::workload::FEDERATION;

/// How many times in a row the harness may fail before the soak gives up.
const FAILURES: usize = 3;
/// One run in so many mixes all nemeses.
const MIXED_EVERY: usize = 4;

/// What to run.
#[derive(Debug, Clone)]
pub struct SoakOptions {
    /// For how long runs are begun.
    pub time: Duration,
    /// The workloads, by name.
    pub workloads: Vec<String>,
    /// The nemeses, by name.
    pub nemeses: Vec<String>,
    /// Everything else about each run; its seed is the first run's.
    pub base: RunOptions,
}

/// How one run went.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The command that does it again.
    pub command: String,
    /// Its verdict; none if the harness failed.
    pub outcome: Option<Outcome>,
    /// Its folder's name.
    pub folder: Option<String>,
    /// What is wrong, in short: the checks that are not valid, or why the harness failed.
    pub finding: String,
    /// How operations ended.
    pub operations: Tally,
    /// How many faults were made.
    pub faults: u64,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: f64,
}

/// How a soak went.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Where everything is.
    pub folder: PathBuf,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The runs.
    pub runs: Vec<Entry>,
}

/// A soak that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct Soaked {
    /// How it went.
    #[serde(flatten)]
    pub summary: Summary,
    /// Why it ended before its time, if it did: it was interrupted, or the harness failed again and again.
    pub stopped: Option<String>,
}

/// Does runs until the time is up, an interruption, or several failures of the harness in a row.
///
/// # Errors
/// If nothing can be run, or the summary cannot be written. Failures of runs stand in the summary.
pub async fn soak(options: &SoakOptions, interrupt: &CancellationToken) -> Result<Soaked> {
    ensure!(!options.workloads.is_empty(), "there is no workload to run");
    let stamp = OffsetDateTime::now_utc().format(format_description!("[year][month][day]-[hour][minute][second]"))?;
    let folder = Folder::create(&options.base.out, &format!("{stamp}-soak-{}", options.base.seed))?;
    say(&format!("soak: {} workloads, nemeses {}; {}", options.workloads.len(), options.nemeses.join(", "), folder.path().display()));
    let began = Instant::now();
    let mut summary = Summary { folder: folder.path().to_owned(), seconds: 0.0, runs: Vec::new() };
    let mut failures = 0;
    let mut stopped = None;
    for number in 0.. {
        if interrupt.is_cancelled() {
            stopped = Some("it was interrupted".to_owned());
        } else if failures >= FAILURES {
            stopped = Some(format!("the harness failed {FAILURES} times in a row"));
        }
        if stopped.is_some() || began.elapsed() >= options.time {
            break;
        }
        let run = nth(options, number, &folder);
        say(&format!("\nrun {}: {}", number + 1, run.command));
        let result = run::run(&run, interrupt).await;
        // What ended before the interruption counts, and what it ended does not.
        if interrupt.is_cancelled() && result.is_err() {
            continue;
        }
        failures = if result.is_err() { failures + 1 } else { 0 };
        let entry = entry(&run, result)?;
        say(&format!("run {}: {} {}", number + 1, entry.outcome.map_or("harness failed", word), entry.finding));
        append(&folder, &entry)?;
        summary.runs.push(entry);
        summary.seconds = began.elapsed().as_secs_f64();
        fs::write(folder.path().join("summary.txt"), summary.text())?;
        fs::write(folder.path().join("index.html"), report::index(&summary))?;
    }
    Ok(Soaked { summary, stopped })
}

/// The options of one run: workloads in turns, and each workload meets the nemeses in turns.
fn nth(options: &SoakOptions, number: usize, folder: &Folder) -> RunOptions {
    let workloads = options.workloads.len();
    let workload = options.workloads[number % workloads].clone();
    let round = number / workloads;
    let nemeses: Vec<String> = options.nemeses.iter().filter(|nemesis| !run::clash(&workload, nemesis)).cloned().collect();
    // Neighbouring runs of one round differ in their nemesis too.
    let turn = round + number % workloads;
    let nemeses = if nemeses.is_empty() || turn % MIXED_EVERY == MIXED_EVERY - 1 {
        nemeses
    } else {
        // Mixed turns are not counted, or a workload might never meet the nemeses whose turns they take.
        vec![nemeses[(turn - turn / MIXED_EVERY) % nemeses.len()].clone()]
    };
    let base = &options.base;
    let seed = base.seed.wrapping_add(number as u64);
    let command = command(base, &workload, &nemeses, seed);
    let network = base.network.filter(|_| workload != FEDERATION);
    RunOptions { command, workload, nemeses, seed, network, out: folder.path().to_owned(), ..base.clone() }
}

/// The command that does one run again.
fn command(base: &RunOptions, workload: &str, nemeses: &[String], seed: u64) -> String {
    let nemeses = if nemeses.is_empty() { "none".to_owned() } else { nemeses.join(",") };
    let mut command = format!(
        "jepsen run --workload {workload} --nemesis {nemeses} --time {}s --nodes {} --clients {} --seed {seed}",
        base.time.as_secs(),
        base.nodes,
        base.clients
    );
    if workload == FEDERATION {
        command.push_str(&format!(" --clusters {}", base.clusters));
    }
    if let Some(network) = base.network.filter(|_| workload != FEDERATION) {
        command.push_str(&format!(" --network {}", format!("{network:?}").to_lowercase()));
    }
    command.push_str(&format!(" --tarn {}", base.tarn.display()));
    if let Some(next) = &base.tarn_next {
        command.push_str(&format!(" --tarn-next {}", next.display()));
    }
    for (key, value) in &base.settings {
        command.push_str(&format!(" --set {key}={value}"));
    }
    command
}

fn entry(run: &RunOptions, result: Result<Finished>) -> Result<Entry> {
    let (outcome, folder, finding, figures) = match result {
        Ok(finished) => {
            let report = finished.report;
            if report.outcome == Outcome::Valid {
                trim(&finished.folder)?;
            }
            let wrong: Vec<&str> =
                report.checks.iter().filter(|check| check.outcome != Outcome::Valid).map(|check| check.name.as_str()).collect();
            let folder = finished.folder.path().file_name().map(|name| name.to_string_lossy().into_owned());
            (Some(report.outcome), folder, wrong.join(", "), report.figures)
        }
        Err(error) => (None, None, format!("{error:#}"), Figures::default()),
    };
    Ok(Entry {
        command: run.command.clone(),
        outcome,
        folder,
        finding,
        operations: figures.operations,
        faults: figures.faults.values().map(|recovery| recovery.made).sum(),
        longest_gap_ms: figures.longest_gap.ms,
    })
}

/// Drops what nobody looks at after a valid run: hours of histories and logs would fill the disk.
fn trim(folder: &Folder) -> Result<()> {
    fs::remove_file(folder.history()).context("a history cannot be removed")?;
    for log in folder.logs() {
        fs::remove_file(folder.path().join(log)).context("a log cannot be removed")?;
    }
    Ok(())
}

fn append(folder: &Folder, entry: &Entry) -> Result<()> {
    let path = folder.path().join("summary.jsonl");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    writeln!(file, "{}", serde_json::to_string(entry)?)?;
    Ok(())
}

impl Soaked {
    /// The exit code: 1 if any run was invalid, else 3 if any has no verdict or the soak was stopped, else the worst verdict's.
    pub fn code(&self) -> u8 {
        let outcome = self.summary.outcome();
        let failed = self.summary.runs.iter().any(|run| run.outcome.is_none());
        match outcome {
            Outcome::Invalid => code(outcome),
            _ if failed || self.stopped.is_some() => NO_VERDICT,
            _ => code(outcome),
        }
    }

    /// The end for people.
    pub fn text(&self) -> String {
        let stopped = self.stopped.iter();
        let stopped: String = stopped.map(|why| format!("ended before its time: {why}\n")).collect();
        stopped + &self.summary.text()
    }
}

impl Summary {
    /// The worst that any run has shown. A soak in which no run came to a verdict is unknown.
    pub fn outcome(&self) -> Outcome {
        self.runs.iter().filter_map(|run| run.outcome).max().unwrap_or(Outcome::Unknown)
    }

    /// The summary for people.
    pub fn text(&self) -> String {
        let count = |wanted| self.runs.iter().filter(|run| run.outcome == wanted).count();
        let answered: u64 = self.runs.iter().map(|run| run.operations.ok).sum();
        let faults: u64 = self.runs.iter().map(|run| run.faults).sum();
        let mut text = format!(
            "{} runs in {:.1} h: {} valid, {} invalid, {} unknown, {} failures of the harness; {answered} operations answered, {faults} \
             faults\n",
            self.runs.len(),
            self.seconds / 3_600.0,
            count(Some(Outcome::Valid)),
            count(Some(Outcome::Invalid)),
            count(Some(Outcome::Unknown)),
            count(None),
        );
        for run in self.runs.iter().filter(|run| run.outcome != Some(Outcome::Valid)) {
            let outcome = run.outcome.map_or("harness failed", word);
            text.push_str(&format!("{outcome}: {}\n    {}\n", run.command, run.finding));
        }
        text.push_str(&format!("{}\n", self.folder.display()));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn options() -> SoakOptions {
        SoakOptions {
            time: Duration::from_secs(1),
            workloads: ["a", "b", "c"].map(str::to_owned).to_vec(),
            nemeses: ["kill", "pause", "clock", "slow"].map(str::to_owned).to_vec(),
            base: RunOptions {
                workload: String::new(),
                nemeses: Vec::new(),
                time: Duration::from_secs(60),
                nodes: 3,
                clusters: 2,
                links: crate::cluster::Shape::Full,
                seed: 10,
                clients: 5,
                network: None,
                disk: None,
                tarn: "/bin/tarn".into(),
                tarn_next: None,
                out: "out".into(),
                settings: Vec::new(),
                keep: false,
                command: String::new(),
            },
        }
    }

    #[test]
    fn every_workload_meets_every_nemesis_and_their_mix() {
        let folder = Folder::open("soak".as_ref());
        let options = options();
        let met: BTreeSet<(String, Vec<String>)> =
            (0..60).map(|number| nth(&options, number, &folder)).map(|run| (run.workload, run.nemeses)).collect();
        assert_eq!(met.len(), 3 * (4 + 1), "{met:?}");
    }

    #[test]
    fn each_run_has_its_own_seed_and_says_how_to_do_it_again() {
        let run = nth(&options(), 3, &Folder::open("soak".as_ref()));
        assert_eq!(run.seed, 13);
        assert_eq!(run.out, PathBuf::from("soak"));
        for words in ["--workload a", "--seed 13", "--tarn /bin/tarn"] {
            assert!(run.command.contains(words), "{}", run.command);
        }
        assert!(!run.command.contains("--tarn-next"));
    }

    #[test]
    fn the_exit_code_is_the_worst_and_a_run_without_a_verdict_is_never_a_success() {
        let entry = |outcome| Entry {
            command: String::new(),
            outcome,
            folder: None,
            finding: String::new(),
            operations: Tally::default(),
            faults: 0,
            longest_gap_ms: 0.0,
        };
        let soaked = |outcomes: &[Option<Outcome>], stopped: Option<&str>| Soaked {
            summary: Summary { folder: "soak".into(), seconds: 1.0, runs: outcomes.iter().map(|outcome| entry(*outcome)).collect() },
            stopped: stopped.map(str::to_owned),
        };
        let (valid, unknown, invalid) = (Some(Outcome::Valid), Some(Outcome::Unknown), Some(Outcome::Invalid));
        type Case<'a> = (&'a [Option<Outcome>], Option<&'a str>, u8);
        let interrupted = Some("it was interrupted");
        let cases: [Case<'_>; 8] = [
            (&[valid, valid], None, 0),
            (&[valid, unknown], None, 2),
            (&[], None, 2),
            (&[valid, None, unknown], None, 3),
            (&[valid], interrupted, 3),
            (&[], interrupted, 3),
            (&[None, invalid, valid], None, 1),
            (&[invalid], interrupted, 1),
        ];
        for (outcomes, stopped, code) in cases {
            assert_eq!(soaked(outcomes, stopped).code(), code, "{outcomes:?} {stopped:?}");
        }
        let text = soaked(&[valid], interrupted).text();
        assert!(text.starts_with("ended before its time: it was interrupted\n1 runs"), "{text}");
    }
}

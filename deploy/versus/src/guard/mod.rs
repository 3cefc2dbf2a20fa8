//! The regression guard: a few short figures of tarn, made comparable by what the machine could do in the same minute.
//!
//! Each round calibrates (how fast all cores hash, how soon the disk syncs) and measures; a figure is divided by its own round's
//! calibration, and the medians over the rounds are compared with those of the last recorded runs. A figure that fell is measured again at
//! once, and the check fails where it fell both times: see [`rule`].

mod calibration;
mod history;
mod rule;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::args::Args;
use crate::machine::Machine;
use crate::measure::{Load, Samples, median};
use crate::record::Record;
use crate::rounds::undisturbed;
use crate::scenario::{self, Scenario};
use crate::system::{System, started};
use crate::tarn::{Consumer, Contexts, Tarn};
use calibration::Calibration;
use history::{History, Line};
use rule::{Fall, falls};

/// Rounds of one measurement.
const ROUNDS: usize = 3;
/// How long each figure is measured in a round, and the warm-up before.
const TIME: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(500));

/// A figure, and what it is divided by.
#[derive(Clone, Copy)]
struct Figure {
    name: &'static str,
    scenario: Scenario,
    clients: usize,
    /// A single client waits for the disk about as long as for processors; many clients keep the processors busy.
    by: fn(&Calibration) -> f64,
}

const FIGURES: [Figure; 4] = [
    Figure { name: "tasks with 64 workers", scenario: Scenario::Queue, clients: 64, by: |machine| machine.processors },
    Figure { name: "puts of 64 clients", scenario: Scenario::Put, clients: 64, by: |machine| machine.processors },
    Figure { name: "puts of 1 client, by the median", scenario: Scenario::Put, clients: 1, by: Calibration::both },
    Figure { name: "gets of 64 clients", scenario: Scenario::Get, clients: 64, by: |machine| machine.processors },
];

/// What one measurement gave.
struct Measured {
    /// Normalised medians by name.
    figures: BTreeMap<String, f64>,
    disturbed: bool,
}

/// Measures, compares with the history, and keeps the figures where asked to. Returns whether the check passed.
///
/// # Errors
/// If the cluster or a load fails, or the history cannot be read or written.
pub async fn run(args: &Args) -> Result<bool> {
    let machine = Machine::look(args.data_dir()?.path())?;
    let history = History::read(&args.history)?;
    let baseline = history.comparable(machine.cores);
    eprintln!("guard: {} recorded runs on {} cores to compare with", baseline.len(), machine.cores);
    let mut measured = measure(args).await?;
    let mut fallen = falls(&baseline, &measured.figures);
    if !fallen.is_empty() {
        eprintln!("{}measuring again, as once may be chance", told(&fallen));
        measured = measure(args).await?;
        let again = falls(&baseline, &measured.figures);
        fallen = again.into_iter().filter(|fall| fallen.iter().any(|first| first.name == fall.name)).collect();
    }
    for (name, figure) in &measured.figures {
        let before =
            rule::before(&baseline, name).map_or_else(|| "nothing before".to_owned(), |before| format!("{:.2} of before", figure / before));
        println!("{name:<34} {figure:>12.3}  {before}");
    }
    if measured.disturbed {
        eprintln!("warning: somebody else used the machine in every try; the figures are worth less");
    }
    if args.record {
        history.append(&Line::new(&machine, measured.figures, measured.disturbed))?;
    }
    if !fallen.is_empty() {
        eprintln!("{}twice in a row: this build is slower, or the history wants recording anew with --record", told(&fallen));
    }
    Ok(fallen.is_empty())
}

fn told(fallen: &[Fall]) -> String {
    fallen.iter().map(|fall| format!("guard: {} fell to {:.2} of before\n", fall.name, fall.part)).collect()
}

async fn measure(args: &Args) -> Result<Measured> {
    let (dir, tarn) = started(args, async |dir| Tarn::start(&args.tarn, dir, 3).await).await?;
    let mut rounds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut disturbed = false;
    for round in 1..=ROUNDS {
        for figure in FIGURES {
            let before = Calibration::take(dir.path()).await?;
            let record = one(args, &tarn, figure, round).await?;
            let machine = before.mean(&Calibration::take(dir.path()).await?);
            let summary = record.summary.as_ref().map(|summary| match figure.clients {
                1 => 1e3 / summary.p50_ms,
                _ => summary.per_second,
            });
            eprintln!("  {}  {}", machine.line(), record.line());
            disturbed |= record.disturbed;
            rounds.entry(figure.name.to_owned()).or_default().push(summary.unwrap_or(0.0) / (figure.by)(&machine));
        }
    }
    Ok(Measured { figures: rounds.into_iter().map(|(name, rounds)| (name, median(rounds))).collect(), disturbed })
}

async fn one(args: &Args, tarn: &Tarn, figure: Figure, round: usize) -> Result<Record> {
    let base = scenario::base(args);
    let load = Load { time: TIME.0, warm_up: TIME.1, clients: figure.clients, workers: 64, ..base };
    let run = async |load: &Load| {
        let samples: Samples = match figure.scenario {
            // As in the lines that were recorded first.
            Scenario::Put => tarn.puts(load, Contexts::OfEachClient).await?,
            Scenario::Get => tarn.gets(load).await?,
            _ => tarn.work(load, Consumer::Stream).await?,
        };
        Ok((samples, tarn.pids()?))
    };
    let record = undisturbed(Record::new(figure.scenario, figure.name, System::Tarn.name(), round), &load, args, run).await;
    match record.failed {
        Some(failed) => Err(anyhow::anyhow!("{}: {failed}", figure.name)),
        None => Ok(record),
    }
}

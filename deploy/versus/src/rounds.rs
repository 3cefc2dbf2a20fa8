//! The rounds: every system in turn, every load, again where somebody else used the machine.

use anyhow::Result;

use crate::args::Args;
use crate::measure::{Load, Samples, Summary};
use crate::peers::Unavailable;
use crate::record::{Record, Shape};
use crate::scenario::{Case, Scenario};
use crate::sink::Sink;
use crate::system::{Running, System};
use crate::usage::{Meter, memory};

/// How much of one core others may use while something is measured.
pub const OTHERS_CORES_MAX: f64 = 0.1;

/// Runs a scenario's rounds. In each, every system gets a fresh cluster, in turn, and goes over all loads; who is first changes from round
/// to round.
///
/// # Errors
/// If results cannot be written. What fails in a system is a result.
pub async fn run(scenario: Scenario, args: &Args, sink: &mut Sink) -> Result<()> {
    let (systems, cases) = (args.systems(scenario), scenario.cases(args));
    for round in 1..=args.rounds() {
        for turn in 0..systems.len() {
            let system = systems[(turn + round - 1) % systems.len()];
            sink.note(&format!("{} round {round} of {}: {}", scenario.name(), args.rounds(), system.name()));
            // The folder outlives the processes: locals are dropped last to first.
            let (_dir, running) = match system.start(args).await {
                Ok(started) => started,
                Err(error) if error.is::<Unavailable>() => {
                    sink.missing(system, &error.to_string());
                    continue;
                }
                Err(error) => {
                    for case in &cases {
                        sink.take(failed(scenario, case, system, round, &error))?;
                    }
                    continue;
                }
            };
            for case in &cases {
                sink.take(one(scenario, case, system, &running, round, args).await)?;
            }
        }
    }
    Ok(())
}

fn failed(scenario: Scenario, case: &Case, system: System, round: usize, error: &anyhow::Error) -> Record {
    Record { failed: Some(format!("{error:#}")), ..Record::new(scenario, &case.name, system.name(), round) }
}

/// One load on one system.
async fn one(scenario: Scenario, case: &Case, system: System, running: &Running, round: usize, args: &Args) -> Record {
    let mut record = Record::new(scenario, &case.name, system.name(), round);
    record.facts = running.facts().into_iter().collect();
    undisturbed(record, &case.load, args, async |load| {
        let samples = running.run(scenario, load).await?;
        Ok((samples, running.pids()?))
    })
    .await
}

/// Runs a load until nobody else disturbs it, or there are no more tries, and fills in the record. Of disturbed tries the one that was
/// disturbed least is kept.
pub async fn undisturbed(record: Record, load: &Load, args: &Args, run: impl AsyncFn(&Load) -> Result<(Samples, Vec<u32>)>) -> Record {
    let mut best: Option<Record> = None;
    for tries in 1..=args.tries() {
        let load = Load { meter: Meter::default(), ..load.clone() };
        let mut tried = Record { tries, load: Some(Shape::from(&load)), ..record.clone() };
        match measure(&load, &run, &mut tried).await {
            Ok(()) => {}
            Err(error) => return Record { failed: Some(format!("{error:#}")), ..tried },
        }
        let done = !tried.disturbed;
        if best.as_ref().and_then(|best| best.cpu).is_none_or(|best| tried.cpu.is_none_or(|cpu| cpu.others < best.others)) {
            best = Some(tried);
        }
        if done {
            break;
        }
    }
    best.map_or(record, |best| Record { tries: best.tries, ..best })
}

async fn measure(load: &Load, run: &impl AsyncFn(&Load) -> Result<(Samples, Vec<u32>)>, record: &mut Record) -> Result<()> {
    let (samples, pids) = run(load).await?;
    let (summary, usage) = (Summary::of(&samples), load.meter.read().await?);
    anyhow::ensure!(summary.operations > 0, "nothing ended within the measured time");
    record.server_micros_per_operation = Some(usage.servers * 1e6 / summary.per_second);
    record.disturbed = usage.others > OTHERS_CORES_MAX;
    record.memory = Some(memory(&pids)?);
    record.facts.extend(samples.facts);
    (record.summary, record.cpu) = (Some(summary), Some(usage));
    Ok(())
}

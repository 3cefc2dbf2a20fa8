//! One seed, in this process.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::{Args, Output};
use crate::plan::Plan;
use crate::trace::Trace;
use crate::world::{self, Failure};
use crate::{entropy, panics};

/// A cluster's futures are deep in a debug build.
const STACK_BYTES: usize = 64 << 20;

pub(crate) fn main(seed: u64, args: Args) -> ExitCode {
    if args.output == Output::Text {
        println!("seed {seed}");
    }
    if args.verbose {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info,openraft=warn").without_time().init();
    }
    #[cfg(feature = "canary")]
    if let Some(canary) = &args.canary {
        tarn_storage::canary::plant(canary);
    }
    panics::remember();
    let output = args.output;
    // A new thread has drawn no keys for its hash maps yet.
    let run = std::thread::Builder::new().name("simulation".into()).stack_size(STACK_BYTES).spawn(move || {
        entropy::seed(seed);
        simulate(seed, &args)
    });
    let report = match run.map(std::thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        Ok(Err(_)) | Err(_) => {
            let panic = panics::first().unwrap_or_else(|| "the simulation did not begin".into());
            json!({ "seed": seed, "verdict": "harness", "detail": panic })
        }
    };
    print(&report, output);
    match report["verdict"].as_str() {
        Some("valid") => ExitCode::SUCCESS,
        Some("invalid") => ExitCode::from(1),
        _ => ExitCode::from(3),
    }
}

fn simulate(seed: u64, args: &Args) -> Value {
    let nodes = args.nodes.as_ref().and_then(|nodes| nodes.parse().ok());
    let faults_ms = args.faults.map(|faults| u64::try_from(faults.as_millis()).unwrap_or(u64::MAX));
    let plan = Plan::new(seed, nodes, faults_ms, &args.only);
    let trace = match Trace::new(args.trace.as_deref()) {
        Ok(trace) => trace,
        Err(error) => return json!({ "seed": seed, "verdict": "harness", "detail": format!("the trace: {error}") }),
    };
    let described = format!("{} nodes, {} ms of {:?}", plan.nodes, plan.faults_ms, plan.kinds);
    trace.note(format!("seed {seed}: {plan:?}"));
    let result = world::run(plan, trace.clone(), &scratch(args));
    if let Err(Failure::Violation(violation)) = &result {
        trace.note(format!("VIOLATION {violation}"));
    }
    let (lines, hash, recent) = match trace.finish() {
        Ok(ended) => ended,
        Err(error) => return json!({ "seed": seed, "verdict": "harness", "detail": format!("the trace: {error}") }),
    };
    let trace = json!({ "lines": lines, "hash": format!("{hash:016x}") });
    match result {
        Ok(outcome) => json!({
            "seed": seed,
            "verdict": "valid",
            "plan": described,
            "simulated_ms": outcome.simulated_ms,
            "entries": outcome.entries,
            "messages": outcome.messages.0,
            "messages_lost": outcome.messages.1,
            "faults": outcome.faults,
            "operations": outcome.operations,
            "writes_after_ms": outcome.recovery_ms.0,
            "drained_after_ms": outcome.recovery_ms.1,
            "trace": trace,
        }),
        Err(Failure::Violation(violation)) => json!({
            "seed": seed,
            "verdict": "invalid",
            "plan": described,
            "invariant": violation.invariant.name,
            "detail": violation.to_string(),
            "trace": trace,
            "recent": recent,
        }),
        Err(Failure::Harness(error)) => json!({
            "seed": seed,
            "verdict": "harness",
            "plan": described,
            "detail": format!("{error:#}"),
            "trace": trace,
            "recent": recent,
        }),
    }
}

/// In memory where the system has a place for that: a simulated disk needs no real one.
fn scratch(args: &Args) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    match &args.scratch {
        Some(scratch) => scratch.clone(),
        None if memory.is_dir() => memory,
        None => std::env::temp_dir(),
    }
}

fn print(report: &Value, output: Output) {
    if output == Output::Json {
        println!("{report}");
        return;
    }
    println!("{}", report["plan"].as_str().unwrap_or_default());
    let text = |name: &str| report[name].to_string();
    match report["verdict"].as_str() {
        Some("valid") => {
            println!(
                "valid: {} ms simulated, {} entries, {} messages, {} of them lost",
                text("simulated_ms"),
                text("entries"),
                text("messages"),
                text("messages_lost")
            );
            println!("faults: {}", text("faults"));
            println!("operations: {}", text("operations"));
            println!(
                "after the healing: writes after {} ms, everything ended after {} ms",
                text("writes_after_ms"),
                text("drained_after_ms")
            );
            println!("trace: {}", text("trace"));
        }
        verdict => {
            for line in report["recent"].as_array().into_iter().flatten() {
                eprintln!("{}", line.as_str().unwrap_or_default());
            }
            println!("{}: {}", verdict.unwrap_or("harness"), report["detail"].as_str().unwrap_or_default());
        }
    }
}

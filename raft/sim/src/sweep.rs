//! Many seeds: one process for each, because a process has one stream of randomness.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Args, Output};

#[derive(Default)]
struct Tally {
    runs: u64,
    simulated_ms: u64,
    entries: u64,
    faults: BTreeMap<String, u64>,
    operations: BTreeMap<String, u64>,
    slowest_writes_ms: u64,
    failures: Vec<Value>,
}

pub(crate) fn main(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let (first, count) = (args.from, args.seeds.unwrap_or(0));
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    eprintln!("seeds {first} to {}, {} at a time", first.saturating_add(count).saturating_sub(1), args.jobs);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let in_time = args.time.is_none_or(|time| begun.elapsed() < time);
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !in_time || number >= count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first.saturating_add(number);
                    let report = run(args, seed);
                    let mut tally = lock(&tally);
                    let valid = tally.add(report);
                    if !valid {
                        tell(args, tally.failures.last().expect("one was just added"));
                        stop.store(!args.keep_going, Ordering::Relaxed);
                    } else if tally.runs.is_multiple_of(25) {
                        eprintln!("{} runs, {:.0} s", tally.runs, begun.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tally.print(args, begun.elapsed().as_secs_f64());
    match tally.worst() {
        None => ExitCode::SUCCESS,
        Some("invalid") => ExitCode::from(1),
        Some(_) => ExitCode::from(3),
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs a seed in a process of its own.
fn run(args: &Args, seed: u64) -> Value {
    let harness = |detail: String| json!({ "seed": seed, "verdict": "harness", "detail": detail });
    let binary = match std::env::current_exe() {
        Ok(binary) => binary,
        Err(error) => return harness(error.to_string()),
    };
    let child = Command::new(binary)
        .args(["--seed", &seed.to_string(), "--output", "json"])
        .args(args.settings())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child.and_then(|child| attend(child, args.limit)) {
        Err(error) => harness(error.to_string()),
        Ok(Ended { killed: true, .. }) => harness(format!(
            "the process had not ended after {:?} and was killed: perhaps it goes round without waiting for anything",
            args.limit
        )),
        Ok(ended) => serde_json::from_slice(&ended.output).unwrap_or_else(|_| {
            let errors = String::from_utf8_lossy(&ended.errors).into_owned();
            harness(format!("the process ended with {}: {errors}", ended.status))
        }),
    }
}

struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    errors: Vec<u8>,
    killed: bool,
}

/// How often a process is looked after.
const LOOK: Duration = Duration::from_millis(10);

/// Waits for a process to end, and kills it when its time is up: what spins in one thread never sees a deadline of its own.
fn attend(mut child: Child, limit: Duration) -> io::Result<Ended> {
    let begun = Instant::now();
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        // Both are read while it runs: a full pipe would stop it.
        let output = scope.spawn(move || drain(output));
        let errors = scope.spawn(move || drain(errors));
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() >= limit && !killed {
                killed = true;
                child.kill()?;
            }
            std::thread::sleep(LOOK);
        };
        let joined = |reader: std::thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
        Ok(Ended { status, output: joined(output), errors: joined(errors), killed })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What could not be read is missed where it is read as a report.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

fn tell(args: &Args, report: &Value) {
    let mut command = format!("tarn-sim --seed {}", report["seed"]);
    for setting in args.settings() {
        command.push(' ');
        command.push_str(&setting);
    }
    eprintln!(
        "seed {}: {}: {}\n  replay: {command}",
        report["seed"],
        report["verdict"].as_str().unwrap_or("harness"),
        report["detail"].as_str().unwrap_or_default()
    );
}

impl Tally {
    fn add(&mut self, report: Value) -> bool {
        self.runs += 1;
        if report["verdict"] != "valid" {
            self.failures.push(report);
            return false;
        }
        self.simulated_ms += report["simulated_ms"].as_u64().unwrap_or(0);
        self.entries += report["entries"].as_u64().unwrap_or(0);
        self.slowest_writes_ms = self.slowest_writes_ms.max(report["writes_after_ms"].as_u64().unwrap_or(0));
        for (sums, name) in [(&mut self.faults, "faults"), (&mut self.operations, "operations")] {
            for (key, value) in report[name].as_object().into_iter().flatten() {
                *sums.entry(key.clone()).or_default() += value.as_u64().unwrap_or(0);
            }
        }
        true
    }

    /// A violation is worse than a simulation that could not go on.
    fn worst(&self) -> Option<&'static str> {
        let any = |verdict: &str| self.failures.iter().any(|failure| failure["verdict"] == verdict);
        match (any("invalid"), self.failures.is_empty()) {
            (true, _) => Some("invalid"),
            (false, false) => Some("harness"),
            (false, true) => None,
        }
    }

    fn print(&self, args: &Args, seconds: f64) {
        if args.output == Output::Json {
            let failures: Vec<Value> = self
                .failures
                .iter()
                .map(|failure| json!({ "seed": failure["seed"], "verdict": failure["verdict"], "detail": failure["detail"] }))
                .collect();
            println!(
                "{}",
                json!({
                    "verdict": self.worst().unwrap_or("valid"),
                    "runs": self.runs,
                    "seconds": seconds,
                    "simulated_ms": self.simulated_ms,
                    "entries": self.entries,
                    "faults": self.faults,
                    "operations": self.operations,
                    "slowest_writes_ms": self.slowest_writes_ms,
                    "failures": failures,
                })
            );
            return;
        }
        println!(
            "{} runs in {seconds:.0} s, {} s simulated, {} entries, {} faults; the slowest cluster took writes {} ms after the healing",
            self.runs,
            self.simulated_ms / 1_000,
            self.entries,
            self.faults.values().sum::<u64>(),
            self.slowest_writes_ms
        );
        match self.failures.is_empty() {
            true => println!("no invariant was broken"),
            false => println!("{} of them failed", self.failures.len()),
        }
    }
}

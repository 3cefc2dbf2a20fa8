//! The kernel against a small model of itself.
//!
//! A case is a random script: commands in entries of none to many, clocks that jump and run backwards, restarts and power cuts. It runs on
//! the kernel and on the [`reference`] at once, and everything must agree: every answer and every reason to refuse, every event, every
//! task, queue, worker, lease and timer, the time of the next wake. Beside that the [`invariants`] must hold, which do not ask the model.
//!
//! ```text
//!   seed ──► generate ──► step ──► reference model ──► what must happen ─┐
//!                          │                                            ├─ compare, invariants ──► agree, or: shrink, print
//!                          └─────► kernel, its twin, a late replica ────┘
//! ```
//!
//! * `TARN_CASES=5000` runs more cases, `TARN_STEPS=1000` longer ones.
//! * `TARN_SEED=42` runs one case again. A failure prints its seed, what differed, and a short script that shows it.
//!
//! That the comparison can fail is proved by giving the model a flaw: every one of [`Flaw::ALL`] must be found.

mod budgets;
mod compare;
mod decisions;
mod dice;
mod generate;
mod history;
mod invariants;
mod reference;
mod run;
mod shrink;
mod spoil;
mod starvation;

use generate::{Generator, Step};
use reference::Flaw;
use run::{Run, Seen};

/// Cases in one run of the suite: about twenty seconds on one core.
const CASES: u64 = 300;
/// Steps of one case.
const STEPS: u64 = 160;
/// Cases among which each flaw must be found.
const CASES_FOR_A_FLAW: u64 = 180;

/// What the scripts of one run of the suite must come across: refusals that depend on the state, and how tasks fare.
const EXPECTED: [&str; 74] = [
    "BINDING_NOT_FOUND",
    "CANCEL_NOT_REQUESTED",
    "CLUSTER_VERSION_TOO_LOW",
    "DEADLINE_PASSED",
    "DEPENDENCY_NOT_FOUND",
    "JOIN_TOKEN_EXISTS",
    "JOIN_TOKEN_INVALID",
    "JOIN_TOKEN_USED",
    "LEASE_HELD",
    "NAMESPACE_EXISTS",
    "NAMESPACE_NOT_EMPTY",
    "NAMESPACE_NOT_FOUND",
    "NAMESPACE_PROTECTED",
    "QUEUE_NOT_FOUND",
    "QUOTA_QUEUED",
    "REQUEST_ID_REUSED",
    "ROLE_BUILT_IN",
    "ROLE_IN_USE",
    "ROLE_NOT_FOUND",
    "STALE_TOKEN",
    "TASK_ENDED",
    "TASK_NOT_DEAD",
    "TASK_NOT_FOUND",
    "TIMER_FIRED",
    "TIMER_NOT_FOUND",
    "TOKEN_EXISTS",
    "TOKEN_NOT_FOUND",
    "TOO_MANY_CLASSES",
    "WORKER_DRAINING",
    "WORKER_NOT_FOUND",
    "WORKER_NOT_YOURS",
    "EVENT_KIND_LEASE_ACQUIRED",
    "EVENT_KIND_LEASE_EXPIRED",
    "EVENT_KIND_LEASE_RELEASED",
    "EVENT_KIND_NAMESPACE_CREATED",
    "EVENT_KIND_NAMESPACE_DELETED",
    "EVENT_KIND_NAMESPACE_UPDATED",
    "EVENT_KIND_TASK_CANCELLED CANCELLED",
    "EVENT_KIND_TASK_CANCEL_REQUESTED",
    "EVENT_KIND_TASK_DEAD ATTEMPT_TIMEOUT",
    "EVENT_KIND_TASK_DEAD DEADLINE_EXCEEDED",
    "EVENT_KIND_TASK_DEAD DEPENDENCY_FAILED",
    "EVENT_KIND_TASK_DEAD FAILED",
    "EVENT_KIND_TASK_DEAD LEASE_EXPIRED",
    "EVENT_KIND_TASK_DEAD NO_SUCH_FILE",
    "EVENT_KIND_TASK_ENQUEUED",
    "EVENT_KIND_TASK_LEASED",
    "EVENT_KIND_TASK_PURGED",
    "EVENT_KIND_TASK_READY",
    "EVENT_KIND_TASK_REQUEUED",
    "EVENT_KIND_TASK_RETRIED ATTEMPT_TIMEOUT",
    "EVENT_KIND_TASK_RETRIED FAILED",
    "EVENT_KIND_TASK_RETRIED LEASE_EXPIRED",
    "EVENT_KIND_TASK_RETURNED",
    "EVENT_KIND_TASK_SUCCEEDED",
    "EVENT_KIND_TIMER_CANCELLED",
    "EVENT_KIND_TIMER_FIRED",
    "EVENT_KIND_TIMER_FIRED tea",
    "EVENT_KIND_TIMER_SCHEDULED",
    "EVENT_KIND_WORKER_DRAINING",
    "EVENT_KIND_WORKER_GONE",
    "EVENT_KIND_WORKER_REGISTERED",
    "a crash that costs entries",
    "a lease granted again by its request id",
    "a lease of ten tasks or more",
    "a report said again",
    "a restart",
    "a task whose log was cut",
    "attempts that fail",
    "locks, timers and tokens",
    "of everything a little",
    "tasks that wait for tasks",
    "tenants that share workers",
    "who may do what",
];

/// A script that failed.
struct Failure {
    steps: Vec<Step>,
    found: String,
}

/// Runs the case of a seed.
fn explore(seed: u64, steps: u64, flaw: Option<Flaw>) -> Result<Seen, Failure> {
    let mut generator = Generator::new(seed);
    let mut run = Run::new(flaw);
    let mut taken = Vec::new();
    for _ in 0..steps {
        let step = generator.step(&run.model);
        taken.push(step.clone());
        if let Err(found) = run.step(&step) {
            return Err(Failure { steps: taken, found });
        }
    }
    match run.finish() {
        Ok(()) => {
            run.seen.note(generator.theme.name);
            Ok(run.seen)
        }
        Err(found) => Err(Failure { steps: taken, found }),
    }
}

/// Says all that helps to find out why.
fn explain(seed: u64, failure: Failure) -> ! {
    let short = shrink::shrink(failure.steps, None);
    let found = shrink::failure(&short, None).map_or(failure.found, |(_, found)| found);
    panic!("TARN_SEED={seed} fails: {found}\nA short script that shows it:\n{}", shrink::script(&short));
}

#[allow(clippy::disallowed_methods, reason = "a test may be told what to run; the kernel may not")]
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[test]
fn the_kernel_does_what_the_model_says() {
    let steps = asked("TARN_STEPS").unwrap_or(STEPS);
    let seeds = match asked("TARN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("TARN_CASES").unwrap_or(CASES),
    };
    let mut all = Seen::default();
    for seed in seeds.clone() {
        match explore(seed, steps, None) {
            Ok(seen) => all.add(seen),
            Err(failure) => explain(seed, failure),
        }
    }
    println!("{} cases agree; they came across {all:#?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= CASES {
        // Scripts in which nothing happens prove nothing.
        let missing: Vec<&str> = EXPECTED.iter().copied().filter(|what| !all.what.contains_key(*what)).collect();
        assert!(missing.is_empty(), "no script came across {missing:?}");
    }
}

#[test]
fn every_flaw_of_the_model_is_found() {
    let mut missed = Vec::new();
    for flaw in Flaw::ALL {
        let found = (0..CASES_FOR_A_FLAW).find_map(|seed| Some((seed, explore(seed, STEPS, Some(flaw)).err()?.found)));
        match found {
            Some((seed, found)) => println!("{flaw:?} is found by seed {seed}: {found}"),
            None => missed.push(flaw),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}

#[test]
fn a_failing_script_becomes_short() {
    let flaw = Some(Flaw::DrainIgnored);
    let failure = (0..CASES_FOR_A_FLAW).find_map(|seed| explore(seed, STEPS, flaw).err()).expect("the flaw is found");
    let short = shrink::shrink(failure.steps, flaw);
    assert!(shrink::failure(&short, flaw).is_some(), "the short script fails too");
    let commands = short.iter().map(|step| match step {
        Step::Entry { lines, .. } => lines.len(),
        _ => 0,
    });
    // A worker that registers, is drained, and asks for tasks; and what stands before it in its entry, because ids depend on that.
    assert!(commands.sum::<usize>() <= 6, "{}", shrink::script(&short));
    let script = shrink::script(&short);
    assert!(script.contains("> drain_worker "), "{script}");
}

#[test]
fn a_seed_gives_the_same_script_twice() {
    for seed in 0..5 {
        let script = || {
            let (mut generator, mut run) = (Generator::new(seed), Run::new(None));
            let steps = (0..40).map(|_| {
                let step = generator.step(&run.model);
                run.step(&step).expect("the kernel does what the model says");
                step
            });
            steps.collect::<Vec<_>>()
        };
        assert_eq!(script(), script());
    }
}

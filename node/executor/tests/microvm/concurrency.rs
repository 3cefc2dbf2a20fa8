//! Many guests at once, and many after each other.

use std::fs;

use tarn_executor::{Executor as _, MicroVmExecutor};
use tokio_util::sync::CancellationToken;

use crate::{command, executor, fail, guests, run, succeed, with_input};

#[tokio::test]
async fn a_hundred_guests_run_at_once() {
    let Some(executor) = executor(100) else { return };
    // All of them sleep at the same time: the last starts while the first is still there.
    let cancel = CancellationToken::new();
    let sleepers = (0..100).map(|_| executor.run(command(&guests::say(2, "here", guests::SLEEP)), cancel.clone()));
    let all = futures::future::join_all(sleepers);
    let canceller = async {
        while executor.idle() > 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (failures, ()) = tokio::join!(all, canceller);
    for failure in failures {
        assert_eq!(failure.unwrap_err().error.reason(), "CANCELLED");
    }
    let echoes = (0..100).map(|index| {
        let executor = &executor;
        async move {
            let text = format!("guest {index}");
            let report = succeed(executor, with_input(&guests::echo(), text.clone())).await;
            assert_eq!(report.output, text);
        }
    });
    futures::future::join_all(echoes).await;
}

/// What a process has that an executor could leak.
#[derive(Debug, PartialEq)]
struct Holdings {
    threads: usize,
    files: usize,
    mappings: usize,
}

fn holdings() -> Holdings {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    Holdings {
        threads: count("/proc/self/task"),
        files: count("/proc/self/fd"),
        mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
    }
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs attempts that end in every way.
async fn mixed(executor: &MicroVmExecutor, rounds: usize) {
    let spin = command(&guests::command(guests::ENDLESS));
    let mut late = spin.clone();
    late.limits.time_ms = 1;
    for _ in 0..rounds {
        succeed(executor, with_input(&guests::echo(), "some input")).await;
        succeed(executor, command(&guests::say(1, "x", "(drop (memory.grow (i32.const 100)))"))).await;
        fail(executor, command(&guests::say(2, "x", "unreachable"))).await;
        fail(executor, command(&guests::command("(call $proc_exit (i32.const 1))"))).await;
        assert_eq!(fail(executor, late.clone()).await.error.reason(), "TIME_LIMIT");
    }
    executor.settled().await;
}

/// Runs `rounds` of five attempts, alone in a process of its own, because the other tests share threads and files with it.
async fn leaks_nothing(rounds: usize) {
    let Some(executor) = executor(2) else { return };
    mixed(&executor, 20).await;
    let (before, memory_before) = (holdings(), resident_kib());
    mixed(&executor, rounds).await;
    let (after, memory_after) = (holdings(), resident_kib());
    assert_eq!(after.files, before.files);
    // The runtime keeps threads for a while and starts another one when none happens to be idle, so their number varies a little, and
    // each has a handful of mappings. A leak would be one for every attempt, or for every fifth.
    assert!(after.threads <= before.threads + 8, "{before:?} {after:?}");
    assert!(after.mappings <= before.mappings + 80, "{before:?} {after:?}");
    assert!(memory_after < memory_before + 16 * 1024, "{memory_before} KiB, then {memory_after} KiB");
    println!("{} attempts: {before:?} and {memory_before} KiB before, {after:?} and {memory_after} KiB after", rounds * 5);
}

/// Runs one test of this file in a process of its own.
fn alone(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn attempts_leave_no_threads_files_or_memory() {
    alone("concurrency::five_hundred_attempts");
}

#[tokio::test]
#[ignore = "runs in a process of its own, by the test above"]
async fn five_hundred_attempts() {
    leaks_nothing(100).await;
}

#[tokio::test]
#[ignore = "takes a minute: run it by name"]
async fn ten_thousand_attempts() {
    leaks_nothing(2_000).await;
}

#[tokio::test]
async fn too_many_that_wait_are_refused() {
    let Some(executor) = executor(1) else { return };
    let cancel = CancellationToken::new();
    let attempts = (0..70).map(|_| executor.run(command(&guests::command(guests::SLEEP)), cancel.clone()));
    let all = futures::future::join_all(attempts);
    let canceller = async {
        while executor.idle() > 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (outcomes, ()) = tokio::join!(all, canceller);
    let reasons: Vec<&str> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap_err().error.reason()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "CANCELLED").count(), 65);
    assert_eq!(reasons.iter().filter(|reason| **reason == "RESOURCE_EXHAUSTED").count(), 5);
    run(&executor, with_input(&guests::echo(), "next")).await.unwrap();
}

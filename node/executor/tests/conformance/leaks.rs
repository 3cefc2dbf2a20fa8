//! What is left after many attempts: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use futures::stream::{self, StreamExt as _};

use crate::Subject;
use crate::suite::{Bench, input};

/// How many run at a time.
const SLOTS: usize = 4;

/// Attempts of all kinds before the first count: caches fill and threads start that stay.
const WARM_UP: usize = 40;

/// Descriptors of what an executor keeps ready.
const DESCRIPTORS_READY: usize = 16;

/// What this process and its machine hold because of it.
#[derive(Debug, PartialEq)]
struct Held {
    descriptors: usize,
    children: BTreeSet<String>,
    groups: usize,
}

impl Held {
    fn now() -> Self {
        Self { descriptors: fs::read_dir("/proc/self/fd").unwrap().count(), children: children(), groups: groups() }
    }
}

/// The processes whose parent is this one.
fn children() -> BTreeSet<String> {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Control groups of attempts, of this process.
fn groups() -> usize {
    let own = format!("tarn-native-{}-", std::process::id());
    let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let trees: Vec<_> = folders(Path::new("/sys/fs/cgroup")).collect();
    let below = trees.iter().flat_map(|tree| folders(tree));
    let ours = below.filter(|path| path.to_string_lossy().contains(&own));
    ours.map(|folder| folders(&folder).filter(|path| path.is_dir()).count()).sum()
}

/// Runs `attempts` that end in every way, and compares what is held before and after.
pub async fn after(subject: &dyn Subject, attempts: usize) {
    let Some(bench) = Bench::alone(subject, SLOTS).await else {
        return;
    };
    many(&bench, WARM_UP).await;
    let (before, resident) = (Held::now(), resident_bytes());
    many(&bench, attempts).await;
    let after = Held::now();
    assert_eq!((after.children, after.groups), (before.children, before.groups));
    // Machines that wait ready are made and thrown away beside the attempts, a few descriptors each; what leaks shows in many attempts.
    let more = after.descriptors.saturating_sub(before.descriptors);
    assert!(more <= DESCRIPTORS_READY, "{more} more descriptors after {attempts} attempts");
    // Memory is not given back to the byte; what grows with each attempt shows in many of them.
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < (32 << 20) + attempts as u64 * 512, "{grown} bytes more after {attempts} attempts");
    bench.still_works().await;
}

async fn many(bench: &Bench, attempts: usize) {
    let all = stream::iter(0..attempts).map(|number| one(bench, number));
    all.buffer_unordered(SLOTS).for_each(|()| async {}).await;
}

async fn one(bench: &Bench, number: usize) {
    let mut attempt = match number % 5 {
        0 => bench.attempt(&["exit", "3"]),
        1 => bench.attempt(&["crash"]),
        2 => bench.attempt(&["flood"]),
        3 => bench.attempt(&["loop"]),
        _ => bench.attempt(&["echo"]),
    };
    input(&mut attempt, b"in and out");
    attempt.limits.output_bytes = 1_000;
    if number % 5 == 3 {
        attempt.limits.time_ms = 10;
    }
    let reason = match bench.run(attempt).await {
        Ok(_) => "",
        Err(failure) => failure.error.reason(),
    };
    let wanted = ["EXIT_NONZERO", "CRASH", "OUTPUT_LIMIT", "TIME_LIMIT", ""][number % 5];
    assert!(reason == wanted || wanted == "CRASH" && !reason.is_empty(), "attempt {number}: {reason}");
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

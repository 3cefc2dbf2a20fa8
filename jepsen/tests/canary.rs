//! Bugs that were planted in the cluster are found. By name, because it needs a build of its own:
//!
//! ```sh
//! cargo build -p tarn --features canary && cp target/debug/tarn target/debug/tarn-canary && cargo build -p tarn
//! cargo test -p tarn-jepsen --test canary -- --ignored
//! ```

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tarn_jepsen::disk;

/// A planted bug, what is run to find it, within how many seeds, and the checks that may give it away, by their names in the report.
struct Bug {
    name: &'static str,
    workload: &'static str,
    nemesis: &'static str,
    seeds: u32,
    found_by: &'static [&'static str],
    needs_disk: bool,
}

const BUGS: &[Bug] = &[
    Bug {
        name: "ack-before-fsync",
        workload: "queue",
        nemesis: "power-loss-all",
        seeds: 3,
        found_by: &["accepted tasks end", "completed once", "tokens are unique", "no node gave up", "nodes agree"],
        needs_disk: true,
    },
    Bug {
        name: "ignore-token",
        workload: "queue",
        nemesis: "pause",
        seeds: 5,
        found_by: &["stale tokens are refused", "completed once"],
        needs_disk: false,
    },
    Bug {
        name: "index-apart",
        workload: "queue",
        nemesis: "power-loss",
        seeds: 5,
        found_by: &["no node gave up", "nodes agree"],
        needs_disk: true,
    },
];

/// The names of the checks that say "invalid" about one run.
fn broken(binary: &Path, tarn: &Path, bug: &Bug, seed: u32, out: &Path) -> Vec<String> {
    let output = Command::new(binary)
        .env("TARN_CANARY", bug.name)
        .args(["run", "--workload", bug.workload, "--nemesis", bug.nemesis])
        .args(["--network", "loopback", "-o", "json", "--time", "30s"])
        .args(["--seed", &seed.to_string()])
        .arg("--tarn")
        .arg(tarn)
        .arg("--out")
        .arg(out)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in bug.found_by {
        assert!(names.contains(name), "there is no check {name:?}, only {names:?}");
    }
    let broken = checks.iter().filter(|check| check["outcome"] == "invalid");
    broken.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "minutes, and a build with planted bugs; by name"]
fn each_planted_bug_is_found_within_its_seeds() {
    let binary = Path::new(env!("CARGO_BIN_EXE_jepsen"));
    let tarn = binary.with_file_name("tarn-canary");
    assert!(tarn.is_file(), "{} is not there: the head of this test says how to build it", tarn.display());
    for bug in BUGS {
        if let (true, Err(reason)) = (bug.needs_disk, disk::available()) {
            eprintln!("{} is left out: {reason}", bug.name);
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let found = (1..=bug.seeds).find_map(|seed| {
            let broken = broken(binary, &tarn, bug, seed, out.path());
            (!broken.is_empty()).then_some((seed, broken))
        });
        let (seed, broken) = found.unwrap_or_else(|| panic!("{} was not found in {} seeds", bug.name, bug.seeds));
        eprintln!("{}: seed {seed}: {broken:?}", bug.name);
        assert!(broken.iter().any(|check| bug.found_by.contains(&check.as_str())), "{}: {broken:?}", bug.name);
    }
}

//! The suite's fixed budget of seeds, and that a seed decides everything.

use std::path::Path;
use std::process::{Command, Output};

/// Seeds of the suite: some tens, each about a second of one core.
const SEEDS: u32 = 30;

/// A run that once broke an invariant.
struct Regression {
    arguments: &'static str,
    /// What it found.
    found: &'static str,
    /// The faults that it is about, and how many of each must really happen: else the seed has come to mean something else, and proves nothing.
    faults: &'static [(&'static str, u64)],
}

const REGRESSIONS: &[Regression] = &[
    Regression {
        arguments: "--seed 63 --only kill,slow-disk,power-cut",
        found: "a state that was ahead of the log when the process was killed fell back with the next power cut, behind where the log had begun anew",
        faults: &[("Kill", 5), ("PowerCut", 3), ("SlowDisk", 5)],
    },
    Regression {
        arguments: "--seed 193 --only kill,slow-disk,power-cut",
        found: "the same, on another node",
        faults: &[("Kill", 5), ("PowerCut", 3), ("SlowDisk", 5)],
    },
];

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tarn-sim")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn no_seed_of_the_budget_breaks_an_invariant() {
    let output = sim(&["--seeds", &SEEDS.to_string(), "--jobs", "2", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(report["runs"], SEEDS);
    // Runs in which nothing happens would prove nothing.
    for fault in ["Kill", "PowerCut", "PowerCutInside", "Pause", "Partition", "OneWay", "BadLinks", "ClockJump"] {
        assert!(report["faults"][fault].as_u64() > Some(5), "{fault}: {report}");
    }
    for fault in ["ClockDrift", "DiskFault", "SlowDisk", "Transfer", "Membership", "Snapshot", "ShutDown", "UsersCut"] {
        assert!(report["faults"][fault].as_u64() > Some(5), "{fault}: {report}");
    }
    // Majorities that must do without the rest.
    for left in ["LeftDead", "LeftCutOff", "LeftPaused"] {
        assert!(report["faults"][left].as_u64() > Some(0), "{left}: {report}");
    }
    for operation in ["enqueue done", "complete done", "acquire lease done", "schedule timer done", "get task done"] {
        assert!(report["operations"][operation].as_u64() > Some(100), "{operation}: {report}");
    }
    for operation in ["complete refused STALE_TOKEN", "acquire lease refused LEASE_HELD"] {
        assert!(report["operations"][operation].as_u64() > Some(20), "{operation}: {report}");
    }
    let operations = report["operations"].as_object().unwrap();
    let unknown = operations.iter().filter(|(name, _)| name.ends_with(" unknown") && !name.starts_with("get"));
    assert!(unknown.filter_map(|(_, count)| count.as_u64()).sum::<u64>() > 20, "{report}");
}

#[test]
fn what_was_found_once_stays_mended() {
    for regression in REGRESSIONS {
        let Regression { arguments, found, faults } = regression;
        let mut all: Vec<&str> = arguments.split(' ').collect();
        all.extend(["--output", "json"]);
        let output = sim(&all);
        assert!(output.status.success(), "{arguments} once found: {found}\n{}", text(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for (fault, at_least) in *faults {
            assert!(report["faults"][fault].as_u64() >= Some(*at_least), "{arguments} is no longer about {fault}: {report}");
        }
    }
}

#[test]
fn a_run_that_takes_too_long_is_killed_and_told() {
    let output = sim(&["--seeds", "1", "--from", "7", "--limit", "1ms", "--faults", "60s"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("was killed"), "{}", text(&output));
    assert!(text(&output).contains("replay: tarn-sim --seed 7 --faults 60000ms"), "{}", text(&output));
}

fn trace(arguments: &str, path: &Path) -> String {
    let mut all: Vec<&str> = arguments.split(' ').collect();
    all.extend(["--trace", path.to_str().unwrap()]);
    let output = sim(&all);
    assert!(output.status.success(), "{}", text(&output));
    let seed = arguments.split(' ').nth(1).unwrap();
    assert!(output.stdout.starts_with(format!("seed {seed}\n").as_bytes()), "the seed comes first");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    let temp = tempfile::tempdir().unwrap();
    // What each of them must have in it, so that it is known what was compared: five nodes with clocks that jump and drift, transfers of the
    // leadership, and changes of the members; three nodes with disks that fail; and a minority that is left behind, and users who lose nodes.
    let compared: &[(&str, &[&str])] = &[
        ("--seed 11 --nodes 5", &[" nodes: 5,", "node 5 is up", " clock jumps by ", " millionths", "fault Transfer", "fault Membership"]),
        ("--seed 6", &[" nodes: 3,", " disk fails: "]),
        ("--seed 27", &["is left behind", "the minority comes back", "users are cut from node "]),
    ];
    for (arguments, contents) in compared {
        let traces = ["a", "b"].map(|name| trace(arguments, &temp.path().join(name)));
        assert!(traces[0].len() > 100_000, "little happened");
        assert!(traces[0] == traces[1], "{arguments} gave two different traces");
        for content in *contents {
            assert!(traces[0].contains(content), "{arguments} has no {content:?} in it");
        }
    }
    assert_ne!(trace("--seed 2", &temp.path().join("c")), trace("--seed 3", &temp.path().join("d")));
}

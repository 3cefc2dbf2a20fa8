//! Planted bugs are found: `cargo test -p tarn-sim --features canary --test canary`, as deploy/test does.

#![cfg(feature = "canary")]

use std::process::Command;

/// Each bug, the seeds within which it must be found, and what gives it away.
const BUGS: &[(&str, u64, &[&str])] = &[
    // Votes are lost with the entries: whichever of the two is looked at first.
    ("ack-before-fsync", 5, &["durable acknowledgement", "election safety"]),
    ("ignore-token", 20, &["fenced", "completed once"]),
    ("index-apart", 5, &["sound recovery"]),
];

#[test]
fn each_planted_bug_is_found_within_its_seeds() {
    for (bug, seeds, expected) in BUGS {
        let output = Command::new(env!("CARGO_BIN_EXE_tarn-sim"))
            .args(["--seeds", &seeds.to_string(), "--canary", bug, "--jobs", "2", "--output", "json"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{bug} was not found within {seeds} seeds: {text}");
        assert!(expected.iter().any(|invariant| text.contains(invariant)), "{bug}: {text}");
        assert!(text.contains("replay: tarn-sim --seed "), "{text}");
    }
}

#[test]
fn the_same_seeds_find_nothing_where_nothing_is_planted() {
    let output = Command::new(env!("CARGO_BIN_EXE_tarn-sim")).args(["--seeds", "5", "--jobs", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

//! A process whose environment names a crash point dies there, and nowhere else.
//!
//! `cargo test -p tarn-storage --features crash-points`

#![cfg(feature = "crash-points")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use tarn_storage::crash;

/// Set in the process that is to visit the points.
const VISITOR: &str = "TARN_TEST_CRASH_VISITOR";

const SIGABRT: i32 = 6;

/// The visitor: passes two points three times each and says so.
#[test]
fn the_visitor() {
    if std::env::var_os(VISITOR).is_none() {
        return;
    }
    for round in 1..=3 {
        crash::point("first");
        eprintln!("passed first {round}");
        crash::point("second");
        eprintln!("passed second {round}");
    }
}

fn visit(armed: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["the_visitor", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(VISITOR, "1").env_remove(crash::VARIABLE).stdin(Stdio::null());
    if let Some(armed) = armed {
        command.env(crash::VARIABLE, armed);
    }
    command.output().unwrap()
}

fn last_words(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines().filter(|line| line.starts_with("passed")).map(str::to_owned).collect()
}

#[test]
fn an_unarmed_process_passes() {
    let output = visit(None);
    assert!(output.status.success());
    assert_eq!(last_words(&output).len(), 6);
    assert!(visit(Some("elsewhere")).status.success());
}

#[test]
fn an_armed_process_dies_at_its_point() {
    let output = visit(Some("second"));
    assert_eq!(output.status.signal(), Some(SIGABRT));
    assert_eq!(last_words(&output), ["passed first 1"]);

    let output = visit(Some("first:3"));
    assert_eq!(output.status.signal(), Some(SIGABRT));
    assert_eq!(last_words(&output).last().unwrap(), "passed second 2");
}

//! The command line, as scripts see it: what it prints, and its exit codes.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tarn_jepsen::checker::Verdict;
use tarn_jepsen::faults::{self, Phase};
use tarn_jepsen::figures::Figures;
use tarn_jepsen::history::{Process, Recorder};
use tarn_jepsen::report::{Folder, Report, Setting};

fn jepsen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = jepsen(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
}

#[test]
fn what_there_is_is_listed() {
    let output = jepsen(&["list", "-o", "json"]);
    assert!(output.status.success());
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["tests"].as_array().unwrap().len(), 35);
    let workloads = list["workloads"].as_array().unwrap();
    assert!(workloads.iter().any(|workload| workload["name"] == "queue"));
    let printed = text(&jepsen(&["list"]).stdout);
    assert!(printed.contains("queue") && printed.contains("partition"), "{printed}");
}

#[test]
fn wrong_usage_is_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out_text = out.to_str().unwrap();
    let own = env!("CARGO_BIN_EXE_jepsen");
    let cases: [(&[&str], &str); 8] = [
        (&["run"], "--workload"),
        (&["run", "--workload", "none-such", "--tarn", own, "--out", out_text], "there are register"),
        (&["run", "--workload", "queue", "--nemesis", "none-such", "--tarn", own, "--out", out_text], "partition"),
        (&["run", "--workload", "queue", "--nemesis", "kill,all", "--tarn", own, "--out", out_text], "stand alone"),
        (&["run", "--workload", "queue", "--tarn", "/none/such", "--out", out_text], "cargo build -p tarn"),
        (
            &["run", "--workload", "queue", "--nemesis", "kill,partition-ring", "--nodes", "3", "--tarn", own, "--out", out_text],
            "partition-ring: it needs at least 5 nodes",
        ),
        (
            &["run", "--workload", "queue", "--nemesis", "kill,disk-full", "--disk", "plain", "--tarn", own, "--out", out_text],
            "disk-full: a plain disk",
        ),
        (&["check", "/none/such"], "verdict.json"),
    ];
    for (args, said) in cases {
        let output = jepsen(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let error = text(&output.stderr);
        assert!(error.contains(said), "{args:?}: {error}");
    }
    assert!(!out.exists(), "a folder was made although nothing was run");
}

/// A report folder with a history of a register: one client takes it and reads it, with this answer.
fn stored(dir: &Path, read: Result<Value, &str>, whole: bool) {
    let folder = Folder::open(dir);
    let recorder = Recorder::create(&folder.history()).unwrap();
    faults::begin(&recorder, Phase::Work);
    faults::begin(&recorder, Phase::Calm);
    let client = Process::Client(0);
    let calls = recorder.with_deadline(Duration::from_secs(2));
    let taken = calls.invoke(client, "acquire", Some("r0"), json!({"holder": "a"}));
    taken.ok(json!({"holder": "a", "token": 5}));
    let got = calls.invoke(client, "get", Some("r0"), Value::Null);
    match read {
        Ok(value) => got.ok(value),
        Err(error) => got.fail(error),
    }
    faults::begin(&recorder, Phase::Drain);
    recorder.info("ready", json!({"leader": 1, "seconds": 0.5}));
    recorder.info("drained", json!({"seconds": 0.5}));
    recorder.info("agreement", json!({"result": "agreed", "index": 9, "digest": "0123456789abcdef", "nodes": [1, 2, 3]}));
    if whole {
        recorder.info("endings", json!([]));
    }
    recorder.flush().unwrap();
    let setting = Setting {
        workload: "register".to_owned(),
        nemeses: vec!["kill".to_owned()],
        seed: 7,
        nodes: 3,
        clusters: 1,
        clients: 1,
        seconds: 1,
        network: "loopback".to_owned(),
        disk: "plain".to_owned(),
        settings: Vec::new(),
        tarn: "tarn".to_owned(),
        started: "2026-11-21T08:00:00Z".to_owned(),
        command: "jepsen run --workload register --nemesis kill --seed 7".to_owned(),
    };
    let report = Report::new(setting, Verdict::of(Vec::new()), Figures::default());
    report.write(&folder, &[]).unwrap();
}

#[test]
fn a_stored_history_is_judged_again_and_its_verdict_is_the_exit_code() {
    let right = json!({"holder": "a", "token": 5});
    let cases = [
        ("valid", Ok(right.clone()), true, 0),
        ("invalid", Err("LEASE_NOT_FOUND: nobody holds it"), true, 1),
        ("unknown", Ok(right), false, 2),
    ];
    for (word, read, whole, code) in cases {
        let dir = tempfile::tempdir().unwrap();
        stored(dir.path(), read, whole);
        let output = jepsen(&["check", dir.path().to_str().unwrap(), "-o", "json"]);
        assert_eq!(output.status.code(), Some(code), "{word}: {}", text(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed["outcome"], word);
        let written: Value = serde_json::from_slice(&std::fs::read(dir.path().join("verdict.json")).unwrap()).unwrap();
        assert_eq!(written, printed);
        let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
        assert!(page.contains(&format!("<body class=\"{word}\">")));
        assert!(page.contains("jepsen run --workload register --nemesis kill --seed 7"));
        for elsewhere in ["http://", "https://", "src=", "@import"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(elsewhere), "{elsewhere}");
        }
    }
}

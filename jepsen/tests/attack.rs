//! Runs on real clusters. They need the `tarn` binary beside `jepsen`, where `cargo build -p tarn` and a build of the whole workspace put it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tarn_jepsen::{cluster, disk};

fn jepsen() -> Command {
    let own = Path::new(env!("CARGO_BIN_EXE_jepsen"));
    let tarn = own.with_file_name("tarn");
    assert!(tarn.is_file(), "{} is not there: build it with `cargo build -p tarn`", tarn.display());
    Command::new(own)
}

/// A run of this workload under these nemeses, on loopback.
fn attack(workload: &str, nemeses: &[&str], seconds: u32, seed: u32, out: &Path) {
    attack_with(workload, nemeses, seconds, seed, out, &[]);
}

/// The same, with more flags.
fn attack_with(workload: &str, nemeses: &[&str], seconds: u32, seed: u32, out: &Path, flags: &[&str]) {
    let output = jepsen()
        .args(["run", "--workload", workload, "--nemesis", &nemeses.join(",")])
        .args(["--network", "loopback", "-o", "json"])
        .args(flags)
        .args(["--time", &format!("{seconds}s"), "--seed", &seed.to_string()])
        .arg("--out")
        .arg(out)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let wrong: Vec<&Value> = report["checks"].as_array().into_iter().flatten().filter(|check| check["outcome"] != "valid").collect();
    assert_eq!(output.status.code(), Some(0), "{}: {wrong:#?}", out.display());
    assert!(report["figures"]["operations"]["ok"].as_u64() > Some(50), "hardly anything was done: {report:#}");
    let faults = report["figures"]["faults"].as_object().unwrap();
    let made: u64 = faults.values().filter_map(|fault| fault["made"].as_u64()).sum();
    assert!(made >= 3, "hardly anything was attacked: {faults:#?}");
}

/// What every change must pass: a minute of what can go wrong on any machine, a quarter of it quiet, and of wrong clocks and lost power where
/// this one allows them. What it finds stays in the folder.
#[test]
fn a_short_mixed_attack_finds_nothing() {
    let dir = tempfile::Builder::new().prefix("jepsen-").tempdir().unwrap();
    let out = dir.keep();
    let mut lost = vec!["snapshot", "transfer"];
    let unusable = |what: &str, reason: String| eprintln!("{what} is left out: {reason}");
    match disk::available() {
        Ok(()) => lost.push("power-loss"),
        Err(reason) => unusable("power-loss", reason),
    }
    let mut late = vec!["restart", "slow"];
    match cluster::clock::available() {
        Ok(()) => late.push("clock"),
        Err(reason) => unusable("clock", reason),
    }
    attack("queue", &["kill", "partition", "pause"], 24, 1, &out);
    attack("register", &lost, 20, 2, &out);
    attack("watch", &late, 16, 3, &out);
    // Nothing was found, so there is nothing to look at.
    std::fs::remove_dir_all(out).unwrap();
}

/// The same for clusters that federate: three of one node in a line, of which the outer two meet only through the one between them.
#[test]
fn a_short_attack_on_a_federation_finds_nothing() {
    let dir = tempfile::Builder::new().prefix("jepsen-").tempdir().unwrap();
    let out = dir.keep();
    attack_with("federation", &["links", "kill-leader"], 24, 1, &out, &["--clusters", "3", "--nodes", "1", "--links", "line"]);
    std::fs::remove_dir_all(out).unwrap();
}

/// Longer: two clusters of three nodes, whose leaders are killed and whose clocks are wrong.
#[test]
#[ignore = "five minutes; by name"]
fn a_long_attack_on_a_federation_finds_nothing() {
    let dir = tempfile::Builder::new().prefix("jepsen-").tempdir().unwrap();
    let out = dir.keep();
    let mut nemeses = vec!["links", "kill-leader", "pause", "power-loss"];
    nemeses.extend(cluster::clock::available().is_ok().then_some("clock"));
    nemeses.retain(|nemesis| *nemesis != "power-loss" || disk::available().is_ok());
    attack_with("federation", &nemeses, 240, 2, &out, &["--clusters", "2", "--nodes", "3"]);
    std::fs::remove_dir_all(out).unwrap();
}

/// The processes whose command line names this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&folder) && line.contains("server"))
        .collect()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the run if a test fails before it has ended.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupted_run_ends_everything_and_has_no_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let child = jepsen()
        .args(["run", "--workload", "register", "--nemesis", "pause", "--network", "loopback"])
        .args(["--time", "10m", "--seed", "1", "--out"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut run = Run(child);
    let folder: PathBuf = wait_for("the folder", || std::fs::read_dir(dir.path()).ok()?.flatten().next()).path();
    wait_for("work", || {
        let history = std::fs::read_to_string(folder.join("history.jsonl")).ok()?;
        history.contains("\"acquire\"").then_some(())
    });
    assert!(!processes_of(dir.path()).is_empty());

    kill(Pid::from_raw(i32::try_from(run.0.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = wait_for("the end", || run.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(3));
    assert_eq!(processes_of(dir.path()), Vec::<String>::new());
    assert!(!folder.join("verdict.json").exists());
    assert!(std::fs::read_to_string(folder.join("failure.txt")).unwrap().contains("interrupted"));
}

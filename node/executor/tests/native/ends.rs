//! How attempts end, beyond what all runtimes share.

use std::fs;
use std::process::{Child, Command};

use tarn_executor::native::NativeExecutor;
use tarn_executor::{Executor as _, Kind};

use crate::{Bench, c, config, program, shell};

#[tokio::test]
async fn scripts_run_with_their_interpreter() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = shell("read line; echo \"$1: $line\"; echo $PWD $HOME $TMPDIR >&2");
    if let Kind::Command(command) = &mut attempt.kind {
        command.args = vec!["first".into()];
        command.input = "typed\n".into();
    }
    let report = bench.run(attempt).await.unwrap();
    assert_eq!((&report.output[..], &report.logs[..]), (&b"first: typed\n"[..], &b"/tmp /tmp /tmp\n"[..]));
}

#[tokio::test]
async fn what_is_no_program_is_refused_for_good() {
    let Some(bench) = Bench::new().await else { return };
    for (bytes, said) in [
        (&b"#!/no/such/interpreter\n"[..], "interpreter"),
        (b"just text", "format"),
        (b"\x7fELF\x02\x01\x01 and then nothing", "format"),
        (b"\0asm\x01\0\0\0", "format"),
        (b"", "format"),
        (&another_machine_s(), "format"),
    ] {
        let failure = bench.run(program(bytes.to_vec().into())).await.unwrap_err();
        assert_eq!(failure.error.reason(), "NATIVE_INVALID_PROGRAM", "{failure}");
        assert!(!failure.error.retryable());
        assert!(failure.to_string().to_lowercase().contains(said), "{failure}");
    }
}

/// A program that would run here, but for the machine that it says it is for.
fn another_machine_s() -> Vec<u8> {
    const MACHINE_AT: usize = 18;
    let mut program = fs::read("/bin/true").unwrap();
    program[MACHINE_AT..][..2].copy_from_slice(&u16::MAX.to_le_bytes());
    program
}

#[tokio::test]
async fn signals_are_named_and_told_apart() {
    let Some(bench) = Bench::new().await else { return };
    let failure = bench.run(c("int main(void) { *(volatile int *)8 = 1; }")).await.unwrap_err();
    assert!(failure.to_string().contains("SIGSEGV"), "{failure}");
    let failure = bench.run(c("#include <stdlib.h>\nint main(void) { abort(); }")).await.unwrap_err();
    assert!(failure.to_string().contains("SIGABRT"), "{failure}");
    // Not a bug of the program's for this input, as far as anybody can know.
    let failure = bench.run(shell("kill -9 $$")).await.unwrap_err();
    assert_eq!((failure.error.reason(), failure.error.retryable()), ("NATIVE_KILLED", true));
}

#[tokio::test]
async fn other_kinds_of_work_and_fuel_are_refused() {
    let Some(bench) = Bench::new().await else { return };
    let mut attempt = shell("true");
    attempt.limits.fuel = Some(1_000);
    assert_eq!(bench.run(attempt).await.unwrap_err().error.reason(), "BAD_ARGUMENTS");
    let mut attempt = shell("true");
    attempt.kind = Kind::Export { name: "add".into(), params: Vec::new() };
    assert_eq!(bench.run(attempt).await.unwrap_err().error.reason(), "UNSUPPORTED_KIND");
    let mut attempt = shell("true");
    if let Kind::Command(command) = &mut attempt.kind {
        command.env.insert("NAME=".into(), "value".into());
    }
    assert_eq!(bench.run(attempt).await.unwrap_err().error.reason(), "BAD_ARGUMENTS");
}

/// A machine whose walls are complete says so; the labels are what tasks can require.
#[tokio::test]
async fn the_walls_are_labels() {
    let Some(bench) = Bench::new().await else { return };
    let labels = bench.executor.capabilities().labels;
    for name in ["native.processes", "native.files", "native.network", "native.seccomp"] {
        assert_eq!(labels.get(name).map(String::as_str), Some("yes"), "{name}");
    }
    let group = &labels["native.cgroup"];
    assert!(group == "v1" || group == "v2", "{group}");
    assert_eq!(labels["native.arch"], std::env::consts::ARCH);
}

#[tokio::test]
async fn a_launcher_that_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().to_owned());
    config.child = ("/bin/true".into(), Vec::new());
    let error = NativeExecutor::new(config.clone()).await.err().expect("it cannot start");
    assert_eq!(error.reason(), "EXECUTOR_BROKEN");
    config.child = ("/no/such/file".into(), Vec::new());
    assert_eq!(NativeExecutor::new(config.clone()).await.err().unwrap().reason(), "EXECUTOR_BROKEN");
    config.slots = 0;
    assert_eq!(NativeExecutor::new(config).await.err().unwrap().reason(), "LIMIT_OUT_OF_RANGE");
}

/// A node that is killed takes what it started along: nothing runs on that nobody watches.
#[tokio::test]
async fn the_death_of_the_node_ends_its_processes() {
    if Bench::new().await.is_none() {
        return;
    }
    let marks = tempfile::tempdir().unwrap();
    let mark = format!("tarn-test-{}", std::process::id());
    // A node of its own: this test's binary, told to run the test below.
    let mut node = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "ends::run_a_process_for_ever"])
        .env("MARK", &mark)
        .env("MARKS", marks.path())
        .spawn()
        .unwrap();
    wait_until(|| !processes_with(&mark).is_empty());
    kill(&mut node);
    wait_until(|| processes_with(&mark).is_empty());
}

/// Not a test: the node of the test above.
#[tokio::test]
#[ignore = "the other half of another test"]
async fn run_a_process_for_ever() {
    let Some(bench) = Bench::new().await else { return };
    let mark = std::env::var("MARK").expect("the other test starts this one");
    let mut attempt = shell("while :; do sleep 1; done");
    if let Kind::Command(command) = &mut attempt.kind {
        command.args = vec![mark];
    }
    bench.run(attempt).await.unwrap();
}

/// Who kills the launcher kills the attempt: nothing that it started runs on, and the node is told.
#[tokio::test]
async fn the_death_of_the_launcher_ends_all_that_it_started() {
    let Some(bench) = Bench::new().await else { return };
    let mark = format!("tarn-launcher-{}", std::process::id());
    let mut attempt = shell("setsid sh -c 'while :; do sleep 1; done' \"$1\" & while :; do sleep 1; done");
    if let Kind::Command(command) = &mut attempt.kind {
        command.args = vec![mark.clone()];
    }
    let killing = tokio::task::spawn_blocking({
        let mark = mark.clone();
        move || {
            // The program, and what it started, which has left its session.
            wait_until(|| processes_with(&mark).len() >= 2);
            let program = processes_with(&mark).into_iter().min().expect("it runs");
            let first = parent_of(program);
            let launcher = parent_of(first);
            assert_eq!(parent_of(launcher), std::process::id());
            assert!(Command::new("kill").args(["-KILL", &launcher.to_string()]).status().unwrap().success());
            wait_until(|| processes_with(&mark).is_empty());
        }
    });
    let failure = bench.run(attempt).await.unwrap_err();
    killing.await.unwrap();
    assert_eq!((failure.error.reason(), failure.error.retryable()), ("EXECUTOR_BROKEN", true), "{failure}");
    assert_eq!(bench.prints("echo still here").await, "still here\n");
}

/// By the machine's own numbers.
fn parent_of(process: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("every process has a parent");
    parent.trim().parse().unwrap()
}

fn kill(node: &mut Child) {
    node.kill().unwrap();
    node.wait().unwrap();
}

/// Processes of the machine with this among their arguments, whatever namespace they are in.
pub fn processes_with(mark: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let processes = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |process: &u32| fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark));
    processes.filter(has).collect()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < crate::PATIENCE, "it does not come");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

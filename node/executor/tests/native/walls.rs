//! A machine that cannot put up all the walls, and an executor that may run behind those that it can.

use std::process::Command;

use tarn_executor::native::NativeExecutor;
use tarn_executor::{Executor as _, Kind};
use tokio_util::sync::CancellationToken;

use crate::ends::processes_with;
use crate::{Bench, config, shell};

/// There are file systems of its own and no process namespaces: a user namespace that may make none is such a machine.
#[tokio::test]
async fn a_file_system_of_its_own_needs_no_process_namespace() {
    if Bench::new().await.is_none() {
        return;
    }
    let forbid = "echo 0 >/proc/sys/user/max_pid_namespaces && exec \"$@\"";
    let inside = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", forbid, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "walls::run_without_process_namespaces"])
        .output()
        .unwrap();
    assert!(
        inside.status.success() && String::from_utf8_lossy(&inside.stdout).contains("1 passed"),
        "{}{}",
        String::from_utf8_lossy(&inside.stdout),
        String::from_utf8_lossy(&inside.stderr)
    );
}

/// Not a test: the machine of the test above.
#[tokio::test]
#[ignore = "the other half of another test"]
async fn run_without_process_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path().to_owned());
    assert_eq!(NativeExecutor::new(config.clone()).await.err().unwrap().reason(), "NATIVE_WALLS_INCOMPLETE");
    config.allow_incomplete_walls = true;
    let executor = NativeExecutor::new(config).await.unwrap();
    assert!(executor.walls().files && !executor.walls().processes, "{:?}", executor.walls());

    // Nothing ends what it leaves behind but the launcher.
    let mark = format!("tarn-walls-{}", std::process::id());
    let mut attempt = shell("sh -c 'while :; do sleep 1; done' \"$1\" & ls /; cd /task && ls");
    if let Kind::Command(command) = &mut attempt.kind {
        command.args = vec![mark.clone()];
    }
    let report = executor.run(attempt, CancellationToken::new()).await.unwrap();
    let seen = String::from_utf8(report.output.to_vec()).unwrap();
    assert!(seen.ends_with("program\n") && !seen.contains("proc\n") && !seen.contains("root\n"), "{seen}");
    assert!(processes_with(&mark).is_empty());
}

//! The command line, as a person or a script uses it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use serde_json::Value;
use tempfile::TempDir;

use crate::scene::{LIMIT, command, succeeded};

const ADD: &str = r#"(module
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "trap") unreachable))"#;

/// `tarn dev` in a folder of its own.
struct Dev {
    process: Child,
    address: String,
    dir: TempDir,
}

impl Dev {
    fn start() -> Dev {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("dev");
        let process = command(dir.path())
            .args([
                "dev",
                "--bind",
                "127.0.0.1:0",
                "--https-bind",
                "127.0.0.1:0",
                "--ops-bind",
                "127.0.0.1:0",
                "--dir",
            ])
            .arg(&home)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut dev = Dev {
            process,
            address: String::new(),
            dir,
        };
        let end = Instant::now() + LIMIT;
        while dev.address.is_empty() {
            assert!(
                dev.process.try_wait().unwrap().is_none() && Instant::now() < end,
                "the node does not start"
            );
            if let Ok(bytes) = std::fs::read(home.join("addresses.json")) {
                let addresses: Value = serde_json::from_slice(&bytes).unwrap();
                dev.address = addresses["api"].as_str().unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        dev
    }

    fn command(&self) -> Command {
        let user = self.dir.path().join("dev/user");
        let mut command = command(self.dir.path());
        command
            .env("TARN_ADDRESS", &self.address)
            .env("TARN_CACERT", user.join("ca.pem"))
            .env("TARN_CERT", user.join("admin.pem"))
            .env("TARN_KEY", user.join("admin.key"));
        command
    }

    fn tarn(&self, line: &str) -> Output {
        self.command()
            .args(line.split(' '))
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!(
                "{}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
        }
    }
}

/// The one JSON object that a failure leaves on standard error, and its exit code.
#[track_caller]
fn failure(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    let error: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = output.status.code().unwrap();
    assert_eq!(error["error"]["exit_code"], code);
    assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    (code, error["error"].clone())
}

#[test]
fn a_module_runs_and_exit_codes_tell_what_became_of_it() {
    let dev = Dev::start();
    std::fs::write(dev.dir.path().join("add.wat"), ADD).unwrap();
    let sum = dev.tarn("task submit --queue sums --wasm add.wat --export add --param 40 --param -2 --wait");
    assert_eq!(succeeded(sum).trim(), "38");
    let shown: Value = serde_json::from_str(&succeeded(dev.tarn("task list --queue sums -o json"))).unwrap();
    assert!(shown.to_string().contains("SUCCEEDED"), "{shown}");

    let died = dev.tarn("task submit --queue sums --wasm add.wat --export trap --max-attempts 1 --wait -o json");
    let (code, error) = failure(&died);
    assert_eq!(code, 5);
    let id = error["task_id"].as_str().unwrap();
    assert_eq!(dev.tarn(&format!("task wait {id}")).status.code(), Some(5));

    let id = succeeded(dev.tarn("task submit --queue nobody --payload x"));
    let id = id.trim();
    assert_eq!(
        failure(&dev.tarn(&format!("task wait {id} --timeout 50ms -o json"))).0,
        4
    );
    succeeded(dev.tarn(&format!("task cancel {id}")));
    assert_eq!(failure(&dev.tarn(&format!("task wait {id} -o json"))).0, 6);

    let (code, error) = failure(&dev.tarn("task get 0000000000000 -o json"));
    assert_eq!((code, error["reason"].as_str()), (1, Some("TASK_NOT_FOUND")));
    assert_eq!(dev.tarn("task get 0000000000000").status.code(), Some(1));
    assert_eq!(
        failure(&dev.tarn("cluster remove 1 -o json")).0,
        2,
        "nobody can say yes"
    );
    assert_eq!(dev.tarn("task submit").status.code(), Some(2));
    let nowhere = dev.tarn("cluster status --address 127.0.0.1:1 --deadline 1s -o json");
    assert_eq!(failure(&nowhere).0, 3);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dev = Dev::start();
    let wide = dev.dir.path().join("wide.key");
    std::fs::copy(dev.dir.path().join("dev/user/admin.key"), &wide).unwrap();
    std::fs::set_permissions(&wide, PermissionsExt::from_mode(0o644)).unwrap();
    let refused = dev
        .command()
        .args(["cluster", "status", "--key"])
        .arg(&wide)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("wide.key"));
    std::fs::set_permissions(&wide, PermissionsExt::from_mode(0o600)).unwrap();
    succeeded(
        dev.command()
            .args(["cluster", "status", "--key"])
            .arg(&wide)
            .output()
            .unwrap(),
    );
}

#[test]
fn all_problems_of_a_configuration_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tarn.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        command(dir.path())
            .args(["config", "check", "--config"])
            .arg(&file)
            .output()
            .unwrap()
    };
    let refused =
        check("node.id = \"one\"\nlisten.bnd = \"127.0.0.1:0\"\nraft.snapshot_entries = 1\nlog.format = \"xml\"\n");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    for (line, key) in ["node.id", "listen.bnd", "raft.snapshot_entries", "log.format"]
        .iter()
        .enumerate()
    {
        assert!(text.contains(key), "{key}: {text}");
        assert!(
            text.contains(&format!("tarn.toml:{}", line + 1)),
            "line {}: {text}",
            line + 1
        );
    }
    succeeded(check("node.id = 1\n"));
}

#[test]
fn every_command_has_help_and_shells_complete_them() {
    let dir = tempfile::tempdir().unwrap();
    help(dir.path(), &tarn::cli::Cli::command(), &[]);
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeded(command(dir.path()).args(["completion", shell]).output().unwrap());
        assert!(script.contains("transfer-leader"), "{shell}");
    }
}

/// Asks this command and those below it for help.
fn help(dir: &Path, command_line: &clap::Command, path: &[&str]) {
    let text = succeeded(command(dir).args(path).arg("--help").output().unwrap());
    assert!(text.contains("Usage: tarn"), "{path:?}: {text}");
    for below in command_line.get_subcommands() {
        help(dir, below, &[path, &[below.get_name()]].concat());
    }
}

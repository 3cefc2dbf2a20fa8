//! The command line, as a person or a script uses it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::CommandFactory;
use serde_json::Value;

use crate::dev::{Dev, failure};
use crate::scene::{LIMIT, command, succeeded};

const ADD: &str = r#"(module
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "trap") unreachable))"#;

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
    assert_eq!(failure(&dev.tarn(&format!("task wait {id} --timeout 50ms -o json"))).0, 4);
    succeeded(dev.tarn(&format!("task cancel {id}")));
    assert_eq!(failure(&dev.tarn(&format!("task wait {id} -o json"))).0, 6);

    let (code, error) = failure(&dev.tarn("task get 0000000000000 -o json"));
    assert_eq!((code, error["reason"].as_str()), (1, Some("TASK_NOT_FOUND")));
    assert_eq!(dev.tarn("task get 0000000000000").status.code(), Some(1));
    assert_eq!(failure(&dev.tarn("cluster remove 1 -o json")).0, 2, "nobody can say yes");
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
    let refused = dev.command().args(["cluster", "status", "--key"]).arg(&wide).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("wide.key"));
    std::fs::set_permissions(&wide, PermissionsExt::from_mode(0o600)).unwrap();
    succeeded(dev.command().args(["cluster", "status", "--key"]).arg(&wide).output().unwrap());
}

#[test]
fn all_problems_of_a_configuration_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tarn.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        command(dir.path()).args(["config", "check", "--config"]).arg(&file).output().unwrap()
    };
    let refused = check("node.id = \"one\"\nlisten.bnd = \"127.0.0.1:0\"\nraft.snapshot_entries = 1\nlog.format = \"xml\"\n");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    for (line, key) in ["node.id", "listen.bnd", "raft.snapshot_entries", "log.format"].iter().enumerate() {
        assert!(text.contains(key), "{key}: {text}");
        assert!(text.contains(&format!("tarn.toml:{}", line + 1)), "line {}: {text}", line + 1);
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

#[test]
fn a_refusal_tells_by_which_id_it_is_explained() {
    let dev = Dev::start();
    let home = dev.dir.path().join("dev");
    let issue = format!("ca issue --ca {0}/ca --user eve --out {0}/eve", home.display());
    succeeded(dev.tarn(&issue));
    assert!(String::from_utf8_lossy(&dev.tarn(&issue).stderr).contains("a key is never overwritten"));
    succeeded(dev.tarn("role bind user/eve viewer --in default"));
    let eve = |line: &str| {
        let (cert, key) = (home.join("eve/eve.pem"), home.join("eve/eve.key"));
        let mut command = dev.command();
        command.env("TARN_CERT", cert).env("TARN_KEY", key);
        command.args(line.split(' ')).output().unwrap()
    };
    let refused = eve("task submit --queue mail --payload x");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let id = said.split("why: tarn explain request ").nth(1).unwrap_or_else(|| panic!("{said}")).trim();
    let (_, error) = failure(&eve("namespace create team -o json"));
    let in_json = error["request_id"].as_str().unwrap();
    for id in [id, in_json] {
        let end = Instant::now() + LIMIT;
        // Refusals are recorded in the background.
        let story = loop {
            let story = succeeded(dev.tarn(&format!("explain request {id}")));
            if story.contains("was refused") || Instant::now() > end {
                break story;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(story.contains("user/eve asked for") && story.contains("tarn role bind user/eve ROLE --in"), "{story}");
    }
}

#[test]
fn the_command_line_warns_of_what_it_does_not_read_and_nobody_asks_for() {
    let dev = Dev::start();
    let with_token = dev.command().env("TARN_TOKEN", "x").args(["auth", "whoami"]).output().unwrap();
    assert!(String::from_utf8_lossy(&with_token.stderr).contains("TARN_TOKEN is not read"));
    let warned = dev.tarn("role put mailer --allow submitt:queue/*");
    assert!(String::from_utf8_lossy(&warned.stderr).contains("did you mean \"submit\"?"));
    // Signing has a flag of its own: TARN_KEY, which is set, signs nothing.
    let bundle = dev.dir.path().join("night");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("bundle.toml"), "name = \"night\"\nversion = \"1.0.0\"\nenvironment = \"prod\"\n").unwrap();
    std::fs::write(bundle.join("night.rego"), "package tarn\nallow if { true }\n").unwrap();
    succeeded(dev.tarn("policy put night"));
    std::fs::write(bundle.join("bundle.toml"), "name = \"night\"\nversion = \"1.0.1\"\nenvironment = \"prod\"\n").unwrap();
    std::fs::write(bundle.join("night_test.rego"), "package tarn\ntest_no if { false }\n").unwrap();
    let refused = dev.tarn("policy put night --activate");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nothing was put"));
    assert!(!succeeded(dev.tarn("policy list")).contains("1.0.1"));
    let missing = dev.tarn("context add x --address a:1 --cacert nowhere --cert nowhere --key nowhere");
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn names_of_others_do_not_reach_the_terminal_as_they_are() {
    let dev = Dev::start();
    let acquired = dev.command().args(["lease", "acquire", "nightly", "--holder", "eve\u{1b}[2J\u{202e}"]).output().unwrap();
    // The cluster may refuse such a name, too; what it says is for the same terminal then.
    let listed = dev.tarn("lease list");
    for text in [&acquired.stdout, &acquired.stderr, &listed.stdout] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
}

#[test]
fn a_tenant_is_made_limited_looked_at_and_drained() {
    let dev = Dev::start();
    succeeded(dev.tarn("namespace create team --max-stored-bytes 100 --isolation strict --environment dev"));
    let payload = "x".repeat(200);
    let submit = format!("task submit --namespace team --queue mail --payload {payload} -o json");
    let (code, error) = failure(&dev.tarn(&submit));
    assert_eq!((code, &error["reason"]), (1, &Value::from("QUOTA_STORED_BYTES")));
    assert_eq!((&error["field"], &error["limit"]), (&Value::from("max_stored_bytes"), &Value::from(100)));

    let updated = succeeded(dev.tarn("namespace update team --max-stored-bytes 1Mi"));
    assert!(updated.contains("max stored bytes     1048576\n"), "{updated}");
    succeeded(dev.tarn(&submit));
    let shown = succeeded(dev.tarn("namespace show team"));
    assert!(shown.contains("isolation            strict\n") && shown.contains("environment          dev\n"), "{shown}");
    let usage: Value = serde_json::from_str(&succeeded(dev.tarn("namespace usage team -o json"))).unwrap();
    assert_eq!(usage["usage"]["ready"], "1");
    assert!(usage["usage"]["stored_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 200);

    let (_, error) = failure(&dev.tarn("namespace delete team --yes -o json"));
    assert_eq!(error["reason"], "NAMESPACE_NOT_EMPTY");
    assert_eq!(dev.tarn("namespace delete team --drain").status.code(), Some(2), "nobody is there to answer");
    let deleted = succeeded(dev.tarn("namespace delete team --drain --cancel --yes"));
    assert_eq!(deleted.trim(), "deleted team");
    let left = succeeded(dev.tarn("namespace list"));
    assert!(left.contains("default") && !left.contains("team"), "{left}");
}

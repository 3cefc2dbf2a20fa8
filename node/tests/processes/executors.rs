//! Tasks of each runtime, submitted from the command line and run by the binary itself.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dev::{Dev, failure};
use crate::scene::{LIMIT, succeeded};

const ADD: &str = r#"(module
  (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
  (func (export "trap") unreachable))"#;

/// Whether the node runs native tasks; a machine that cannot put up the walls tells so in its log.
fn runs_native(dev: &Dev) -> bool {
    let log = || std::fs::read_to_string(dev.dir.path().join("log")).unwrap_or_default();
    let end = Instant::now() + LIMIT;
    while !log().contains("native tasks") && !log().contains(r#"runtime="native""#) {
        assert!(Instant::now() < end, "the node says nothing of native tasks: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let runs = !log().contains("this node runs no native tasks");
    assert!(runs || std::env::var_os("TARN_REQUIRE_NATIVE").is_none(), "{}", log());
    if !runs {
        eprintln!("skipped: this machine cannot put up the walls around native tasks");
    }
    runs
}

fn write(dev: &Dev, name: &str, text: &str) {
    std::fs::write(dev.dir.path().join(name), text).unwrap();
}

#[test]
fn a_native_task_runs_behind_walls() {
    let dev = Dev::start();
    if !runs_native(&dev) {
        return;
    }
    write(&dev, "hello.sh", "#!/bin/sh\nread name; echo \"$GREETING, $name $1\"; echo note >&2; id -u >&2\n");
    let task = "task submit --queue tools --native hello.sh --arg --loud --env GREETING=Hello --payload Ada --wait";
    assert_eq!(succeeded(dev.tarn(task)).trim(), "Hello, Ada --loud");
    let list: Value = serde_json::from_str(&succeeded(dev.tarn("task list --queue tools -o json"))).unwrap();
    let id = find(&list, "task_id").expect("the task is listed").to_owned();
    let logs = succeeded(dev.tarn(&format!("task logs {id}")));
    assert!(logs.contains("note") && logs.contains("19000000"), "it was a user of its own: {logs}");

    write(&dev, "spin.sh", "#!/bin/sh\nwhile :; do :; done\n");
    let spin = dev.tarn("task submit --queue tools --native spin.sh --attempt-timeout 1s --max-attempts 1 --wait -o json");
    let (_, error) = failure(&spin);
    assert!(error.to_string().contains("TIME"), "{error}");

    write(&dev, "bad.sh", "no program at all\n");
    let bad = dev.tarn("task submit --queue tools --native bad.sh --wait -o json");
    let (_, error) = failure(&bad);
    assert!(error.to_string().contains("NATIVE_INVALID_PROGRAM"), "{error}");

    let workers = succeeded(dev.tarn("worker list -o json"));
    for label in ["native.network=yes", "native.files=yes"] {
        assert!(workers.contains(label), "{workers}");
    }
}

#[test]
fn a_module_runs_in_a_micro_vm() {
    let Some(image) = std::env::var_os("TARN_MICROVM_IMAGE").filter(|_| std::path::Path::new("/dev/kvm").exists()) else {
        assert!(std::env::var_os("TARN_REQUIRE_MICROVM").is_none(), "there must be KVM and a guest image");
        eprintln!("skipped: TARN_MICROVM_IMAGE names no guest image, or there is no KVM");
        return;
    };
    let dev = Dev::start_with(&[("TARN_EXECUTORS__MICROVM_IMAGE", &image)]);
    write(&dev, "add.wat", ADD);
    let task = "task submit --queue sums --wasm add.wat --microvm --export add --param 40 --param 2 --wait";
    assert_eq!(succeeded(dev.tarn(task)).trim(), "42");
    let died = dev.tarn("task submit --queue sums --wasm add.wat --microvm --export trap --wait -o json");
    assert!(failure(&died).1.to_string().contains("WASM_TRAP"));
}

#[test]
fn a_transform_runs_as_a_task_and_on_the_command_line() {
    let dev = Dev::start();
    if !runs_native(&dev) {
        return;
    }
    // One array of four numbers in numpy's format.
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let mut header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }".to_vec();
    header.resize(117, b' ');
    header.push(b'\n');
    npy.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    npy.extend(header);
    npy.extend([1.0_f64, 0.0, 0.0, 0.0].iter().flat_map(|number| number.to_le_bytes()));
    std::fs::write(dev.dir.path().join("x.npy"), &npy).unwrap();

    let here = dev.tarn("transform run fft x.npy");
    assert!(here.status.success(), "{}", String::from_utf8_lossy(&here.stderr));
    let task = dev.tarn("task submit --queue math --transform fft --payload-file x.npy --wait");
    assert!(task.status.success(), "{}", String::from_utf8_lossy(&task.stderr));
    assert_eq!(task.stdout, here.stdout, "to the byte");

    let bad = dev.tarn("task submit --queue math --transform fft --payload nonsense --wait -o json");
    assert!(failure(&bad).1.to_string().contains("TRANSFORM_BAD_INPUT"));
    let list = succeeded(dev.tarn("transform list"));
    assert!(list.contains("fft") && list.contains("persistence"), "{list}");
    let unknown = dev.tarn("transform show nonsense");
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn a_task_that_requires_a_wall_that_no_node_has_waits_and_says_so() {
    let dev = Dev::start();
    write(&dev, "true.sh", "#!/bin/sh\n");
    let task = "task submit --queue tools --native true.sh --requires native.cgroup=v9 -o json";
    let submitted: Value = serde_json::from_str(&succeeded(dev.tarn(task))).unwrap();
    let id = find_list(&submitted, "task_ids").expect("the task was taken").to_owned();
    let why = succeeded(dev.tarn(&format!("explain task {id}")));
    assert!(why.contains("native.cgroup=v9"), "{why}");
}

#[test]
fn what_was_not_granted_is_refused_by_name() {
    let dev = Dev::start();
    write(
        &dev,
        "clock.wat",
        r#"(module
          (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (func (export "_start") (call $exit (call $now (i32.const 0) (i64.const 1) (i32.const 0)))))"#,
    );
    let refused = dev.tarn("task submit --queue sums --wasm clock.wat --wait -o json");
    let (_, error) = failure(&refused);
    assert!(error.to_string().contains("CAPABILITY_NOT_GRANTED") && error.to_string().contains("clock"), "{error}");
    succeeded(dev.tarn("task submit --queue sums --wasm clock.wat --grant clock --wait"));

    for (line, told) in [
        ("task submit --queue q --wasm clock.wat --grant sky", "there are clock"),
        ("task submit --queue q --grant clock", "--wasm"),
        ("task submit --queue q --wasm clock.wat --native clock.wat", "name one thing to run"),
    ] {
        let output = dev.tarn(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(told), "{line}: {text}");
    }
}

/// The first text under this name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    match value {
        Value::Object(fields) => match fields.get(name).and_then(Value::as_str) {
            Some(text) => Some(text),
            None => fields.values().find_map(|inner| find(inner, name)),
        },
        Value::Array(items) => items.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}

/// The first text of the list under this name.
fn find_list<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name)?.get(0)?.as_str()
}

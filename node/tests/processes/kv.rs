//! `tarn kv`: contexts from the command line.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::dev::{Dev, failure};
use crate::scene::succeeded;

fn reason(error: &Value) -> &str {
    error["reason"].as_str().unwrap_or_default()
}

#[test]
fn keys_are_put_read_changed_on_condition_and_brought_back() {
    let dev = Dev::start();
    let version = succeeded(dev.tarn("kv put memory plan/today rest")).trim().to_owned();
    assert_eq!(succeeded(dev.tarn("kv get memory plan/today")), "rest");
    succeeded(dev.tarn(&format!("kv put memory plan/today work --expect {version}")));
    let late = dev.tarn(&format!("kv put memory plan/today late --expect {version} -o json"));
    let (code, error) = failure(&late);
    assert_eq!((code, reason(&error)), (1, "VERSION_CONFLICT"));
    assert!(error["actual_version"].as_str().is_some_and(|actual| actual != version), "{error}");
    let found: Value = serde_json::from_str(&succeeded(dev.tarn("kv get memory plan/today -o json"))).unwrap();
    assert_eq!((&found["value"], &found["at_ms"].is_string()), (&"d29yaw==".into(), &true));
    assert_eq!(succeeded(dev.tarn(&format!("kv get memory plan/today --at-version {version}"))), "rest");

    // Bytes from a file or standard input come out as they went in.
    let bytes = [0, 10, 255, 13, 7];
    std::fs::write(dev.dir.path().join("bytes"), bytes).unwrap();
    succeeded(dev.tarn("kv put memory plan/bytes --file bytes"));
    assert_eq!(dev.tarn("kv get memory plan/bytes").stdout, bytes);
    let mut put = dev.command();
    let put = put.args(["kv", "put", "memory", "other", "--file", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut put = put.spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(put.wait().unwrap().success());
    std::fs::write(dev.dir.path().join("large"), vec![0; (1 << 20) + 1]).unwrap();
    assert_eq!(dev.tarn("kv put memory large --file large").status.code(), Some(2));

    let list = succeeded(dev.tarn("kv list memory --prefix plan/ -o jsonl"));
    let keys: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys.iter().map(|key| key["key"].as_str().unwrap()).collect::<Vec<_>>(), ["plan/bytes", "plan/today"]);
    assert_eq!(succeeded(dev.tarn("kv versions memory plan/today")).lines().count(), 3, "a heading and two");

    succeeded(dev.tarn("kv snapshot memory before"));
    assert!(succeeded(dev.tarn("kv delete memory plan/today")).contains("is deleted"));
    assert!(succeeded(dev.tarn("kv delete memory plan/today")).contains("had no value"));
    assert_eq!(succeeded(dev.tarn("kv get memory plan/today --snapshot before")), "work");
    let (_, error) = failure(&dev.tarn("kv get memory plan/today -o json"));
    assert_eq!(reason(&error), "KEY_NOT_FOUND");
    let asks = dev.command().args(["kv", "restore", "memory", "before"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(asks.status.code(), Some(2), "nobody is there to answer");
    succeeded(dev.tarn("kv restore memory before --yes"));
    assert_eq!(succeeded(dev.tarn("kv get memory plan/today")), "work");
    assert!(succeeded(dev.tarn("kv snapshots memory")).contains("before"));
    succeeded(dev.tarn("kv delete-snapshot memory before --yes"));
    assert!(succeeded(dev.tarn("kv contexts")).contains("memory"));
    succeeded(dev.tarn("kv delete-context memory --yes"));
    assert!(!succeeded(dev.tarn("kv contexts")).contains("memory"));
    let (_, error) = failure(&dev.tarn("kv put memory k v --fence 0000000000001:7 -o json"));
    assert_eq!(reason(&error), "STALE_TOKEN");
    assert!(succeeded(dev.tarn("kv put --help")).contains("--expect $v"));
}

//! `tarn audit verify` on a whole cluster: what it says where all is whole, where a node cannot be asked, and where one was tampered with.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tarn_machine::keys::Key;
use tarn_storage::{Batch, Durability, Engine, Keyspace, Profile, RocksEngine, RocksOptions};

use crate::scene::Scene;

/// What is printed, and the exit code.
fn verify(scene: &Scene) -> (Value, Option<i32>) {
    let Output { status, stdout, stderr } = scene.tarn(&["audit", "verify", "-o", "json"]);
    let printed = serde_json::from_slice(&stdout);
    let printed = printed.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    (printed, status.code())
}

/// Changes one bit of the records of this log entry, in the folder of a node that does not run.
fn tamper(data_dir: &Path, index: u64) {
    let dir = data_dir.join("raft/state");
    let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap();
    let options = RocksOptions { keyspaces: &[tarn_machine::STATE, Keyspace::new("raft")], profile: Profile::State };
    let engine = RocksEngine::open(&dir.join(current.trim()), options).unwrap();
    let key = Key::Decisions { index }.encode();
    let mut row = engine.get(tarn_machine::STATE, &key).unwrap().expect("it has records");
    *row.last_mut().unwrap() ^= 1;
    let mut batch = Batch::new();
    batch.put(tarn_machine::STATE, &key, &row);
    engine.write(batch, Durability::Synced).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_unknown_or_tampered_with_are_told_apart() {
    let mut scene = Scene::start(&[]).await;
    scene.tarn_ok(&["namespace", "create", "team"]);
    scene.agree(&[1, 2, 3]).await;
    let (report, code) = verify(&scene);
    assert_eq!((code, &report["whole"]), (Some(0), &Value::Bool(true)), "{report}");
    assert_eq!(report["nodes"].as_array().unwrap().len(), 3);

    let records: Value = serde_json::from_str(&scene.tarn_ok(&["audit", "list", "-A", "-o", "json"])).unwrap();
    let records = records.as_array().unwrap();
    let made = records.iter().find(|record| record["resource"] == "namespace/team");
    let index = made.expect("it is recorded")["index"].as_str().unwrap().to_owned();

    let away = scene.follower().await;
    // Not killed: then its records would lie in the log alone.
    scene.cluster.stop_node(away).await.unwrap();
    let (report, code) = verify(&scene);
    assert_eq!((code, &report["whole"]), (Some(4), &Value::Null), "{report}");
    assert_eq!(report["not_asked"][0]["node_id"], away, "{report}");

    tamper(&scene.cluster.data_dir(away), index.parse().unwrap());
    scene.cluster.start_node(away).unwrap();
    scene.agree(&[1, 2, 3]).await;
    let (report, code) = verify(&scene);
    assert_eq!((code, &report["whole"]), (Some(1), &Value::Bool(false)), "{report}");
    let nodes = report["nodes"].as_array().unwrap();
    let faulty: Vec<&Value> = nodes.iter().filter(|node| node["faults"][0].is_object()).collect();
    assert_eq!(faulty.len(), 1, "{report}");
    assert_eq!(faulty[0]["node_id"], away.to_string(), "{report}");
    assert_eq!(faulty[0]["faults"][0]["index"], Value::String(index), "{report}");
}

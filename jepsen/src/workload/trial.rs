//! Each workload on a real cluster for a few seconds: without faults, and with one node killed in the middle. Run by name, because together they
//! take minutes: `cargo test -p tarn-jepsen --lib -- --ignored trial`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Clients, Scene, named};
use crate::checker::{Outcome, Verdict};
use crate::cluster::{Cluster, ClusterOptions};
use crate::history::{Event, Kind, Recorder, read};

/// How long clients work.
const TIME: Duration = Duration::from_secs(10);
/// How long the cluster may take to become ready.
const READY: Duration = Duration::from_secs(60);
/// Clients of each workload.
const CLIENTS: u32 = 8;

/// The binary beside the test's own directory.
fn tarn() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|folder| folder.join("tarn")).find(|path| path.is_file());
    found.expect("there is no tarn beside the tests: build it with `cargo build -p tarn`")
}

fn start(dir: &Path) -> Arc<Cluster> {
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let options = ClusterOptions {
        settings: vec![setting("raft.snapshot_entries", "500"), setting("raft.keep_entries", "100"), setting("executors.wasm", "false")],
        ..ClusterOptions::new(tarn(), dir)
    };
    let cluster = Arc::new(Cluster::create(options).unwrap());
    cluster.start_all().unwrap();
    cluster
}

/// Runs a workload and returns its history. With `kill` the leader is killed after a third of the time and started again after two.
async fn live(name: &str, kill: bool) -> Vec<Event> {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(&dir.path().join("cluster"));
    let leader = cluster.wait_ready(READY).await.unwrap();
    let path = dir.path().join("history.jsonl");
    let recorder = Recorder::create(&path).unwrap();
    let scene = Arc::new(Scene {
        clients: Clients::new(cluster.clone()),
        recorder: recorder.clone(),
        seed: 7,
        stop: CancellationToken::new(),
        cluster: cluster.clone(),
        others: Vec::new(),
    });
    let workload: Arc<dyn super::Workload> = named(name).unwrap().into();
    workload.setup(&scene).await.unwrap();
    let mut clients = JoinSet::new();
    for process in 0..CLIENTS {
        let (workload, scene) = (workload.clone(), scene.clone());
        clients.spawn(async move { workload.work(process, &scene).await });
    }
    tokio::time::sleep(TIME / 3).await;
    if kill {
        cluster.kill(&[leader]).await.unwrap();
    }
    tokio::time::sleep(TIME / 3).await;
    if kill {
        cluster.start(leader).unwrap();
    }
    tokio::time::sleep(TIME / 3).await;
    scene.stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap().unwrap();
    }
    cluster.wait_ready(READY).await.unwrap();
    let drained = workload.drain(&scene).await;
    recorder.flush().unwrap();
    let history = read(&path).unwrap();
    if let Some(kept) = std::env::var_os("TRIAL_KEEP") {
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::copy(&path, Path::new(&kept).join(format!("{name}.jsonl"))).unwrap();
    }
    drained.unwrap();
    history
}

fn judged(name: &str, history: &[Event]) -> Verdict {
    let begun = std::time::Instant::now();
    let verdict = named(name).unwrap().check(history);
    for check in &verdict.checks {
        println!("{name}: {}: {:?}: {} {:?}", check.name, check.outcome, check.detail, check.counts);
    }
    let count = |kind| history.iter().filter(|event| event.kind == kind).count();
    println!(
        "{name}: {} events, {} ok, {} fail, {} unknown, judged in {:?}",
        history.len(),
        count(Kind::Ok),
        count(Kind::Fail),
        count(Kind::Unknown),
        begun.elapsed()
    );
    verdict
}

/// A way to make a history a lie, and whether it applies to this one.
type Lie = fn(&mut Vec<Event>) -> bool;

/// Changes the value of the last event that this describes.
fn change(history: &mut [Event], is_it: impl Fn(&Event) -> bool, lie: impl Fn(&mut serde_json::Value)) -> bool {
    match history.iter_mut().rev().find(|event| is_it(event)) {
        Some(event) => {
            lie(&mut event.value);
            true
        }
        None => false,
    }
}

/// Lies that no checker of the workload may believe.
fn lies(name: &str) -> Vec<(&'static str, Lie)> {
    let read_of_nobody: (&str, Lie) = ("a read of what nobody wrote", |history| {
        change(
            history,
            |event| event.op == "get" && event.kind == Kind::Ok,
            |value| {
                value["token"] = 1.into();
                value["holder"] = "nobody".into();
            },
        )
    });
    let lost: (&str, Lie) = ("a lost task", |history| {
        let at = history.iter().rposition(|event| event.op == "final");
        at.map(|at| history.remove(at)).is_some()
    });
    let wrong: (&str, Lie) = ("a wrong result", |history| {
        let succeeded = |event: &Event| event.op == "final" && event.value["state"] == "succeeded";
        change(history, succeeded, |value| value["result"] = "lie".into())
    });
    let overtaken: (&str, Lie) = ("the last assignment comes first", |history| {
        let leased = |event: &Event| event.op == "event" && event.value["kind"] == "TASK_LEASED";
        change(history, leased, |value| value["revision"] = 1.into())
    });
    let gap: (&str, Lie) = ("an event that a watcher missed", |history| {
        let seen: Vec<usize> = (0..history.len()).filter(|at| history[*at].op == "event").collect();
        seen.get(seen.len() / 2).map(|at| history.remove(*at)).is_some()
    });
    match name {
        "register" => vec![read_of_nobody],
        "lock" => vec![("a stale token that writes", |history| {
            change(
                history,
                |event| event.op == "write",
                |value| {
                    value["token"] = 1.into();
                    value["taken"] = true.into();
                },
            )
        })],
        "timers" => vec![("a timer that fires early", |history| {
            change(history, |event| event.op == "timer", |value| value["fired_at_ms"] = 1.into())
        })],
        "watch" => vec![gap],
        "membership" => vec![
            read_of_nobody,
            ("another digest", |history| change(history, |event| event.op == "last_view", |value| value["digest"] = "lie".into())),
        ],
        "dependencies" => vec![
            lost,
            wrong,
            ("a task that began before its dependency had ended", |history| {
                let dependent = |event: &Event| event.op == "final" && event.value["started_at_ms"].as_u64() > Some(0);
                for event in history.iter_mut().filter(|event| dependent(event)) {
                    event.value["started_at_ms"] = 1.into();
                }
                true
            }),
        ],
        "priorities" => vec![lost, overtaken],
        _ => vec![lost, wrong],
    }
}

async fn trial(name: &str) {
    let history = live(name, false).await;
    assert_eq!(judged(name, &history).outcome, Outcome::Valid);
    for (what, lie) in lies(name) {
        let mut spoiled = history.clone();
        assert!(lie(&mut spoiled), "{what}: nothing to lie about");
        assert_eq!(judged(name, &spoiled).outcome, Outcome::Invalid, "{what}");
    }
    let history = live(name, true).await;
    assert_eq!(judged(name, &history).outcome, Outcome::Valid, "with the leader killed");
}

macro_rules! trials {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "takes half a minute of real processes: run it by name"]
            async fn $name() {
                trial(stringify!($name)).await;
            }
        )*
    };
}

trials! { register lock queue priorities dependencies session timers watch membership }

/// A call whose first try went to a node that was paused, and whose second try was refused by another: the first must not take effect when the
/// node wakes up, because the caller was told that nothing was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute of real processes: run it by name"]
async fn what_was_refused_has_no_effect_later() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = start(&dir.path().join("cluster"));
    let leader = cluster.wait_ready(READY).await.unwrap();
    let ttl = Duration::from_secs(600);
    for round in 0..3 {
        let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        let paused = followers[0];
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != paused).collect();
        let owner = cluster.client(&others).unwrap();
        let lease = format!("lease-{round}");
        let held = owner.acquire_lease(&lease, "owner", ttl).await.unwrap();
        // They do not know the leader, so each stays with the follower that it began with by chance, over a connection that stands.
        let askers: Vec<_> = (0..8).map(|_| cluster.client(&followers).unwrap()).collect();
        for (at, client) in askers.iter().enumerate() {
            client.acquire_lease(&format!("{lease}-{at}"), "asker", ttl).await.unwrap();
        }
        cluster.pause(&[paused]).unwrap();
        let asked = askers.iter().enumerate().map(|(at, client)| {
            let (client, lease) = (client.with_deadline(Duration::from_secs(25)), lease.clone());
            async move { client.acquire_lease(&lease, &format!("asker-{at}"), ttl).await }
        });
        let asked = futures::future::join_all(asked).await;
        owner.release_lease(&lease, held.token).await.unwrap();
        cluster.resume(&[paused]).unwrap();
        cluster.wait_ready(READY).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = owner.get_lease(&lease).await;
        println!("now {now:?}");
        let Ok(now) = now else { continue };
        let at: usize = now.holder.strip_prefix("asker-").and_then(|at| at.parse().ok()).unwrap();
        match &asked[at] {
            Err(error) if error.outcome_unknown() => {}
            answer => panic!("{} holds the lease, and was told {answer:?}", now.holder),
        }
    }
}

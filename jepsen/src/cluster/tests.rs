//! Clusters of real nodes: they need the `tarn` binary, which `cargo build -p tarn` puts beside the tests.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tarn_client::Task;
use tempfile::TempDir;

use super::*;
use crate::nemesis;

/// Longer than anything here takes on a machine that builds something else meanwhile.
const LONG: Duration = Duration::from_secs(90);

/// The binary beside the test's own directory.
pub(crate) fn tarn() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|folder| folder.join("tarn")).find(|path| path.is_file());
    found.expect("there is no tarn beside the tests: build it with `cargo build -p tarn`")
}

fn options(dir: &TempDir) -> ClusterOptions {
    let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    ClusterOptions {
        settings: vec![setting("raft.snapshot_entries", "200"), setting("raft.keep_entries", "50"), setting("executors.wasm", "false")],
        ..ClusterOptions::new(tarn(), dir.path())
    }
}

async fn running(options: ClusterOptions) -> Cluster {
    let cluster = Cluster::create(options).unwrap();
    cluster.start_all().unwrap();
    cluster.wait_ready(LONG).await.unwrap();
    cluster
}

async fn three(dir: &TempDir) -> Cluster {
    running(options(dir)).await
}

/// Waits until these nodes have a leader other than this one.
async fn leader_but(cluster: &Cluster, old: u64) -> u64 {
    let end = Instant::now() + LONG;
    loop {
        match cluster.leader().await {
            Some(leader) if leader != old => return leader,
            _ => assert!(Instant::now() < end, "nobody but node {old} leads"),
        }
    }
}

async fn submits(cluster: &Cluster, ids: &[u64], within: Duration) -> Result<(), tarn_client::Error> {
    let client = cluster.client(ids).unwrap().with_deadline(within);
    client.enqueue(Task::new("q").handler("echo")).await.map(drop)
}

async fn agree(cluster: &Cluster) {
    cluster.wait_ready(LONG).await.unwrap();
    let agreement = cluster.agreement(LONG).await;
    assert!(matches!(&agreement, Agreement::Agreed { nodes, .. } if *nodes == cluster.ids()), "{agreement:?}");
    assert_eq!(cluster.endings(), [], "a node ended by itself");
}

#[tokio::test]
async fn a_killed_leader_is_followed_by_another_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    let old = cluster.leader().await.unwrap();
    assert_eq!(cluster.kill(&[old]).await.unwrap(), [old]);
    assert_eq!(cluster.kill(&[old]).await.unwrap(), [0; 0], "it does not run any more");
    assert!(!cluster.running().contains(&old) && cluster.pid(old).is_err());
    let new = leader_but(&cluster, old).await;
    submits(&cluster, &[new], LONG).await.unwrap();
    cluster.heal().unwrap();
    cluster.heal().unwrap();
    agree(&cluster).await;
}

/// One letter, as `ps` prints it.
fn process_state(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    after_name.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_paused_majority_stops_the_cluster_until_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    assert_eq!(cluster.pause(&[1, 2]).unwrap(), [1, 2]);
    assert_eq!(cluster.pause(&[2]).unwrap(), [0; 0]);
    assert_eq!(cluster.paused(), [1, 2]);
    // The signal has been sent; each of its threads notices when it next runs.
    let end = Instant::now() + LONG;
    while process_state(cluster.pid(1).unwrap()) != "T" {
        assert!(Instant::now() < end, "it is not stopped");
        tokio::task::yield_now().await;
    }
    assert!(submits(&cluster, &[3], Duration::from_secs(2)).await.is_err());
    cluster.heal().unwrap();
    assert!(cluster.paused().is_empty());
    agree(&cluster).await;
    submits(&cluster, &[3], LONG).await.unwrap();
}

#[tokio::test]
async fn a_leader_that_is_cut_off_is_replaced_and_can_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    cut_off(three(&dir).await).await;
}

#[tokio::test]
async fn in_namespaces_a_leader_that_is_cut_off_is_replaced_too() {
    if let Err(reason) = net::namespaces_available() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = ClusterOptions { network: Network::Namespaces, ..options(&dir) };
    cut_off(running(options).await).await;
}

async fn cut_off(cluster: Cluster) {
    let old = cluster.leader().await.unwrap();
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    cluster.net().part(&[old], &others).unwrap();
    let new = leader_but(&cluster, old).await;
    submits(&cluster, &[new], LONG).await.unwrap();
    assert!(submits(&cluster, &[old], Duration::from_secs(2)).await.is_err(), "node {old} has no majority");
    cluster.net().heal().unwrap();
    agree(&cluster).await;
}

#[tokio::test]
async fn nodes_join_by_token_are_removed_and_dead_ones_replaced() {
    let dir = tempfile::tempdir().unwrap();
    change_members(three(&dir).await).await;
}

#[tokio::test]
async fn in_namespaces_nodes_join_are_removed_and_replaced_too() {
    if let Err(reason) = net::namespaces_available() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = ClusterOptions { network: Network::Namespaces, ..options(&dir) };
    change_members(running(options).await).await;
}

async fn change_members(cluster: Cluster) {
    let fourth = cluster.add().await.unwrap();
    assert_eq!(cluster.ids(), [1, 2, 3, fourth]);
    let leader = cluster.leader().await.unwrap();
    cluster.remove(leader).await.unwrap();
    assert!(!cluster.ids().contains(&leader) && cluster.all_ids().contains(&leader));
    agree(&cluster).await;
    let dead = cluster.ids()[0];
    assert!(cluster.replace(dead).await.is_err(), "it still runs");
    cluster.kill(&[dead]).await.unwrap();
    let new = cluster.replace(dead).await.unwrap();
    assert!(cluster.ids().contains(&new) && cluster.ids().len() == 3);
    assert!(cluster.retire_removed().await.unwrap().is_empty());
    agree(&cluster).await;
    submits(&cluster, &[new], LONG).await.unwrap();
    // A client that knows only a node that is gone reaches the one in its place.
    submits(&cluster, &[dead], LONG).await.unwrap();
    submits(&cluster, &[leader], LONG).await.unwrap();
    // What the cluster chooses next is no id that was there before.
    let next = cluster.add().await.unwrap();
    assert!(next > new);
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_reported_and_nothing_outlives_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    let pid = cluster.pid(2).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::Signal::SIGABRT).unwrap();
    let end = Instant::now() + LONG;
    while cluster.running().contains(&2) {
        assert!(Instant::now() < end, "node 2 does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let endings = cluster.endings();
    assert_eq!((endings[0].node, endings[0].how.as_str(), endings.len()), (2, "signal 6", 1));
    assert!(cluster.forgive(2, |_| false).is_empty() && cluster.forgive(1, |_| true).is_empty());
    assert_eq!(cluster.forgive(2, |ending| ending.signal == Some(6)).len(), 1);
    assert!(cluster.endings().is_empty());
    assert_eq!(cluster.terminate(3).await.unwrap().unwrap().code(), Some(0));
    assert!(cluster.terminate(3).await.unwrap().is_none());
    cluster.heal().unwrap();
    agree(&cluster).await;

    let pids: Vec<u32> = cluster.ids().into_iter().map(|id| cluster.pid(id).unwrap()).collect();
    drop(cluster);
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

#[tokio::test]
async fn a_node_that_was_killed_from_outside_is_the_machines_doing() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    cluster.kill(&[1]).await.unwrap();
    assert_eq!(cluster.machine_failure(), None, "killed from here");
    let pid = nix::unistd::Pid::from_raw(cluster.pid(2).unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let end = Instant::now() + LONG;
    while cluster.running().contains(&2) {
        assert!(Instant::now() < end, "node 2 does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let failure = cluster.machine_failure().unwrap();
    assert!(failure.contains("node 2 was killed from outside"), "{failure}");
}

/// A nemesis strikes and is healed twice, with its seed; the cluster is whole afterwards.
async fn strike(cluster: &Cluster, name: &str, seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut nemesis = nemesis::named(name).unwrap();
    let healed = nemesis.heal(cluster).await.unwrap();
    println!("{name}, nothing to heal: {healed}");
    let injected = nemesis.inject(cluster, rng).await.unwrap();
    assert!(injected.made, "{name}: {}", injected.what);
    println!("{name}: {}", injected.what);
    println!("{name}, healed: {}", nemesis.heal(cluster).await.unwrap());
    println!("{name}, healed again: {}", nemesis.heal(cluster).await.unwrap());
    assert!(cluster.net().cuts().is_empty() && cluster.net().slows().is_empty());
    assert!(cluster.paused().is_empty() && cluster.running() == cluster.ids());
    agree(cluster).await;
}

#[tokio::test]
async fn every_nemesis_of_network_and_processes_heals_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    for (name, seed) in [("partition", 1), ("kill", 2), ("pause", 3), ("slow", 4), ("client-links", 7), ("transfer", 5), ("restart", 6)] {
        strike(&cluster, name, seed).await;
    }
}

#[tokio::test]
async fn the_membership_is_back_at_its_size_after_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    for seed in 0..4 {
        strike(&cluster, "membership", seed).await;
        assert_eq!(cluster.ids().len(), 3);
    }
}

#[tokio::test]
async fn a_follower_that_was_away_for_long_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = three(&dir).await;
    let mut nemesis = nemesis::named("snapshot").unwrap();
    let rng = &mut StdRng::seed_from_u64(1);
    let killed = nemesis.inject(&cluster, rng).await.unwrap().what["killed"].as_u64().unwrap();
    // One after the other: each is a log entry of its own.
    let client = cluster.client(&cluster.running()).unwrap();
    for _ in 0..600 {
        client.enqueue(Task::new("q").handler("echo")).await.unwrap();
    }
    let healed = nemesis.heal(&cluster).await.unwrap();
    assert_eq!(healed["needs_it"], true, "{healed}");
    agree(&cluster).await;
    let log = std::fs::read_to_string(cluster.log(killed)).unwrap();
    assert!(log.contains("a snapshot has arrived"), "{}", cluster.log_end(killed));
}

#[tokio::test]
async fn clocks_of_nodes_go_wrong_and_are_made_right() {
    if let Err(reason) = clock::available() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = running(ClusterOptions { clocks: ClockFaults::Wall, ..options(&dir) }).await;
    let leader = cluster.leader().await.unwrap();
    submits(&cluster, &[leader], LONG).await.unwrap();
    let before = cluster.status(leader).await.unwrap().now_ms;
    cluster.clock(leader).unwrap().jump(3_600_000).unwrap();
    // The machine's time comes from the leader's clock, with the next entry. It approaches a clock that is far ahead, slowly.
    let start = Instant::now();
    let ahead = loop {
        submits(&cluster, &[leader], LONG).await.unwrap();
        let passed = cluster.status(leader).await.unwrap().now_ms.saturating_sub(before);
        let ahead = i128::from(passed) - i128::try_from(start.elapsed().as_millis()).unwrap();
        if ahead > 1_000 || start.elapsed() > LONG {
            break ahead;
        }
    };
    assert!((1_000..3_700_000).contains(&ahead), "{ahead} ms ahead");
    for (name, seed) in [("clock", 1), ("clock-drift", 2), ("clock-jump", 3)] {
        strike(&cluster, name, seed).await;
    }
    cluster.heal().unwrap();
    assert_eq!(cluster.clock(leader).unwrap().offset(), 0.0);
}

#[tokio::test]
async fn monotonic_clocks_jump_forward_and_are_right_after_a_restart() {
    if let Err(reason) = clock::available() {
        println!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = running(ClusterOptions { clocks: ClockFaults::WallAndMonotonic, ..options(&dir) }).await;
    let leader = cluster.leader().await.unwrap();
    // Longer than any election time-out: as if the machine had been suspended.
    cluster.clock(leader).unwrap().jump(30_000).unwrap();
    submits(&cluster, &cluster.ids(), LONG).await.unwrap();
    agree(&cluster).await;
    cluster.heal().unwrap();
    assert_eq!(cluster.clock(leader).unwrap().offset(), 30.0);
    assert!(cluster.restart_as(leader, Build::Current).await.unwrap());
    agree(&cluster).await;
    assert_eq!(cluster.clock(leader).unwrap().offset(), 0.0);
}

#[tokio::test]
async fn nodes_change_to_the_second_build_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = running(ClusterOptions {
        // The same build under another name: what changes is which program runs.
        tarn_next: Some(copied(&dir)),
        ..options(&dir)
    })
    .await;
    let mut nemesis = nemesis::named("upgrade").unwrap();
    let rng = &mut StdRng::seed_from_u64(2);
    nemesis.inject(&cluster, rng).await.unwrap();
    let next: Vec<u64> = cluster.ids().into_iter().filter(|id| cluster.build(*id).unwrap() == Build::Next).collect();
    assert!(!next.is_empty());
    let program = std::fs::read_link(format!("/proc/{}/exe", cluster.pid(next[0]).unwrap())).unwrap();
    assert!(program.ends_with("tarn-next"), "{}", program.display());
    nemesis.heal(&cluster).await.unwrap();
    assert!(cluster.ids().into_iter().all(|id| cluster.build(id).unwrap() == Build::Current));
    agree(&cluster).await;
}

fn copied(dir: &TempDir) -> PathBuf {
    let next = dir.path().join("tarn-next");
    std::fs::copy(tarn(), &next).unwrap();
    next
}

//! Nodes whose files are damaged: they must notice, and acknowledged work must not be lost in silence.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_follower_gets_a_snapshot_although_the_leaders_is_damaged() {
    damaged_snapshot("raft/snapshots/s*/files/FORMAT").await;
}

/// Snapshots share their table files with the state: this damages both.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_follower_gets_a_snapshot_although_the_leaders_tables_are_damaged() {
    damaged_snapshot("raft/snapshots/s*/files/*.sst").await;
}

/// A follower that needs a snapshot cannot get one from a leader whose own is damaged. It must not be kept away for that: the leader finds the
/// damage and makes another, or stops.
async fn damaged_snapshot(files: &str) {
    let Some(mut bench) = Bench::new(3).await else { return };
    let leader = bench.cluster.leader().await.unwrap();
    let follower = bench.cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let load = bench.load();
    bench.progress(20).await;
    bench.cluster.kill(&[follower]).await.unwrap();
    bench.progress(1500).await;
    drop(load);
    let disk = bench.cluster.disk(leader).unwrap();
    let wound = disk.corrupt(files, Damage::BitFlip, &mut bench.rng).unwrap().unwrap();
    eprintln!("node {leader}: {wound:?}");
    bench.cluster.start(follower).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        // A leader that stopped because of the damage is replaced by hand: the others are enough.
        let stopped = bench.cluster.ended(leader);
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() || stopped.is_some() {
            eprintln!("node {leader}: {:?}\n{}", stopped.map(|ending| ending.how), bench.cluster.log_end(leader));
            break;
        }
        assert!(Instant::now() < end, "node {follower} does not catch up:\n{}", bench.logs());
    }
    bench.nothing_lost().await;
}

/// The end of one node's log is gone, and with it what only this node and the leader have. If it voted as if nothing were missing, the third
/// node, which never had it, would become leader without it. The mark beside its log tells, and the node refuses to start. (A power cut may take
/// what was marked last as well: damage of just those records is not noticed then.)
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_whose_log_lost_its_end_does_not_vote_others_into_losing_it() {
    let Some(mut bench) = Bench::new(3).await else { return };
    let leader = bench.cluster.leader().await.unwrap();
    let others: Vec<u64> = bench.cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (damaged, behind) = (others[0], others[1]);
    let load = bench.load();
    bench.progress(20).await;
    bench.cluster.kill(&[behind]).await.unwrap();
    bench.progress(100).await;
    drop(load);
    // With this one everything before it is in both logs, and marked.
    bench.client().enqueue(Task::new("q").handler("echo")).await.unwrap();
    bench.cluster.kill(&[leader, damaged]).await.unwrap();
    let disk = bench.cluster.disk(damaged).unwrap();
    let wound = disk.corrupt("raft/log/*.log", Damage::Truncation, &mut bench.rng).unwrap().unwrap();
    eprintln!("node {damaged}: {wound:?}");
    // The leader stays away until the damage is noticed.
    bench.cluster.start_idle(&[damaged, behind]).unwrap();
    let (code, log) = bench.ended(damaged).await;
    assert!(code == 1 && log.contains("corrupt"), "exit code {code}\n{log}");
    assert_eq!(bench.cluster.leader().await, None);
    bench.cluster.start(leader).unwrap();
    let successor = bench.cluster.replace(damaged).await.unwrap();
    eprintln!("node {successor} stands in for node {damaged}");
    bench.back().await;
    bench.nothing_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_node_refuses_or_serves_what_was_acknowledged() {
    for (files, damage) in [
        ("raft/log/*.log", Damage::BitFlip),
        ("raft/log/*.log", Damage::Truncation),
        ("raft/log/*.log", Damage::ZeroChunk),
        ("raft/log/*.log", Damage::OldChunk),
        ("raft/log/SYNCED", Damage::BitFlip),
        ("raft/log/SYNCED", Damage::Truncation),
        ("raft/log/FORMAT", Damage::BitFlip),
        ("raft/state/*/*.sst", Damage::BitFlip),
        ("raft/state/*/*.log", Damage::BitFlip),
        ("raft/state/*/*.log", Damage::Truncation),
        ("raft/state/*/MANIFEST*", Damage::BitFlip),
        ("raft/state/CURRENT", Damage::BitFlip),
        ("raft/snapshots/**", Damage::BitFlip),
        ("raft/snapshots/**", Damage::Truncation),
    ] {
        damaged(files, damage, false).await;
    }
}

/// As above, and the power was cut, so that the state cannot hide what the log lost.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_log_is_refused_or_has_what_was_acknowledged() {
    for _ in 0..6 {
        for damage in [Damage::BitFlip, Damage::ZeroChunk] {
            damaged("raft/log/*.log", damage, true).await;
        }
    }
}

/// Most of a table is read only when somebody asks for what lies there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_table_is_refused_or_stops_the_node_that_reads_it() {
    for _ in 0..12 {
        damaged("raft/state/*/*.sst", Damage::BitFlip, false).await;
    }
}

/// A snapshot's manifest says where in the log it stands and who the members are. Its folder is named after its hash.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes with real nodes; by name"]
async fn a_damaged_manifest_of_a_snapshot_is_noticed() {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(900).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    let disk = bench.cluster.disk(1).unwrap();
    let files = "raft/snapshots/s*/MANIFEST";
    let wound = disk.corrupt(files, Damage::BitFlip, &mut bench.rng).unwrap().unwrap();
    let damaged = std::fs::read(disk.path().join(&wound.file)).unwrap();
    bench.cluster.start(1).unwrap();
    let end = Instant::now() + LONG;
    loop {
        if let Some(Ending { how, log, .. }) = bench.cluster.ended(1) {
            eprintln!("refused: {how}\n{log}");
            return;
        }
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "neither serves nor stops: {wound:?}\n{}", bench.logs());
    }
    // It may have thrown the snapshot away, or made another.
    let now = std::fs::read(disk.path().join(&wound.file)).unwrap_or_default();
    assert!(now != damaged, "{wound:?} is still the node's snapshot:\n{}", bench.cluster.log_end(1));
    bench.nothing_lost().await;
}

/// Damages a single node, which has nobody to repair it: it must refuse to start, stop, or still have everything.
async fn damaged(files: &str, damage: Damage, power_cut: bool) {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(300).await;
    let disk = bench.cluster.disk(1).unwrap();
    disk.remember(files).unwrap();
    bench.progress(600).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    if power_cut {
        disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    }
    let Some(wound) = disk.corrupt(files, damage, &mut bench.rng).unwrap() else {
        eprintln!("SKIPPED {files} {damage:?}: nothing fits");
        return;
    };
    bench.cluster.start(1).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(Ending { how, log, .. }) = bench.cluster.ended(1) {
            eprintln!("REFUSED {wound:?}: {how}\n{}", log.lines().last().unwrap_or_default());
            return;
        }
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "neither serves nor stops: {wound:?}\n{}", bench.cluster.log_end(1));
    }
    // Damage that nothing needed at the start is met when somebody asks for what lies there.
    tokio::select! {
        () = bench.stopped_by_damage(&[1], 1) => eprintln!("STOPPED {wound:?}"),
        () = bench.nothing_lost() => eprintln!("SERVES {wound:?}"),
    }
}

/// Each node is damaged at another place: what is left may be too little to serve, but then every node that stops says why, and whatever is
/// served is complete.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn damage_on_every_node_is_never_a_silent_loss() {
    for files in ["raft/log/*.log", "raft/state/*/*.sst"] {
        let Some(mut bench) = Bench::new(3).await else { return };
        let load = bench.load();
        bench.progress(1200).await;
        let ids = bench.cluster.ids();
        bench.cluster.kill(&ids).await.unwrap();
        drop(load);
        for id in &ids {
            let disk = bench.cluster.disk(*id).unwrap();
            let wound = disk.corrupt(files, Damage::BitFlip, &mut bench.rng).unwrap();
            eprintln!("node {id}: {wound:?}");
        }
        bench.cluster.start_all().unwrap();
        tokio::select! {
            () = bench.stopped_by_damage(&ids, 2) => eprintln!("{files}: too few are left"),
            () = bench.nothing_lost() => eprintln!("{files}: a majority serves"),
        }
    }
}

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
        let stopped = bench.cluster.ended(leader).unwrap();
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() || stopped.is_some() {
            eprintln!("{stopped:?}\n{}", bench.cluster.log_end(leader));
            break;
        }
        assert!(Instant::now() < end, "node {follower} does not catch up:\n{}", bench.logs());
    }
    bench.nothing_lost().await;
}

/// The end of one node's log is gone, and with it what only this node and the leader have. If it voted as if nothing were missing, the third
/// node, which never had it, would become leader without it. The mark beside its log tells, and the node refuses to start.
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
    bench.cluster.kill(&[leader, damaged]).await.unwrap();
    drop(load);
    let disk = bench.cluster.disk(damaged).unwrap();
    let loss = disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    let wound = disk.corrupt("raft/log/*.log", Damage::Truncation, &mut bench.rng).unwrap().unwrap();
    eprintln!("node {damaged}: {loss:?}, {wound:?}");
    // The leader stays away for a while.
    bench.cluster.start_idle(&[damaged, behind]).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut refused = None;
    while Instant::now() < end && refused.is_none() {
        if let Some(led) = bench.cluster.leader().await {
            eprintln!("node {led} leads");
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        refused = bench.cluster.ended(damaged).unwrap();
    }
    bench.cluster.start(leader).unwrap();
    // What was lost may be younger than the mark: then it goes on, and nothing that counts is lost with it.
    if let Some(status) = refused {
        let log = bench.cluster.log_end(damaged);
        assert!(status.code() == Some(1) && log.contains("corrupt"), "{status}\n{log}");
        let successor = bench.cluster.replace(damaged).await.unwrap();
        eprintln!("node {successor} stands in for node {damaged}");
    }
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
        if let Some(status) = bench.cluster.ended(1).unwrap() {
            eprintln!("refused: {status}\n{}", bench.cluster.log_end(1));
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
        if let Some(status) = bench.cluster.ended(1).unwrap() {
            let log = bench.cluster.log_end(1);
            eprintln!("REFUSED {wound:?}: {status}\n{}", log.lines().last().unwrap_or_default());
            return;
        }
        if bench.cluster.wait_ready(Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "neither serves nor stops: {wound:?}\n{}", bench.cluster.log_end(1));
    }
    let lost = bench.lost().await;
    eprintln!("SERVES {wound:?}");
    assert!(lost.is_empty(), "{} of {} acknowledged tasks are lost in silence\n{}", lost.len(), bench.count(), bench.cluster.log_end(1));
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
        let mut stopped = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && stopped.len() < 2 && bench.cluster.leader().await.is_none() {
            for id in &ids {
                if let Some(status) = bench.cluster.ended(*id).unwrap() {
                    let log = bench.cluster.log_end(*id);
                    assert!(matches!(status.code(), Some(1 | 70)), "node {id}: {status}\n{log}");
                    assert!(log.to_lowercase().contains("corrupt"), "node {id} does not say why it stopped:\n{log}");
                    stopped.push(*id);
                }
            }
        }
        eprintln!("{files}: nodes {stopped:?} have stopped");
        if stopped.len() < 2 {
            // A majority serves.
            bench.nothing_lost().await;
        }
    }
}

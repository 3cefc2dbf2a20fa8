//! Nodes whose disks fail: power cuts, full disks, errors, and a disk that lies.

use rand::Rng as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn one_node_loses_nothing_when_its_power_is_cut() {
    power_cuts(1, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_cluster_loses_nothing_when_all_its_power_is_cut() {
    power_cuts(3, 8).await;
}

async fn power_cuts(nodes: usize, rounds: usize) {
    let Some(mut bench) = Bench::new(nodes).await else {
        return;
    };
    let ids = bench.cluster.ids();
    for round in 0..rounds {
        let survival = [Survival::Nothing, Survival::Torn, Survival::Scattered][round % 3];
        let load = bench.load();
        let more = bench.rng.random_range(1..400);
        bench.progress(more).await;
        bench.cluster.kill(&ids).await.unwrap();
        drop(load);
        for id in &ids {
            let loss = bench.cluster.disk(*id).unwrap().lose_unsynced(survival, &mut bench.rng).unwrap();
            eprintln!("round {round}, node {id}, {survival:?}: {loss:?}");
        }
        bench.cluster.start_all().unwrap();
        bench.back().await;
        bench.nothing_lost().await;
    }
    assert_eq!(bench.cluster.endings(), []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_disk_that_lies_is_found_out() {
    let Some(mut bench) = Bench::new(1).await else { return };
    let load = bench.load();
    bench.progress(50).await;
    let disk = bench.cluster.disk(1).unwrap();
    disk.lie(true);
    bench.progress(50).await;
    bench.cluster.kill(&[1]).await.unwrap();
    drop(load);
    let loss = disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
    disk.lie(false);
    bench.cluster.start(1).unwrap();
    bench.back().await;
    let lost = bench.lost().await;
    eprintln!("{} of {} acknowledged tasks are lost; {loss:?}", lost.len(), bench.count());
    assert!(lost.len() >= 50, "a node without syncs lost only {}: these tests would find nothing", lost.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_on_a_full_disk_stops_and_goes_on_when_there_is_room() {
    let Some(mut bench) = Bench::new(1).await else { return };
    for left in [0, 1000, 60_000] {
        let load = bench.load();
        bench.progress(50).await;
        let disk = bench.cluster.disk(1).unwrap();
        disk.limit(Some(left));
        let (code, log) = bench.ended(1).await;
        drop(load);
        eprintln!("{left} bytes left: exit code {code}\n{log}");
        assert_eq!(code, 70);
        assert!(log.to_lowercase().contains("space"), "{log}");
        // As long as the disk is full, it says so, or comes up and serves.
        disk.limit(None);
        disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
        bench.cluster.start(1).unwrap();
        bench.back().await;
        bench.nothing_lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute with real nodes; by name"]
async fn a_node_whose_disk_fails_stops_and_loses_nothing() {
    let Some(mut bench) = Bench::new(1).await else { return };
    for operation in [Operation::Write, Operation::Sync] {
        for files in ["raft/log/*", "raft/state/**", "**"] {
            let load = bench.load();
            bench.progress(50).await;
            let disk = bench.cluster.disk(1).unwrap();
            disk.io_errors(Some(IoErrors { operations: vec![operation], files: files.to_owned(), how: How::Next(1) }));
            let (code, log) = bench.ended(1).await;
            drop(load);
            eprintln!("{operation:?} of {files}: exit code {code}, {} struck\n{log}", disk.struck());
            assert_eq!(code, 70);
            disk.io_errors(None);
            disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
            bench.cluster.start(1).unwrap();
            bench.back().await;
            bench.nothing_lost().await;
        }
    }
}

/// After a flush that failed a kernel takes its pages for clean. What the node reads from them when it starts again is on no disk, and it
/// must not count on it before it has written it again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "real nodes on a disk that fails; by name"]
async fn what_a_failed_flush_left_in_memory_is_on_the_disk_before_it_counts() {
    let Some(mut bench) = Bench::new(1).await else { return };
    for _ in 0..3 {
        let load = bench.load();
        bench.progress(50).await;
        let disk = bench.cluster.disk(1).unwrap();
        disk.io_errors(Some(IoErrors { operations: vec![Operation::Sync], files: "raft/log/*".to_owned(), how: How::Next(1) }));
        let (code, log) = bench.ended(1).await;
        assert_eq!(code, 70, "{log}");
        disk.io_errors(None);
        bench.cluster.start(1).unwrap();
        bench.back().await;
        bench.progress(50).await;
        drop(load);
        bench.cluster.kill(&[1]).await.unwrap();
        let disk = bench.cluster.disk(1).unwrap();
        disk.lose_unsynced(Survival::Nothing, &mut bench.rng).unwrap();
        bench.cluster.start(1).unwrap();
        bench.back().await;
        bench.nothing_lost().await;
    }
}

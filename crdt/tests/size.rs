//! History is compacted: after many small changes, what is stored stays within a stated multiple of the live content.
//!
//! `cargo test -p tarn-crdt --release --test size -- --ignored --nocapture` does it with a million.

mod support;

use support::world::World;
use tarn_crdt::Tuning;

/// Keys, values of 200 bytes: about half a megabyte of live content.
const KEYS: usize = 2000;
/// Clusters that are connected throughout.
const CLUSTERS: usize = 3;
/// Changes between two synchronisations.
const BURST: usize = 50;

/// Small, so that the multiple shows and not the constant.
const TUNING: Tuning = Tuning { history_bytes_min: 256 << 10, history_multiple: 2, history_bytes_max: 16 << 20 };

/// What the crate's page promises of all that is stored: so many times the live content, or the constant where that is more; and the books
/// of an epoch, for each cluster.
const MULTIPLE: u64 = 5;
const BOOKS: u64 = 40 << 10;

fn changes(count: usize) {
    let mut world = World::of(CLUSTERS, TUNING);
    let (mut worst, mut live) = (0, 0);
    for number in 0..count {
        let key = format!("context/n/c/{:05}", (number * 7919) % KEYS);
        world.put(number % CLUSTERS, &key, Some(format!("{number:0200}").as_bytes())).unwrap();
        if number % BURST == BURST - 1 {
            world.pump();
            world.nodes.iter_mut().for_each(|node| node.told.clear());
        }
        if number % 1000 == 999 {
            live = world.nodes[0].replica.range("").map(|(key, value)| (key.len() + value.len()) as u64).sum();
            let stored: u64 = world.nodes[0].rows.iter().map(|(key, row)| (key.len() + row.len()) as u64).sum();
            let allowed = MULTIPLE * live.max(TUNING.history_bytes_min) + BOOKS * CLUSTERS as u64;
            assert!(stored <= allowed, "after {number} changes {stored} bytes are stored for {live} live ones, {allowed} are allowed");
            let peak = std::mem::take(&mut world.nodes[0].peak);
            assert!(peak <= allowed, "before {number} changes there were {peak} bytes for {live} live ones, {allowed} are allowed");
            worst = worst.max(peak.max(stored) * 100 / live);
        }
    }
    world.assert_same(&world.all());
    let size = world.nodes[0].replica.size();
    let (base, _) = world.nodes[0].replica.epochs();
    println!(
        "{count} changes, {base} epochs folded, {live} bytes live; at worst {}.{:02} times that; at last {size:?}",
        worst / 100,
        worst % 100
    );
    assert!(base as usize > count / 2000, "history was folded again and again: {base} times");
    let written = count * 3500;
    assert!(size.base + size.history < (written as u64) / 4, "it is much less than what was written");
    world.nodes[0].replica.verify().expect("index and automerge agree");
}

#[test]
fn twenty_thousand_small_changes() {
    changes(20_000);
}

#[test]
#[ignore = "takes long: run by name"]
fn a_million_small_changes() {
    changes(1_000_000);
}

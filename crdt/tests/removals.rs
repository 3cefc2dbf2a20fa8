//! Members that remove each other without knowing of each other: whom nobody removed hold the same in the end, and close epochs.

mod support;

use support::forge::{Forger, History};
use support::world::{LAZY, TINY, World};
use tarn_crdt::{Scope, Write};

fn cut_all(world: &mut World) {
    let count = world.nodes.len();
    (0..count).for_each(|a| (a + 1..count).for_each(|b| world.cut(a, b)));
}

fn link_all(world: &mut World) {
    let count = world.nodes.len();
    (0..count).for_each(|a| (a + 1..count).for_each(|b| world.link(a, b)));
    world.pump();
}

fn remove(world: &mut World, by: usize, whom: usize) {
    let whom = world.id(whom);
    world.write(by, vec![Write::Remove(whom)]).expect("it does not know that it is removed itself");
}

/// Whom `at` knows to be removed.
fn removed(world: &World, at: usize) -> Vec<usize> {
    let clusters = world.nodes[at].replica.clusters();
    world.all().into_iter().filter(|one| clusters.iter().any(|about| about.id == world.id(*one) && about.removed)).collect()
}

/// Hands over what one cluster has of an epoch, and nothing else; the other then does what is due.
fn hand(world: &mut World, from: usize, to: usize, epoch: u64) {
    let rows = History::of(world, from, epoch).rows;
    Forger::new(world, to, from).say_changes(world, &rows).outcome.expect("nothing is wrong with it");
    world.cut(from, to);
    world.tend(to);
}

/// 1 removes 2, 0 removes 1 and 4 removes 0. 3 hears of it from 2, which has heard of it from 0 and 4; and 4 from 1. So 3 knows that 1 is
/// removed, and 4 that 0 and 2 are: neither has the rest from anybody but those.
#[test]
fn a_chain_that_is_heard_of_from_both_ends() {
    for tuning in [LAZY, TINY] {
        let mut world = World::of(5, tuning);
        cut_all(&mut world);
        world.put(0, "context/n/c/k", Some(b"of 0")).unwrap();
        world.put(1, "context/n/c/k", Some(b"of 1")).unwrap();
        remove(&mut world, 1, 2);
        remove(&mut world, 0, 1);
        remove(&mut world, 4, 0);
        let (_, top) = world.nodes[0].replica.epochs();
        for (from, to) in [(0, 2), (4, 2), (2, 3), (1, 4)] {
            hand(&mut world, from, to, top);
        }
        assert_eq!((removed(&world, 3), removed(&world, 4)), (vec![0, 1], vec![0, 2]));
        world.link(3, 4);
        world.pump();
        world.assert_same(&[3, 4].into());
        assert_eq!(removed(&world, 3), [0, 1, 2]);
        assert_eq!(world.nodes[3].replica.versions("context/n/c/k").len(), 2, "what a member had taken stays");
        goes_on(&mut world, &[3, 4]);
    }
}

/// 0 and 1 remove each other; 2 hears of the one removal, 3 of the other.
#[test]
fn two_that_remove_each_other() {
    for tuning in [LAZY, TINY] {
        let mut world = World::of(4, tuning);
        cut_all(&mut world);
        remove(&mut world, 0, 1);
        remove(&mut world, 1, 0);
        world.link(0, 2);
        world.link(1, 3);
        world.pump();
        cut_all(&mut world);
        assert_eq!((removed(&world, 2), removed(&world, 3)), (vec![1], vec![0]));
        world.link(2, 3);
        world.pump();
        world.assert_same(&[2, 3].into());
        assert_eq!(removed(&world, 2), [0, 1]);
        goes_on(&mut world, &[2, 3]);
    }
}

fn goes_on(world: &mut World, members: &[usize]) {
    let (before, _) = world.nodes[members[0]].replica.epochs();
    for round in 0..40 {
        world.put(members[round % members.len()], &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.pump();
    }
    world.assert_same(&members.iter().copied().collect());
    let (after, _) = world.nodes[members[0]].replica.epochs();
    assert!(world.tuning == LAZY || after > before, "epochs are closed");
}

/// 0 folds, and is removed before anybody but 4 hears of the fold. 4 was introduced too late to count: the others may agree on something else,
/// which it would never see.
#[test]
fn who_does_not_count_does_not_follow_one_alone() {
    let mut world = World::of(4, TINY);
    (0..3).for_each(|at| world.cut(at, 3));
    world.put(3, "context/n/c/last", Some(b"word")).unwrap();
    for round in 0..30 {
        world.put(round % 3, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.pump();
    }
    let (epoch, top) = world.nodes[0].replica.epochs();
    assert_eq!(top, epoch + 1, "it waits for 3");
    let new = world.invite(0, Scope::ALL);
    world.link(0, new);
    world.pump();
    cut_all(&mut world);
    // 0, 1 and 2 agree on an end without 3; 0 alone knows that all have.
    remove(&mut world, 1, 3);
    for (from, to) in [(1, 2), (2, 1), (2, 0), (1, 0)] {
        hand(&mut world, from, to, top);
    }
    assert_eq!(world.nodes[0].replica.epochs().0, top, "0 has folded");
    assert!((1..3).all(|at| world.nodes[at].replica.epochs().0 == epoch), "1 and 2 have not");
    // The new one has more of the epoch than that: what 3 wrote last.
    hand(&mut world, 3, new, epoch);
    hand(&mut world, 0, new, top);
    assert!(removed(&world, new).contains(&3));
    // 1 removes 0, and 2, which has what 3 wrote from the new one, agrees with 1 on an end with it.
    hand(&mut world, new, 2, epoch);
    remove(&mut world, 1, 0);
    hand(&mut world, 1, 2, top);
    hand(&mut world, 2, 1, epoch);
    hand(&mut world, 2, 1, top);
    hand(&mut world, new, 2, top);
    assert_eq!(
        [1, 2, new].map(|at| world.nodes[at].replica.epochs().0),
        [top, epoch, epoch],
        "1 has folded; 2 has agreed, and not heard of it"
    );
    world.link(1, 2);
    world.link(1, new);
    world.link(2, new);
    world.pump();
    world.assert_same(&[1, 2, new].into());
    assert_eq!(world.nodes[new].replica.context("n", "c", "last"), Some(b"word".to_vec()));
    link_all(&mut world);
    goes_on(&mut world, &[1, 2, new]);
}

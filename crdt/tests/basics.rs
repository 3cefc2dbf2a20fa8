//! How clusters meet, write, fall out and come together again, in the plainest cases.

mod support;

use support::world::{LAZY, TINY, World, identity, introduction};
use tarn_crdt::{Entry, Scope, Shared, Write, WriteError, clusters_of};

/// Whoever is removed while it is connected is told so, and nothing after that.
#[test]
fn a_removed_cluster_learns_of_it() {
    let mut world = World::of(3, LAZY);
    let removed = world.id(2);
    world.write(0, vec![Write::Remove(removed)]).unwrap();
    world.pump();
    world.put(0, "context/n/c/later", Some(b"value")).unwrap();
    world.pump();
    assert!(world.nodes[2].replica.about(removed).unwrap().removed);
    assert_eq!(world.put(2, "context/n/c/k", Some(b"value")), Err(WriteError::Removed));
    assert_eq!(world.nodes[2].replica.context("n", "c", "later"), None);
    assert_eq!(world.nodes[1].replica.context("n", "c", "later"), Some(b"value".to_vec()));
    world.assert_same(&[0, 1].into());
}

/// Two members that withdraw their trust in each other at once are both gone, and the others go on.
#[test]
fn two_members_remove_each_other() {
    let mut world = World::of(4, TINY);
    (0..4).for_each(|a| (a + 1..4).for_each(|b| world.cut(a, b)));
    let (first, second) = (world.id(0), world.id(1));
    world.write(0, vec![Write::Remove(second)]).unwrap();
    world.write(1, vec![Write::Remove(first)]).unwrap();
    for (a, b) in [(0, 2), (1, 3), (2, 3), (0, 1), (0, 3), (1, 2)] {
        world.link(a, b);
        world.pump();
    }
    for round in 0..60 {
        world.put(2 + round % 2, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.pump();
    }
    world.assert_same(&[2, 3].into());
    assert!(world.nodes[2].replica.epochs().0 > 1, "epochs end without the two: {:?}", world.nodes[2].replica.epochs());
    assert!([first, second].iter().all(|id| world.nodes[3].replica.about(*id).is_some_and(|about| about.removed)));
}

/// Pages of keys are the whole, whatever is folded.
#[test]
fn pages_are_the_whole() {
    let mut world = World::of(1, TINY);
    for number in 0..50 {
        world.put(0, &format!("context/n/c/{}", number * 7 % 23), (number % 5 > 0).then_some(b"value".as_slice())).unwrap();
        world.tend(0);
    }
    let replica = &world.nodes[0].replica;
    for max in [1, 3, 100] {
        let (mut found, mut after) = (Vec::new(), Some(String::new()));
        while let Some(last) = after {
            let (page, next) = replica.page("context/", &last, max);
            found.extend(page);
            after = next;
        }
        assert!(replica.range("context/").eq(found), "{max}");
    }
}

/// A cluster that signed two cards is the same to everybody, whatever came first: the card of the introduction by the least id counts.
#[test]
fn two_cards_of_one_cluster() {
    let mut world = World::of(3, LAZY);
    (0..3).for_each(|a| (a + 1..3).for_each(|b| world.cut(a, b)));
    let (federation, new) = (world.nodes[0].replica.federation(), identity(9));
    for (at, card) in [(0, b"a"), (1, b"b"), (2, b"c")] {
        world.write(at, vec![introduction(&federation, &new, Scope::NONE, card)]).unwrap();
    }
    // 0 hears of 1 first, 2 of 1 last.
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.link(a, b);
        world.pump();
    }
    world.assert_same(&world.all());
    let least = (0..3).min_by_key(|at| world.id(*at)).unwrap();
    for at in 0..3 {
        let replica = &world.nodes[at].replica;
        let about = replica.about(new.id()).unwrap();
        assert_eq!(about.card, [b"abc"[least]]);
        let mut entries: Vec<_> = replica.range("").collect();
        entries.reverse();
        for entries in [replica.range("").collect(), entries] {
            assert_eq!(clusters_of(entries), replica.clusters());
        }
        world.crash(at);
        assert_eq!(world.nodes[at].replica.about(new.id()), Some(about));
    }
}

#[test]
fn two_clusters_meet_and_see_what_the_other_wrote() {
    let mut world = World::found(LAZY);
    let new = world.invite(0, Scope::of(Shared::Context));
    world.link(0, new);
    world.pump();
    let entry = Entry { name: "oslo".into(), gateways: vec!["oslo.example:7610".into()] };
    let capacity = b"seven slots".to_vec();
    world.write(new, vec![Write::Entry(entry.clone()), Write::Capacity(capacity.clone())]).unwrap();
    world.pump();
    let about = world.nodes[0].replica.about(world.id(new)).unwrap();
    assert_eq!((about.entry, about.capacity, about.removed), (Some(entry), Some(capacity), false));
    assert_eq!((about.scope, about.introduced_by), (Scope::of(Shared::Context), vec![world.id(0)]));
    assert_eq!(world.nodes[1].replica.clusters().len(), 2);
    world.assert_same(&world.all());
}

#[test]
fn epochs_are_folded_and_nothing_is_lost() {
    let mut world = World::of(3, TINY);
    for round in 0..60 {
        for at in 0..3 {
            world.put(at, &format!("context/n/c/{}", (round + at) % 7), Some(format!("{round}-{at}").as_bytes())).unwrap();
        }
        world.pump();
    }
    world.assert_same(&world.all());
    let (base, _) = world.nodes[0].replica.epochs();
    assert!(base >= 3, "180 change sets of more than 3.3 kB each, 40 kB an epoch: base {base}");
    assert_eq!(world.nodes[0].replica.size().retired, 0);
    for key in 0..7 {
        assert!(world.nodes[2].replica.get(&format!("context/n/c/{key}")).is_some());
    }
    // A new cluster takes the base and starts where the others are.
    let new = world.invite(1, Scope::ALL);
    world.link(1, new);
    world.pump();
    world.put(new, "agent/a", Some(b"new")).unwrap();
    world.pump();
    world.assert_same(&world.all());
    assert_eq!(world.nodes[0].replica.agent("a"), Some(b"new".to_vec()));
}

#[test]
fn an_idle_link_is_silent() {
    let mut world = World::of(3, TINY);
    world.put(0, "agent/a", Some(b"1")).unwrap();
    world.pump();
    let bytes = world.bytes;
    for _ in 0..100 {
        (0..3).for_each(|at| world.nodes[at].sessions.values_mut().for_each(|session| session.tick()));
        world.pump();
    }
    // After a retry that nobody needed each side may greet, and nothing else.
    assert_eq!(world.bytes - bytes, 0, "bytes that an idle link carried in 100 retries");
}

#[test]
fn a_small_change_costs_little_more_than_its_signature() {
    let mut world = World::of(2, LAZY);
    world.pump();
    let bytes = world.bytes;
    for number in 0..100 {
        world.put(number % 2, "context/n/c/k", Some(b"value")).unwrap();
        world.pump();
    }
    let each = (world.bytes - bytes) / 100;
    assert!(each < 4_500, "{each} bytes for each change, acknowledgements included");
}

#[test]
fn a_cluster_that_stayed_away_delays_folding_and_nothing_else() {
    let mut world = World::of(3, TINY);
    (0..2).for_each(|other| world.cut(other, 2));
    for round in 0..30 {
        world.put(round % 2, &format!("context/n/c/{round}"), Some(b"value")).unwrap();
        world.pump();
    }
    assert_eq!(world.nodes[0].replica.epochs(), (0, 1), "epoch 0 is closed, but not folded");
    // It is removed: now it no longer counts.
    let away = world.id(2);
    world.write(0, vec![Write::Remove(away)]).unwrap();
    world.pump();
    assert!(world.nodes[0].replica.epochs().0 > 0);
    world.assert_same(&[0, 1].into());
}

#[test]
fn the_founder_can_be_removed_and_the_others_go_on() {
    let mut world = World::of(3, TINY);
    (1..3).for_each(|other| world.cut(0, other));
    let founder = world.id(0);
    world.write(1, vec![Write::Remove(founder)]).unwrap();
    for round in 0..40 {
        world.put(1 + round % 2, &format!("context/n/c/{}", round % 5), Some(b"value")).unwrap();
        world.pump();
    }
    assert!(world.nodes[1].replica.epochs().0 > 1, "epochs are folded without it");
    world.assert_same(&[1, 2].into());
    let new = world.invite(2, Scope::ALL);
    world.link(2, new);
    world.pump();
    world.assert_same(&[1, 2, new].into());
}

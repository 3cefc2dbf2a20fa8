//! What a cluster may write at most, and what of a key is kept.

mod support;

use support::forge::{Forged, Forger, History};
use support::world::{LAZY, TINY, World};
use tarn_crdt::{Reason, SessionError, WriteError, limits};

const LARGE: usize = 60 << 10;

/// A change set's worth of content.
fn content(number: u64) -> Vec<(String, Option<Vec<u8>>)> {
    (0..4).map(|key| (format!("context/n/c/{number:04}-{key}"), Some(vec![7; LARGE]))).collect()
}

fn unlinked() -> World {
    let mut world = World::of(2, LAZY);
    world.cut(0, 1);
    world
}

#[test]
fn an_author_is_told_when_its_budget_of_the_epoch_is_spent() {
    let mut world = unlinked();
    let before = world.nodes[0].replica.room();
    let mut number = 0;
    let full = loop {
        let node = &mut world.nodes[0];
        match node.replica.put(&node.identity, content(number), 9) {
            Ok(commit) => world.store(0, commit),
            Err(error) => break error,
        }
        number += 1;
    };
    assert_eq!(full, WriteError::Full);
    let written = number * 4 * LARGE as u64;
    assert!(before <= limits::AUTHOR_BYTES_MAX - limits::AUTHOR_BYTES_SPARE && written > limits::AUTHOR_BYTES_MAX * 9 / 10, "{written}");
    assert_eq!(world.nodes[0].replica.room(), 0);
    // Whoever loads it again knows that too, and the others take all that was written.
    world.crash(0);
    let node = &mut world.nodes[0];
    assert_eq!(node.replica.put(&node.identity, content(9_999), 9), Err(WriteError::Full));
    world.link(0, 1);
    world.pump();
    world.assert_same(&world.all());
    assert!(world.nodes[1].replica.room() > 0, "each has its own budget");
}

#[test]
fn an_author_beyond_its_budget_is_refused() {
    let mut world = unlinked();
    let federation = world.nodes[0].replica.federation();
    let mut forger = Forger::new(&mut world, 0, 1);
    let mut next = History::of(&world, 1, 0).next(world.id(1), "context/n/c/x", b"");
    let refused = (0..200).find_map(|number| {
        let change = Forged { puts: content(number), ..next.clone() };
        next = Forged { seq: change.seq + 1, deps: vec![change.hash()], start_op: change.start_op + 4, ..next.clone() };
        let signed = change.signed(&federation, &world.nodes[1].identity);
        forger.say_changes(&mut world, &[signed]).outcome.err()
    });
    let Some(SessionError::Refused(refusal)) = refused else { panic!("it is refused: {refused:?}") };
    assert_eq!(refusal.reason, Reason::TooLarge, "{refusal}");
    assert!(world.nodes[0].replica.size().history < limits::AUTHOR_BYTES_MAX + (1 << 20));
}

#[test]
fn of_many_values_of_one_key_some_are_kept() {
    let count = limits::VERSIONS_MAX + 2;
    let mut world = World::of(count, TINY);
    (0..count).for_each(|a| (a + 1..count).for_each(|b| world.cut(a, b)));
    for at in 0..count {
        world.put(at, "context/n/c/k", Some(&[at as u8])).unwrap();
    }
    for b in 1..count {
        world.link(0, b);
    }
    world.pump();
    assert_eq!(world.nodes[3].replica.versions("context/n/c/k").len(), count);
    let winner = world.nodes[3].replica.get("context/n/c/k");
    for round in 0..60 {
        world.put(0, &format!("context/n/fill/{}", round % 3), Some(&[0; 4000])).unwrap();
        world.pump();
    }
    world.assert_same(&world.all());
    assert_eq!(world.nodes[3].replica.versions("context/n/c/k").len(), limits::VERSIONS_MAX);
    assert_eq!(world.nodes[3].replica.get("context/n/c/k"), winner);
}

//! Bases that must not be taken: one that nobody asked for, one that a member made up alone, one of an epoch that cannot be.

mod support;

use support::forge::{Forger, STATUS, bytes, number};
use support::world::{LAZY, TINY, World, identity};
use tarn_crdt::{Reason, Received, Scope, SessionError};

/// A status, the base, its head with the signatures of these clusters, and its end.
struct Made {
    status: Vec<u8>,
    messages: [Vec<u8>; 3],
}

/// A base of this epoch in which a context says what the cluster 2 likes, with the keys of all.
fn made(world: &World, epoch: u64, signers: &[usize]) -> Made {
    let federation = world.nodes[0].replica.federation();
    let mut status = [[STATUS].as_slice(), &federation.0].concat();
    [epoch; 3].into_iter().for_each(|value| number(&mut status, value));
    let mut entries = Vec::new();
    bytes(&mut entries, b"context/n/c/k");
    number(&mut entries, 1);
    entries.extend_from_slice(&world.id(2).0);
    [0, 1].into_iter().for_each(|value| number(&mut entries, value));
    entries.push(1);
    bytes(&mut entries, b"made up");
    for (key, value) in world.nodes[0].replica.range("member/") {
        bytes(&mut entries, key.as_bytes());
        number(&mut entries, 1);
        entries.extend_from_slice(&world.id(0).0);
        [0, 1].into_iter().for_each(|value| number(&mut entries, value));
        entries.push(1);
        bytes(&mut entries, &value);
    }
    let mut start = Vec::new();
    number(&mut start, epoch);
    number(&mut start, 0);
    let digest = blake3::Hasher::new_derive_key("tarn federation 1: base").update(&start).update(&entries).finalize();
    let message = [b"tarn federation 1: base\0".as_slice(), &federation.0, digest.as_bytes()].concat();
    let mut head = [&[4], start.as_slice()].concat();
    number(&mut head, signers.len() as u64);
    for signer in signers {
        let key = identity(*signer + 1);
        head.extend([key.public_key(), &key.sign(&message)].concat());
    }
    Made { status, messages: [head, [&[5], entries.as_slice()].concat(), vec![6]] }
}

/// Has 2 hand a made base to the victim; it says first that it has that epoch, if the victim is to ask.
fn hand_over(world: &mut World, victim: usize, base: &Made, asks: bool) -> Received {
    let mut forger = Forger::new(world, victim, 2);
    if asks {
        forger.say(world, &base.status).outcome.expect("a status is welcome");
        world.poll(victim);
    }
    let [head, entries, end] = &base.messages;
    for message in [head, entries] {
        let received = forger.say(world, message);
        if received.outcome.is_err() {
            return received;
        }
    }
    forger.say(world, end)
}

fn unlinked(count: usize) -> World {
    let mut world = World::of(count, LAZY);
    (0..count).for_each(|a| (a + 1..count).for_each(|b| world.cut(a, b)));
    world
}

#[test]
fn a_base_that_enough_of_the_members_signed_is_taken() {
    // Otherwise the tests below would show nothing.
    let mut world = unlinked(4);
    let base = made(&world, 3, &[0, 2]);
    hand_over(&mut world, 1, &base, true).outcome.expect("its inviter signed it");
    assert_eq!(world.nodes[1].replica.context("n", "c", "k"), Some(b"made up".to_vec()));
    let mut world = unlinked(4);
    let base = made(&world, 3, &[1, 2]);
    hand_over(&mut world, 0, &base, true).outcome.expect("two of three others signed it");
    assert_eq!(world.nodes[0].replica.epochs().0, 3);
}

#[test]
fn a_base_that_a_member_made_up_alone() {
    for signers in [&[2][..], &[2, 2], &[2, 3], &[]] {
        let mut world = unlinked(5);
        let before = world.nodes[1].replica.canonical();
        let base = made(&world, 3, signers);
        let received = hand_over(&mut world, 1, &base, true);
        assert_eq!(received.commit.refusals.last().map(|refusal| refusal.reason), Some(Reason::BadSignature), "{signers:?}");
        assert!(world.nodes[1].replica.canonical() == before);
    }
}

#[test]
fn a_base_that_nobody_asked_for() {
    let mut world = unlinked(4);
    let base = made(&world, 3, &[0, 1, 2, 3]);
    let received = hand_over(&mut world, 1, &base, false);
    assert!(matches!(received.outcome, Err(SessionError::Malformed(_))), "{:?}", received.outcome);
    assert_eq!(world.nodes[1].replica.epochs(), (0, 0));
}

#[test]
fn an_epoch_that_cannot_be() {
    for epoch in [u64::MAX, (1 << 40) + 1] {
        let mut world = unlinked(4);
        let base = made(&world, epoch, &[0, 1, 2, 3]);
        let mut forger = Forger::new(&mut world, 1, 2);
        let received = forger.say(&mut world, &base.status);
        assert!(matches!(received.outcome, Err(SessionError::Malformed(_))), "{:?}", received.outcome);
    }
}

#[test]
fn a_newcomer_asks_its_inviter_alone() {
    // 1 is introduced after epochs were folded: it knows nobody, and its inviter's base is all it can begin with.
    let mut world = World::of(1, TINY);
    for round in 0..40 {
        world.put(0, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.pump();
    }
    assert!(world.nodes[0].replica.epochs().0 > 0);
    let new = world.invite(0, Scope::NONE);
    world.link(0, new);
    world.pump();
    world.assert_same(&world.all());
}

//! What must not be taken: each bad change set, relay and frame ends the session, is recorded with its reason, and changes nothing.

mod support;

use support::forge::{CHANGES, Forged, Forger, History, SYNC, number};
use support::world::{LAZY, TINY, World, identity, introduction};
use tarn_crdt::{ClusterId, Identity, Reason, Received, Scope, SessionError, Shared, Write, WriteError};

/// A founder (0) and a member (1) that may write contexts alone, both up to date and not linked. What is sent comes from 1.
fn pair() -> World {
    let mut world = World::found(LAZY);
    let new = world.invite(0, Scope::of(Shared::Context));
    world.link(0, new);
    world.pump();
    world.cut(0, 1);
    world
}

fn forge(world: &World, key: &str) -> Forged {
    History::of(world, 1, 0).next(world.id(1), key, b"value")
}

fn send(world: &mut World, change: &Forged, signer: usize) -> Received {
    let signed = change.signed(&world.nodes[0].replica.federation(), &world.nodes[signer].identity);
    send_raw(world, signed)
}

fn send_raw(world: &mut World, signed: Vec<u8>) -> Received {
    Forger::new(world, 0, 1).say_changes(world, &[signed])
}

/// The change set was refused for that reason, and left no trace but the record.
#[track_caller]
fn assert_refused(world: &mut World, before: &[u8], received: Received, reason: Reason, says: &str) {
    let error = received.outcome.expect_err("it is refused");
    if let SessionError::Refused(refusal) = &error {
        assert_eq!(refusal.reason, reason, "{refusal}");
    }
    let recorded = world.nodes[0].replica.refusals().last().expect("it is recorded").clone();
    assert_eq!((recorded.reason, recorded.from), (reason, world.id(1)), "{recorded}");
    assert!(recorded.detail.contains(says), "{recorded}");
    assert_eq!(received.commit.refusals, std::slice::from_ref(&recorded));
    assert!(received.commit.entries.is_empty());
    assert!(world.nodes[0].replica.canonical() == before, "the replica changed");
    // The record is stored, and the session is over.
    world.crash(0);
    assert_eq!(world.nodes[0].replica.refusals().last(), Some(&recorded));
    assert!(error.to_string().len() > 10);
}

#[track_caller]
fn refused(change: impl FnOnce(&World) -> Forged, reason: Reason, says: &str) {
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let change = change(&world);
    let received = send(&mut world, &change, 1);
    assert_refused(&mut world, &before, received, reason, says);
}

#[test]
fn a_good_change_set_by_the_forger_is_taken() {
    // Otherwise the tests below would show nothing.
    let mut world = pair();
    let change = forge(&world, "context/n/c/k");
    send(&mut world, &change, 1).outcome.expect("nothing is wrong with it");
    assert_eq!(world.nodes[0].replica.context("n", "c", "k"), Some(b"value".to_vec()));
}

#[test]
fn a_signature_by_another_cluster() {
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let change = forge(&world, "context/n/c/k");
    let received = send(&mut world, &change, 0);
    assert_refused(&mut world, &before, received, Reason::BadSignature, "not its author's");
}

#[test]
fn a_signature_in_another_federation_or_epoch() {
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let change = forge(&world, "context/n/c/k");
    let other = tarn_crdt::FederationId::new(world.id(0), "other");
    let signed = change.signed(&other, &world.nodes[1].identity);
    let received = send_raw(&mut world, signed);
    assert_refused(&mut world, &before, received, Reason::BadSignature, "");
}

#[test]
fn every_flipped_bit_of_a_signed_change_set() {
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let federation = world.nodes[0].replica.federation();
    let signed = forge(&world, "context/n/c/k").signed(&federation, &world.nodes[1].identity);
    let body = signed.len() - 3309;
    // All of the body and its hash; of the signature every hundredth byte.
    for at in (0..body).chain((body..signed.len()).step_by(100)) {
        let mut bad = signed.clone();
        bad[at] ^= 1 << (at % 8);
        let received = Forger::new(&mut world, 0, 1).say_changes(&mut world, &[bad]);
        let early = received.outcome.is_ok();
        assert!(world.nodes[0].replica.canonical() == before, "byte {at}");
        // A change set that names an unknown past, or a later epoch, waits in its session, unverified, and goes with it.
        assert!(!early || received.commit.is_empty(), "byte {at}");
    }
}

#[test]
fn an_author_that_nobody_introduced() {
    let stranger = identity(99);
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let change = Forged { author: stranger.id(), seq: 1, ..forge(&world, "context/n/c/k") };
    let signed = change.signed(&world.nodes[0].replica.federation(), &stranger);
    let received = send_raw(&mut world, signed);
    assert_refused(&mut world, &before, received, Reason::UnknownCluster, "nobody introduced");
}

#[test]
fn an_author_that_did_not_know_of_its_own_introduction() {
    // A right signature by a member, on a past in which it was none: whether it counts must not depend on what the receiver knows.
    let mut world = pair();
    let before = world.nodes[0].replica.canonical();
    let change = Forged { deps: Vec::new(), start_op: 1, ..forge(&world, "context/n/c/k") };
    let received = send(&mut world, &change, 1);
    assert_refused(&mut world, &before, received, Reason::UnknownCluster, "as far as it knows");
}

#[test]
fn numbers_that_do_not_follow() {
    refused(|world| Forged { seq: 9, ..forge(world, "context/n/c/k") }, Reason::Replay, "does not follow");
}

#[test]
fn two_histories_of_one_cluster() {
    let mut world = pair();
    let first = forge(&world, "context/n/c/first");
    let second = forge(&world, "context/n/c/second");
    send(&mut world, &first, 1).outcome.expect("the first is good");
    let before = world.nodes[0].replica.canonical();
    let received = send(&mut world, &second, 1);
    assert_refused(&mut world, &before, received, Reason::Equivocation, "another change set 1");
}

#[test]
fn a_relay_that_makes_another_look_like_a_liar() {
    // Another change set of a number that is taken, but signed by the relay: that is no proof of two histories.
    let mut world = pair();
    let (first, second) = (forge(&world, "context/n/c/first"), forge(&world, "context/n/c/second"));
    send(&mut world, &first, 1).outcome.expect("the first is good");
    let before = world.nodes[0].replica.canonical();
    let received = send(&mut world, &second, 0);
    assert_refused(&mut world, &before, received, Reason::BadSignature, "not signed by its author");
}

#[test]
fn what_is_sent_twice_changes_nothing() {
    let mut world = pair();
    let change = forge(&world, "context/n/c/k");
    send(&mut world, &change, 1).outcome.expect("it is good");
    let again = send(&mut world, &change, 1);
    again.outcome.expect("what is known already is passed over");
    assert!(again.commit.is_empty());
}

#[test]
fn keys_outside_the_scope() {
    for key in ["policy/p", "agent/a"] {
        refused(|world| forge(world, key), Reason::OutOfScope, "does not hold the section");
    }
    for section in ["directory", "capacity", "seal", "confirm", "folded"] {
        refused(|world| forge(world, &format!("{section}/{}", world.id(0))), Reason::OutOfScope, "another cluster");
    }
    refused(|world| forge(world, &format!("removed/{}/{}", world.id(1), world.id(0))), Reason::OutOfScope, "speaks for another");
}

fn card_signature(world: &World, signer: &Identity, card: &[u8]) -> Vec<u8> {
    signer.sign(&[b"tarn federation 1: card\0".as_slice(), &world.nodes[0].replica.federation().0, card].concat())
}

fn introduce(world: &World, whom: usize, by: ClusterId, bits: u8) -> Forged {
    let key = identity(whom);
    let mut change = forge(world, &format!("member/{}/{by}", key.id()));
    // An empty card.
    change.puts[0].1 = Some([key.public_key(), &[bits, 0], &card_signature(world, &key, b"")].concat());
    change
}

#[test]
fn nobody_gives_more_than_it_has() {
    refused(|world| introduce(world, 7, world.id(1), 0b101), Reason::OutOfScope, "more than it has");
    refused(|world| introduce(world, 2, world.id(1), 0b111), Reason::OutOfScope, "does not introduce itself");
    refused(|world| introduce(world, 7, world.id(0), 0b100), Reason::OutOfScope, "speaks for another");
    refused(|world| introduce(world, 7, world.id(1), 0b1_0000), Reason::Malformed, "public key and a scope");
    let mut world = pair();
    let good = introduce(&world, 7, world.id(1), 0b100);
    send(&mut world, &good, 1).outcome.expect("within its own scope a member introduces");
}

#[test]
fn a_card_is_the_clusters_own() {
    // 1 introduces the founder anew, with a card of its own making, which it signs itself, or with the signature that is over another.
    for (card, signer, signed) in [(b"mine", 1, b"mine"), (b"mine", 2, b"mine"), (b"mine", 0, b"card")] {
        let forged = |world: &World| {
            let (founder, key) = (&world.nodes[0].identity, format!("member/{}/{}", world.id(0), world.id(1)));
            let mut change = forge(world, &key);
            let signature = card_signature(world, &identity(signer + 1), signed);
            change.puts[0].1 = Some([founder.public_key(), &[0, 4], card.as_slice(), &signature].concat());
            change
        };
        refused(forged, Reason::BadSignature, "the card is not signed");
    }
}

#[test]
fn whom_nobody_introduced_nobody_removes() {
    let removal = |whom: usize| {
        move |world: &World| {
            let mut change = forge(world, &format!("removed/{}/{}", identity(whom).id(), world.id(1)));
            change.puts[0].1 = Some(Vec::new());
            change
        }
    };
    refused(removal(7), Reason::OutOfScope, "nobody introduced the cluster that it removes");
    let mut world = pair();
    let good = removal(1)(&world);
    send(&mut world, &good, 1).outcome.expect("the founder is known");
}

#[test]
fn more_clusters_than_a_federation_has() {
    let mut world = pair();
    let federation = world.nodes[0].replica.federation();
    for number in 2..512 {
        world.write(0, vec![introduction(&federation, &identity(100 + number), Scope::NONE, b"")]).expect("up to the limit");
    }
    let more = world.write(0, vec![introduction(&federation, &identity(900), Scope::NONE, b"")]);
    assert!(matches!(more, Err(WriteError::Refused { reason: Reason::TooLarge, .. })), "{more:?}");
    world.link(0, 1);
    world.pump();
    world.cut(0, 1);
    let before = world.nodes[0].replica.canonical();
    let change = introduce(&world, 901, world.id(1), 0);
    let received = send(&mut world, &change, 1);
    assert_refused(&mut world, &before, received, Reason::TooLarge, "at most 512");
    // Whoever is known already may be introduced once more.
    let again = introduce(&world, 102, world.id(1), 0);
    send(&mut world, &again, 1).outcome.expect("it is no further cluster");
}

#[test]
fn an_introduction_stays() {
    let mut world = pair();
    let first = introduce(&world, 7, world.id(1), 0b000);
    send(&mut world, &first, 1).outcome.expect("it is good");
    let before = world.nodes[0].replica.canonical();
    let again = Forged { seq: 2, deps: vec![first.hash()], start_op: first.start_op + 1, ..introduce(&world, 7, world.id(1), 0b100) };
    // Its hash is another, as it supersedes the first: the room finds that before it looks at the scope.
    let received = send(&mut world, &again, 1);
    assert_refused(&mut world, &before, received, Reason::Malformed, "hash");
    let federation = world.nodes[0].replica.federation();
    world.write(0, vec![introduction(&federation, &identity(7), Scope::NONE, b"")]).expect("once");
    let twice = world.write(0, vec![introduction(&federation, &identity(7), Scope::ALL, b"")]);
    assert!(matches!(twice, Err(WriteError::Refused { reason: Reason::OutOfScope, .. })), "{twice:?}");
}

#[test]
fn keys_of_no_section_and_values_of_no_form() {
    for key in ["", "context", "context/n", "context/n/c", "context//c/k", "directory/zz", "member/zz", "secrets/all", "Policy/p"] {
        refused(|world| forge(world, key), Reason::Malformed, "");
    }
    refused(|world| forge(world, &format!("seal/{}", world.id(1))), Reason::Malformed, "a seal names");
    refused(|world| forge(world, &format!("confirm/{}", world.id(1))), Reason::Malformed, "the epoch below");
    refused(|world| forge(world, &format!("removed/{}/{}", world.id(0), world.id(1))), Reason::Malformed, "empty value");
}

#[test]
fn what_is_too_large() {
    let value =
        |bytes: usize| move |world: &World| Forged { puts: vec![("context/n/c/k".into(), Some(vec![0; bytes]))], ..forge(world, "x") };
    refused(value((64 << 10) + 1), Reason::TooLarge, "");
    refused(|world| forge(world, &format!("context/n/c/{}", "k".repeat(1024))), Reason::TooLarge, "");
    let many = |count: usize, bytes: usize| {
        move |world: &World| Forged {
            puts: (0..count).map(|n| (format!("context/n/c/{n:05}"), Some(vec![0; bytes]))).collect(),
            ..forge(world, "x")
        }
    };
    refused(many(1025, 1), Reason::TooLarge, "");
    refused(many(5, 60_000), Reason::TooLarge, "");
    let mut world = pair();
    let most = value(64 << 10)(&world);
    send(&mut world, &most, 1).outcome.expect("up to the limit all is well");
}

#[test]
fn a_hash_that_is_not_of_the_content() {
    // The right signature over a hash that is not the content's: here automerge's number of the operation is wrong.
    refused(|world| Forged { start_op: 1000, ..forge(world, "context/n/c/k") }, Reason::Malformed, "hash");
}

#[test]
fn an_encoding_that_is_not_the_only_one() {
    let two = |first: &str, second: &str| {
        let (first, second) = (first.to_owned(), second.to_owned());
        move |world: &World| {
            let puts = vec![(first, Some(vec![1])), (second, Some(vec![2]))];
            Forged { puts, ..forge(world, "x") }
        }
    };
    refused(two("context/n/c/b", "context/n/c/a"), Reason::Malformed, "ascending");
    refused(two("context/n/c/a", "context/n/c/a"), Reason::Malformed, "ascending");
    refused(|world| Forged { seq: 0, ..forge(world, "context/n/c/k") }, Reason::Malformed, "number");
}

#[test]
fn a_relay_that_changed_what_it_relays() {
    // 1 relays a change set of the founder's own making to 2, with another value.
    let mut world = World::of(3, LAZY);
    world.cut(0, 1);
    world.cut(0, 2);
    world.cut(1, 2);
    let before = world.nodes[2].replica.canonical();
    let forged = History::of(&world, 1, 0).next(world.id(0), "policy/p", b"allow all");
    let signed = forged.signed(&world.nodes[1].replica.federation(), &world.nodes[1].identity);
    let received = Forger::new(&mut world, 2, 1).say_changes(&mut world, &[signed]);
    let Err(SessionError::Refused(refusal)) = received.outcome else { panic!("it is refused") };
    assert_eq!((refusal.reason, refusal.author, refusal.from), (Reason::BadSignature, world.id(0), world.id(1)));
    assert!(world.nodes[2].replica.canonical() == before);
}

#[test]
fn a_removed_peer_is_not_heard() {
    let mut world = pair();
    let change = forge(&world, "context/n/c/k").signed(&world.nodes[0].replica.federation(), &world.nodes[1].identity);
    let mut forger = Forger::new(&mut world, 0, 1);
    let id = world.id(1);
    world.write(0, vec![Write::Remove(id)]).unwrap();
    let before = world.nodes[0].replica.canonical();
    let received = forger.say_changes(&mut world, &[change]);
    assert_refused(&mut world, &before, received, Reason::RemovedCluster, "withdrawn");
    assert!(matches!(world.write(1, vec![Write::Agent { name: "a".into(), value: None }]), Err(WriteError::Refused { .. })));
}

#[test]
fn what_a_removed_cluster_wrote_counts_if_a_member_hands_it_over() {
    let mut world = World::of(4, LAZY);
    (0..4).for_each(|a| (a + 1..4).for_each(|b| world.cut(a, b)));
    // 2 writes, and 1 alone takes it; 0 withdraws its trust in 2 and 3 meanwhile.
    world.put(2, "context/n/c/k", Some(b"late")).unwrap();
    world.link(1, 2);
    world.pump();
    world.cut(1, 2);
    for away in [2, 3] {
        let removed = world.id(away);
        world.write(0, vec![Write::Remove(removed)]).unwrap();
    }
    // 0 takes it neither from 2 nor from 3, which is removed too.
    let late = History::of(&world, 2, 0).rows.last().unwrap().clone();
    for away in [2, 3] {
        world.link(0, away);
        world.pump();
        assert_eq!(world.nodes[0].replica.context("n", "c", "k"), None);
        world.cut(0, away);
    }
    // From 1 it does, and builds on it: 1 may not know of the removal yet, and have more to say.
    let received = Forger::new(&mut world, 0, 1).say_changes(&mut world, std::slice::from_ref(&late));
    received.outcome.expect("it is taken");
    assert_eq!(world.nodes[0].replica.context("n", "c", "k"), Some(b"late".to_vec()));
    world.tend(0);
    assert_eq!(History::of(&world, 0, 0).heads.len(), 1);
    world.link(0, 1);
    world.pump();
    world.assert_same(&[0, 1].into());
    // What 2 writes from now on nobody takes.
    world.put(2, "context/n/c/more", Some(b"later")).unwrap();
    world.link(1, 2);
    world.pump();
    assert_eq!(world.nodes[1].replica.context("n", "c", "more"), None);
    assert!(world.nodes[1].ended.iter().any(|error| matches!(error, SessionError::RemovedPeer(_))));
}

/// The frame that brings a member's removal may bring more: what it hands over of other removed clusters comes too late.
#[test]
fn a_member_that_is_removed_by_what_it_says() {
    let mut world = World::of(4, LAZY);
    (0..4).for_each(|a| (a + 1..4).for_each(|b| world.cut(a, b)));
    world.put(2, "context/n/c/k", Some(b"late")).unwrap();
    let removed: Vec<ClusterId> = [1, 2].map(|at| world.id(at)).to_vec();
    world.write(3, vec![Write::Remove(removed[0]), Write::Remove(removed[1])]).unwrap();
    let [late, removal] = [2, 3].map(|at| History::of(&world, at, 0).rows.last().unwrap().clone());
    let received = Forger::new(&mut world, 0, 1).say_changes(&mut world, &[removal, late]);
    received.outcome.expect("nothing is wrong with it");
    assert_eq!(world.nodes[0].replica.context("n", "c", "k"), None);
    assert!(world.nodes[0].replica.clusters().iter().filter(|about| about.removed).count() == 2);
}

#[test]
fn a_refusal_is_recorded_once() {
    let mut world = pair();
    let change = forge(&world, "policy/p");
    for again in [false, true, true] {
        let received = send(&mut world, &change, 1);
        received.outcome.expect_err("it is refused each time");
        assert_eq!(received.commit.is_empty(), again, "and stored once");
    }
    assert_eq!(world.nodes[0].replica.refusals().count(), 1);
}

#[test]
fn a_stranger_is_not_heard() {
    let mut world = pair();
    let new = world.invite(1, Scope::NONE);
    // 0 does not know of it yet.
    world.begin(0, new);
    let node = &mut world.nodes[0];
    let session = node.sessions.get_mut(&new).expect("it has begun");
    assert_eq!(session.poll(&mut node.replica), None, "a stranger is told nothing");
    let received = session.receive(&mut node.replica, &[1; 40], 7);
    assert!(matches!(received.outcome, Err(SessionError::UnknownPeer(peer)) if peer == identity(3).id()));
    assert_eq!(received.commit.refusals[0].reason, Reason::UnknownCluster);
}

#[test]
fn frames_that_are_none() {
    let refused = |frame: &dyn Fn(&Forger) -> Vec<u8>| {
        let mut world = pair();
        let mut forger = Forger::new(&mut world, 0, 1);
        let frame = frame(&forger);
        let received = forger.send(&mut world, &frame);
        let ended = forger.send(&mut world, &frame);
        assert!(matches!(ended.outcome, Err(SessionError::Ended)));
        (received.outcome.expect_err("it is refused"), received.commit.refusals.first().map(|refusal| refusal.reason))
    };
    let malformed = |frame: &dyn Fn(&Forger) -> Vec<u8>| {
        let (error, reason) = refused(frame);
        assert!(matches!(error, SessionError::Malformed(_)), "{error:?}");
        assert_eq!(reason, Some(Reason::Malformed));
    };
    malformed(&|_| Vec::new());
    malformed(&|_| vec![9; 40]);
    malformed(&|forger| forger.frame(2, &[]));
    malformed(&|forger| forger.frame(2, &[200]));
    malformed(&|forger| forger.frame(2, &[SYNC]));
    malformed(&|forger| forger.frame(2, &[CHANGES, 1, 2, 3]));
    let (error, reason) = refused(&|forger| forger.frame(2, &vec![0; 5 << 20]));
    assert_eq!((error, reason), (SessionError::TooLarge, Some(Reason::TooLarge)));
}

#[test]
fn a_bloom_filter_that_would_take_the_memory_or_divide_by_nothing() {
    // entries, bits for each, probes: automerge's decoder takes all of these.
    for (entries, bits, probes, length) in
        [(1, 10, u32::MAX.into(), 2), (1, 0, 7, 0), (0, 10, 7, 0), (1 << 22, 10, 7, 5 << 20), (8, 10, 7, 9)]
    {
        let mut bloom = Vec::new();
        [entries, bits, probes].into_iter().for_each(|value| number(&mut bloom, value));
        bloom.resize(bloom.len() + length, 0);
        let mut message = vec![SYNC, 0, 0, 0, 1, 0];
        support::forge::bytes(&mut message, &bloom);
        let mut world = pair();
        let received = Forger::new(&mut world, 0, 1).say(&mut world, &message);
        let error = received.outcome.expect_err("it is refused");
        assert!(matches!(error, SessionError::Malformed(_) | SessionError::TooLarge), "{error:?}");
    }
}

#[test]
fn change_sets_without_a_past_are_held_up_to_a_limit() {
    let mut world = pair();
    let federation = world.nodes[0].replica.federation();
    let orphan = Forged { deps: vec![[7; 32]], ..forge(&world, "context/n/c/k") };
    // Unverified while they wait, so one signature serves them all.
    let signed = orphan.signed(&federation, &world.nodes[1].identity);
    let many: Vec<Vec<u8>> = vec![signed; 1000];
    let mut forger = Forger::new(&mut world, 0, 1);
    let error = (0..40).find_map(|_| forger.say_changes(&mut world, &many).outcome.err());
    assert_eq!(error, Some(SessionError::TooMuchPending));
    assert_eq!(world.nodes[0].replica.refusals().last().map(|refusal| refusal.reason), Some(Reason::TooLarge));
}

#[test]
fn a_base_that_nobody_signed() {
    // 3 joins by 1; what 1 sends it as the base is not what the members folded.
    let mut world = World::of(2, TINY);
    for round in 0..40 {
        world.put(0, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.pump();
    }
    assert!(world.nodes[1].replica.epochs().0 > 0);
    let new = world.invite(1, Scope::NONE);
    world.begin(1, new);
    world.begin(new, 1);
    let mut changed = false;
    for _ in 0..50 {
        world.poll(1);
        world.poll(new);
        for ((from, to), frames) in std::mem::take(&mut world.wires) {
            for mut frame in frames {
                // The first entry of the base: behind the frame's head, its kind, and its length.
                let at = frame.iter().position(|byte| *byte == 5).filter(|at| from == 1 && *at > 17 && *at < 24);
                if let Some(at) = at.filter(|_| frame.len() > 2000 && !changed) {
                    let value = frame.windows(5).rposition(|bytes| bytes == b"value").filter(|found| *found > at);
                    if let Some(value) = value {
                        frame[value] = b'V';
                        changed = true;
                    }
                }
                world.deliver(from, to, &frame);
            }
        }
    }
    assert!(changed, "the base was on its way");
    let refusal = world.nodes[new].replica.refusals().last().expect("it is refused").clone();
    assert_eq!(refusal.reason, Reason::BadSignature);
    assert_eq!(world.nodes[new].replica.epochs(), (0, 0));
}

#[test]
fn a_member_that_folds_to_something_else() {
    let mut world = World::of(2, TINY);
    world.cut(0, 1);
    for round in 0..30 {
        world.put(0, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.tend(0);
    }
    assert_eq!(world.nodes[0].replica.epochs(), (0, 1), "0 has sealed epoch 0, and waits for 1");
    let (me, founder) = (world.id(1), world.id(0));
    // epoch, members, vector, digest, signature; and the seal: epoch, vector.
    let mut members = [me, founder];
    members.sort();
    let record = [[0, 2].as_slice(), &members[0].0, &members[1].0, &[0], &[9; 32], &[0; 3309]].concat();
    let mut change = History::of(&world, 0, 1).next(me, &format!("folded/{me}"), &record);
    change.puts.push((format!("seal/{me}"), Some(vec![0, 0])));
    let signed = change.signed(&world.nodes[0].replica.federation(), &world.nodes[1].identity);
    Forger::new(&mut world, 0, 1).say_changes(&mut world, &[signed]).outcome.expect("as a change set it is good");
    for _ in 0..3 {
        world.tend(0);
    }
    assert_eq!(world.nodes[0].replica.epochs(), (0, 1), "nothing is folded");
    let diverged: Vec<_> = world.nodes[0].replica.refusals().filter(|refusal| refusal.reason == Reason::Diverged).collect();
    assert_eq!(diverged.len(), 1, "it is said once: {diverged:?}");
}

#[test]
fn a_member_that_folds_alone() {
    // It counts itself alone, keeps nothing, and says so by its own confirmation: the digest is the right one for that.
    let mut world = World::of(3, TINY);
    (0..3).for_each(|a| (a + 1..3).for_each(|b| world.cut(a, b)));
    for round in 0..30 {
        world.put(0, &format!("context/n/c/{}", round % 3), Some(b"value")).unwrap();
        world.tend(0);
    }
    assert_eq!(world.nodes[0].replica.epochs(), (0, 1), "0 has sealed epoch 0, and waits for the others");
    let stored = world.nodes[0].rows.clone();
    for counted in [vec![1], vec![0, 1], vec![0, 1, 2]] {
        world.nodes[0].rows.clone_from(&stored);
        world.crash(0);
        let me = world.id(1);
        let mut members: Vec<ClusterId> = counted.iter().map(|at| world.id(*at)).collect();
        members.sort();
        let digest = blake3::Hasher::new_derive_key("tarn federation 1: base").update(&[1, 0]).finalize();
        let ids: Vec<u8> = members.iter().flat_map(|member| member.0).collect();
        let record = [&[0, members.len() as u8], ids.as_slice(), &[0], digest.as_bytes(), &[0; 3309]].concat();
        let mut change = History::of(&world, 0, 1).next(me, &format!("confirm/{me}"), &record);
        change.puts.push((format!("folded/{me}"), Some(record)));
        change.puts.push((format!("seal/{me}"), Some(vec![0, 0])));
        let signed = change.signed(&world.nodes[0].replica.federation(), &world.nodes[1].identity);
        Forger::new(&mut world, 0, 1).say_changes(&mut world, &[signed]).outcome.expect("as a change set it is good");
        (0..3).for_each(|_| world.tend(0));
        assert_eq!(world.nodes[0].replica.epochs(), (0, 1), "nothing is folded");
        assert_eq!(world.nodes[0].replica.context("n", "c", "0"), Some(b"value".to_vec()));
        assert!(world.nodes[0].replica.refusals().any(|refusal| refusal.reason == Reason::Diverged));
    }
}

//! Whatever links do to frames, and whoever crashes when: once all is well again, members hold the same bytes, and no write is lost.
//!
//! A failure prints the actions, and a seed in `convergence.proptest-regressions` repeats it. `TARN_CASES` asks for more cases, and so does
//! `-- --ignored thousands`.

#![allow(clippy::disallowed_methods, reason = "a test asks how many cases it is to run")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use support::world::{LAZY, TINY, World};
use tarn_crdt::{Scope, Write};

/// Clusters at the start; more may be invited.
const CLUSTERS: usize = 3;
const CLUSTERS_MAX: usize = 5;
const KEYS: usize = 4;

#[derive(Clone, Debug)]
enum Action {
    Put { at: usize, key: usize },
    Delete { at: usize, key: usize },
    Resolve { at: usize, key: usize },
    Cut(usize, usize),
    Link(usize, usize),
    Poll(usize),
    Deliver(usize),
    Lose(usize),
    Repeat(usize),
    Reorder(usize),
    Tick(usize),
    Crash(usize),
    Invite(usize),
    Remove { by: usize, whom: usize },
    Fill { at: usize },
    Settle,
}

fn action() -> impl Strategy<Value = Action> {
    let at = 0..CLUSTERS_MAX;
    prop_oneof![
        12 => (at.clone(), 0..KEYS).prop_map(|(at, key)| Action::Put { at, key }),
        2 => (at.clone(), 0..KEYS).prop_map(|(at, key)| Action::Delete { at, key }),
        2 => (at.clone(), 0..KEYS).prop_map(|(at, key)| Action::Resolve { at, key }),
        3 => (at.clone(), at.clone()).prop_map(|(a, b)| Action::Cut(a, b)),
        4 => (at.clone(), at.clone()).prop_map(|(a, b)| Action::Link(a, b)),
        14 => at.clone().prop_map(Action::Poll),
        30 => any::<usize>().prop_map(Action::Deliver),
        3 => any::<usize>().prop_map(Action::Lose),
        4 => any::<usize>().prop_map(Action::Repeat),
        4 => any::<usize>().prop_map(Action::Reorder),
        3 => at.clone().prop_map(Action::Tick),
        2 => at.clone().prop_map(Action::Crash),
        1 => at.clone().prop_map(Action::Invite),
        1 => (at.clone(), at).prop_map(|(by, whom)| Action::Remove { by, whom }),
        3 => Just(Action::Settle),
    ]
}

/// Among them more removals and invitations, and epochs that are full at once.
fn several() -> impl Strategy<Value = Action> {
    let at = 0..CLUSTERS_MAX;
    prop_oneof![
        16 => action(),
        3 => (at.clone(), at.clone()).prop_map(|(by, whom)| Action::Remove { by, whom }),
        1 => at.clone().prop_map(Action::Invite),
        1 => at.prop_map(|at| Action::Fill { at }),
    ]
}

/// What was written, and what its author had seen under the key.
struct Written {
    at: usize,
    key: String,
    value: Option<Vec<u8>>,
    seen: BTreeSet<Vec<u8>>,
}

struct Run {
    world: World,
    written: Vec<Written>,
    removed: BTreeSet<usize>,
    /// Members remove whom they like, whether they know of each other's removals or not, or are removed themselves without knowing it.
    free: bool,
}

/// Clusters that go in a run in which members remove whom they like.
const REMOVALS_MAX: usize = 3;

impl Run {
    fn key(key: usize) -> String {
        format!("context/n/c/{key}")
    }

    fn put(&mut self, at: usize, key: usize, deletes: bool) {
        if at >= self.world.nodes.len() {
            return;
        }
        let key = Self::key(key);
        let value = (!deletes).then(|| format!("write {} by {at}", self.written.len()).into_bytes());
        let seen = self.world.nodes[at].replica.versions(&key).into_iter().filter_map(|version| version.value).collect();
        // One that is not introduced yet, or removed, cannot write.
        if self.world.put(at, &key, value.as_deref()).is_ok() {
            self.written.push(Written { at, key, value, seen });
        }
    }

    fn frame(&mut self, number: usize, use_it: impl FnOnce(&mut World, usize, usize, Vec<u8>)) {
        let wires: Vec<_> = self.world.wires.iter().filter(|(_, frames)| !frames.is_empty()).map(|(wire, _)| *wire).collect();
        if let Some((from, to)) = wires.get(number % wires.len().max(1)).copied() {
            let frame = self.world.wires.get_mut(&(from, to)).and_then(|frames| frames.pop_front()).expect("it is not empty");
            use_it(&mut self.world, from, to, frame);
        }
    }

    fn run(&mut self, action: &Action) {
        let count = self.world.nodes.len();
        let here = |at: &usize| *at < count;
        match action {
            Action::Put { at, key } => self.put(*at, *key, false),
            Action::Delete { at, key } => self.put(*at, *key, true),
            Action::Resolve { at, key } if here(at) && self.world.nodes[*at].replica.versions(&Self::key(*key)).len() > 1 => {
                self.put(*at, *key, false);
            }
            Action::Cut(a, b) if here(a) && here(b) => self.world.cut(*a, *b),
            Action::Link(a, b) if here(a) && here(b) && a != b => self.world.link(*a, *b),
            Action::Poll(at) if here(at) => {
                self.world.poll(*at);
            }
            Action::Deliver(number) => self.frame(*number, |world, from, to, frame| world.deliver(from, to, &frame)),
            Action::Lose(number) => self.frame(*number, |_, _, _, _| {}),
            Action::Repeat(number) => self.frame(*number, |world, from, to, frame| {
                world.deliver(from, to, &frame);
                world.deliver(from, to, &frame);
            }),
            Action::Reorder(number) => {
                self.frame(*number, |world, from, to, frame| world.wires.entry((from, to)).or_default().push_back(frame));
            }
            Action::Tick(at) if here(at) => self.world.nodes[*at].sessions.values_mut().for_each(|session| session.tick()),
            Action::Crash(at) if here(at) => {
                let before = self.world.nodes[*at].replica.canonical();
                self.world.crash(*at);
                assert!(before == self.world.nodes[*at].replica.canonical(), "what was loaded is not what was stored");
            }
            Action::Invite(at) if here(at) && count < CLUSTERS_MAX && self.may_write(*at) => {
                let new = self.world.invite(*at, Scope::ALL);
                self.world.link(*at, new);
            }
            Action::Remove { by, whom } if here(by) && here(whom) && by != whom && self.may_remove(*by, *whom) => {
                let whom_id = self.world.id(*whom);
                if self.world.nodes[*by].replica.about(whom_id).is_some() && self.world.nodes.len() > 2 {
                    self.world.write(*by, vec![Write::Remove(whom_id)]).expect("a member can remove");
                    self.removed.insert(*whom);
                }
            }
            Action::Fill { at } => (0..8).for_each(|key| self.put(*at, key % KEYS, false)),
            Action::Settle => self.world.pump(),
            _ => {}
        }
    }

    /// If members do not remove whom they like: two at most, so that one of the first clusters stays; and the second only by one who knows of the first, so that two never remove
    /// each other.
    fn may_remove(&self, by: usize, whom: usize) -> bool {
        let known = |at: &usize| self.world.nodes[by].replica.about(self.world.id(*at)).is_some_and(|about| about.removed);
        if self.free {
            let again = self.removed.contains(&whom);
            return (again || self.removed.len() < REMOVALS_MAX) && !known(&whom) && self.can_write(by);
        }
        self.removed.len() < 2 && !self.removed.contains(&whom) && self.removed.iter().all(known) && self.may_write(by)
    }

    /// Does it know itself to be a member? It may be removed without knowing it.
    fn can_write(&self, at: usize) -> bool {
        self.world.nodes[at].replica.about(self.world.id(at)).is_some_and(|about| !about.removed)
    }

    fn may_write(&self, at: usize) -> bool {
        let id = self.world.id(at);
        !self.removed.contains(&at) && self.world.nodes[at].replica.about(id).is_some_and(|about| !about.removed)
    }

    /// Links everybody anew, so that nothing is left of what was lost.
    fn heal(&mut self) {
        let count = self.world.nodes.len();
        self.world.wires.clear();
        // Twice: who was not introduced at the first attempt was refused by those who did not know it yet.
        for _ in 0..2 {
            for a in 0..count {
                (a + 1..count).for_each(|b| self.world.link(a, b));
            }
            self.world.pump();
        }
    }

    fn judge(&mut self) {
        let members = self.members();
        self.world.assert_same(&members);
        for at in &members {
            self.world.nodes[*at].replica.verify().expect("index and automerge agree");
        }
        let first = *members.first().expect("somebody is left");
        for key in 0..KEYS {
            self.judge_key(&members, first, &Self::key(key));
        }
    }

    /// Members: whom nobody removed, and whose introduction has come to the others.
    fn members(&self) -> BTreeSet<usize> {
        // Whom a removed cluster introduced when nobody else heard of it is no member.
        let sure = self.world.all().into_iter().find(|at| !self.removed.contains(at)).expect("not all are removed");
        let known = self.world.nodes[sure].replica.clusters();
        let mut members: BTreeSet<usize> = self.world.all();
        members.retain(|at| !self.removed.contains(at) && known.iter().any(|about| about.id == self.world.id(*at) && !about.removed));
        members
    }

    /// Members go on: what they write has epochs closed, if any are, and they stay the same.
    fn go_on(&mut self) {
        let members = self.members();
        let first = *members.first().expect("somebody is left");
        // Epochs wait for who is away until it is removed: a removal by a removed cluster of which nobody has heard is made again.
        let absent: Vec<_> = self.removed.iter().map(|at| self.world.id(*at)).collect();
        for id in absent {
            if self.world.nodes[first].replica.about(id).is_some_and(|about| !about.removed) {
                self.world.write(first, vec![Write::Remove(id)]).expect("a member can remove");
            }
        }
        let (before, _) = self.world.nodes[first].replica.epochs();
        for round in 0..20 {
            for at in &members {
                self.world.put(*at, &Self::key(round % KEYS), Some(format!("round {round} by {at}").as_bytes())).expect("a member writes");
            }
            self.world.pump();
        }
        self.world.assert_same(&members);
        let (after, _) = self.world.nodes[first].replica.epochs();
        assert!(self.world.tuning == LAZY || after > before, "epoch {before} is not folded");
    }

    /// All that nobody superseded is there, and nothing that a member superseded. What a removed cluster wrote may be lost.
    fn judge_key(&self, members: &BTreeSet<usize>, at: usize, key: &str) {
        let there: BTreeSet<Vec<u8>> = self.world.nodes[at].replica.versions(key).into_iter().filter_map(|version| version.value).collect();
        let of_key = || self.written.iter().filter(|written| written.key == key);
        let superseded: BTreeSet<&Vec<u8>> = of_key().flat_map(|written| &written.seen).collect();
        let of_members = || of_key().filter(|written| members.contains(&written.at));
        let by_members: BTreeSet<&Vec<u8>> = of_members().flat_map(|written| &written.seen).collect();
        for value in of_members().filter_map(|written| written.value.as_ref()) {
            assert!(superseded.contains(value) || there.contains(value), "{key}: {:?} is lost", String::from_utf8_lossy(value));
        }
        for value in &there {
            let text = String::from_utf8_lossy(value);
            assert!(of_key().any(|written| written.value.as_ref() == Some(value)), "{key}: nobody wrote {text:?}");
            assert!(!by_members.contains(value), "{key}: {text:?} was superseded and is back");
        }
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("TARN_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, max_shrink_iters: 400, ..ProptestConfig::default() }
}

fn run(world: World, free: bool, actions: &[Action]) {
    let mut run = Run { world, written: Vec::new(), removed: BTreeSet::new(), free };
    actions.iter().for_each(|action| run.run(action));
    run.heal();
    run.judge();
    run.go_on();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in &run.world.nodes {
        for refusal in node.replica.refusals() {
            *reasons.entry(refusal.reason.name().to_owned()).or_default() += 1;
        }
    }
    reasons.retain(|reason, _| !["UNKNOWN_CLUSTER", "REMOVED_CLUSTER"].contains(&reason.as_str()));
    assert!(reasons.is_empty(), "honest clusters refuse nothing of each other: {reasons:?}");
}

/// What a link does to a frame.
enum Fate {
    Arrives,
    IsLost,
    IsRepeated,
    IsLate,
}

/// Random numbers from one seed, the same on every machine and for ever (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % sides
    }

    fn fate(&mut self, loss_percent: u64) -> Fate {
        match self.roll(100) {
            roll if roll < loss_percent => Fate::IsLost,
            roll if roll % 4 == 0 => Fate::IsRepeated,
            roll if roll % 4 == 1 => Fate::IsLate,
            _ => Fate::Arrives,
        }
    }
}

/// Carries frames as the dice fall, in one session, with a retry whenever nothing is on the wires; says whether everybody came to rest.
fn carry(world: &mut World, dice: &mut Dice, loss_percent: u64) -> bool {
    for _ in 0..20_000 {
        for at in 0..world.nodes.len() {
            world.poll(at);
        }
        let wires: Vec<_> = world.wires.iter().filter(|(_, frames)| !frames.is_empty()).map(|(wire, _)| *wire).collect();
        if wires.is_empty() {
            if world.nodes.iter().all(|node| node.sessions.values().all(|session| session.is_quiet())) {
                return true;
            }
            world.nodes.iter_mut().for_each(|node| node.sessions.values_mut().for_each(|session| session.tick()));
        }
        for (from, to) in wires {
            let queue = world.wires.get_mut(&(from, to)).expect("it is there");
            let frame = queue.pop_front().expect("it is not empty");
            match dice.fate(loss_percent) {
                Fate::IsLate => queue.push_back(frame),
                Fate::IsLost => {}
                Fate::Arrives => world.deliver(from, to, &frame),
                Fate::IsRepeated => {
                    queue.push_back(frame.clone());
                    world.deliver(from, to, &frame);
                }
            }
        }
    }
    false
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn one_session_outlives_loss_repetition_and_reordering(seed: u64, loss_percent in 0u64..60, writes in 1usize..30) {
        let mut world = World::of(2, TINY);
        world.cut(0, 1);
        for number in 0..writes {
            world.put(number % 2, &format!("context/n/c/{}", number % 4), Some(&[number as u8])).expect("members write");
        }
        world.link(0, 1);
        prop_assert!(carry(&mut world, &mut Dice(seed), loss_percent), "the clusters never come to rest");
        prop_assert!(world.nodes.iter().all(|node| node.ended.is_empty()));
        world.assert_same(&world.all());
    }

    #[test]
    fn members_converge_within_an_epoch(actions in prop::collection::vec(action(), 1..120)) {
        run(World::of(CLUSTERS, LAZY), false, &actions);
    }

    #[test]
    fn members_converge_across_epochs(actions in prop::collection::vec(action(), 1..250)) {
        run(World::of(CLUSTERS, TINY), false, &actions);
    }
}

fn run_several(actions: &[Action], tiny: bool, invites: usize) {
    run(World::of(CLUSTERS_MAX - invites, if tiny { TINY } else { LAZY }), true, actions);
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn members_converge_while_several_are_removed_at_once(
        actions in prop::collection::vec(several(), 1..150), tiny: bool, invites in 0..2usize,
    ) {
        run_several(&actions, tiny, invites);
    }
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    #[ignore = "takes minutes: the same as the one above, with many more cases"]
    fn members_converge_in_thousands_of_cases_of_removals_at_once(
        actions in prop::collection::vec(several(), 1..150), tiny: bool, invites in 0..2usize,
    ) {
        run_several(&actions, tiny, invites);
    }
}

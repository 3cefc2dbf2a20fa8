//! What goes wrong, and when: drawn from the seed, one fault after another, each with its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use tarn_raft::{Instant, NodeId};
use tarn_storage::Fault;

use crate::aftermath;
use crate::clock::{BEGIN_MS, TRUE_RATE};
use crate::cuts::UserCuts;
use crate::dice::Dice;
use crate::net::{FIRST_CLIENT, Quality};
use crate::plan::{Kind, Left, Plan};
use crate::world::{Failure, World, address};

/// How long a change of the cluster may take.
const ADMIN: Duration = Duration::from_secs(6);
/// The operator's number in the network.
const OPERATOR: u64 = FIRST_CLIENT - 1;
/// Nodes beyond the founders that a run adds at most.
const NEW_NODES_MAX: u64 = 3;

/// What ends a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cure {
    Start(NodeId),
    Resume(NodeId),
    Heal,
    GoodLinks,
    MendDisk(NodeId),
    FastDisk(NodeId),
    RightClock(NodeId),
}

/// What was really done, by kind: what found nobody to strike is not counted, what an operator asked for counts when a node has done it, and what
/// the disk does at a later step counts when it does it. Clones share it.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    fn add(&self, what: impl std::fmt::Debug) {
        let mut counts = self.0.lock().expect("no holder of this lock panics");
        *counts.entry(format!("{what:?}")).or_default() += 1;
    }
}

/// The faults of one run.
pub struct Faults {
    dice: Dice,
    kinds: Vec<Kind>,
    every_ms: u64,
    next_ms: u64,
    cures: BTreeMap<u64, Vec<Cure>>,
    counts: Counts,
    users: UserCuts,
    next_node: NodeId,
    last_node: NodeId,
}

impl Faults {
    /// What a plan allows.
    pub fn new(plan: &Plan) -> Self {
        Self {
            dice: Dice::new(plan.seed, "faults"),
            kinds: plan.kinds.clone(),
            every_ms: plan.fault_every_ms,
            next_ms: 0,
            cures: BTreeMap::new(),
            counts: Counts::default(),
            users: UserCuts::new(plan),
            next_node: plan.nodes + 1,
            last_node: plan.nodes + NEW_NODES_MAX,
        }
    }

    /// How often each kind really happened; a node that was left behind counts under `Left…`.
    pub fn counts(&self, world: &World) -> BTreeMap<String, u64> {
        let mut counts = self.counts.0.lock().expect("no holder of this lock panics").clone();
        for host in world.hosts.values() {
            let (strikes, cuts_inside) = host.disk.strikes();
            for (kind, count) in [(Kind::DiskFault, strikes), (Kind::PowerCutInside, cuts_inside)] {
                if count > 0 {
                    *counts.entry(format!("{kind:?}")).or_default() += count;
                }
            }
        }
        counts
    }

    /// What is due in this millisecond happens.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn happen(&mut self, world: &mut World) -> Result<(), Failure> {
        let later = self.cures.split_off(&(world.now_ms + 1));
        for cure in std::mem::replace(&mut self.cures, later).into_values().flatten() {
            cure_one(world, cure)?;
        }
        self.restart_the_dead(world);
        if self.users.happen(world) {
            self.counts.add(Kind::UsersCut);
        }
        if world.now_ms < self.next_ms {
            return Ok(());
        }
        self.next_ms = world.now_ms + self.dice.between(self.every_ms / 4, self.every_ms);
        let Some(kind) = self.dice.pick(&self.kinds).copied() else {
            return Ok(());
        };
        world.trace.note(format!("fault {kind:?}"));
        if self.strike(world, kind)? {
            self.counts.add(kind);
        }
        Ok(())
    }

    /// Everything is put right, but for a minority on some seeds: see [`aftermath`].
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn end(&mut self, world: &mut World) -> Result<(), Failure> {
        self.cures.clear();
        cure_one(world, Cure::GoodLinks)?;
        cure_one(world, Cure::Heal)?;
        let chosen = aftermath::choose(world);
        let ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        for id in ids {
            world.hosts[&id].disk.keep_power();
            for cure in [Cure::MendDisk(id), Cure::FastDisk(id), Cure::RightClock(id)] {
                cure_one(world, cure)?;
            }
            let dead = |(how, left): (Left, &Vec<NodeId>)| how == Left::Dead && left.contains(&id);
            if !chosen.as_ref().is_some_and(|(how, left, _)| dead((*how, left))) {
                cure_one(world, Cure::Resume(id))?;
                cure_one(world, Cure::Start(id))?;
            }
        }
        if let Some((how, left, mut dice)) = chosen {
            for id in &left {
                aftermath::leave(world, *id, how, &mut dice)?;
                self.counts.add(format_args!("Left{how:?}"));
            }
            world.left_behind = left;
        }
        Ok(())
    }

    /// Whoever was left behind comes back.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn end_the_rest(&mut self, world: &mut World) -> Result<(), Failure> {
        cure_one(world, Cure::Heal)?;
        for id in std::mem::take(&mut world.left_behind) {
            cure_one(world, Cure::Resume(id))?;
            cure_one(world, Cure::Start(id))?;
        }
        Ok(())
    }

    fn later(&mut self, world: &World, (soonest, latest): (u64, u64), cure: Cure) {
        let at_ms = world.now_ms + self.dice.between(soonest, latest);
        self.cures.entry(at_ms).or_default().push(cure);
    }

    /// A process that is down for a reason that has no cure of its own comes back after a while: somebody watches over it.
    fn restart_the_dead(&mut self, world: &World) {
        for host in world.hosts.values().filter(|host| !host.is_up()) {
            let planned = self.cures.values().flatten().any(|cure| *cure == Cure::Start(host.id));
            if !planned {
                let at_ms = world.now_ms + self.dice.between(10, 1_500);
                self.cures.entry(at_ms).or_default().push(Cure::Start(host.id));
            }
        }
    }

    fn victim(&mut self, world: &World) -> NodeId {
        // The leader is the most interesting one.
        if let Some(leader) = world.leader().filter(|_| self.dice.percent(40)) {
            return leader;
        }
        let ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        *self.dice.pick(&ids).expect("a world has nodes")
    }

    /// One node, a minority, a majority, or all.
    fn victims(&mut self, world: &World) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        self.dice.shuffle(&mut ids);
        let count = match self.dice.between(0, 9) {
            0..=5 => return vec![self.victim(world)],
            6 => ids.len() / 2,
            7 => ids.len() / 2 + 1,
            _ => ids.len(),
        };
        ids.truncate(count.max(1));
        ids
    }

    /// True: it was done, and now. What is asked of an operator or of the disk counts by itself when it happens.
    fn strike(&mut self, world: &mut World, kind: Kind) -> Result<bool, Failure> {
        Ok(match kind {
            Kind::Kill => {
                let mut killed = false;
                for id in self.victims(world) {
                    killed |= host(world, id).kill();
                }
                killed
            }
            Kind::PowerCut => {
                let mut cut = false;
                for id in self.victims(world) {
                    cut |= host(world, id).cut_power()?;
                }
                cut
            }
            Kind::PowerCutInside => {
                for id in self.victims(world) {
                    let steps = self.dice.between(0, 40);
                    host(world, id).disk.cut_power_after(steps);
                }
                false
            }
            Kind::Pause => {
                let id = self.victim(world);
                let paused = host(world, id).pause();
                self.later(world, (50, 5_000), Cure::Resume(id));
                paused
            }
            Kind::Partition => self.partition(world),
            Kind::OneWay => self.one_way(world),
            Kind::BadLinks => self.bad_links(world),
            Kind::ClockJump => self.clock_jump(world),
            Kind::ClockDrift => {
                let id = self.victim(world);
                let rate = self.dice.between(TRUE_RATE * 7 / 10, TRUE_RATE * 13 / 10);
                host(world, id).set_rate(rate);
                true
            }
            Kind::DiskFault => {
                let id = self.victim(world);
                let fault = *self.dice.pick(&[Fault::Full, Fault::Io]).expect("two");
                let after = self.dice.between(0, 20);
                host(world, id).disk.fail(fault, after);
                self.later(world, (50, 2_000), Cure::MendDisk(id));
                false
            }
            Kind::SlowDisk => {
                let id = self.victim(world);
                let longest = self.dice.between(5, 200);
                host(world, id).disk.set_pace(1, longest);
                self.later(world, (200, 3_000), Cure::FastDisk(id));
                true
            }
            Kind::Transfer => self.transfer(world),
            Kind::Membership => self.membership(world)?,
            Kind::Snapshot => self.snapshot(world),
            Kind::ShutDown => {
                let id = self.victim(world);
                host(world, id).shut_down()
            }
            // They come in their own time: see [`UserCuts`].
            Kind::UsersCut => false,
        })
    }

    fn partition(&mut self, world: &mut World) -> bool {
        let mut ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        self.dice.shuffle(&mut ids);
        let size = self.dice.between(1, ids.len().saturating_sub(1).max(1) as u64);
        let (one, other) = ids.split_at(usize::try_from(size).expect("a length").min(ids.len()));
        // A bridge is a node that both sides still reach.
        let bridge = self.dice.percent(20).then(|| one[0]);
        let mut any = false;
        for a in one.iter().filter(|id| Some(**id) != bridge) {
            for b in other {
                cut(world, *a, *b);
                cut(world, *b, *a);
                any = true;
            }
        }
        self.later(world, (100, 4_000), Cure::Heal);
        any
    }

    fn one_way(&mut self, world: &mut World) -> bool {
        let id = self.victim(world);
        let others: Vec<NodeId> = world.hosts.keys().copied().filter(|other| *other != id).collect();
        let outward = self.dice.percent(50);
        let all = self.dice.percent(50);
        let mut any = false;
        for other in others {
            if all || self.dice.percent(50) {
                match outward {
                    true => cut(world, id, other),
                    false => cut(world, other, id),
                }
                any = true;
            }
        }
        self.later(world, (100, 4_000), Cure::Heal);
        any
    }

    fn bad_links(&mut self, world: &mut World) -> bool {
        let longest = *self.dice.pick(&[5, 20, 100, 400]).expect("four");
        world.net.set_usual(Quality {
            cut: false,
            delay: (0, longest),
            loss: *self.dice.pick(&[0, 1_000, 20_000, 150_000]).expect("four"),
            duplicates: *self.dice.pick(&[0, 10_000, 200_000]).expect("three"),
        });
        self.later(world, (300, 5_000), Cure::GoodLinks);
        true
    }

    fn clock_jump(&mut self, world: &mut World) -> bool {
        let id = self.victim(world);
        let size = *self.dice.pick(&[50, 900, 5_000, 60_000, 3_600_000]).expect("five");
        let by = i64::try_from(self.dice.between(1, size)).unwrap_or(i64::MAX);
        let by = if self.dice.percent(50) { by } else { -by };
        world.trace.note(format!("node {id} clock jumps by {by} ms"));
        host(world, id).clock.jump(by);
        true
    }

    fn transfer(&mut self, world: &mut World) -> bool {
        let (at, to) = (self.victim(world), self.victim(world));
        let to = self.dice.percent(70).then_some(to);
        let counts = self.counts.clone();
        drop(world.net.request(OPERATOR, at, "transfer", move |door| {
            async move {
                let leader = door.consensus.leadership().borrow().leader.clone().map(|leader| leader.id);
                let led_to = door.consensus.transfer_leader(to, Instant::now() + ADMIN).await;
                if led_to.is_ok_and(|now| Some(now) != leader) {
                    counts.add(Kind::Transfer);
                }
            }
            .boxed()
        }));
        false
    }

    fn snapshot(&mut self, world: &mut World) -> bool {
        let at = self.victim(world);
        let counts = self.counts.clone();
        drop(world.net.request(OPERATOR, at, "snapshot", move |door| {
            async move {
                door.consensus.trigger_snapshot().await;
                counts.add(Kind::Snapshot);
            }
            .boxed()
        }));
        false
    }

    fn membership(&mut self, world: &mut World) -> Result<bool, Failure> {
        world.watcher.members_change();
        let at = self.victim(world);
        let grow = self.next_node <= self.last_node && self.dice.percent(60);
        match grow {
            true => self.grow(world, at)?,
            false => self.shrink(world, at),
        }
        Ok(false)
    }

    fn grow(&mut self, world: &mut World, at: NodeId) -> Result<(), Failure> {
        let id = self.next_node;
        self.next_node += 1;
        world.add_host(id)?;
        let promote = self.dice.percent(70);
        let replace = self.dice.percent(30).then(|| self.victim(world)).filter(|dead| *dead != id);
        if let Some(dead) = replace {
            world.retired.push(dead);
            world.tell_users();
        }
        let counts = self.counts.clone();
        drop(world.net.request(OPERATOR, at, "add node", move |door| {
            async move {
                let deadline = Instant::now() + ADMIN;
                let done = match replace {
                    Some(dead) => door.consensus.replace(dead, id, address(id), deadline).await,
                    None => door.consensus.add_learner(id, address(id), deadline).await,
                };
                if done.is_ok() {
                    counts.add(Kind::Membership);
                    if promote && replace.is_none() {
                        drop(door.consensus.promote(id, deadline).await);
                    }
                }
            }
            .boxed()
        }));
        Ok(())
    }

    fn shrink(&mut self, world: &mut World, at: NodeId) {
        let running: Vec<NodeId> = world.hosts.keys().copied().filter(|id| !world.retired.contains(id)).collect();
        if running.len() <= 3 {
            return;
        }
        let id = *self.dice.pick(&running).expect("more than three");
        world.retired.push(id);
        world.tell_users();
        let counts = self.counts.clone();
        drop(world.net.request(OPERATOR, at, "remove node", move |door| {
            async move {
                if door.consensus.remove(id, Instant::now() + ADMIN).await.is_ok() {
                    counts.add(Kind::Membership);
                }
            }
            .boxed()
        }));
    }
}

fn host(world: &mut World, id: NodeId) -> &mut crate::host::Host {
    world.hosts.get_mut(&id).expect("a victim is one of the nodes")
}

fn cut(world: &World, from: NodeId, to: NodeId) {
    world.trace.note(format!("net {from}>{to} is cut"));
    world.net.change(from, to, |quality| quality.cut = true);
}

fn cure_one(world: &mut World, cure: Cure) -> Result<(), Failure> {
    let true_ms = BEGIN_MS + world.now_ms;
    match cure {
        Cure::Start(id) => host(world, id).start()?,
        Cure::Resume(id) => host(world, id).resume(),
        Cure::Heal => {
            world.trace.note("net is healed");
            world.net.heal();
        }
        Cure::GoodLinks => world.net.set_usual(Quality::default()),
        Cure::MendDisk(id) => host(world, id).disk.mend(),
        Cure::FastDisk(id) => host(world, id).disk.set_pace(0, 1),
        Cure::RightClock(id) => {
            host(world, id).set_rate(TRUE_RATE);
            host(world, id).clock.mend(true_ms);
        }
    }
    Ok(())
}

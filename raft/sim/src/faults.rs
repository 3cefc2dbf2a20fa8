//! What goes wrong, and when: drawn from the seed, one fault after another, each with its end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use tarn_raft::{Instant, NodeId};
use tarn_storage::Fault;

use crate::clock::{BEGIN_MS, TRUE_RATE};
use crate::dice::Dice;
use crate::net::{FIRST_CLIENT, Quality};
use crate::plan::{Kind, Plan};
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

/// The faults of one run.
pub struct Faults {
    dice: Dice,
    kinds: Vec<Kind>,
    every_ms: u64,
    next_ms: u64,
    cures: BTreeMap<u64, Vec<Cure>>,
    counts: BTreeMap<String, u64>,
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
            counts: BTreeMap::new(),
            next_node: plan.nodes + 1,
            last_node: plan.nodes + NEW_NODES_MAX,
        }
    }

    /// How often each kind happened.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.clone()
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
        if world.now_ms < self.next_ms {
            return Ok(());
        }
        self.next_ms = world.now_ms + self.dice.between(self.every_ms / 4, self.every_ms);
        let Some(kind) = self.dice.pick(&self.kinds).copied() else {
            return Ok(());
        };
        world.trace.note(format!("fault {kind:?}"));
        *self.counts.entry(format!("{kind:?}")).or_default() += 1;
        self.strike(world, kind)
    }

    /// Everything is put right.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn end(&mut self, world: &mut World) -> Result<(), Failure> {
        self.cures.clear();
        cure_one(world, Cure::GoodLinks)?;
        cure_one(world, Cure::Heal)?;
        let ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        for id in ids {
            world.hosts[&id].disk.keep_power();
            for cure in [
                Cure::MendDisk(id),
                Cure::FastDisk(id),
                Cure::RightClock(id),
                Cure::Resume(id),
                Cure::Start(id),
            ] {
                cure_one(world, cure)?;
            }
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

    fn strike(&mut self, world: &mut World, kind: Kind) -> Result<(), Failure> {
        match kind {
            Kind::Kill => {
                for id in self.victims(world) {
                    host(world, id).kill();
                }
            }
            Kind::PowerCut => {
                for id in self.victims(world) {
                    host(world, id).cut_power()?;
                }
            }
            Kind::PowerCutInside => {
                for id in self.victims(world) {
                    let steps = self.dice.between(0, 40);
                    host(world, id).disk.cut_power_after(steps);
                }
            }
            Kind::Pause => {
                let id = self.victim(world);
                host(world, id).pause();
                self.later(world, (50, 5_000), Cure::Resume(id));
            }
            Kind::Partition => self.partition(world),
            Kind::OneWay => self.one_way(world),
            Kind::BadLinks => self.bad_links(world),
            Kind::ClockJump => self.clock_jump(world),
            Kind::ClockDrift => {
                let id = self.victim(world);
                let rate = self.dice.between(TRUE_RATE * 7 / 10, TRUE_RATE * 13 / 10);
                host(world, id).set_rate(rate);
            }
            Kind::DiskFault => {
                let id = self.victim(world);
                let fault = *self.dice.pick(&[Fault::Full, Fault::Io]).expect("two");
                let after = self.dice.between(0, 20);
                host(world, id).disk.fail(fault, after);
                self.later(world, (50, 2_000), Cure::MendDisk(id));
            }
            Kind::SlowDisk => {
                let id = self.victim(world);
                let longest = self.dice.between(5, 200);
                host(world, id).disk.set_pace(1, longest);
                self.later(world, (200, 3_000), Cure::FastDisk(id));
            }
            Kind::Transfer => self.transfer(world),
            Kind::Membership => self.membership(world)?,
            Kind::Snapshot => self.snapshot(world),
            Kind::ShutDown => {
                let id = self.victim(world);
                host(world, id).shut_down();
            }
        }
        Ok(())
    }

    fn partition(&mut self, world: &mut World) {
        let mut ids: Vec<NodeId> = world.hosts.keys().copied().collect();
        self.dice.shuffle(&mut ids);
        let size = self.dice.between(1, ids.len().saturating_sub(1).max(1) as u64);
        let (one, other) = ids.split_at(usize::try_from(size).expect("a length").min(ids.len()));
        // A bridge is a node that both sides still reach.
        let bridge = self.dice.percent(20).then(|| one[0]);
        for a in one.iter().filter(|id| Some(**id) != bridge) {
            for b in other {
                cut(world, *a, *b);
                cut(world, *b, *a);
            }
        }
        self.later(world, (100, 4_000), Cure::Heal);
    }

    fn one_way(&mut self, world: &mut World) {
        let id = self.victim(world);
        let others: Vec<NodeId> = world.hosts.keys().copied().filter(|other| *other != id).collect();
        let outward = self.dice.percent(50);
        let all = self.dice.percent(50);
        for other in others {
            if all || self.dice.percent(50) {
                match outward {
                    true => cut(world, id, other),
                    false => cut(world, other, id),
                }
            }
        }
        self.later(world, (100, 4_000), Cure::Heal);
    }

    fn bad_links(&mut self, world: &mut World) {
        let longest = *self.dice.pick(&[5, 20, 100, 400]).expect("four");
        world.net.set_usual(Quality {
            cut: false,
            delay: (0, longest),
            loss: *self.dice.pick(&[0, 1_000, 20_000, 150_000]).expect("four"),
            duplicates: *self.dice.pick(&[0, 10_000, 200_000]).expect("three"),
        });
        self.later(world, (300, 5_000), Cure::GoodLinks);
    }

    fn clock_jump(&mut self, world: &mut World) {
        let id = self.victim(world);
        let size = *self.dice.pick(&[50, 900, 5_000, 60_000, 3_600_000]).expect("five");
        let by = i64::try_from(self.dice.between(1, size)).unwrap_or(i64::MAX);
        let by = if self.dice.percent(50) { by } else { -by };
        world.trace.note(format!("node {id} clock jumps by {by} ms"));
        host(world, id).clock.jump(by);
    }

    fn transfer(&mut self, world: &mut World) {
        let (at, to) = (self.victim(world), self.victim(world));
        let to = self.dice.percent(70).then_some(to);
        drop(world.net.request(OPERATOR, at, "transfer", move |door| {
            async move { drop(door.consensus.transfer_leader(to, Instant::now() + ADMIN).await) }.boxed()
        }));
    }

    fn snapshot(&mut self, world: &mut World) {
        let at = self.victim(world);
        drop(world.net.request(OPERATOR, at, "snapshot", move |door| {
            async move { door.consensus.trigger_snapshot().await }.boxed()
        }));
    }

    fn membership(&mut self, world: &mut World) -> Result<(), Failure> {
        world.watcher.members_change();
        let at = self.victim(world);
        let grow = self.next_node <= self.last_node && self.dice.percent(60);
        if grow {
            let id = self.next_node;
            self.next_node += 1;
            world.add_host(id)?;
            let promote = self.dice.percent(70);
            let replace = self
                .dice
                .percent(30)
                .then(|| self.victim(world))
                .filter(|dead| *dead != id);
            if let Some(dead) = replace {
                world.retired.push(dead);
                world.tell_users();
            }
            drop(world.net.request(OPERATOR, at, "add node", move |door| {
                async move {
                    let deadline = Instant::now() + ADMIN;
                    match replace {
                        Some(dead) => drop(door.consensus.replace(dead, id, address(id), deadline).await),
                        None => {
                            let added = door.consensus.add_learner(id, address(id), deadline).await;
                            if promote && added.is_ok() {
                                drop(door.consensus.promote(id, deadline).await);
                            }
                        }
                    }
                }
                .boxed()
            }));
            return Ok(());
        }
        let running: Vec<NodeId> = world
            .hosts
            .keys()
            .copied()
            .filter(|id| !world.retired.contains(id))
            .collect();
        if running.len() > 3 {
            let id = *self.dice.pick(&running).expect("more than three");
            world.retired.push(id);
            world.tell_users();
            drop(world.net.request(OPERATOR, at, "remove node", move |door| {
                async move { drop(door.consensus.remove(id, Instant::now() + ADMIN).await) }.boxed()
            }));
        }
        Ok(())
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

//! One run: a cluster, its users, its faults, and a clock that moves by one millisecond at a time.
//!
//! ```text
//!   found ──► work under faults (safety) ──► a majority is healed ──► drain: writes succeed, everything accepted ends (liveness)
//!         ──► the minority comes back, if one was missing: writes succeed ──► rest: all states equal
//! ```
//!
//! In every millisecond the faults that are due happen, then what the network delivers arrives, then every node and the users run until they
//! wait for time to pass, in a random order, and then the watcher looks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tarn_invariants::Violation;
use tarn_invariants::raft::Leadership;
use tarn_raft::NodeId;
use tokio::runtime::Runtime;

use crate::clock::SimClock;
use crate::dice::Dice;
use crate::disk::NodeDisk;
use crate::faults::Faults;
use crate::host::{Common, Host, Stepped, runtime, step};
use crate::net::{FIRST_CLIENT, Net};
use crate::panics;
use crate::plan::Plan;
use crate::tap::Tap;
use crate::trace::Trace;
use crate::verdict;
use crate::watch::Watcher;
use crate::work::client::Client;
use crate::work::ledger::Ledger;
use crate::work::session::{Nodes, Scene, Session};
use crate::work::worker::Worker;
use crate::work::{Doing, Phase};

/// How long a founded cluster may take until it has a leader, and a healed one until it takes writes, in milliseconds.
const LEADER_MS: u64 = 15_000;
/// The same where a minority is missing: users still ask it, and wait in vain for some seconds each time.
const MAJORITY_MS: u64 = 30_000;
/// How long everything accepted may take to end after the healing.
const DRAIN_MS: u64 = 120_000;
/// How long the nodes may take to agree once nobody does anything any more.
const REST_MS: u64 = 60_000;

/// Everything in one run.
pub struct World {
    /// What the seed decided.
    pub plan: Plan,
    /// The machines, by node id.
    pub hosts: BTreeMap<NodeId, Host>,
    /// The network.
    pub net: Net,
    /// The trace.
    pub trace: Trace,
    /// The observer.
    pub watcher: Watcher,
    /// What the users were told.
    pub ledger: Ledger,
    /// True time, in milliseconds since the run began.
    pub now_ms: u64,
    /// Nodes that were removed from the cluster, or may have been.
    pub retired: Vec<NodeId>,
    /// Nodes that are to stay away although the faults have ended: see [`crate::aftermath`].
    pub left_behind: Vec<NodeId>,
    common: Common,
    tap: Tap,
    dir: tempfile::TempDir,
    order: Dice,
    nodes: Nodes,
    phase: Phase,
    users: Runtime,
    /// No faults any more: whoever is down comes back at once.
    calm: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// Entries applied.
    pub entries: u64,
    /// Messages sent, and how many of them were lost.
    pub messages: (u64, u64),
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Operations by what became of them.
    pub operations: BTreeMap<String, u64>,
    /// From the healing to the first confirmed write, and to the last end of a task, in milliseconds.
    pub recovery_ms: (u64, u64),
}

/// Why a run failed.
#[derive(Debug)]
pub enum Failure {
    /// An invariant is broken.
    Violation(Violation),
    /// The simulation itself could not go on. Says nothing about the code under test.
    Harness(anyhow::Error),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Harness(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Harness(error.into())
    }
}

impl World {
    /// A world in which nothing has happened. Its files lie below `scratch`.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn new(plan: Plan, trace: Trace, scratch: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tarn-sim-").tempdir_in(scratch).context("a directory for the simulated disks")?;
        let net = Net::new(Dice::new(plan.seed, "net"), trace.clone());
        let common = Common { timings: plan.timings, limits: plan.limits, net: net.clone(), trace: trace.clone() };
        let voters = usize::try_from(plan.nodes).context("so many nodes")?;
        Ok(Self {
            hosts: BTreeMap::new(),
            net,
            watcher: Watcher::new(voters, trace.clone()),
            ledger: Ledger::default(),
            now_ms: 0,
            retired: Vec::new(),
            left_behind: Vec::new(),
            common,
            tap: Tap::default(),
            dir,
            order: Dice::new(plan.seed, "order"),
            nodes: Nodes::default(),
            phase: Phase::default(),
            users: runtime(),
            calm: false,
            trace,
            plan,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub fn run(mut self) -> Result<Outcome, Failure> {
        self.found()?;
        self.invite_users();
        let mut faults = Faults::new(&self.plan);
        let end_ms = self.now_ms + self.plan.faults_ms;
        while self.now_ms < end_ms {
            faults.happen(&mut self)?;
            self.tick()?;
        }
        self.trace.note("the faults end");
        faults.end(&mut self)?;
        self.calm = true;
        let recovery_ms = self.drain()?;
        if !self.left_behind.is_empty() {
            self.trace.note("the minority comes back");
            faults.end_the_rest(&mut self)?;
            self.writes_succeed(LEADER_MS)?;
        }
        self.rest()?;
        self.watcher.logs_match()?;
        verdict::judge(&mut self)?;
        let operations = self.ledger.lock().outcomes.clone();
        Ok(Outcome {
            simulated_ms: self.now_ms,
            entries: self.watcher.last_applied(),
            messages: self.net.counts(),
            faults: faults.counts(&self),
            operations,
            recovery_ms,
        })
    }

    /// Adds a machine, and starts a node on it.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn add_host(&mut self, id: NodeId) -> std::io::Result<()> {
        let mut dice = Dice::new(self.plan.seed, &format!("node {id}"));
        let skew = i64::try_from(dice.between(0, 4_000)).unwrap_or(0) - 2_000;
        let disk = NodeDisk::new(id, self.dir.path(), dice, self.trace.clone(), self.tap.clone(), self.net.clone());
        let mut host = Host::new(id, SimClock::new(skew), disk, self.common.clone());
        host.start()?;
        self.hosts.insert(id, host);
        self.tell_users();
        Ok(())
    }

    /// The nodes that users may ask.
    pub fn tell_users(&self) {
        let known = self.hosts.keys().copied().filter(|id| !self.retired.contains(id));
        self.nodes.set(known.collect());
    }

    /// The node that most nodes take for the leader, if it is up.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |host: &&Host| host.look(|node| node.leadership().borrow().is_this_node).unwrap_or(false);
        let leaders = self.hosts.values().filter(leads);
        leaders.max_by_key(|host| host.look(|node| node.leadership().borrow().term).unwrap_or(0)).map(|host| host.id)
    }

    fn found(&mut self) -> Result<(), Failure> {
        for id in 1..=self.plan.nodes {
            self.add_host(id)?;
        }
        let members: BTreeMap<NodeId, String> = (1..=self.plan.nodes).map(|id| (id, address(id))).collect();
        self.until(LEADER_MS, "the first node starts", |world| world.hosts[&1].door().is_some())?;
        let door = self.hosts[&1].door().cloned().context("node 1 has just started")?;
        door.handle.clone().spawn(async move {
            // A cluster that is not founded has no leader, which is noticed.
            let _ = door.consensus.bootstrap(members).await;
        });
        self.until(LEADER_MS, "the founded cluster has a leader", |world| world.leader().is_some())
    }

    fn invite_users(&mut self) {
        let scene = Scene {
            net: self.net.clone(),
            trace: self.trace.clone(),
            nodes: self.nodes.clone(),
            ledger: self.ledger.clone(),
            phase: self.phase.clone(),
        };
        for number in 0..self.plan.clients {
            let name = format!("client{number}");
            let session = Session::new(&scene, FIRST_CLIENT + number, &name, self.plan.seed);
            let trace = self.trace.clone();
            let client = Client::new(session, self.plan.pause_ms);
            self.users.spawn(client.run(move || trace.now_ms()));
        }
        for number in 0..self.plan.workers {
            let name = format!("worker{number}");
            let party = FIRST_CLIENT + self.plan.clients + number;
            let session = Session::new(&scene, party, &name, self.plan.seed);
            self.users.spawn(Worker::new(session).run());
        }
    }

    /// A millisecond passes.
    ///
    /// # Errors
    ///
    /// See [`Failure`].
    pub fn tick(&mut self) -> Result<(), Failure> {
        self.now_ms += 1;
        self.trace.set_now(self.now_ms);
        for (to, delivery) in self.net.due(self.now_ms) {
            match self.hosts.get_mut(&to) {
                Some(host) => host.deliver(delivery),
                None => delivery(None),
            }
        }
        let mut order: Vec<NodeId> = self.hosts.keys().copied().collect();
        self.order.shuffle(&mut order);
        for id in order {
            let stepped = self.hosts.get_mut(&id).expect("it is one of them").step();
            self.stepped(id, stepped)?;
            if self.calm && !self.hosts[&id].is_up() && !self.left_behind.contains(&id) {
                self.hosts.get_mut(&id).expect("it is one of them").start()?;
            }
        }
        step(&self.users, 1);
        self.observe()
    }

    fn stepped(&mut self, id: NodeId, stepped: Stepped) -> Result<(), Failure> {
        let struck = self.hosts[&id].disk.has_struck();
        match stepped {
            Stepped::Quiet => {}
            Stepped::Started => self.trace.note(format!("node {id} is up")),
            Stepped::PowerCut | Stepped::ShutDown => self.trace.note(format!("node {id} is down")),
            Stepped::NotStarted(error) if struck => self.trace.note(format!("node {id} could not start: {error}")),
            Stepped::Stopped(reason) if struck => self.trace.note(format!("node {id} stopped: {reason}")),
            Stepped::NotStarted(error) => {
                let detail = format!("node {id} cannot start, though nothing is wrong with its disk: {error}");
                return Err(verdict::SOUND.violated(detail).into());
            }
            Stepped::Stopped(reason) => {
                let detail = format!("node {id} stopped by itself: {reason}");
                return Err(verdict::SOUND.violated(detail).into());
            }
        }
        Ok(())
    }

    fn observe(&mut self) -> Result<(), Failure> {
        if let Some(panic) = panics::first() {
            return Err(verdict::SOUND.violated(format!("the code under test panicked: {panic}")).into());
        }
        for (id, told) in self.tap.drain() {
            self.watcher.told(id, told)?;
        }
        for host in self.hosts.values_mut().filter(|host| !host.is_paused()) {
            let leads = host.look(|node| {
                let leadership = node.leadership();
                let leadership = leadership.borrow();
                leadership.is_this_node.then_some(leadership.term)
            });
            if let Some(Some(term)) = leads {
                self.watcher.leads(Leadership { term, node: host.id })?;
            }
            if self.now_ms.is_multiple_of(8)
                && let Some(Ok(status)) = host.look(tarn_raft::Consensus::status)
            {
                self.watcher.status(&status)?;
            }
            let (batches, _) = host.events();
            for batch in batches {
                self.watcher.told_events(host.id, &batch)?;
            }
        }
        self.compare_with_ledger()
    }

    fn compare_with_ledger(&mut self) -> Result<(), Failure> {
        if let Some(violation) = self.ledger.violations().into_iter().next() {
            return Err(violation.into());
        }
        let (scheduled, cancelled) = {
            let mut ledger = self.ledger.lock();
            (std::mem::take(&mut ledger.scheduled), std::mem::take(&mut ledger.timers_cancelled))
        };
        for (timer, due_at_ms) in scheduled {
            self.watcher.timer_scheduled(&timer, due_at_ms)?;
        }
        for timer in cancelled {
            self.watcher.timer_cancelled(&timer)?;
        }
        Ok(())
    }

    /// Lets time pass until something is so.
    fn until(&mut self, patience_ms: u64, what: &str, so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let end_ms = self.now_ms + patience_ms;
        while !so(self) {
            if self.now_ms >= end_ms {
                let without = match self.left_behind.is_empty() {
                    true => "faults".to_owned(),
                    false => format!("faults, but for nodes {:?}, a minority,", self.left_behind),
                };
                let detail = format!("after {patience_ms} ms without {without} it is not so that {what}");
                return Err(verdict::LIVE.violated(detail).into());
            }
            self.tick()?;
        }
        Ok(())
    }

    /// A majority works again, or everybody: what was accepted must end.
    fn drain(&mut self) -> Result<(u64, u64), Failure> {
        let begin_ms = self.now_ms;
        self.phase.set(Doing::Drain);
        self.writes_succeed(if self.left_behind.is_empty() { LEADER_MS } else { MAJORITY_MS })?;
        let writes_ms = self.now_ms - begin_ms;
        // What was asked for under faults may be accepted late, and must end like everything else.
        self.until(DRAIN_MS, "clients hear what became of what they asked", |world| world.ledger.lock().at_work == 0)?;
        let end_ms = self.now_ms + DRAIN_MS;
        while !verdict::drained(self) {
            if self.now_ms >= end_ms {
                return Err(verdict::undrained(self).into());
            }
            for _ in 0..200 {
                self.tick()?;
            }
        }
        Ok((writes_ms, self.now_ms - begin_ms))
    }

    fn writes_succeed(&mut self, patience_ms: u64) -> Result<(), Failure> {
        // Probes that are answered now may have been sent before.
        let before = self.ledger.lock().probes;
        self.until(patience_ms, "writes succeed", |world| world.ledger.lock().probes > before + world.plan.clients)
    }

    /// Nobody does anything any more: all nodes must come to the same state.
    fn rest(&mut self) -> Result<(), Failure> {
        self.trace.note("everybody rests");
        self.phase.set(Doing::Rest);
        self.until(REST_MS, "all members have applied the same entries and have the same state", |world| verdict::agreed(world).is_some())
    }
}

/// What nodes are called.
pub fn address(id: NodeId) -> String {
    format!("node-{id}")
}

/// Runs a plan.
///
/// # Errors
///
/// See [`Failure`].
pub fn run(plan: Plan, trace: Trace, scratch: &Path) -> Result<Outcome, Failure> {
    if ![1, 3, 5].contains(&plan.nodes) {
        let refuse = || -> Result<()> { bail!("a cluster of {} nodes is not simulated: 1, 3 or 5", plan.nodes) };
        refuse()?;
    }
    let world = World::new(plan, trace, scratch).map_err(|error| anyhow!("the simulation cannot begin: {error:#}"))?;
    world.run()
}

//! The faults: each nemesis does one kind of harm to a cluster and takes it back.
//!
//! A nemesis draws its targets when it strikes, from what runs at that moment, so that several can be at work at once: what one of them has
//! killed the others leave alone, and each takes back only what it did itself. What the cluster refuses because of the other faults (a
//! removal without a majority, say) is part of what was done, told in words, and no error; errors are failures of the harness.
//!
//! - [`partition`], [`slow`], [`client_links`], [`links`]: the network. - [`kill`], [`pause`], [`restart`], [`upgrade`]: processes. - [`clock`]: time.
//! - [`disk`]: what the nodes have written. - [`membership`], [`transfer`], [`snapshot`]: what the cluster itself does while it is attacked.
//! - `target`: whom it hits.

pub mod client_links;
pub mod clock;
pub mod disk;
pub mod kill;
pub mod links;
pub mod membership;
pub mod partition;
pub mod pause;
pub mod restart;
pub mod slow;
pub mod snapshot;
mod target;
pub mod transfer;
pub mod upgrade;

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::cluster::{Cluster, ClusterOptions};
use target::Size;

/// How long a fault lasts and how long the cluster is left alone afterwards, before chance changes each by up to a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// From injection to healing.
    pub on: Duration,
    /// From healing to the next injection.
    pub off: Duration,
}

impl Rhythm {
    /// So many seconds on and off.
    const fn seconds(on: u64, off: u64) -> Self {
        Self { on: Duration::from_secs(on), off: Duration::from_secs(off) }
    }
}

/// What a nemesis needs of the cluster and of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Clocks that can be made wrong: libfaketime.
    Clocks,
    /// Disks that can fail: FUSE.
    Disks,
    /// A second build of tarn.
    NextBuild,
    /// At least so many nodes.
    Nodes(usize),
    /// Several clusters.
    Federation,
}

/// What a nemesis did when it was asked to strike.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// Whether it did any harm: it may have found nobody to hit, or the cluster may have refused.
    pub made: bool,
    /// What it did, or why nothing.
    pub what: Value,
}

impl Injected {
    /// What was done, if anything was.
    fn when(made: bool, what: Value) -> Self {
        Self { made, what }
    }

    /// Nothing was done, for this reason.
    fn nothing(reason: &str) -> Self {
        Self::when(false, serde_json::json!({ "skipped": reason }))
    }

    /// The same, of the cluster of this name; nothing is added for one that has none.
    pub fn at(mut self, cluster: &str) -> Self {
        if let (false, Some(what)) = (cluster.is_empty(), self.what.as_object_mut()) {
            what.insert("cluster".to_owned(), cluster.into());
        }
        self
    }

    /// Several steps: something was done if one of them did something.
    fn steps(name: &str, steps: Vec<Self>) -> Self {
        let made = steps.iter().any(|step| step.made);
        let what: Vec<Value> = steps.into_iter().map(|step| step.what).collect();
        Self::when(made, serde_json::json!({ name: what }))
    }
}

/// One kind of fault.
#[async_trait]
pub trait Nemesis: Send {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Does the harm, with targets drawn from `rng`, and says what was done, and whether anything was.
    ///
    /// # Errors
    /// If it could not be done: a failure of the harness.
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected>;

    /// Takes the harm back, and says what was done. Called after every [`Nemesis::inject`], also after one that failed; does nothing if there
    /// is nothing to take back.
    ///
    /// # Errors
    /// If it could not be done: a failure of the harness.
    async fn heal(&mut self, cluster: &Cluster) -> Result<Value>;

    /// How long the fault lasts.
    fn plan(&self) -> Rhythm;

    /// What it cannot do without.
    fn needs(&self) -> &'static [Need] {
        &[]
    }
}

/// Makes a nemesis.
type Make = fn() -> Box<dyn Nemesis>;

/// Name, what it does, and how it is made.
const TABLE: &[(&str, &str, Make)] = &[
    (
        "partition",
        "cuts the network in a way that changes from time to time: halves, ring, bridge, one way, a node or the leader alone",
        || Box::new(partition::Partition::any()),
    ),
    ("partition-halves", "a minority is cut off from the majority", || Box::new(partition::Partition::always(partition::Shape::Halves))),
    ("partition-ring", "each node sees a majority, and no two see the same one; needs five nodes", || {
        Box::new(partition::Partition::always(partition::Shape::Ring))
    }),
    ("partition-bridge", "two halves that only one node can both talk to", || {
        Box::new(partition::Partition::always(partition::Shape::Bridge))
    }),
    ("partition-one-way", "a node is heard and does not hear, or the other way round", || {
        Box::new(partition::Partition::always(partition::Shape::OneWay))
    }),
    ("partition-leader", "the leader is alone", || Box::new(partition::Partition::always(partition::Shape::Leader))),
    ("kill", "kill -9 of one node, a minority, a majority or all, and restart", || Box::new(kill::Kill::any())),
    ("kill-leader", "kill -9 of the leader, and restart", || Box::new(kill::Kill::always(Size::Leader))),
    ("kill-majority", "kill -9 of a majority, and restart", || Box::new(kill::Kill::always(Size::Majority))),
    ("kill-all", "kill -9 of all nodes at once, and restart", || Box::new(kill::Kill::always(Size::All))),
    ("pause", "SIGSTOP of one node, a minority, a majority or all for longer than leases last, then SIGCONT", || {
        Box::new(pause::Pause::any())
    }),
    ("pause-leader", "SIGSTOP of the leader for longer than leases last, then SIGCONT", || Box::new(pause::Pause::always(Size::Leader))),
    ("clock", "wall clocks jump by up to minutes, back and forth, or drift by up to a quarter", || Box::new(clock::WrongClock::any())),
    ("clock-jump", "wall clocks jump", || Box::new(clock::WrongClock::always(clock::Way::Jump))),
    ("clock-drift", "wall clocks run too fast or too slow", || Box::new(clock::WrongClock::always(clock::Way::Drift))),
    ("slow", "links are late, uneven, lossy, narrow or break now and then", || Box::new(slow::SlowLinks::default())),
    ("client-links", "links between clients and one node or a minority are cut one way or both ways, or slow", || {
        Box::new(client_links::ClientLinks::default())
    }),
    ("links", "links between clusters are cut, both ways or one way, flap, or are slow", || Box::new(links::Links::any())),
    ("links-cut", "links between clusters are cut both ways", || Box::new(links::Links::always(links::Harm::Cut))),
    ("links-one-way", "links between clusters are cut one way", || Box::new(links::Links::always(links::Harm::OneWay))),
    ("links-flap", "links between clusters are cut and whole by turns, several times a second", || {
        Box::new(links::Links::always(links::Harm::Flap))
    }),
    ("links-slow", "links between clusters are late, uneven, lossy, narrow or break now and then", || {
        Box::new(links::Links::always(links::Harm::Slow))
    }),
    ("membership", "nodes join by token, are removed, and dead ones are replaced", || Box::new(membership::Membership::default())),
    ("transfer", "leadership is handed from node to node", || Box::new(transfer::Transfer)),
    ("snapshot", "a follower is dead until the log that it lacks has been purged", || Box::new(snapshot::Snapshot::default())),
    ("restart", "nodes end in good order and start again, one after the other", || Box::new(restart::Rolling)),
    ("upgrade", "nodes change to the second build one after the other, and back", || Box::new(upgrade::Upgrade::default())),
    ("power-loss", "kill -9 of one node, a minority, a majority or all, whose disks lose what was not synced, and restart", || {
        Box::new(disk::power::PowerLoss::any())
    }),
    ("power-loss-all", "kill -9 of all nodes at once, whose disks lose what was not synced, and restart", || {
        Box::new(disk::power::PowerLoss::all())
    }),
    ("disk-full", "disks have no room for a while; nodes that stop are started again", || {
        Box::new(disk::sick::Sick::with(disk::sick::Illness::Full))
    }),
    ("disk-errors", "reads, writes or syncs fail with EIO, once or for a while; nodes that stop are started again", || {
        Box::new(disk::sick::Sick::with(disk::sick::Illness::Errors))
    }),
    ("disk-slow", "syncs take 20 to 300 ms", || Box::new(disk::sick::Sick::with(disk::sick::Illness::Slow))),
    ("disk-damage", "kill -9 of a minority, flipped bits, truncation, old or empty chunks in its files, restart, and replacement", || {
        Box::new(disk::damage::Corruption::of(disk::damage::Aim::Anywhere))
    }),
    ("disk-log-end", "kill -9 of a minority, whose logs lose their synced ends, restart, and replacement", || {
        Box::new(disk::damage::Corruption::of(disk::damage::Aim::LogEnd))
    }),
];

/// Those that stand for all in a mixed run: the others are their parts.
const MIXED: &[&str] = &[
    "partition",
    "kill",
    "pause",
    "clock",
    "slow",
    "client-links",
    "links",
    "membership",
    "transfer",
    "snapshot",
    "restart",
    "upgrade",
    "power-loss",
    "disk-full",
    "disk-errors",
    "disk-slow",
    "disk-damage",
];

/// A nemesis by its name.
pub fn named(name: &str) -> Option<Box<dyn Nemesis>> {
    TABLE.iter().find(|(own, ..)| *own == name).map(|(.., make)| make())
}

/// The names of all nemeses, each with one line on what it does.
pub fn names() -> Vec<(&'static str, &'static str)> {
    TABLE.iter().map(|(name, what, _)| (*name, *what)).collect()
}

/// The names that `all` stands for: one nemesis of each kind.
pub fn mixed() -> &'static [&'static str] {
    MIXED
}

/// Why a nemesis cannot work on a cluster with these options on this machine; `None` if it can. The sentence says what to do.
pub fn unmet(nemesis: &dyn Nemesis, options: &ClusterOptions) -> Option<String> {
    nemesis.needs().iter().find_map(|need| need.unmet(options)).map(|reason| format!("{}: {reason}", nemesis.name()))
}

impl Need {
    fn unmet(self, options: &ClusterOptions) -> Option<String> {
        match self {
            // Whether nodes are started with them is for the options to say, which follow from the nemeses.
            Self::Clocks => crate::cluster::clock::available().err(),
            Self::Disks => crate::disk::available().err(),
            Self::NextBuild if options.tarn_next.is_none() => {
                Some("there is no second build of tarn: name one with --tarn-next".to_owned())
            }
            Self::Nodes(least) if options.nodes < least => {
                Some(format!("it needs at least {least} nodes, and the cluster has {}: say --nodes {least}", options.nodes))
            }
            // Which workload has several clusters is for the run to say.
            Self::NextBuild | Self::Nodes(_) | Self::Federation => None,
        }
    }
}

/// What was done, or why the cluster did not do it, for the history.
fn told(done: Result<Value>) -> Value {
    done.unwrap_or_else(|error| serde_json::json!({ "refused": format!("{error:#}") }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_its_name_and_the_mix_is_made_of_them() {
        let listed: BTreeSet<&str> = names().iter().map(|(name, _)| *name).collect();
        assert_eq!(listed.len(), TABLE.len(), "a name twice");
        assert!(listed.iter().all(|name| named(name).unwrap().name() == *name));
        assert!(mixed().iter().all(|name| listed.contains(name)));
        assert!(named("no-such-nemesis").is_none());
    }

    #[test]
    fn what_is_missing_is_said_before_the_run() {
        let options = ClusterOptions::new("tarn", "dir");
        let reason = unmet(named("upgrade").unwrap().as_ref(), &options).unwrap();
        assert!(reason.contains("upgrade: ") && reason.contains("--tarn-next"), "{reason}");
        let both = ClusterOptions { tarn_next: Some("other".into()), ..options.clone() };
        assert_eq!(unmet(named("upgrade").unwrap().as_ref(), &both), None);
        let single = ClusterOptions { nodes: 1, ..options };
        assert!(unmet(named("partition").unwrap().as_ref(), &single).is_some());
        assert_eq!(unmet(named("kill").unwrap().as_ref(), &single), None);
        let ring = named("partition-ring").unwrap();
        let reason = unmet(ring.as_ref(), &ClusterOptions { nodes: 3, ..single.clone() }).unwrap();
        assert!(reason.contains("partition-ring: ") && reason.contains("--nodes 5"), "{reason}");
        assert_eq!(unmet(ring.as_ref(), &ClusterOptions { nodes: 5, ..single }), None);
    }

    #[test]
    fn steps_that_all_did_nothing_are_no_fault() {
        let step = |made| Injected::when(made, serde_json::json!({ "node": 1 }));
        assert!(Injected::steps("restarts", vec![step(false), step(true)]).made);
        assert!(!Injected::steps("restarts", vec![step(false)]).made);
        assert!(!Injected::steps("restarts", Vec::new()).made);
        let nothing = Injected::nothing("no node runs");
        assert_eq!((nothing.made, &nothing.what["skipped"]), (false, &serde_json::json!("no node runs")));
    }
}

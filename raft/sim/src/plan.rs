//! What a seed decides before anything runs: the cluster, its settings, and which faults may happen.
//!
//! Each seed allows only some kinds of faults (*swarm testing*: Groce et al., ISSTA 2012): where everything goes wrong at once, little ever gets
//! far enough to go wrong in an interesting way.

use std::time::Duration;

use clap::ValueEnum;
use tarn_raft::{Limits, Timings};

use crate::dice::Dice;

/// Kinds of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
#[allow(missing_docs)]
pub enum Kind {
    Kill,
    PowerCut,
    PowerCutInside,
    Pause,
    Partition,
    OneWay,
    BadLinks,
    ClockJump,
    ClockDrift,
    DiskFault,
    SlowDisk,
    Transfer,
    Membership,
    Snapshot,
    ShutDown,
    UsersCut,
}

impl Kind {
    /// Those of which a seed draws some, in the order of the draws. [`Kind::UsersCut`] came later and has draws of its own ([`crate::cuts`]), so that
    /// a seed that found something once still means the same.
    pub const ALL: [Kind; 15] = [
        Kind::Kill,
        Kind::PowerCut,
        Kind::PowerCutInside,
        Kind::Pause,
        Kind::Partition,
        Kind::OneWay,
        Kind::BadLinks,
        Kind::ClockJump,
        Kind::ClockDrift,
        Kind::DiskFault,
        Kind::SlowDisk,
        Kind::Transfer,
        Kind::Membership,
        Kind::Snapshot,
        Kind::ShutDown,
    ];
}

/// How the nodes are that are still missing when the faults end: see [`crate::aftermath`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Without a process.
    Dead,
    /// Running, and reaching no other node.
    CutOff,
    /// With a process that stands still.
    Paused,
}

/// One run, before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that decides everything.
    pub seed: u64,
    /// Founding voters.
    pub nodes: u64,
    /// How long faults happen, in milliseconds of simulated time.
    pub faults_ms: u64,
    /// Faults that may happen.
    pub kinds: Vec<Kind>,
    /// The longest time from fault to fault, in milliseconds.
    pub fault_every_ms: u64,
    /// Clients and workers.
    pub clients: u64,
    /// See [`Plan::clients`].
    pub workers: u64,
    /// The longest pause of a client between two operations, in milliseconds.
    pub pause_ms: u64,
    /// Heartbeats and elections.
    pub timings: Timings,
    /// Sizes of log and snapshots.
    pub limits: Limits,
    /// Whether users lose nodes now and then, and how often, in milliseconds from one time to the next at most.
    pub users_cut_every_ms: Option<u64>,
    /// How a minority is that must be done without when the faults end, if any is missing then.
    pub left: Option<Left>,
}

impl Plan {
    /// What a seed decides. `nodes`, `faults_ms` and `kinds` may be given.
    pub fn new(seed: u64, nodes: Option<u64>, faults_ms: Option<u64>, only: &[Kind]) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let drawn_nodes = *dice.pick(&[3, 3, 5]).expect("three");
        let drawn_ms = dice.between(8_000, 16_000);
        let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| dice.percent(45)).collect();
        if kinds.is_empty() {
            kinds.push(Kind::PowerCut);
        }
        if !only.is_empty() {
            kinds = only.iter().copied().filter(|kind| *kind != Kind::UsersCut).collect();
        }
        // What came later draws from dice of its own, and older seeds keep what they have drawn.
        let mut users = Dice::new(seed, "plan: users");
        let users_cut = users.percent(40);
        let users_cut_every_ms = users.between(800, 4_000);
        let mut left = Dice::new(seed, "plan: left behind");
        let anybody_left = left.percent(60);
        let how = *left.pick(&[Left::Dead, Left::CutOff, Left::Paused]).expect("three");
        Self {
            seed,
            nodes: nodes.unwrap_or(drawn_nodes),
            faults_ms: faults_ms.unwrap_or(drawn_ms),
            kinds,
            fault_every_ms: dice.between(300, 2_000),
            clients: dice.between(2, 4),
            workers: dice.between(2, 4),
            pause_ms: dice.between(20, 150),
            timings: Timings {
                heartbeat: Duration::from_millis(50),
                election_min: Duration::from_millis(150),
                election_max: Duration::from_millis(300),
                audit: Duration::from_millis(500),
            },
            limits: Limits {
                snapshot_entries: dice.between(40, 400),
                keep_entries: dice.between(0, 60),
                log_cache_bytes: usize::try_from(dice.between(0, 64 << 10)).expect("it is small"),
                batch_bytes: usize::try_from(dice.between(1, 64 << 10)).expect("it is small"),
            },
            users_cut_every_ms: match only.is_empty() {
                true => users_cut.then_some(users_cut_every_ms),
                false => only.contains(&Kind::UsersCut).then_some(users_cut_every_ms),
            },
            left: anybody_left.then_some(how),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was drawn for a seed before [`Kind::UsersCut`] and [`Left`] were there: the seeds of known bugs must go on meaning what they meant.
    #[test]
    fn old_seeds_keep_what_they_drew() {
        let plan = Plan::new(63, None, None, &[Kind::Kill, Kind::SlowDisk, Kind::PowerCut]);
        assert_eq!(plan.kinds, [Kind::Kill, Kind::SlowDisk, Kind::PowerCut]);
        assert_eq!(plan.users_cut_every_ms, None);
        let drawn = |plan: &Plan| {
            let Limits { snapshot_entries, keep_entries, log_cache_bytes, batch_bytes } = plan.limits;
            [
                plan.nodes,
                plan.faults_ms,
                plan.fault_every_ms,
                plan.clients,
                plan.workers,
                plan.pause_ms,
                snapshot_entries,
                keep_entries,
                log_cache_bytes as u64,
                batch_bytes as u64,
            ]
        };
        assert_eq!(drawn(&plan), [5, 10_854, 658, 2, 2, 71, 50, 3, 62_969, 27_537]);
        let plan = Plan::new(4, None, None, &[]);
        use Kind::{BadLinks, Membership, Partition, Pause, PowerCut, PowerCutInside, ShutDown, SlowDisk, Snapshot};
        let kinds = [PowerCut, PowerCutInside, Pause, Partition, BadLinks, SlowDisk, Membership, Snapshot, ShutDown];
        assert_eq!(plan.kinds, kinds);
        assert_eq!(drawn(&plan), [3, 9_804, 954, 4, 2, 85, 160, 4, 10_770, 39_181]);
    }

    #[test]
    fn kinds_that_came_later_can_be_asked_for_alone() {
        let plan = Plan::new(1, None, None, &[Kind::UsersCut]);
        assert!(plan.kinds.is_empty() && plan.users_cut_every_ms.is_some());
        let some: Vec<Plan> = (0..40).map(|seed| Plan::new(seed, None, None, &[])).collect();
        for left in [None, Some(Left::Dead), Some(Left::CutOff), Some(Left::Paused)] {
            assert!(some.iter().any(|plan| plan.left == left), "{left:?}");
        }
        assert!(some.iter().any(|plan| plan.users_cut_every_ms.is_some()));
        assert!(some.iter().any(|plan| plan.users_cut_every_ms.is_none()));
    }
}

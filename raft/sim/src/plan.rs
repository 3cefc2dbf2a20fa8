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
}

impl Kind {
    /// All of them.
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
            kinds = only.to_vec();
        }
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
        }
    }
}

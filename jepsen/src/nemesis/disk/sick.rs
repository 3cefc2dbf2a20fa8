//! Disks that are full, slow, or have errors.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Took, judged};
use crate::cluster::Cluster;
use crate::disk::{FaultyDisk, How, IoErrors, Operation, Slowness};
use crate::nemesis::target::{Size, drawn};
use crate::nemesis::{Injected, Need, Nemesis, Rhythm};

/// What a disk that becomes full has left at most: enough for some writes, so that the last of them is short.
const LEFT_MAX: u64 = 64 << 10;
/// How long a node that has met an error may take to be gone, if it stops.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How a node that stops because of a full disk, or of errors, may put it.
const FULL: &[&str] = &["disk space", "no space", "disk is full", "storage engine failed"];
const ERRORS: &[&str] = &["input/output error", "i/o error", "io error", "storage engine failed"];

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Illness {
    /// Nothing new fits.
    Full,
    /// Reads, writes or syncs fail.
    Errors,
    /// Everything takes long.
    Slow,
}

/// Makes disks ill, and well again; starts nodes that have stopped because of it.
pub struct Sick {
    illness: Illness,
    /// The nodes, and how many operations of each had failed before.
    ill: Vec<(u64, u64)>,
}

impl Sick {
    /// One that makes disks ill in this way.
    pub fn with(illness: Illness) -> Self {
        Self { illness, ill: Vec::new() }
    }

    fn infect(&self, disk: &FaultyDisk, rng: &mut StdRng) -> Value {
        match self.illness {
            Illness::Full => {
                let left = rng.random_range(0..LEFT_MAX);
                disk.limit(Some(left));
                json!({ "left": left })
            }
            Illness::Errors => {
                let errors = errors(rng);
                let what = format!("{:?} {:?}", errors.operations, errors.how).to_lowercase();
                disk.io_errors(Some(errors));
                json!({ "failing": what })
            }
            Illness::Slow => {
                let slowness = slowness(rng);
                disk.slow(slowness);
                json!({ "sync_ms": millis(slowness.sync), "write_ms": millis(slowness.write) })
            }
        }
    }

    fn cure(&self, disk: &FaultyDisk) {
        match self.illness {
            Illness::Full => disk.limit(None),
            Illness::Errors => disk.io_errors(None),
            Illness::Slow => disk.slow(Slowness::default()),
        }
    }

    /// Waits a while for nodes that have met an error: they may have decided to stop, and not be gone yet.
    async fn stopping(&self, cluster: &Cluster, struck: &[(u64, u64)]) {
        let end = Instant::now() + GONE_WITHIN;
        let met: Vec<u64> = struck.iter().filter(|(_, count)| *count > 0).map(|(node, _)| *node).collect();
        while self.illness != Illness::Slow && Instant::now() < end {
            let running = cluster.running();
            if !met.iter().any(|node| running.contains(node)) {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn words(&self) -> &'static [&'static str] {
        match self.illness {
            Illness::Full => FULL,
            Illness::Errors => ERRORS,
            // A slow disk is no reason to stop.
            Illness::Slow => &[],
        }
    }
}

#[async_trait]
impl Nemesis for Sick {
    fn name(&self) -> &'static str {
        match self.illness {
            Illness::Full => "disk-full",
            Illness::Errors => "disk-errors",
            Illness::Slow => "disk-slow",
        }
    }

    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Result<Injected> {
        let size = Size::drawn(rng);
        let mut what = Vec::new();
        for node in drawn(size, cluster, rng).await {
            let disk = cluster.disk(node)?;
            self.ill.push((node, disk.struck()));
            what.push(json!({ "node": node, "disk": self.infect(&disk, rng) }));
        }
        Ok(Injected::when(!what.is_empty(), json!({ "size": size, "ill": what })))
    }

    async fn heal(&mut self, cluster: &Cluster) -> Result<Value> {
        let mut struck: Vec<(u64, u64)> = Vec::new();
        for (node, before) in &self.ill {
            let disk = cluster.disk(*node)?;
            self.cure(&disk);
            struck.push((*node, disk.struck() - before));
        }
        self.stopping(cluster, &struck).await;
        let all = struck.into_iter();
        let took: Vec<Took> = all.map(|(node, struck)| judged(cluster, node, struck, self.words())).collect();
        let ids: Vec<u64> = self.ill.drain(..).map(|(node, _)| node).collect();
        let started = cluster.start_idle(&ids)?;
        Ok(json!({ "took": took, "started": started }))
    }

    fn plan(&self) -> Rhythm {
        match self.illness {
            Illness::Full | Illness::Errors => Rhythm::seconds(5, 8),
            Illness::Slow => Rhythm::seconds(8, 7),
        }
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Disks]
    }
}

/// Errors of one kind, either few at once or rarely and for long.
fn errors(rng: &mut StdRng) -> IoErrors {
    let kinds: [&[Operation]; 4] = [&[Operation::Read], &[Operation::Write], &[Operation::Sync], &[Operation::Write, Operation::Sync]];
    IoErrors {
        operations: kinds.choose(rng).expect("there are four").to_vec(),
        files: "**".to_owned(),
        how: match rng.random() {
            true => How::Next(rng.random_range(1..4)),
            false => How::Chance(rng.random_range(0.02..0.5), rng.random()),
        },
    }
}

/// As slow as an overloaded network disk, or an old spinning one.
fn slowness(rng: &mut StdRng) -> Slowness {
    let sync = Duration::from_millis(*[20, 50, 100, 300].choose(rng).expect("there are four"));
    Slowness { read: Duration::from_millis(rng.random_range(0..5)), write: Duration::from_millis(rng.random_range(0..3)), sync }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

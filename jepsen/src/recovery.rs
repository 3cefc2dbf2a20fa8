//! How soon writes succeed again after the leader is killed, and what the time goes into.
//!
//! The leader of an otherwise healthy cluster with default settings is killed with SIGKILL; from that moment a write is begun every
//! [`PROBE_EVERY`], by clients that know all nodes. The time ends with the first acknowledgement of a write that was begun after the kill. The
//! survivors' logs divide it:
//! - *detection*: until a survivor begins an election, which it does when it has missed the leader for its election time-out and a majority
//!   says the same (pre-vote);
//! - *election*: until a survivor knows the new leader;
//! - *first commit*: until the client has its acknowledgement: the client finds the new leader's node, and the write is committed.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tarn_client::{Client, Task};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, ClusterOptions, Network};
use crate::figures::Spread;
use crate::run::{network_or_best, say};

/// How often a write is begun while none is acknowledged.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// The bar: half of all kills must be over within this time. In milliseconds.
pub const MEDIAN_MS_MAX: f64 = 3_000.0;
/// How long a return may take before the measurement is given up.
const RETURN_WITHIN: Duration = Duration::from_secs(60);
/// How long the cluster may take to be whole again.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long the cluster runs undisturbed before each kill.
const QUIET: Duration = Duration::from_secs(2);
/// A log line may be a moment behind what it tells.
const LOG_LAG: Duration = Duration::from_millis(200);

/// What to measure.
#[derive(Debug, Clone)]
pub struct RecoveryOptions {
    /// How often the leader is killed.
    pub kills: u32,
    /// How many voters there are.
    pub nodes: usize,
    /// How the nodes reach each other; the best that the machine allows unless given.
    pub network: Option<Network>,
    /// The `tarn` binary.
    pub tarn: PathBuf,
    /// Settings for every node; defaults where none is given.
    pub settings: Vec<(String, String)>,
}

/// One kill. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// From the kill to the first acknowledged write that was begun after it.
    pub total_ms: f64,
    /// From the kill until a survivor began an election.
    pub detection_ms: f64,
    /// From there until a survivor knew the new leader.
    pub election_ms: f64,
    /// From there until the acknowledgement.
    pub first_commit_ms: f64,
    /// How many terms the election took.
    pub terms: u64,
}

/// All kills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// In their order.
    pub kills: Vec<Kill>,
    /// How the whole times are spread.
    pub total: Spread,
    /// Likewise until an election began.
    pub detection: Spread,
    /// Likewise from there until the new leader was known.
    pub election: Spread,
    /// Likewise from there until the acknowledgement.
    pub first_commit: Spread,
    /// Which of the three parts takes the most time, all kills together.
    pub dominant: String,
    /// How long the median of the whole times may be: [`MEDIAN_MS_MAX`].
    pub median_ms_max: f64,
    /// Whether it is no longer than that.
    pub within_bar: bool,
}

/// Makes a cluster and kills its leaders.
///
/// # Errors
/// Failures of the harness, and a cluster that does not return.
pub async fn measure(options: &RecoveryOptions, interrupt: &CancellationToken) -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let network = network_or_best(options.network)?;
    let cluster = Cluster::create(ClusterOptions {
        nodes: options.nodes,
        network,
        settings: [("log.format".to_owned(), "\"json\"".to_owned())].into_iter().chain(options.settings.iter().cloned()).collect(),
        ..ClusterOptions::new(&options.tarn, dir.path())
    })?;
    let kills = tokio::select! {
        kills = kill_leaders(options.kills, &cluster) => kills?,
        () = interrupt.cancelled() => bail!("interrupted"),
    };
    drop(cluster);
    Ok(Measured::of(kills))
}

async fn kill_leaders(wanted: u32, cluster: &Cluster) -> Result<Vec<Kill>> {
    cluster.start_all()?;
    cluster.wait_ready(READY_WITHIN).await?;
    let client = cluster.client(&cluster.ids())?.with_deadline(RETURN_WITHIN);
    let mut kills = Vec::new();
    for number in 1..=wanted {
        // Connections to every node are open, as those of a client that has worked for a while.
        write(&client).await.context("the cluster is healthy and does not take a write")?;
        sleep(QUIET).await;
        let kill = kill_leader(cluster, &client).await?;
        say(&format!(
            "kill {number} of {wanted}: {:.0} ms = detection {:.0} + election {:.0} + first commit {:.0}",
            kill.total_ms, kill.detection_ms, kill.election_ms, kill.first_commit_ms
        ));
        kills.push(kill);
        cluster.start_all()?;
        cluster.wait_ready(READY_WITHIN).await?;
    }
    Ok(kills)
}

async fn kill_leader(cluster: &Cluster, client: &Client) -> Result<Kill> {
    let leader = cluster.leader().await.context("nobody leads")?;
    let term = cluster.status(leader).await?.term;
    let killed = SystemTime::now();
    cluster.kill(&[leader]).await?;
    let acknowledged = first_acknowledgement(client).await?;
    sleep(LOG_LAG).await;
    let mut changes = Vec::new();
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        let log = std::fs::read_to_string(cluster.log(id))?;
        changes.extend(log.lines().filter_map(Change::read).filter(|change| change.term > term));
    }
    divide(killed, acknowledged, term, &changes)
}

/// Begins writes until one is acknowledged, and says when that was.
async fn first_acknowledgement(client: &Client) -> Result<SystemTime> {
    let end = Instant::now() + RETURN_WITHIN;
    let mut writes = JoinSet::new();
    loop {
        let client = client.clone();
        writes.spawn(async move { write(&client).await.map(|()| SystemTime::now()) });
        tokio::select! {
            Some(written) = writes.join_next() => {
                if let Ok(acknowledged) = written? {
                    return Ok(acknowledged);
                }
            }
            () = sleep(PROBE_EVERY) => {}
        }
        ensure!(Instant::now() < end, "no write was acknowledged within {RETURN_WITHIN:?}");
    }
}

async fn write(client: &Client) -> Result<()> {
    client.enqueue(Task::new("recovery").payload("x")).await?;
    Ok(())
}

/// A node's log line about who leads.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    at: SystemTime,
    term: u64,
    known: bool,
}

impl Change {
    /// Reads a log line; `None` for lines about something else.
    fn read(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        if line["message"] != "leadership" {
            return None;
        }
        Some(Self {
            at: OffsetDateTime::parse(line["timestamp"].as_str()?, &Rfc3339).ok()?.into(),
            term: line["term"].as_u64()?,
            known: line["leader"].as_str()? != "None",
        })
    }
}

/// Divides the time between a kill and the acknowledgement by the survivors' later changes of leadership.
fn divide(killed: SystemTime, acknowledged: SystemTime, term: u64, changes: &[Change]) -> Result<Kill> {
    let detected = changes.iter().map(|change| change.at).min().context("no survivor began an election")?;
    let elected = changes.iter().filter(|change| change.known).map(|change| change.at).min();
    let elected = elected.context("no survivor knew a new leader")?;
    let last = changes.iter().map(|change| change.term).max().unwrap_or(term);
    let between = |from: SystemTime, to: SystemTime| {
        let time = to.duration_since(from).unwrap_or_default();
        (time.as_secs_f64() * 1e5).round() / 100.0
    };
    Ok(Kill {
        total_ms: between(killed, acknowledged),
        detection_ms: between(killed, detected),
        election_ms: between(detected, elected),
        first_commit_ms: between(elected, acknowledged),
        terms: last - term,
    })
}

/// One part of the time of a kill.
type Part = fn(&Kill) -> f64;

impl Measured {
    fn of(kills: Vec<Kill>) -> Self {
        let parts: [(&str, Part); 3] =
            [("detection", |kill| kill.detection_ms), ("election", |kill| kill.election_ms), ("first commit", |kill| kill.first_commit_ms)];
        let spread = |part: Part| Spread::of(kills.iter().map(|kill| (part(kill) * 1e6) as u64).collect());
        let sum = |part: Part| kills.iter().map(part).sum::<f64>();
        let dominant =
            parts.iter().max_by(|one, other| sum(one.1).total_cmp(&sum(other.1))).map_or_else(String::new, |(name, _)| (*name).to_owned());
        let total = spread(|kill| kill.total_ms);
        Self {
            total,
            median_ms_max: MEDIAN_MS_MAX,
            within_bar: total.median_ms <= MEDIAN_MS_MAX,
            detection: spread(parts[0].1),
            election: spread(parts[1].1),
            first_commit: spread(parts[2].1),
            dominant,
            kills,
        }
    }

    /// The measurement for people.
    pub fn text(&self) -> String {
        let mut text = format!("{} kills of the leader; from the kill to the next acknowledged write\n", self.kills.len());
        text.push_str("                median       p99   longest\n");
        let rows =
            [("all", &self.total), ("detection", &self.detection), ("election", &self.election), ("first commit", &self.first_commit)];
        for (name, spread) in rows {
            text.push_str(&format!("{name:13}{:6.0} ms {:6.0} ms {:6.0} ms\n", spread.median_ms, spread.p99_ms, spread.max_ms));
        }
        let split = self.kills.iter().filter(|kill| kill.terms > 1).count();
        text.push_str(&format!("what dominates: {}; {split} elections took more than one term\n", self.dominant));
        let holds = if self.within_bar { "holds" } else { "DOES NOT HOLD" };
        text.push_str(&format!(
            "the bar {holds}: a median of {:.0} ms, and at most {:.0} ms are allowed\n",
            self.total.median_ms, self.median_ms_max
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: &str = r#"{"timestamp":"2026-11-21T06:06:15.464253Z","level":"INFO","message":"leadership","term":2,"leader":"None"}"#;
    const KNOWN: &str =
        r#"{"timestamp":"2026-11-21T06:06:15.511262Z","level":"INFO","message":"leadership","term":2,"leader":"Some(Peer { id: 2 })"}"#;

    #[test]
    fn the_time_is_divided_by_what_the_survivors_wrote() {
        assert_eq!(Change::read(r#"{"message":"other"}"#), None);
        assert_eq!(Change::read("no JSON"), None);
        let changes = [Change::read(KNOWN).unwrap(), Change::read(BEGUN).unwrap()];
        let at = |millis| changes[1].at - Duration::from_millis(500) + Duration::from_millis(millis);
        let kill = divide(at(0), at(600), 1, &changes).unwrap();
        assert_eq!((kill.total_ms, kill.detection_ms, kill.terms), (600.0, 500.0, 1));
        assert_eq!((kill.election_ms, kill.first_commit_ms), (47.01, 52.99));
        assert!(divide(at(0), at(600), 1, &changes[1..]).is_err(), "nobody knew a leader");
    }

    #[test]
    fn what_dominates_is_what_took_the_most_time() {
        let kill = |detection_ms, first_commit_ms| Kill {
            total_ms: detection_ms + first_commit_ms + 1.0,
            detection_ms,
            election_ms: 1.0,
            first_commit_ms,
            terms: 1,
        };
        let measured = Measured::of(vec![kill(500.0, 20.0), kill(700.0, 30.0), kill(10.0, 900.0)]);
        assert_eq!(measured.dominant, "detection");
        assert_eq!((measured.total.median_ms, measured.total.max_ms), (731.0, 911.0));
        assert!(measured.text().contains("what dominates: detection"));
        assert!(measured.within_bar && measured.text().contains("the bar holds: a median of 731 ms"));
        let slow = Measured::of(vec![kill(2_990.0, 20.0), kill(3_100.0, 20.0), kill(10.0, 20.0)]);
        assert!(!slow.within_bar && slow.text().contains("the bar DOES NOT HOLD: a median of 3011 ms"));
    }
}

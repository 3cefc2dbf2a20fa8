//! One run, from an empty folder to a verdict.
//!
//! ```text
//! setup     the cluster is started and the workload prepares it
//! work      clients work; the faults come and go as the schedule says
//! calm      everything is healed; clients still work, so that the return to service is part of the history
//! stop      clients finish what they are at
//! drain     clients have stopped; accepted work ends, the nodes' digests are compared
//! end       the history is judged
//! ```
//! What goes wrong with the cluster is for the history and its checks. What goes wrong with the harness ends the run with an error and without
//! a verdict. Either way nothing is left running.

mod attack;
mod judge;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checker::Outcome;
use crate::cluster::{ClockFaults, Cluster, ClusterOptions, Disk, Network, Part, Shape, Wires};
use crate::figures;
use crate::history::{self, Event, Recorder};
use crate::nemesis::{self, Need, Nemesis};
use crate::report::{Folder, Report, Setting};
use crate::workload::{self, Clients, Scene, Workload};

pub use judge::judge;

/// How long the cluster may take to be ready at its start. Generous: the machine may be busy with a build.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long whatever still uses a cluster may take to let go of it.
const RELEASED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at whether the machine itself is still sound.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What every node is told: snapshots and purged logs are met within seconds, and no node does the workers' work. A run's own settings win.
const SETTINGS: [(&str, &str); 6] = [
    ("raft.snapshot_entries", "500"),
    ("raft.keep_entries", "100"),
    ("executors.wasm", "false"),
    ("executors.native", "\"off\""),
    ("executors.microvm", "\"off\""),
    ("executors.cuda", "\"off\""),
];

/// What to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The workload's name.
    pub workload: String,
    /// The nemeses' names; none for a run without faults.
    pub nemeses: Vec<String>,
    /// How long faults are made.
    pub time: Duration,
    /// How many voters each cluster has at first.
    pub nodes: usize,
    /// How many clusters federate, if any do.
    pub clusters: u64,
    /// Which of them reach each other.
    pub links: Shape,
    /// Decides the schedule, the targets and the clients' choices.
    pub seed: u64,
    /// How many clients work.
    pub clients: u32,
    /// How the nodes reach each other; the best that the machine allows unless given.
    pub network: Option<Network>,
    /// What their data is on; the failing file system where a nemesis needs it unless given.
    pub disk: Option<Disk>,
    /// The `tarn` binary.
    pub tarn: PathBuf,
    /// A second build of it.
    pub tarn_next: Option<PathBuf>,
    /// Where the report folder is made.
    pub out: PathBuf,
    /// Settings for every node, over the harness's own.
    pub settings: Vec<(String, String)>,
    /// Keep the nodes' data even if the run is valid.
    pub keep: bool,
    /// The command that does the same again.
    pub command: String,
}

/// A run that came to a verdict.
#[derive(Debug)]
pub struct Finished {
    /// Where everything is.
    pub folder: Folder,
    /// The verdict and the figures.
    pub report: Report,
}

/// Does a run. `interrupt` ends it early, as a failure of the harness.
///
/// # Errors
/// A failure of the harness: nothing is known about tarn then. What there is of the history and the logs stays in the folder, whose path the
/// error tells.
pub async fn run(options: &RunOptions, interrupt: &CancellationToken) -> Result<Finished> {
    let workload: Arc<dyn Workload> = named_workload(&options.workload)?.into();
    let nemeses = named_nemeses(&options.nemeses)?;
    // What is missing is said before anything is made.
    if let Some(reason) = nemeses.iter().find_map(|nemesis| unmet(options, nemesis.as_ref())) {
        bail!("{reason}");
    }
    let network = network_of(options)?;
    let disk = disk(options, &nemeses)?;
    let tarn = version(options)?;
    let folder = Folder::create(&options.out, &folder_name(options)?)?;
    let cluster_options = cluster_options(options, &nemeses, network, disk, &folder);
    say(&format!("seed {}; everything goes to {}", options.seed, folder.path().display()));
    let setting = setting(options, &cluster_options, tarn)?;
    let result = attacked(options, cluster_options, workload.clone(), nemeses, &folder, interrupt).await;
    let logs = folder.collect_logs();
    if let Err(error) = result {
        // Best effort: the error itself is what matters.
        let _ = fs::write(folder.path().join("failure.txt"), format!("{error:#}\n"));
        return Err(error.context(format!("the harness failed; see {}", folder.path().display())));
    }
    logs?;
    let report = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || conclude(&folder, workload.as_ref(), setting)
    })
    .await??;
    if report.outcome == Outcome::Valid && !options.keep {
        fs::remove_dir_all(folder.cluster()).context("the nodes' data cannot be removed")?;
    }
    Ok(Finished { folder, report })
}

/// Judges a stored history again, and writes verdict and page anew.
///
/// # Errors
/// If the folder has no verdict or history of this version.
pub fn check(folder: &Folder) -> Result<Report> {
    let stored = Report::read(folder)?;
    let workload = named_workload(&stored.setting.workload)?;
    conclude(folder, workload.as_ref(), stored.setting)
}

fn conclude(folder: &Folder, workload: &dyn Workload, setting: Setting) -> Result<Report> {
    let history: Vec<Event> = history::read(&folder.history())?;
    let verdict = judge(&history, workload);
    let report = Report::new(setting, verdict, figures::of(&history));
    report.write(folder, &history)?;
    Ok(report)
}

/// Makes the cluster, attacks it, and ends it.
async fn attacked(
    options: &RunOptions,
    cluster_options: ClusterOptions,
    workload: Arc<dyn Workload>,
    nemeses: Vec<Box<dyn Nemesis>>,
    folder: &Folder,
    interrupt: &CancellationToken,
) -> Result<()> {
    let clusters = clusters(options, cluster_options)?;
    let all = async {
        for cluster in &clusters {
            cluster.start_all()?;
        }
        for cluster in &clusters {
            let leader = cluster.wait_ready(READY_WITHIN).await?;
            let name = if cluster.name().is_empty() { String::new() } else { format!("{}: ", cluster.name()) };
            say(&format!("{name}{} nodes are ready, node {leader} leads", options.nodes));
        }
        let (first, others) = clusters.split_first().context("there is a cluster")?;
        let scene = Arc::new(Scene {
            clients: Clients::new(first.clone()),
            recorder: Recorder::create(&folder.history())?,
            seed: options.seed,
            stop: CancellationToken::new(),
            cluster: first.clone(),
            others: others.to_vec(),
        });
        attack::attack(options, &scene, workload, nemeses).await?;
        scene.recorder.flush()
    };
    let result = tokio::select! {
        result = all => result,
        failure = machine_failure(&clusters) => Err(anyhow!(failure)),
        () = interrupt.cancelled() => Err(anyhow!("interrupted")),
    };
    // Once more: what happened at the very end makes the run as worthless as what happened before.
    let late = clusters.iter().find_map(|cluster| cluster.machine_failure());
    for cluster in clusters {
        released(cluster).await?;
    }
    result?;
    match late {
        Some(failure) => bail!(failure),
        None => Ok(()),
    }
}

/// The cluster; or those that federate, each with a folder, an authority and a seed of its own.
fn clusters(options: &RunOptions, one: ClusterOptions) -> Result<Vec<Arc<Cluster>>> {
    if options.workload != workload::FEDERATION {
        return Ok(vec![Arc::new(Cluster::create(one)?)]);
    }
    let wires = Arc::new(Wires::create(options.clusters, options.links, options.seed)?);
    let part = |number: u64, name: char| {
        let part = Part { name: name.to_string(), number, wires: wires.clone() };
        let dir = one.dir.join(&part.name);
        let seed = options.seed.wrapping_add(number);
        let own = workload::moving::settings(number);
        let given = one.settings.iter().filter(|(key, _)| own.iter().all(|(own, _)| own != key)).cloned();
        let settings = given.chain(own.map(|(key, value)| (key.to_owned(), value.to_owned()))).collect();
        Cluster::create(ClusterOptions { dir, seed, settings, part: Some(part), ..one.clone() }).map(Arc::new)
    };
    (1..=options.clusters).zip('a'..).map(|(number, name)| part(number, name)).collect()
}

/// Ends when the machine does something to the cluster that no nemesis ordered and tarn cannot answer for.
async fn machine_failure(clusters: &[Arc<Cluster>]) -> String {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Some(failure) = clusters.iter().find_map(|cluster| cluster.machine_failure()) {
            return failure;
        }
    }
}

/// Waits until nobody uses the cluster any more, and ends it.
async fn released(cluster: Arc<Cluster>) -> Result<()> {
    let end = Instant::now() + RELEASED_WITHIN;
    while Arc::strong_count(&cluster) > 1 {
        ensure!(Instant::now() < end, "something still uses the cluster {RELEASED_WITHIN:?} after its end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(cluster);
    Ok(())
}

/// A workload, or an error that lists them.
///
/// # Errors
/// If there is none of this name.
pub fn named_workload(name: &str) -> Result<Box<dyn Workload>> {
    workload::named(name).with_context(|| {
        let names: Vec<&str> = workload::names().iter().map(|(name, _)| *name).collect();
        format!("there is no workload {name:?}; there are {}", names.join(", "))
    })
}

fn named_nemeses(names: &[String]) -> Result<Vec<Box<dyn Nemesis>>> {
    let one = |name: &String| {
        nemesis::named(name).with_context(|| {
            let names: Vec<&str> = nemesis::names().iter().map(|(name, _)| *name).collect();
            format!("there is no nemesis {name:?}; there are none, all, {}", names.join(", "))
        })
    };
    names.iter().map(one).collect()
}

/// Whether a workload cannot be judged under a nemesis, because both change the same thing.
pub fn clash(workload: &str, nemesis: &str) -> bool {
    clash_reason(workload, nemesis).is_some()
}

fn clash_reason(workload: &str, nemesis: &str) -> Option<String> {
    let needs = nemesis::named(nemesis).map_or(&[][..], |nemesis| nemesis.needs());
    if workload == "membership" && nemesis == "disk-damage" {
        return Some(format!("{nemesis}: it replaces what the workload {workload} has added; take another workload for this nemesis"));
    }
    if workload != workload::FEDERATION && needs.contains(&Need::Federation) {
        return Some(format!("{nemesis}: there is one cluster only; take the workload {}", workload::FEDERATION));
    }
    None
}

/// The nemeses that `all` stands for on this machine, and why the others are left out. For no workload in particular where the
/// options name none.
pub fn all_nemeses(options: &RunOptions) -> (Vec<String>, Vec<String>) {
    let mut usable = Vec::new();
    let mut left_out = Vec::new();
    for nemesis in nemesis::mixed().iter().filter_map(|name| nemesis::named(name)) {
        match unmet(options, nemesis.as_ref()) {
            None => usable.push(nemesis.name().to_owned()),
            Some(reason) => left_out.push(reason),
        }
    }
    (usable, left_out)
}

/// Why a nemesis cannot be part of such a run on this machine; `None` if it can.
fn unmet(options: &RunOptions, nemesis: &dyn Nemesis) -> Option<String> {
    let name = nemesis.name();
    // A soak names no workload here: which nemeses each of them meets is decided later.
    if let Some(reason) = clash_reason(&options.workload, name).filter(|_| !options.workload.is_empty()) {
        return Some(reason);
    }
    if options.disk == Some(Disk::Plain) && nemesis.needs().contains(&Need::Disks) {
        return Some(format!("{name}: a plain disk (--disk plain) cannot be made to fail"));
    }
    let probe =
        ClusterOptions { tarn_next: options.tarn_next.clone(), nodes: options.nodes, ..ClusterOptions::new(&options.tarn, &options.out) };
    nemesis::unmet(nemesis, &probe)
}

/// The run's network. Links between clusters are made on loopback only.
fn network_of(options: &RunOptions) -> Result<Network> {
    if options.workload != workload::FEDERATION {
        return network_or_best(options.network);
    }
    ensure!(options.network != Some(Network::Namespaces), "--network namespaces: clusters that federate are on loopback");
    ensure!(options.clusters >= 2, "--clusters {}: a federation has at least two", options.clusters);
    Ok(Network::Loopback)
}

/// The network that was asked for, or the best that the machine allows.
pub(crate) fn network_or_best(wanted: Option<Network>) -> Result<Network> {
    match wanted {
        Some(Network::Namespaces) => {
            crate::cluster::net::namespaces_available().map_err(|reason| anyhow!("--network namespaces: {reason}"))?;
            Ok(Network::Namespaces)
        }
        Some(Network::Loopback) => Ok(Network::Loopback),
        None => {
            let (network, reason) = Network::best();
            if let Some(reason) = reason {
                say(&format!("network on loopback: {reason}"));
            }
            Ok(network)
        }
    }
}

/// What the nodes' data is on: what was asked for, or the failing file system where a nemesis needs it.
fn disk(options: &RunOptions, nemeses: &[Box<dyn Nemesis>]) -> Result<Disk> {
    if options.disk == Some(Disk::Fuse) {
        crate::disk::available().map_err(|reason| anyhow!("--disk fuse: {reason}"))?;
    }
    let needed = nemeses.iter().any(|nemesis| nemesis.needs().contains(&Need::Disks));
    Ok(options.disk.unwrap_or(if needed { Disk::Fuse } else { Disk::Plain }))
}

fn cluster_options(options: &RunOptions, nemeses: &[Box<dyn Nemesis>], network: Network, disk: Disk, folder: &Folder) -> ClusterOptions {
    let needed = |need| nemeses.iter().any(|nemesis| nemesis.needs().contains(&need));
    let own = SETTINGS
        .iter()
        .filter(|(key, _)| !options.settings.iter().any(|(given, _)| given == key))
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ClusterOptions {
        tarn_next: options.tarn_next.clone(),
        nodes: options.nodes,
        network,
        disk,
        clocks: if needed(Need::Clocks) { ClockFaults::Wall } else { ClockFaults::None },
        settings: own.chain(options.settings.iter().cloned()).collect(),
        seed: options.seed,
        ..ClusterOptions::new(&options.tarn, folder.cluster())
    }
}

/// What the binary says that it is.
fn version(options: &RunOptions) -> Result<String> {
    let version = std::process::Command::new(&options.tarn)
        .arg("--version")
        .output()
        .with_context(|| format!("{} cannot be run; build it with `cargo build -p tarn`", options.tarn.display()))?;
    Ok(String::from_utf8_lossy(&version.stdout).trim().to_owned())
}

fn setting(options: &RunOptions, cluster: &ClusterOptions, tarn: String) -> Result<Setting> {
    Ok(Setting {
        workload: options.workload.clone(),
        nemeses: options.nemeses.clone(),
        seed: options.seed,
        nodes: options.nodes,
        clusters: if options.workload == workload::FEDERATION { options.clusters } else { 1 },
        clients: options.clients,
        seconds: options.time.as_secs(),
        network: format!("{:?}", cluster.network).to_lowercase(),
        disk: format!("{:?}", cluster.disk).to_lowercase(),
        settings: cluster.settings.clone(),
        tarn,
        started: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
        command: options.command.clone(),
    })
}

fn folder_name(options: &RunOptions) -> Result<String> {
    let stamp = OffsetDateTime::now_utc().format(format_description!("[year][month][day]-[hour][minute][second]"))?;
    let nemeses = match options.nemeses.as_slice() {
        [] => "none".to_owned(),
        few if few.len() <= 3 => few.join("+"),
        _ => "mixed".to_owned(),
    };
    Ok(format!("{stamp}-{}-{nemeses}-{}", options.workload, options.seed))
}

/// Tells a person how far the run is.
pub fn say(text: &str) {
    eprintln!("{text}");
}

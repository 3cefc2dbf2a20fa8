//! Nodes are started, killed, paused, ended in good order, restarted and upgraded.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::keeper::Keeper;
use super::process::Process;
use super::{Cluster, Node, described, text};
use crate::disk::Slowness;

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may take to end after SIGTERM, its grace time for running attempts included.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Which of the two builds a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Build {
    /// `tarn`.
    Current,
    /// `tarn_next`.
    Next,
}

/// A node's process ended although nobody asked it to, or not as it was asked to: a crash, a node that stopped itself, a stop that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// The node.
    pub node: u64,
    /// How, in words: `exit code 70`, `signal 6`.
    pub how: String,
    /// Its exit code, if it ended with one.
    pub code: Option<i32>,
    /// The signal that ended it, if one did that was not sent here.
    pub signal: Option<i32>,
    /// The last lines of its log.
    pub log: String,
}

impl Cluster {
    /// Starts every node of the cluster that does not run.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start_all(&self) -> Result<Vec<u64>> {
        self.start_idle(&self.ids())
    }

    /// Starts those of these nodes that belong to the cluster, do not run and are not about to end, and returns them.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start_idle(&self, ids: &[u64]) -> Result<Vec<u64>> {
        self.reap();
        let idle = self.ids_of(|node| !node.removed && !node.leaving && node.process.is_none());
        let idle: Vec<u64> = idle.into_iter().filter(|id| ids.contains(id)).collect();
        let mut started = Vec::new();
        for id in idle {
            // Another fault's healing may have been faster.
            if self.launch(id, &[])? {
                started.push(id);
            }
        }
        Ok(started)
    }

    /// Starts one node.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start(&self, id: u64) -> Result<()> {
        self.start_with(id, &[])
    }

    /// Starts one node with these environment variables.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_with(&self, id: u64, environment: &[(&str, &str)]) -> Result<()> {
        self.reap();
        ensure!(self.launch(id, environment)?, "node {id} runs already");
        Ok(())
    }

    /// Starts one node, unless it runs or is about to end.
    fn launch(&self, id: u64, environment: &[(&str, &str)]) -> Result<bool> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(id))?;
        self.with(id, |node| {
            if node.process.is_some() || node.leaving {
                return Ok(false);
            }
            self.clocks.renew(id);
            let mut command = Keeper::command();
            if let Some(namespace) = &node.place.namespace {
                command.args(["nsenter", &format!("--net=/run/netns/{namespace}"), "--"]);
            }
            command
                .arg(self.binary(node.build)?)
                .args(["server", "--config", &text(&self.config(id))])
                .envs(self.clocks.environment(id)?)
                .envs(environment.iter().copied())
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            let child = self.keeper.spawn(command).with_context(|| format!("node {id} cannot be started"))?;
            node.process = Some(Process::new(child));
            Ok(true)
        })
    }

    fn binary(&self, build: Build) -> Result<&std::path::Path> {
        match build {
            Build::Current => Ok(&self.options.tarn),
            Build::Next => self.options.tarn_next.as_deref().context("there is no second build of tarn"),
        }
    }

    /// Ends nodes with SIGKILL, all at once, as a crash would, and returns those that ran.
    ///
    /// # Errors
    /// If a node does not exist or does not go.
    pub async fn kill(&self, ids: &[u64]) -> Result<Vec<u64>> {
        self.reap();
        let mut killed = BTreeMap::new();
        for id in ids {
            if let Some(leaving) = self.leave(*id, &[Signal::SIGKILL])? {
                killed.insert(*id, leaving);
            }
        }
        let ids = killed.keys().copied().collect();
        for leaving in killed.into_values() {
            leaving.killed().await?;
        }
        Ok(ids)
    }

    /// Sends a node's process these signals, which end it; `None` if it does not run.
    fn leave(&self, id: u64, signals: &[Signal]) -> Result<Option<Leaving<'_>>> {
        self.with(id, |node| {
            let Some(process) = &mut node.process else {
                return Ok(None);
            };
            signals.iter().try_for_each(|signal| process.signal(*signal))?;
            node.leaving = true;
            Ok(Some(Leaving { cluster: self, id, process: node.process.take() }))
        })
    }

    /// Stops nodes with SIGSTOP until they are resumed, and returns those that went on until now.
    ///
    /// # Errors
    /// If a node does not exist.
    pub fn pause(&self, ids: &[u64]) -> Result<Vec<u64>> {
        self.signal(ids, Signal::SIGSTOP, |process| !process.is_paused())
    }

    /// Lets paused nodes go on, and returns those that were paused.
    ///
    /// # Errors
    /// If a node does not exist.
    pub fn resume(&self, ids: &[u64]) -> Result<Vec<u64>> {
        self.signal(ids, Signal::SIGCONT, Process::is_paused)
    }

    fn signal(&self, ids: &[u64], signal: Signal, wanted: impl Fn(&Process) -> bool) -> Result<Vec<u64>> {
        self.reap();
        let mut signalled = Vec::new();
        for id in ids {
            self.with(*id, |node| {
                if let Some(process) = node.process.as_mut().filter(|process| wanted(process)) {
                    process.signal(signal)?;
                    signalled.push(*id);
                }
                Ok(())
            })?;
        }
        Ok(signalled)
    }

    /// Asks one node to end, with SIGTERM, and waits until it has. `None` if it does not run. One that does not end in time is killed, which is
    /// an [`Ending`]. A paused node is resumed, or it would not hear.
    ///
    /// # Errors
    /// If there is no such node, or it cannot be signalled.
    pub async fn terminate(&self, id: u64) -> Result<Option<ExitStatus>> {
        self.reap();
        match self.leave(id, &[Signal::SIGTERM, Signal::SIGCONT])? {
            None => Ok(None),
            Some(mut leaving) => {
                if let Some(status) = leaving.gone(STOP_WITHIN).await? {
                    if !status.success() {
                        self.note(id, format!("{} after SIGTERM", described(status)), Some(status));
                    }
                    return Ok(Some(status));
                }
                self.note(id, format!("killed, because it did not end within {STOP_WITHIN:?} after SIGTERM"), None);
                leaving.killed().await.map(Some)
            }
        }
    }

    /// Which build a node is started with.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn build(&self, id: u64) -> Result<Build> {
        self.with(id, |node| Ok(node.build))
    }

    /// Says which build a node is started with from now on.
    ///
    /// # Errors
    /// If there is no such node or build.
    pub fn set_build(&self, id: u64, build: Build) -> Result<()> {
        self.binary(build)?;
        self.with(id, |node| {
            node.build = build;
            Ok(())
        })
    }

    /// Ends one node in good order and starts it with this build. False, and nothing done, if it does not run.
    ///
    /// # Errors
    /// As [`Cluster::terminate`] and [`Cluster::start`].
    pub async fn restart_as(&self, id: u64, build: Build) -> Result<bool> {
        let before = self.build(id)?;
        // Set first: whoever else starts the node as soon as it has ended starts the right one.
        self.set_build(id, build)?;
        if self.terminate(id).await?.is_none() {
            self.set_build(id, before)?;
            return Ok(false);
        }
        self.start_idle(&[id])?;
        Ok(true)
    }

    /// The ids of the nodes that run, paused ones included.
    pub fn running(&self) -> Vec<u64> {
        self.reap();
        self.ids_of(|node| !node.removed && node.process.is_some())
    }

    /// The ids of the nodes that are paused.
    pub fn paused(&self) -> Vec<u64> {
        self.reap();
        self.ids_of(|node| node.process.as_ref().is_some_and(Process::is_paused))
    }

    /// The process id of a node that runs.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self, id: u64) -> Result<u32> {
        self.with(id, |node| {
            let process = node.process.as_ref().with_context(|| format!("node {id} does not run"))?;
            Ok(process.pid())
        })
    }

    /// How a node that should run has ended by itself, if it has: for those who make nodes end. It is struck out of [`Cluster::endings`],
    /// whoever noticed it first, and the node can be started again.
    pub fn ended(&self, id: u64) -> Option<Ending> {
        self.reap();
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        let found = endings.iter().position(|ending| ending.node == id)?;
        Some(endings.remove(found))
    }

    /// All nodes that have ended although nobody asked them to, since the cluster began.
    pub fn endings(&self) -> Vec<Ending> {
        self.reap();
        self.endings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Strikes out those unasked ends of a node that are `excused`: a nemesis that damages a disk expects its node to stop.
    pub fn forgive(&self, id: u64, excused: impl Fn(&Ending) -> bool) -> Vec<Ending> {
        self.reap();
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        endings.extract_if(.., |ending| ending.node == id && excused(ending)).collect()
    }

    /// Takes note of processes that have ended.
    fn reap(&self) {
        let ended: Vec<(u64, ExitStatus)> = {
            let mut nodes = self.nodes();
            let all = nodes.iter_mut();
            all.filter_map(|(id, node)| Some((*id, take_ended(node).ok().flatten()?))).collect()
        };
        for (node, status) in ended {
            self.note(node, described(status), Some(status));
        }
    }

    /// `status` is `None` where it was ended from here.
    fn note(&self, node: u64, how: String, status: Option<ExitStatus>) {
        tracing::info!(node, how, "a node ended as nobody asked it to");
        let log = self.log_end(node);
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        endings.push(Ending {
            node,
            how,
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            log,
        });
    }

    /// Takes back everything that was done to network, links to other clusters, processes, clocks and disks, except damage, and starts what
    /// does not run.
    ///
    /// # Errors
    /// If something could not be taken back; the rest was tried all the same.
    pub fn heal(&self) -> Result<()> {
        let healed = self.net.heal();
        if let Some(part) = self.part() {
            part.wires.heal();
        }
        let right = self.clocks.reset();
        for disk in self.nodes().values().filter_map(|node| node.disk.as_ref()) {
            disk.fill(false);
            disk.io_errors(None);
            disk.slow(Slowness::default());
        }
        let resumed = self.resume(&self.all_ids());
        let started = self.start_all();
        healed.and(right).and(resumed.map(drop)).and(started.map(drop))
    }
}

/// A node's process on its way out. Until it is gone nobody starts the node again: two processes must not share a data directory.
struct Leaving<'a> {
    cluster: &'a Cluster,
    id: u64,
    process: Option<Process>,
}

impl Leaving<'_> {
    /// Waits for its end; `None` if it has not ended when the time is up.
    async fn gone(&mut self, within: Duration) -> Result<Option<ExitStatus>> {
        self.process()?.wait(within).await
    }

    /// Kills it, if it was not, and waits for its end.
    async fn killed(mut self) -> Result<ExitStatus> {
        let id = self.id;
        self.process()?.signal(Signal::SIGKILL)?;
        let ended = self.gone(GONE_WITHIN).await?;
        ended.with_context(|| format!("node {id} is not gone {GONE_WITHIN:?} after SIGKILL"))
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("a process that leaves is held until it is gone")
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // If nobody waited for its end, it is killed here.
        self.process = None;
        if let Some(node) = self.cluster.nodes().get_mut(&self.id) {
            node.leaving = false;
        }
    }
}

/// The end of a node's process, if it has ended.
fn take_ended(node: &mut Node) -> Result<Option<ExitStatus>> {
    let Some(process) = &mut node.process else {
        return Ok(None);
    };
    let status = process.ended()?;
    if status.is_some() {
        node.process = None;
    }
    Ok(status)
}

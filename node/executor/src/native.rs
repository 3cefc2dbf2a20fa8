//! The `native` runtime: a program of the machine's own kind, as a process behind walls.
//!
//! ```text
//! run ─► program as a file ─► slot (and its user) ─► control group ─► launcher ─► namespaces, file system, user, landlock, seccomp ─► program
//!                                                        node's side ◄── control ── how it ended
//! ```
//!
//! The artifact is a program for this machine, or a script that begins with `#!` and the path of an interpreter that the machine has. It
//! gets arguments, environment and standard input, and is killed as a whole when its time is over: whatever it has started ends
//! with it.
//!
//! A machine may be unable to put up some of the walls (an old kernel, a container, a node without root). Which it can is tried when the
//! executor starts; [`Walls`] says it, the worker's labels (`native.network=yes`, `native.cgroup=v2`, …) say it to tasks that require one, and
//! [`NativeExecutor::new`] refuses to start behind incomplete walls unless that is allowed.
//!
//! What a process can still do: read the system's programs and libraries, learn the machine's kernel and processors, use processor time
//! (at a lower priority than the node), and attack the kernel through the system calls of [the list](syscalls). Where that is too
//! much, the `microvm` runtime is the answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::limits::{LOG_BYTES_MAX, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, TIME_MS_MAX};
use crate::slots::Slots;
use crate::{Attempt, Capabilities, Command, ExecutionError, Executor, Failure, Hash, Kind, Limits, Report, Source};

mod cgroup;
mod confine;
mod init;
mod launcher;
mod network;
mod orders;
mod programs;
mod root;
mod run;
mod syscalls;
mod transform;
mod walls;

pub use walls::Walls;

use cgroup::Cgroups;
use programs::Programs;
use run::Job;

/// The most slots that one executor may have: each has a user of its own.
pub const SLOTS_MAX: usize = 256;

/// The first of the users that attempts become, one for each slot, unless the configuration names another. Above what systems and
/// container runtimes give out (up to 1,879,048,191 by systemd's conventions), below what is negative as a signed number.
pub const USER_BASE: u32 = 1_900_000_000;

/// How many processes and threads an attempt may have, where nothing else is said: enough for a build or a pool of workers.
pub const PROCESSES_DEFAULT: u64 = 256;

/// How a [`NativeExecutor`] is set up.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// How many attempts run at once, from 1 to [`SLOTS_MAX`].
    pub slots: usize,
    /// A folder of the executor's own, for programs. What is in it is removed on start.
    pub dir: PathBuf,
    /// The command that becomes a child of the executor: this node's own binary, with the arguments on which it calls [`child_main`] with
    /// those that follow them.
    pub child: (PathBuf, Vec<String>),
    /// The first user id that attempts may become; one more for each slot. Of use to root alone.
    pub user_base: u32,
    /// Folders and files that every attempt may read besides the system's.
    pub readable: Vec<PathBuf>,
    /// Whether to start although some walls cannot be put up.
    pub allow_incomplete_walls: bool,
}

/// What the binary named by [`NativeConfig::child`] does when it is started in one of its roles, before it makes any thread. `None` if the
/// role is none of this executor's.
///
/// # Errors
/// The node is gone, or the arguments are not those that the executor gives.
pub fn child_main(role: &str, args: impl Iterator<Item = String>) -> Option<std::io::Result<()>> {
    match role {
        launcher::ROLE => Some(launcher::main()),
        transform::ROLE => Some(transform::main(args)),
        _ => None,
    }
}

/// Runs processes. Dropping it ends those that run.
pub struct NativeExecutor {
    shared: Arc<Shared>,
}

struct Shared {
    config: NativeConfig,
    walls: Walls,
    cgroups: Option<Cgroups>,
    programs: Programs,
    mount_point: PathBuf,
    slots: Slots,
    /// The numbers of the free slots: no two attempts at a time have the same user.
    free: Mutex<Vec<u32>>,
}

impl NativeExecutor {
    /// Tries which walls the machine can put up, and makes ready to run.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] for a bad number of slots; [`ExecutionError::WallsIncomplete`];
    /// [`ExecutionError::Broken`] when the folder or the launcher cannot be used.
    pub async fn new(config: NativeConfig) -> Result<Self, ExecutionError> {
        let slots = Slots::new(config.slots, SLOTS_MAX)?;
        let cgroups = Cgroups::open();
        let mut walls = run::probe(&config.child).await.map_err(ExecutionError::broken)?;
        walls.cgroup = cgroups.as_ref().map_or(0, Cgroups::version);
        if !walls.are_complete() && !config.allow_incomplete_walls {
            return Err(ExecutionError::WallsIncomplete { missing: walls.missing() });
        }
        let programs = Programs::open(&config.dir.join("programs")).map_err(ExecutionError::broken)?;
        let mount_point = config.dir.join("root");
        std::fs::create_dir_all(&mount_point).map_err(ExecutionError::broken)?;
        let numbers = u32::try_from(config.slots).expect("the number of slots was checked");
        Ok(Self {
            shared: Arc::new(Shared { slots, free: Mutex::new((0..numbers).collect()), config, walls, cgroups, programs, mount_point }),
        })
    }

    /// What stands between attempts and the machine.
    #[must_use]
    pub fn walls(&self) -> Walls {
        self.shared.walls
    }
}

impl Shared {
    async fn make_ready(&self, attempt: Attempt) -> Result<Job, ExecutionError> {
        attempt.limits.check()?;
        attempt.grants.check_offered("native", &["clock", "random", "scratch", "network"])?;
        if attempt.limits.fuel.is_some() {
            return Err(ExecutionError::bad_arguments("a process cannot be metered in fuel: leave that limit out"));
        }
        let (program, command, transforms) = match attempt.kind {
            Kind::Transform(call) => {
                tarn_transform::find(&call.name)
                    .map_err(|error| ExecutionError::Transform { reason: error.reason(), message: error.to_string() })?;
                let (own, prefix) = &self.config.child;
                let command = transform::command(call, prefix, attempt.limits.memory_bytes);
                (self.programs.own(own).await?, command, true)
            }
            other => {
                let command = command(other)?;
                let program = self.programs.program(&attempt.artifact, attempt.source).await?;
                (program, command, false)
            }
        };
        Ok(Job {
            program,
            command,
            transforms,
            limits: attempt.limits,
            network: attempt.grants.network,
            scratch_bytes: match attempt.grants.scratch_bytes {
                0 => run::SCRATCH_BYTES_DEFAULT,
                bytes => bytes,
            },
        })
    }

    /// Waits for a slot and runs in it.
    async fn run_in_slot(&self, job: Job, cancel: &CancellationToken, called: Instant) -> Result<Report, Failure> {
        let _slot = self.slots.take(cancel).await?;
        let number = self.lock_free().pop().expect("there are as many numbers as permits");
        let _number = Number { shared: self, number };
        let waited = called.elapsed();
        let mut ended = run::run(self, job, number, cancel).await;
        match &mut ended {
            Ok(report) => report.usage.waited = waited,
            Err(failure) => failure.usage.waited = waited,
        }
        ended
    }

    fn lock_free(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a slot, given back at the end.
struct Number<'a> {
    shared: &'a Shared,
    number: u32,
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.shared.lock_free().push(self.number);
    }
}

fn command(kind: Kind) -> Result<Command, ExecutionError> {
    let Kind::Command(command) = kind else {
        return Err(kind.unsupported("native"));
    };
    command.check()?;
    Ok(command)
}

#[async_trait]
impl Executor for NativeExecutor {
    fn runtime(&self) -> &'static str {
        "native"
    }

    fn capabilities(&self) -> Capabilities {
        let mut labels: BTreeMap<String, String> = self.shared.walls.labels();
        labels.insert("native.arch".into(), std::env::consts::ARCH.into());
        Capabilities {
            runtime: self.runtime(),
            slots: self.shared.slots.number(),
            limits_max: Limits {
                memory_bytes: MEMORY_BYTES_MAX,
                time_ms: TIME_MS_MAX,
                output_bytes: OUTPUT_BYTES_MAX,
                log_bytes: LOG_BYTES_MAX,
                fuel: None,
            },
            labels,
        }
    }

    async fn prepare(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        self.shared.programs.program(hash, Source::Bytes(bytes)).await.map(drop)
    }

    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let called = Instant::now();
        // A token of our own: when this future is dropped, the process ends although nobody cancelled.
        let cancel = cancel.child_token();
        let _stop_when_dropped = cancel.clone().drop_guard();
        let shared = Arc::clone(&self.shared);
        // In a task of its own, which sees the end of the process whoever has stopped waiting for it.
        let running = tokio::spawn(async move {
            let _admitted = shared.slots.admit()?;
            let job = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ExecutionError::Cancelled.into()),
                job = shared.make_ready(attempt) => job?,
            };
            shared.run_in_slot(job, &cancel, called).await
        });
        running.await.map_err(ExecutionError::broken)?
    }
}

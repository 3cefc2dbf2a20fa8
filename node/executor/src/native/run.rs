//! The node's side of one attempt: starts the launcher, feeds and drains the program, ends it when its time is over, and says how it
//! ended.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin};
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroup;
use super::launcher::{CONTROL, PROBE, ROLE};
use super::orders::{Ended, Ending, Orders};
use super::programs::Program;
use super::{PROCESSES_DEFAULT, Shared, Walls, root, transform};
use crate::output::Bounded;
use crate::{Command, ExecutionError, Failure, Limits, Report, Usage};

/// Open files of each process.
const OPEN_FILES: u64 = 1_024;

/// What the files of an attempt may have together, in bytes. They lie in memory and count as such.
pub(super) const SCRATCH_BYTES_DEFAULT: u64 = 64 << 20;

/// What a launcher and the first process behind the walls use themselves, in bytes, so that the whole limit is the program's.
const OVERHEAD_BYTES: u64 = 8 << 20;

/// Where no control group counts memory, the room that each process's address space has besides, for code and libraries.
const ADDRESS_OVERHEAD_BYTES: u64 = 256 << 20;

/// A launcher that does not end within this long after it was told to has met a fault of the system's, and is killed.
const ENDING: Duration = Duration::from_secs(10);

/// Everything that an attempt needs to run.
pub(super) struct Job {
    pub(super) program: Arc<Program>,
    pub(super) command: Command,
    /// Whether it is a built-in transform.
    pub(super) transforms: bool,
    pub(super) limits: Limits,
    pub(super) network: bool,
    /// What its files may have together.
    pub(super) scratch_bytes: u64,
}

/// Who ended it, if it did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    TimeOver,
    OutputFull,
}

/// Runs an attempt to its end.
pub(super) async fn run(shared: &Shared, job: Job, slot: u32, cancel: &CancellationToken) -> Result<Report, Failure> {
    let orders = orders(shared, &job, slot)?;
    let group = group(shared, &job.limits)?;
    let mut launched = Launched::start(&shared.config.child, &orders, group.as_ref()).await.map_err(ExecutionError::broken)?;
    let began = Instant::now();
    let ended = launched.attend(&job, cancel).await;
    let usage = |ended: Option<&Ended>| Usage {
        ran: began.elapsed(),
        memory_bytes_peak: group
            .as_ref()
            .and_then(Cgroup::memory_bytes_peak)
            .or_else(|| ended.map(|ended| ended.resident_bytes_peak))
            .unwrap_or_default(),
        ..Usage::default()
    };
    let Attended { stop, ended, output, logs } = ended;
    let usage = usage(ended.as_ref().ok());
    let out_of_memory = group.as_ref().is_some_and(Cgroup::ran_out_of_memory);
    let logs = logs.logs();
    let result = verdict(stop, ended, output.overflowed(), out_of_memory, &job.limits);
    match result {
        Ok(()) => Ok(Report { output: output.output(), values: Vec::new(), logs, usage }),
        Err(error) => {
            let error = if job.transforms { transform::explain(error, &logs) } else { error };
            Err(Failure { error, logs, usage })
        }
    }
}

/// Says how it ended: whoever stopped it knows best, then the kernel's count of memory, then the process itself.
fn verdict(
    stop: Option<Stop>,
    ended: io::Result<Ended>,
    overflowed: bool,
    out_of_memory: bool,
    limits: &Limits,
) -> Result<(), ExecutionError> {
    let time_over = ExecutionError::TimeLimit { limit_ms: limits.time_ms };
    match stop {
        Some(Stop::Cancelled) => return Err(ExecutionError::Cancelled),
        Some(Stop::TimeOver) => return Err(time_over),
        Some(Stop::OutputFull) | None => {}
    }
    if overflowed {
        return Err(ExecutionError::OutputLimit { limit_bytes: limits.output_bytes });
    }
    if out_of_memory {
        // The kernel says that it was too much, not how much it was.
        return Err(ExecutionError::MemoryLimit { wanted_bytes: None, limit_bytes: limits.memory_bytes });
    }
    match ended.map_err(ExecutionError::broken)?.ending {
        Ending::Exited(0) => Ok(()),
        Ending::Exited(status) => Err(ExecutionError::ExitNonzero { status }),
        Ending::Signalled(libc::SIGKILL) => Err(ExecutionError::Killed),
        Ending::Signalled(libc::SIGXCPU) => Err(time_over),
        Ending::Signalled(signal) => Err(ExecutionError::Crash { signal: signal_name(signal) }),
        Ending::NotAProgram(detail) => Err(ExecutionError::InvalidProgram { detail }),
        Ending::Unwalled { step, error } => Err(ExecutionError::broken(format!("cannot {step}: {error}"))),
    }
}

fn signal_name(signal: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(signal);
    known.map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned())
}

fn group(shared: &Shared, limits: &Limits) -> Result<Option<Cgroup>, ExecutionError> {
    let create = |groups: &super::Cgroups| {
        // The launcher and the first process count too.
        let made = groups.create(limits.memory_bytes + OVERHEAD_BYTES, PROCESSES_DEFAULT + 2);
        made.map_err(|error| ExecutionError::broken(format!("cannot make a control group: {error}")))
    };
    shared.cgroups.as_ref().map(create).transpose()
}

fn orders(shared: &Shared, job: &Job, slot: u32) -> Result<Orders, ExecutionError> {
    let walls = shared.walls;
    let counted = walls.cgroup != 0;
    let home = if walls.files { root::HOME } else { "." };
    let mut env: std::collections::BTreeMap<String, String> =
        [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", home), ("TMPDIR", home), ("LANG", "C.UTF-8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    env.extend(job.command.env.clone());
    let scratch_dir = if walls.files { None } else { Some(scratch(shared, slot)?) };
    Ok(Orders {
        program: job.program.path.clone(),
        args: job.command.args.clone(),
        env,
        mount_point: shared.mount_point.clone(),
        readable: shared.config.readable.clone(),
        user: walls.own_user.then(|| shared.config.user_base + slot),
        walls,
        network: job.network,
        scratch_bytes: job.scratch_bytes,
        scratch_dir,
        address_bytes: (!counted).then_some(job.limits.memory_bytes + ADDRESS_OVERHEAD_BYTES),
        open_files: OPEN_FILES,
        processes: (!counted && walls.own_user).then_some(PROCESSES_DEFAULT),
        cpu_s: job.limits.time_ms.div_ceil(1_000) * PROCESSES_DEFAULT,
    })
}

/// An empty folder of the slot's own, where the process gets no file system of its own.
fn scratch(shared: &Shared, slot: u32) -> Result<PathBuf, ExecutionError> {
    let dir = shared.config.dir.join(format!("scratch-{slot}"));
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ExecutionError::broken(error)),
        _ => {}
    }
    std::fs::create_dir_all(&dir).map_err(ExecutionError::broken)?;
    if shared.walls.own_user {
        let user = shared.config.user_base + slot;
        std::os::unix::fs::chown(&dir, Some(user), Some(user)).map_err(ExecutionError::broken)?;
    }
    Ok(dir)
}

/// A launcher that was started.
struct Launched {
    launcher: Child,
    control: UnixStream,
}

/// What came of it.
struct Attended {
    stop: Option<Stop>,
    ended: io::Result<Ended>,
    output: Bounded,
    logs: Bounded,
}

impl Launched {
    async fn start(command: &(PathBuf, Vec<String>), orders: &Orders, group: Option<&Cgroup>) -> io::Result<Self> {
        let mut started = spawn(command)?;
        let process = started.launcher.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        // It waits for its orders, so it is in the group before it does anything.
        if let Some(group) = group {
            group.add(process)?;
        }
        let mut line = serde_json::to_string(orders)?;
        line.push('\n');
        started.control.write_all(line.as_bytes()).await?;
        Ok(started)
    }

    /// Sees the attempt through to its end.
    async fn attend(&mut self, job: &Job, cancel: &CancellationToken) -> Attended {
        let launcher = &mut self.launcher;
        let (stdin, stdout, stderr) = (launcher.stdin.take(), launcher.stdout.take(), launcher.stderr.take());
        let (mut output, mut logs) = (Bounded::new(job.limits.output_bytes), Bounded::new(job.limits.log_bytes));
        let (full, over) = (CancellationToken::new(), CancellationToken::new());
        let streams = async {
            tokio::join!(feed(stdin, job.command.input.clone()), drain(stdout, &mut output, Some(&full)), drain(stderr, &mut logs, None),)
        };
        // What was written is read to its end, but for nobody's sake for ever.
        let late = async {
            over.cancelled().await;
            tokio::time::sleep(ENDING).await;
        };
        let streams = async {
            tokio::select! {
                _ = streams => (),
                () = late => (),
            }
        };
        let (reading, mut writing) = self.control.split();
        let ending = async {
            let mut said = BufReader::new(reading);
            let mut line = String::new();
            let time = tokio::time::sleep(Duration::from_millis(job.limits.time_ms));
            let stop = tokio::select! {
                biased;
                () = cancel.cancelled() => Some(Stop::Cancelled),
                _ = said.read_line(&mut line) => None,
                () = full.cancelled() => Some(Stop::OutputFull),
                () = time => Some(Stop::TimeOver),
            };
            if stop.is_some() {
                // To hang up is to ask for the end. The launcher still tells what was used.
                let _ = writing.shutdown().await;
                let _ = tokio::time::timeout(ENDING, said.read_line(&mut line)).await;
            }
            over.cancel();
            (stop, line)
        };
        // The program may neither read its input nor close its output; both end with it.
        let ((stop, line), ()) = tokio::join!(ending, streams);
        let ended = serde_json::from_str(&line).map_err(|_| io::Error::other("the launcher ended without a word"));
        if tokio::time::timeout(ENDING, self.launcher.wait()).await.is_err() {
            let _ = self.launcher.kill().await;
        }
        Attended { stop, ended, output, logs }
    }
}

/// Writes the input and closes it. A program that does not read it, or not to the end, may.
async fn feed(stdin: Option<ChildStdin>, input: Bytes) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&input).await;
    }
}

/// Reads until nobody can write any more. What does not fit is dropped, and told.
async fn drain(from: Option<impl AsyncRead + Unpin>, into: &mut Bounded, full: Option<&CancellationToken>) {
    let Some(mut from) = from else {
        return;
    };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let fits = into.append(&buffer[..read]);
        if let Some(full) = full
            && !fits
        {
            full.cancel();
        }
    }
}

/// Starts a launcher, which waits for orders on its control connection.
fn spawn((program, args): &(PathBuf, Vec<String>)) -> io::Result<Launched> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new(program);
    command.args(args).arg(ROLE).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let fd = theirs.as_raw_fd();
    // SAFETY: between fork and exec this makes two system calls on a descriptor that is open in the parent until after, and
    // allocates nothing.
    unsafe {
        command.pre_exec(move || {
            let done = if fd == CONTROL { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, CONTROL) };
            if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    let launcher = command.spawn()?;
    drop(theirs);
    Ok(Launched { launcher, control: UnixStream::from_std(ours)? })
}

/// Asks a launcher which walls this machine can put up.
pub(super) async fn probe(command: &(PathBuf, Vec<String>)) -> io::Result<Walls> {
    let Launched { mut launcher, mut control } = spawn(command)?;
    control.write_all(format!("{PROBE}\n").as_bytes()).await?;
    let mut line = String::new();
    let mut said = BufReader::new(control);
    tokio::time::timeout(ENDING, said.read_line(&mut line)).await??;
    launcher.wait().await?;
    serde_json::from_str(&line)
        .map_err(|_| io::Error::other("the launcher did not say which walls it can put up: is it this program's binary?"))
}

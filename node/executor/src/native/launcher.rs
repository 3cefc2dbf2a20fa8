//! The launcher: a process of tarn's own between the node and the program, which puts up the walls, starts the program behind them, and
//! says how it ended.
//!
//! ```text
//!   node ──control──► launcher ──► first process of the namespace ──► the program
//!         orders, end              file system; reaps orphans          user, landlock, seccomp, exec
//! ```
//!
//! It runs in the node's binary, started anew, before anything else: one thread, so that it may fork. When the control connection
//! closes, because the node wants the attempt to end or has itself ended, the namespace's first process is killed, and the kernel ends
//! all that is in it.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getpid, setsid};

use super::confine::landlock_version;
use super::init;
use super::orders::{Ended, Ending, Orders};
use super::walls::Walls;

/// The role of a launcher.
pub(super) const ROLE: &str = "native";

/// The connection to the node, in a launcher.
pub(super) const CONTROL: i32 = 3;

/// A step on the way that failed, and why.
pub(super) struct Step(pub &'static str, pub String);

/// Names the step in which an error happened.
pub(super) fn step<E: ToString>(name: &'static str) -> impl FnOnce(E) -> Step {
    move |error| Step(name, error.to_string())
}

/// What a launcher does. Returns when all is over and told.
///
/// # Errors
/// The node is gone, or said something that is no order.
pub(super) fn main() -> io::Result<()> {
    // SAFETY: whoever starts a launcher hands it the connection under this number, and nothing else in this process knows of it.
    let mut control = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CONTROL) });
    let mut orders = String::new();
    BufReader::new(&control).read_line(&mut orders)?;
    if orders.trim() == PROBE {
        return answer(&mut control, &probe());
    }
    let orders: Orders = serde_json::from_str(&orders)?;
    let ending = launch(&orders, &control).unwrap_or_else(|Step(step, error)| Ending::Unwalled { step: step.to_owned(), error });
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let ended = Ended {
        ending,
        resident_bytes_peak: u64::try_from(usage.max_rss()).unwrap_or(0) << 10,
        cpu_us: u64::try_from(us(usage.user_time()) + us(usage.system_time())).unwrap_or(0),
    };
    answer(&mut control, &ended)
}

/// The order to say which walls this machine can put up.
pub(super) const PROBE: &str = "probe";

fn answer(control: &mut UnixStream, what: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    control.write_all(line.as_bytes())
}

/// Starts the program and waits for its end.
fn launch(orders: &Orders, control: &UnixStream) -> Result<Ending, Step> {
    setsid().map_err(step("start a session"))?;
    // Should the launcher die of something, its children end too.
    set_child_subreaper(true).map_err(step("adopt orphans"))?;
    // SAFETY: it changes a number of this process's own. The node must stay quick whatever its tasks do.
    unsafe { libc::nice(10) };
    // Behind the walls there may be none.
    let proc = File::open("/proc").map_err(step("open /proc"))?;
    separate(&orders.walls, orders.network)?;
    let own = getpid();
    let (said, says) = io::pipe().map_err(step("make a pipe"))?;
    // SAFETY: this process has one thread, so the child may do what it likes.
    let first = match unsafe { fork() }.map_err(step("fork"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(said);
            // Its parent's connection to the node is none of its business.
            // SAFETY: the number is the launcher's own, and nothing in this child uses it.
            unsafe { libc::close(CONTROL) };
            init::main(orders, own, proc, says)
        }
    };
    drop(says);
    wait_for(first, control)?;
    // Where there is no namespace that took everything along.
    kill_children(&proc);
    heard(said)
}

/// Waits for the first process, or kills it when the node hangs up.
fn wait_for(first: Pid, control: &UnixStream) -> Result<(), Step> {
    let handle = pidfd(first).map_err(step("watch a process"))?;
    loop {
        let mut watched = [PollFd::new(handle.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            other => other.map_err(step("wait"))?,
        };
        if watched[0].any() == Some(true) {
            break;
        }
        // The node says nothing after its orders: whatever comes is its end, or the wish that this ends.
        kill(first, Signal::SIGKILL).map_err(step("kill"))?;
        break;
    }
    // In a namespace of its own this returns when everything in it is gone.
    waitpid(first, None).map(drop).map_err(step("wait"))
}

fn pidfd(process: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and returns a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the descriptor was just opened and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a file of the machine's `/proc`, wherever this process has its root by now.
pub(super) fn open_in(proc: &File, path: &str, how: OFlag) -> io::Result<File> {
    Ok(openat(proc, path, how | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

/// Kills whatever is left below this process, which adopts all orphans, until nothing is.
fn kill_children(proc: &File) {
    loop {
        let mut children = String::new();
        // Without the list it can only wait for them.
        let _ = open_in(proc, "thread-self/children", OFlag::O_RDONLY).and_then(|mut list| list.read_to_string(&mut children));
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        match waitpid(None, None) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// How the processes behind the walls say it ended. They say nothing when they were killed.
fn heard(mut said: PipeReader) -> Result<Ending, Step> {
    let mut text = String::new();
    said.read_to_string(&mut text).map_err(step("read the ending"))?;
    let killed = Ending::Signalled(libc::SIGKILL);
    // Who fails to become the program says so first, and its parent that it exited.
    let Some(first) = text.lines().next() else {
        return Ok(killed);
    };
    serde_json::from_str(first).map_err(step("read the ending"))
}

/// Leaves the machine's namespaces behind, as far as the walls say.
pub(super) fn separate(walls: &Walls, network: bool) -> Result<(), Step> {
    if walls.user_namespace {
        let (user, group) = (Uid::current(), Gid::current());
        unshare(CloneFlags::CLONE_NEWUSER).map_err(step("make a user namespace"))?;
        let map = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
        map("setgroups", "deny".into()).map_err(step("map users"))?;
        map("uid_map", format!("0 {user} 1")).map_err(step("map users"))?;
        map("gid_map", format!("0 {group} 1")).map_err(step("map users"))?;
    }
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWPID, walls.processes);
    flags.set(CloneFlags::CLONE_NEWNS, walls.files);
    flags.set(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS, walls.processes);
    flags.set(CloneFlags::CLONE_NEWNET, walls.network && !network);
    unshare(flags).map_err(step("make namespaces"))
}

/// Tries each wall in a process of its own, so that one that fails spoils nothing.
fn probe() -> Walls {
    let root = Uid::effective().is_root();
    let with = |change: fn(&mut Walls)| {
        let mut walls = Walls { user_namespace: !root, ..Walls::default() };
        change(&mut walls);
        works(move || separate(&walls, false).is_ok())
    };
    let user_namespace = !root && with(|_| ());
    let filters = || super::confine::filter(true).is_ok() && super::confine::no_clone3().is_ok();
    Walls {
        user_namespace,
        own_user: root && works(|| super::confine::become_user(PROBE_USER).is_ok()),
        processes: with(|walls| walls.processes = true),
        files: with(|walls| walls.files = true),
        network: with(|walls| walls.network = true),
        system_calls: works(move || filters() && seccomp_works()),
        landlock: landlock_version(),
        cgroup: 0,
    }
}

/// Nobody, on most systems.
const PROBE_USER: u32 = 65_534;

fn seccomp_works() -> bool {
    let (Ok(first), Ok(second)) = (super::confine::no_clone3(), super::confine::filter(false)) else {
        return false;
    };
    super::confine::no_new_privileges().is_ok() && super::confine::restrict_system_calls(&[first, second]).is_ok()
}

/// Whether `trial` is true in a child of this process.
fn works(trial: impl FnOnce() -> bool) -> bool {
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            let status = if trial() { 0 } else { 1 };
            // SAFETY: ends this process at once; there is nothing in it to be tidied up.
            unsafe { libc::_exit(status) }
        }
        Ok(ForkResult::Parent { child }) => {
            matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
        }
        Err(_) => false,
    }
}

/// A process ends when its parent does, also when that happened already.
pub(super) fn end_with(parent: Pid) -> Result<(), Step> {
    set_pdeathsig(Signal::SIGKILL).map_err(step("end with the parent"))?;
    let now = nix::unistd::getppid();
    // In a namespace of its own the parent is outside, and shows as none.
    if now != parent && now.as_raw() != 0 {
        return Err(Step("end with the parent", "it has ended".into()));
    }
    Ok(())
}

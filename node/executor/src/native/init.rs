//! The first process behind the walls, and how it starts the program and waits for it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeWriter, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{ForkResult, Pid, execve, fork, getpid};
use seccompiler::BpfProgram;

use super::confine;
use super::launcher::{Step, end_with, open_in, step};
use super::network;
use super::orders::{Ending, Orders};
use super::root;

/// Starts the program, reaps every orphan until the program itself has ended, says how, and ends. The kernel then ends all that the
/// program left running.
pub(super) fn main(orders: &Orders, launcher: Pid, proc: File, says: PipeWriter) -> ! {
    // Should the launcher be killed, nobody else would end what is behind the walls.
    let ending = end_with(launcher).and_then(|()| begin(orders, proc, &says)).map(wait_for).unwrap_or_else(|failed| Some(unwalled(failed)));
    if let Some(ending) = ending {
        say(&says, &ending);
    }
    // SAFETY: ends this process at once; there is nothing in it to be tidied up.
    unsafe { libc::_exit(0) }
}

fn unwalled(Step(step, error): Step) -> Ending {
    Ending::Unwalled { step: step.to_owned(), error }
}

fn say(mut says: &PipeWriter, ending: &Ending) {
    if let Ok(mut line) = serde_json::to_string(ending) {
        line.push('\n');
        // Nobody hears it when the launcher is gone; then nobody needs to.
        let _ = says.write_all(line.as_bytes());
    }
}

/// Puts up the walls that stand around all processes of the attempt, and forks the one that becomes the program. Then it lets
/// go of the machine's `/proc`.
fn begin(orders: &Orders, proc: File, says: &PipeWriter) -> Result<Pid, Step> {
    if orders.walls.network && !orders.network {
        network::raise_loopback().map_err(step("raise the loopback device"))?;
    }
    if orders.walls.files {
        root::enter(orders).map_err(step("lay out the file system"))?;
    } else if let Some(dir) = &orders.scratch_dir {
        std::env::set_current_dir(dir).map_err(step("enter the scratch directory"))?;
    }
    // Compiled here, where memory can still be had.
    let filters = filters(orders)?;
    let parent = getpid();
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { fork() }.map_err(step("fork"))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let ending = become_program(orders, &filters, &proc, parent);
            say(says, &ending);
            // SAFETY: ends this process at once; there is nothing in it to be tidied up.
            unsafe { libc::_exit(127) }
        }
    }
}

fn filters(orders: &Orders) -> Result<Vec<BpfProgram>, Step> {
    if !orders.walls.system_calls {
        return Ok(Vec::new());
    }
    let name = "compile the filter of system calls";
    Ok(vec![confine::no_clone3().map_err(step(name))?, confine::filter(orders.network || orders.walls.network).map_err(step(name))?])
}

/// Puts up the walls around this one process and becomes the program. Returns only if that fails.
fn become_program(orders: &Orders, filters: &[BpfProgram], proc: &File, parent: Pid) -> Ending {
    let file = if orders.walls.files { Path::new(root::PROGRAM) } else { &orders.program };
    match confined(orders, filters, proc, parent).and_then(|()| command_line(orders, file)) {
        Err(failed) => unwalled(failed),
        Ok((path, args, env)) => {
            let failed = start(&path, &args, &env);
            match failed {
                nix::Error::ETXTBSY
                | nix::Error::EAGAIN
                | nix::Error::ENOMEM
                | nix::Error::EMFILE
                | nix::Error::ENFILE
                | nix::Error::EIO => unwalled(Step("start the program", failed.to_string())),
                // A missing interpreter, another machine's program, no program at all.
                nix::Error::ENOENT => Ending::NotAProgram("its interpreter does not exist on this machine".into()),
                other => Ending::NotAProgram(other.desc().to_owned()),
            }
        }
    }
}

/// `execve`, which returns only if it fails. A file that somebody holds open for writing cannot be started; a process of the node that was
/// forked while the file was being written does so for the moment until it is another program.
fn start(path: &CString, args: &[CString], env: &[CString]) -> nix::Error {
    for _ in 0..BUSY_TRIES {
        match execve(path, args, env) {
            Err(nix::Error::ETXTBSY) => std::thread::sleep(BUSY_PAUSE),
            Err(other) => return other,
        }
    }
    nix::Error::ETXTBSY
}

const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

fn confined(orders: &Orders, filters: &[BpfProgram], proc: &File, parent: Pid) -> Result<(), Step> {
    close_all_but_standard().map_err(step("close what is open"))?;
    offer_itself(proc).map_err(step("offer itself where memory is short"))?;
    confine::limit(orders).map_err(step("limit resources"))?;
    confine::empty_bounding_set().map_err(step("give up rights"))?;
    if let Some(user) = orders.user {
        confine::become_user(user).map_err(step("become the task's user"))?;
    }
    // After the change of user, which would undo it.
    end_with(parent)?;
    confine::drop_capabilities().map_err(step("give up rights"))?;
    confine::no_new_privileges().map_err(step("give up new rights"))?;
    if orders.walls.landlock > 0 && orders.walls.files {
        confine::restrict_files(&["/"], &[root::HOME, "/dev", "/proc"]).map_err(step("restrict files"))?;
    }
    // The last: it forbids what the others need.
    if !filters.is_empty() {
        confine::restrict_system_calls(filters).map_err(step("restrict system calls"))?;
    }
    Ok(())
}

/// For want of memory the kernel is to kill the program and not the launcher, which may have more than it.
fn offer_itself(proc: &File) -> io::Result<()> {
    open_in(proc, "self/oom_score_adj", OFlag::O_WRONLY)?.write_all(b"1000")
}

/// Everything but standard input, output and error closes when the program starts; until then errors can be told.
fn close_all_but_standard() -> Result<(), nix::Error> {
    // SAFETY: marks descriptors; none is closed before the program starts.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    nix::Error::result(done).map(drop)
}

type CommandLine = (CString, Vec<CString>, Vec<CString>);

fn command_line(orders: &Orders, file: &Path) -> Result<CommandLine, Step> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(step("read the command line"));
    let path = text(file.as_os_str().as_bytes())?;
    let mut args = vec![path.clone()];
    for arg in &orders.args {
        args.push(text(arg.as_bytes())?);
    }
    let env = orders.env.iter().map(|(key, value)| text(format!("{key}={value}").as_bytes()));
    Ok((path, args, env.collect::<Result<_, _>>()?))
}

/// Waits for the program, and for the orphans that it leaves to this process. `None` if that is impossible.
fn wait_for(program: Pid) -> Option<Ending> {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => return Some(Ending::Exited(status)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                return Some(Ending::Signalled(signal as i32));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return None,
        }
    }
}

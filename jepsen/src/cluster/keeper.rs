//! The thread that starts all processes of a cluster.
//!
//! Each child asks the kernel to be killed when its parent dies, so that nothing of a cluster outlives a harness that was killed. For the
//! kernel the parent is the *thread* that started the child, which must therefore be one that lives as long as the cluster does, and not
//! a worker of a thread pool that retires when it is idle.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// What is to be started, and where to say how it went.
type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts processes that end with it at the latest.
pub(super) struct Keeper {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start() -> Result<Self> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// The beginning of a command line whose process the kernel kills with this keeper. It becomes the program that is given as its first
    /// argument: same process, same id.
    pub(super) fn command() -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command
    }

    /// Starts a process.
    pub(super) fn spawn(&self, command: Command) -> Result<Child> {
        let (answer, wait) = mpsc::channel();
        self.orders.as_ref().and_then(|orders| orders.send((command, answer)).ok()).context("the keeper has ended")?;
        wait.recv().context("the keeper has ended")?.context("setpriv cannot be run: apt-get install util-linux")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_process_ends_with_its_keeper() {
        let keeper = Keeper::start().unwrap();
        let mut command = Keeper::command();
        command.args(["sleep", "1000"]);
        let mut child = keeper.spawn(command).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        // Until it has become `sleep`, it has perhaps not asked yet to be killed.
        let name = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
            std::thread::yield_now();
        }
        drop(keeper);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}

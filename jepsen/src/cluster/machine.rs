//! What this machine does to a cluster, which neither tarn nor a nemesis is to blame for: a run in which it happens proves nothing.

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

use super::{Cluster, Ending};

/// Exit codes of the programs around a node when they cannot start it.
const NOT_STARTED: [i32; 2] = [126, 127];
/// With less than this left on the disk that everything lies on, writes fail that no nemesis wanted to fail. In bytes.
const ROOM_MIN: u64 = 16 << 20;

impl Cluster {
    /// What the machine did to the cluster, for people: a node was killed and not from here, could not be started, or the disk that everything
    /// lies on failed or is full. `None` if nothing is known.
    pub fn machine_failure(&self) -> Option<String> {
        self.endings().iter().find_map(Ending::by_machine).or_else(|| self.disk_failure()).or_else(|| self.without_room())
    }

    /// What went wrong beneath a disk that fails on command.
    fn disk_failure(&self) -> Option<String> {
        self.nodes()
            .iter()
            .find_map(|(id, node)| Some((*id, node.disk.as_ref()?.machine_failure()?)))
            .map(|(id, failure)| format!("beneath the disk of node {id}: {failure}"))
    }

    fn without_room(&self) -> Option<String> {
        let disk = statvfs(self.dir()).ok()?;
        let left = disk.blocks_available().saturating_mul(disk.fragment_size());
        (left < ROOM_MIN).then(|| format!("the disk of {} has {left} bytes left, too few for any run", self.dir().display()))
    }
}

impl Ending {
    /// Why the machine ended this node, if it did. SIGKILL comes from the harness, which notes no ending then, or from the kernel when
    /// memory runs out; tarn itself has no way to end by it.
    fn by_machine(&self) -> Option<String> {
        let node = self.node;
        if self.signal == Some(Signal::SIGKILL as i32) {
            return Some(format!("node {node} was killed from outside (SIGKILL): perhaps the machine is out of memory; see dmesg"));
        }
        let code = self.code.filter(|code| NOT_STARTED.contains(code))?;
        Some(format!("node {node} could not be started (exit code {code}): {}", self.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(code: Option<i32>, signal: Option<i32>) -> Ending {
        Ending { node: 2, how: "in words".to_owned(), code, signal, log: "the log".to_owned() }
    }

    #[test]
    fn only_what_tarn_cannot_have_done_is_the_machines() {
        let killed = ending(None, Some(9)).by_machine().unwrap();
        assert!(killed.contains("node 2") && killed.contains("memory"), "{killed}");
        assert!(ending(Some(127), None).by_machine().unwrap().contains("the log"));
        for (code, signal) in [(Some(70), None), (Some(101), None), (Some(0), None), (None, Some(6)), (None, Some(11)), (None, None)] {
            assert_eq!(ending(code, signal).by_machine(), None, "{code:?} {signal:?}");
        }
    }
}

//! Who used the processors while something was measured: the servers, the load generator, the kernel, and anybody else.
//!
//! Read from `/proc`: each process's own time and that of children it has waited for, so that a compiler that came and went in between is
//! found in its parent. Processes that this one started, and theirs, are the servers. What is counted in `/proc/stat` beyond that of all
//! these is somebody else's too, as from outside of a container; so is what the hypervisor took.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

/// Ticks in a second of `/proc`'s times: fixed in Linux's interface on all processors that tarn runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// The parent of all threads of the kernel.
const KERNEL_THREADS: u32 = 2;

/// Processor time within a measured time, in cores: 1.0 is one core all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    /// All nodes of the system under test.
    pub servers: f64,
    /// This process: clients and workers.
    pub generator: f64,
    /// Threads of the kernel, as those that write to disks.
    pub kernel: f64,
    /// Everybody else, and what the hypervisor took.
    pub others: f64,
}

/// Reads the processors' use at both ends of a load's measured time. Clones are the same meter.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    reading: Arc<Mutex<Option<JoinHandle<Result<Usage>>>>>,
}

impl Meter {
    /// Reads at both of these moments, the first of which may be now.
    pub fn watch(&self, from: Instant, until: Instant) {
        let reading = tokio::spawn(async move {
            tokio::time::sleep_until(from.into()).await;
            let (before, began) = (Snapshot::take()?, Instant::now());
            tokio::time::sleep_until(until.into()).await;
            let after = Snapshot::take()?;
            Ok(after.since(&before, std::process::id(), began.elapsed().as_secs_f64()))
        });
        *self.reading.lock().expect("no code panics while it holds this lock") = Some(reading);
    }

    /// What was read.
    ///
    /// # Errors
    /// If nothing was watched, or `/proc` cannot be read.
    pub async fn read(&self) -> Result<Usage> {
        let reading = self.reading.lock().expect("no code panics while it holds this lock").take();
        reading.context("the load did not watch the processors")?.await?
    }
}

/// One process's times, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: u32,
    own: u64,
    children: u64,
}

/// All times at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    processes: HashMap<u32, Process>,
    /// All processors' time for processes and the kernel on their behalf, without interrupts.
    busy: u64,
    stolen: u64,
}

impl Snapshot {
    fn take() -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        for entry in fs::read_dir("/proc").context("/proc cannot be read")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end while all are read.
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if let Some(process) = process(&text) {
                snapshot.processes.insert(pid, process);
            }
        }
        let all = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
        let times: Vec<u64> =
            all.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|text| text.parse().ok()).collect();
        let time = |at: usize| times.get(at).copied().unwrap_or(0);
        // user, nice, system; the eighth is what the hypervisor took.
        snapshot.busy = time(0) + time(1) + time(2);
        snapshot.stolen = time(7);
        Ok(snapshot)
    }

    fn since(&self, before: &Snapshot, generator: u32, seconds: f64) -> Usage {
        let (now, then) = (self.sums(generator), before.sums(generator));
        let cores = |now: u64, then: u64| now.saturating_sub(then) as f64 / TICKS_PER_SECOND / seconds;
        let mut usage = Usage {
            servers: cores(now.servers, then.servers),
            generator: cores(now.generator, then.generator),
            kernel: cores(now.kernel, then.kernel),
            others: cores(now.others, then.others),
        };
        let unexplained = cores(self.busy, before.busy) - usage.servers - usage.generator - usage.kernel;
        usage.others = usage.others.max(unexplained) + cores(self.stolen, before.stolen);
        usage
    }

    fn sums(&self, generator: u32) -> Sums {
        let mut sums = Sums::default();
        for (pid, process) in &self.processes {
            let both = process.own + process.children;
            if *pid == generator {
                // Its children that ended are servers of earlier loads.
                sums.generator += process.own;
            } else if *pid == KERNEL_THREADS || process.parent == KERNEL_THREADS {
                sums.kernel += process.own;
            } else if self.descends(*process, generator) {
                sums.servers += both;
            } else {
                sums.others += both;
            }
        }
        sums
    }

    fn descends(&self, mut process: Process, ancestor: u32) -> bool {
        // Bounded, as parents may have changed while they were read.
        for _ in 0..64 {
            if process.parent == ancestor {
                return true;
            }
            match self.processes.get(&process.parent) {
                Some(parent) => process = *parent,
                None => return false,
            }
        }
        false
    }
}

#[derive(Default)]
struct Sums {
    servers: u64,
    generator: u64,
    kernel: u64,
    others: u64,
}

/// Reads a line of `/proc/PID/stat`. The name, in brackets, may hold anything, brackets too.
fn process(stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // The first is the state, which proc(5) numbers 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process { parent: u32::try_from(number(4)?).ok()?, own: number(14)? + number(15)?, children: number(16)? + number(17)? })
}

/// Memory of these processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Memory {
    /// What is in main memory, files that are mapped included, in bytes.
    pub resident: u64,
    /// What the processes allocated of it, in bytes.
    pub anonymous: u64,
}

/// Reads the memory of these processes and of those that they started.
///
/// # Errors
/// If one of them has ended.
pub fn memory(pids: &[u32]) -> Result<Memory> {
    let (snapshot, mut sum) = (Snapshot::take()?, Memory::default());
    let descendants = snapshot
        .processes
        .iter()
        .filter(|(pid, process)| !pids.contains(pid) && pids.iter().any(|ancestor| snapshot.descends(**process, *ancestor)));
    let all: Vec<u32> = pids.iter().copied().chain(descendants.map(|(pid, _)| *pid)).collect();
    for pid in all {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} has ended"))?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0)
        };
        sum.resident += kib("VmRSS:") << 10;
        sum.anonymous += kib("RssAnon:") << 10;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_brackets_in_its_name_is_read() {
        let line = "77 (a (b) c) S 5 77 77 0 -1 4194304 1 2 3 4 100 20 30 4 20 0 1 0 999";
        assert_eq!(process(line), Some(Process { parent: 5, own: 120, children: 34 }));
        assert_eq!(process("77 (half"), None);
    }

    fn snapshot(processes: &[(u32, u32, u64, u64)], busy: u64) -> Snapshot {
        let processes = processes.iter().map(|(pid, parent, own, children)| {
            let process = Process { parent: *parent, own: *own, children: *children };
            (*pid, process)
        });
        Snapshot { processes: processes.collect(), busy, stolen: 0 }
    }

    #[test]
    fn time_goes_to_who_used_it() {
        // 10 measures, 11 is a server with a child 12, 2 and 3 the kernel's, 20 a build whose compiler 21 ends.
        let before = snapshot(&[(10, 1, 0, 500), (11, 10, 0, 0), (12, 11, 0, 0), (3, 2, 0, 0), (20, 1, 0, 0), (21, 20, 70, 0)], 0);
        let after = snapshot(&[(10, 1, 100, 500), (11, 10, 150, 0), (12, 11, 50, 0), (3, 2, 10, 0), (20, 1, 0, 120)], 400);
        let usage = after.since(&before, 10, 1.0);
        assert_eq!((usage.servers, usage.generator, usage.kernel), (2.0, 1.0, 0.1));
        // Half a core was the compiler's; what nobody visible accounts for is somebody else's too.
        assert!((usage.others - 0.9).abs() < 1e-9, "{usage:?}");
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(&[std::process::id()]).expect("it runs");
        assert!(memory.resident >= memory.anonymous && memory.anonymous > 0);
    }
}

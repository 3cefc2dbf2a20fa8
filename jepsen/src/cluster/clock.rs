//! Wrong clocks, by libfaketime.
//!
//! The library is loaded before the node's own and adds an offset to the time that the kernel gives, which it reads from a file at each
//! question. A jump is a new offset; a drift is a thread that changes the offset a little every [`STEP`]. By default only the wall clock
//! lies: no real machine's monotonic clock jumps. [`ClockFaults::WallAndMonotonic`] is for what a suspended or overcommitted virtual machine
//! does to the monotonic clock, which never goes back, so neither does it here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// How often a drifting clock's offset is changed.
const STEP: Duration = Duration::from_millis(50);
/// The name of the library for programs with threads.
const LIBRARY: &str = "libfaketimeMT.so.1";

/// Which clocks of the nodes can be made wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockFaults {
    /// None: the nodes run without the library.
    #[default]
    None,
    /// The wall clock.
    Wall,
    /// Both, forward only.
    WallAndMonotonic,
}

/// Whether the library is there; if not, what to install.
///
/// # Errors
/// A sentence for people.
pub fn available() -> Result<(), String> {
    match library() {
        Some(_) => Ok(()),
        None => Err(format!("{LIBRARY} is missing: apt-get install libfaketime")),
    }
}

/// The clocks of a cluster's nodes.
pub(super) struct Clocks {
    kind: ClockFaults,
    dir: PathBuf,
    library: PathBuf,
    offsets: Arc<Mutex<Offsets>>,
}

type Offsets = BTreeMap<u64, Offset>;

/// How wrong a clock is.
struct Offset {
    file: PathBuf,
    /// In seconds, at `since`.
    seconds: f64,
    since: Instant,
    /// Seconds that the clock gains in each second: 0 where it is right.
    gain: f64,
}

/// One node's clock. Changes take effect at the node's next look at it.
pub struct Clock<'a> {
    clocks: &'a Clocks,
    id: u64,
}

impl Clocks {
    /// Clocks whose files are in this directory.
    pub(super) fn create(kind: ClockFaults, dir: &Path) -> Result<Self> {
        let library = match (kind, library()) {
            (ClockFaults::None, _) => PathBuf::new(),
            (_, Some(library)) => library,
            (_, None) => anyhow::bail!("{}", available().err().unwrap_or_default()),
        };
        let offsets = Arc::new(Mutex::new(Offsets::new()));
        if kind != ClockFaults::None {
            let weak = Arc::downgrade(&offsets);
            std::thread::Builder::new().name("drift".into()).spawn(move || drift(&weak))?;
        }
        Ok(Self { kind, dir: dir.to_owned(), library, offsets })
    }

    /// The environment of a node whose clock can be made wrong. A node starts with a right clock unless it was wrong before.
    pub(super) fn environment(&self, id: u64) -> Result<Vec<(&'static str, String)>> {
        if self.kind == ClockFaults::None {
            return Ok(Vec::new());
        }
        let file = self.dir.join(format!("node-{id}.clock"));
        let mut offsets = self.offsets();
        let offset = offsets.entry(id).or_insert_with(|| Offset { file: file.clone(), seconds: 0.0, since: Instant::now(), gain: 0.0 });
        offset.write()?;
        let mut environment = vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Times of files are compared with each other only; they stay true.
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        if self.kind == ClockFaults::Wall {
            environment.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()));
        }
        Ok(environment)
    }

    /// A node's clock.
    pub(super) fn clock(&self, id: u64) -> Result<Clock<'_>> {
        ensure!(self.kind != ClockFaults::None, "the nodes were not started with clocks that can be made wrong");
        ensure!(self.offsets().contains_key(&id), "node {id} was never started");
        Ok(Clock { clocks: self, id })
    }

    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Offset)) -> Result<()> {
        let mut offsets = self.offsets();
        let offset = offsets.get_mut(&id).with_context(|| format!("node {id} was never started"))?;
        offset.settle();
        change(offset);
        offset.write()
    }
}

impl Clock<'_> {
    /// Moves the clock by so many milliseconds, on top of what was done to it before.
    ///
    /// # Errors
    /// Backward where the monotonic clock moves too; if the file cannot be written.
    pub fn jump(&self, milliseconds: i64) -> Result<()> {
        ensure!(milliseconds >= 0 || self.clocks.kind == ClockFaults::Wall, "a monotonic clock never goes back");
        self.clocks.change(self.id, |offset| offset.seconds += milliseconds as f64 / 1_000.0)
    }

    /// Has the clock run at this rate from now on: 1 is right, 1.1 gains a tenth, 0.9 loses one.
    ///
    /// # Errors
    /// Below 1 where the monotonic clock is wrong too; if the file cannot be written.
    pub fn rate(&self, rate: f64) -> Result<()> {
        ensure!(rate >= 1.0 || self.clocks.kind == ClockFaults::Wall, "a monotonic clock never goes back");
        ensure!((0.0..=10.0).contains(&rate), "a clock runs at rates from 0 to 10, not {rate}");
        self.clocks.change(self.id, |offset| offset.gain = rate - 1.0)
    }

    /// Makes the clock right. Where the monotonic clock is wrong too, it only stops drifting: it is right again from the node's next start.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn reset(&self) -> Result<()> {
        let back = self.clocks.kind == ClockFaults::Wall;
        self.clocks.change(self.id, |offset| {
            offset.gain = 0.0;
            if back {
                offset.seconds = 0.0;
            }
        })
    }

    /// How wrong the clock is, in seconds.
    pub fn offset(&self) -> f64 {
        self.clocks.offsets().get(&self.id).map_or(0.0, |offset| offset.seconds)
    }
}

impl Clocks {
    /// A node that is about to start gets a right clock.
    pub(super) fn renew(&self, id: u64) {
        if let Some(offset) = self.offsets().get_mut(&id).filter(|offset| offset.gain == 0.0)
            && self.kind == ClockFaults::WallAndMonotonic
        {
            offset.seconds = 0.0;
        }
    }

    /// Makes all clocks right.
    pub(super) fn reset(&self) -> Result<()> {
        let ids: Vec<u64> = self.offsets().keys().copied().collect();
        ids.into_iter().try_for_each(|id| Clock { clocks: self, id }.reset())
    }
}

impl Offset {
    /// Adds what the clock has gained since it was last settled.
    fn settle(&mut self) {
        let now = Instant::now();
        self.seconds += self.gain * now.duration_since(self.since).as_secs_f64();
        self.since = now;
    }

    /// Hands the library the offset: whole or not at all, because it may read at any moment.
    fn write(&self) -> Result<()> {
        let text = format!("{:+.6}\n", self.seconds);
        let aside = self.file.with_extension("clock-new");
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &self.file))
            .with_context(|| format!("{} cannot be written", self.file.display()))
    }
}

/// Moves the offsets of drifting clocks for as long as somebody holds them.
fn drift(offsets: &Weak<Mutex<Offsets>>) {
    while let Some(offsets) = offsets.upgrade() {
        for (id, offset) in offsets.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if offset.gain == 0.0 {
                continue;
            }
            offset.settle();
            if let Err(error) = offset.write() {
                tracing::warn!(node = id, %error, "a clock does not drift");
            }
        }
        drop(offsets);
        std::thread::sleep(STEP);
    }
}

fn library() -> Option<PathBuf> {
    let triples = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = triples.chain(["/usr/lib", "/usr/local/lib", "/lib"].map(PathBuf::from));
    roots.map(|root| root.join("faketime").join(LIBRARY)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::SystemTime;

    use super::*;

    /// What a program that was started with this environment takes for the time, in seconds since 1970.
    fn seen(environment: &[(&'static str, String)]) -> f64 {
        let output = Command::new("date").arg("+%s.%N").envs(environment.iter().cloned()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn now() -> f64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
    }

    #[test]
    fn clocks_jump_drift_and_are_made_right() {
        if let Err(reason) = available() {
            println!("skipped: {reason}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let clocks = Clocks::create(ClockFaults::Wall, dir.path()).unwrap();
        let environment = clocks.environment(1).unwrap();
        assert!((seen(&environment) - now()).abs() < 20.0);
        let clock = clocks.clock(1).unwrap();
        clock.jump(-3_600_500).unwrap();
        let error = seen(&environment) - now();
        assert!((-3_620.0..-3_600.0).contains(&error), "{error}");
        clock.reset().unwrap();
        assert!((seen(&environment) - now()).abs() < 20.0);

        clock.rate(10.0).unwrap();
        let start = Instant::now();
        while clock.offset() < 0.5 {
            assert!(start.elapsed() < Duration::from_secs(30), "the clock does not drift");
            std::thread::yield_now();
        }
        clock.reset().unwrap();
        assert_eq!(clock.offset(), 0.0);
        assert!(clock.rate(11.0).is_err());
        assert!(clocks.clock(2).is_err());
    }

    #[test]
    fn a_monotonic_clock_never_goes_back() {
        if available().is_err() {
            println!("skipped: {}", available().unwrap_err());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let clocks = Clocks::create(ClockFaults::WallAndMonotonic, dir.path()).unwrap();
        assert!(clocks.environment(1).unwrap().iter().all(|(name, _)| *name != "FAKETIME_DONT_FAKE_MONOTONIC"));
        let clock = clocks.clock(1).unwrap();
        assert!(clock.jump(-1).is_err() && clock.rate(0.9).is_err());
        clock.jump(5_000).unwrap();
        clock.reset().unwrap();
        assert_eq!(clock.offset(), 5.0);
        clocks.renew(1);
        assert_eq!(clock.offset(), 0.0);
    }

    #[test]
    fn without_clock_faults_nothing_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let clocks = Clocks::create(ClockFaults::None, dir.path()).unwrap();
        assert!(clocks.environment(1).unwrap().is_empty());
        assert!(clocks.clock(1).is_err());
    }
}

//! A node's disk: engines in memory, files in a temporary directory, and what goes wrong with both.
//!
//! Everything that must survive is a **durable step**: a write to an engine, a sync or a checkpoint of one, a flush of a file. The disk counts them, and
//! can fail at one, or lose its power at one: what is left is taken at that moment, and whatever the process does until the world notices that
//! it is dead reaches nothing any more.
//!
//! What a power cut takes, and what it leaves:
//!
//! * Of an **engine** the last batches that were not synced, any number of them, in the order of the writes: a batch is there as a whole or not at all,
//!   and never without those before it. That is what RocksDB's write-ahead log gives. The write during which the power goes may be there too.
//! * Of a **file** anything behind what was flushed: its end is torn off anywhere ([`files`]).
//!
//! A disk that fails does so at durable steps. A write to a file that is not a flush never fails here: it only reaches the page cache, of which the
//! code under test may not believe anything before it has flushed.

mod engine;
pub mod files;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tarn_raft::Disk;
use tarn_storage::{Engine, Fault, Keyspace, MemoryEngine, Profile, StorageError, dir};

use self::engine::SimEngine;
use crate::dice::Dice;
use crate::net::Net;
use crate::tap::Tap;
use crate::trace::Trace;

/// The file that says which engine lies in a directory.
const MARKER: &str = "ENGINE";
/// The file in which a checkpoint of the memory engine has its content.
const CHECKPOINT: &str = "CONTENT";

thread_local! {
    /// The disk of the node that is running at the moment: flushes belong to it.
    static CURRENT: RefCell<Option<Arc<NodeDisk>>> = const { RefCell::new(None) };
}

/// Says whose flushes are to come. `None`: nobody's.
pub fn set_current(disk: Option<Arc<NodeDisk>>) {
    CURRENT.with(|current| *current.borrow_mut() = disk);
}

fn current() -> Option<Arc<NodeDisk>> {
    // Inaccessible while the thread ends: then nobody simulates any more.
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// The disk of one node.
pub struct NodeDisk {
    node: u64,
    root: PathBuf,
    trace: Trace,
    tap: Tap,
    net: Net,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    /// Whether a write during which the power goes reaches the disk.
    tears: Dice,
    /// The directory in use is the one of this life.
    life: u64,
    engines: BTreeMap<u64, MemoryEngine>,
    next_engine: u64,
    /// How long a step takes, in milliseconds: the shortest and the longest.
    pace: (u64, u64),
    fault: Option<Fault>,
    /// Steps that go well before the fault strikes.
    fault_after: u64,
    /// Steps until the power goes.
    cut_after: Option<u64>,
    /// What the power cut left, once it has happened.
    remains: Option<Remains>,
    /// Whether a fault has struck in this life: then the process may stop by itself.
    struck: bool,
    /// Faults that have struck in the whole run, and whether the present one has.
    strikes: u64,
    counted: bool,
    /// Power cuts at a step in the whole run.
    cuts_inside: u64,
}

struct Remains {
    engines: BTreeMap<u64, MemoryEngine>,
    life: u64,
}

impl NodeDisk {
    /// An empty disk, whose files lie below `root`.
    pub fn new(node: u64, root: &Path, dice: Dice, trace: Trace, tap: Tap, net: Net) -> Arc<Self> {
        Arc::new(Self {
            node,
            root: root.to_path_buf(),
            trace,
            tap,
            net,
            state: Mutex::new(State {
                tears: dice.apart("tears"),
                dice,
                life: 0,
                engines: BTreeMap::new(),
                next_engine: 1,
                pace: (0, 1),
                fault: None,
                fault_after: 0,
                cut_after: None,
                remains: None,
                struck: false,
                strikes: 0,
                counted: false,
                cuts_inside: 0,
            }),
        })
    }

    /// The node's data directory, of this life.
    pub fn data_dir(&self) -> PathBuf {
        self.dir_of(self.lock().life)
    }

    fn dir_of(&self, life: u64) -> PathBuf {
        self.root.join(format!("node{}-{life}", self.node))
    }

    /// How long a step takes from now on, in milliseconds: the shortest and the longest.
    pub fn set_pace(&self, shortest: u64, longest: u64) {
        self.lock().pace = (shortest, longest);
    }

    /// After some more steps everything fails, until [`NodeDisk::mend`].
    pub fn fail(&self, fault: Fault, after: u64) {
        let mut state = self.lock();
        state.fault = Some(fault);
        state.fault_after = after;
        state.counted = false;
    }

    /// The disk works again.
    pub fn mend(&self) {
        self.lock().fault = None;
    }

    /// The power goes at the step that follows so many others.
    pub fn cut_power_after(&self, steps: u64) {
        self.lock().cut_after = Some(steps);
    }

    /// The power stays.
    pub fn keep_power(&self) {
        self.lock().cut_after = None;
    }

    /// Whether the power has gone. What the process does now reaches nothing.
    pub fn is_dead(&self) -> bool {
        self.lock().remains.is_some()
    }

    /// Whether a fault has struck since the process started.
    pub fn has_struck(&self) -> bool {
        self.lock().struck
    }

    /// How many faults have met a step, and how many steps the power has gone at, in the whole run.
    pub fn strikes(&self) -> (u64, u64) {
        let state = self.lock();
        (state.strikes, state.cuts_inside)
    }

    /// The power goes now, unless it went before. The process must be gone, or be dropped next.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn cut_power(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.remains.is_some() {
            return Ok(());
        }
        let life = state.life + 1;
        let mut dice = state.dice.clone();
        // Whoever has no directory yet has nothing to lose.
        if self.dir_of(state.life).exists() {
            let previous = CURRENT.with(|current| current.take());
            let left = files::survivors(&self.dir_of(state.life), &self.dir_of(life), &mut dice);
            CURRENT.with(|current| current.replace(previous));
            left?;
        }
        let engines = state.engines.iter().map(|(id, engine)| {
            let lost = engine.unsynced_batches();
            let left = engine.crashed_keeping(dice.draw());
            self.trace.note(format!("node {} power cut: engine {id} had {lost} batches to lose", self.node));
            (*id, left)
        });
        let engines = engines.collect();
        state.dice = dice;
        state.remains = Some(Remains { engines, life });
        Ok(())
    }

    /// The machine is ready for the next process: after a power cut with what it left, else with everything.
    ///
    /// # Errors
    ///
    /// The real disk fails.
    pub fn restart(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.struck = false;
        state.cut_after = None;
        if let Some(remains) = state.remains.take() {
            let old = self.dir_of(state.life);
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
            state.life = remains.life;
            state.engines = remains.engines;
        }
        Ok(())
    }

    /// Counts a durable step, and does what is due at it. `in_flight` does the step without making it durable: the power may go when a write is on its
    /// way, and then nobody can know whether it arrived.
    ///
    /// # Errors
    ///
    /// The disk fails at this step.
    fn durable_step(&self, doing: &str, in_flight: impl FnOnce()) -> Result<(), StorageError> {
        let cut = {
            let state = &mut *self.lock();
            if state.remains.is_some() {
                return Ok(());
            }
            match &mut state.cut_after {
                Some(0) => {
                    state.cuts_inside += 1;
                    Some(state.tears.percent(50))
                }
                Some(left) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(may_arrive) = cut {
            // The process does not know it yet, and goes on until it waits for time to pass.
            self.net.set_mute(self.node, true);
            let when = if may_arrive { "during" } else { "before" };
            self.trace.note(format!("node {} loses its power {when} {doing}", self.node));
            if may_arrive {
                in_flight();
            }
            return self.cut_power().map_err(|error| StorageError::Io {
                doing: "simulating a power cut".into(),
                detail: error.to_string(),
                source: Some(error),
            });
        }
        let mut state = self.lock();
        let Some(fault) = state.fault else { return Ok(()) };
        if state.fault_after > 0 {
            state.fault_after -= 1;
            return Ok(());
        }
        state.struck = true;
        if !state.counted {
            state.counted = true;
            state.strikes += 1;
        }
        drop(state);
        self.trace.note(format!("node {} disk fails: {fault:?} at {doing}", self.node));
        let (doing, detail) = (doing.to_owned(), "the simulation asked for this fault".to_owned());
        Err(match fault {
            Fault::Full => StorageError::Full { doing, detail },
            Fault::Io => StorageError::Io { doing, detail, source: None },
        })
    }

    /// True as often as a coin says heads.
    fn coin(&self) -> bool {
        self.lock().dice.percent(50)
    }

    /// The engine that the marker in a directory names; or the checkpoint that lies there; or a new one.
    fn engine_at(&self, path: &Path, keyspaces: &[Keyspace]) -> io::Result<MemoryEngine> {
        if let Ok(marker) = fs::read_to_string(path.join(MARKER)) {
            let known = marker.trim().parse().ok().and_then(|id| self.lock().engines.get(&id).cloned());
            return known.ok_or_else(|| io::Error::other(format!("no engine has the marker {marker:?}")));
        }
        let engine = match path.join(CHECKPOINT).exists() {
            true => MemoryEngine::open_checkpoint(path).map_err(io::Error::other)?,
            false => MemoryEngine::with_keyspaces(keyspaces),
        };
        dir::create_durably(path).map_err(io::Error::other)?;
        let id = {
            let mut state = self.lock();
            let id = state.next_engine;
            state.next_engine += 1;
            state.engines.insert(id, engine.clone());
            id
        };
        dir::write_atomically(&path.join(MARKER), id.to_string().as_bytes()).map_err(io::Error::other)?;
        Ok(engine)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// A node's own handle to its disk.
pub struct Handle(pub Arc<NodeDisk>);

impl Disk for Handle {
    fn open(&self, path: &Path, keyspaces: &[Keyspace], profile: Profile) -> Result<Arc<dyn Engine>, io::Error> {
        let engine = self.0.engine_at(path, keyspaces)?;
        if profile == Profile::Log {
            self.0.tap.log_opened(self.0.node, &engine);
        }
        Ok(Arc::new(SimEngine::new(self.0.clone(), engine)))
    }

    fn simulated_delay(&self) -> Option<BoxFuture<'static, ()>> {
        let disk = self.0.clone();
        Some(Box::pin(async move {
            let delay = {
                let mut state = disk.lock();
                let (shortest, longest) = state.pace;
                state.dice.between(shortest, longest)
            };
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
        }))
    }
}

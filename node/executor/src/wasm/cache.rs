//! Finds the compiled form of an artifact: in memory, on disk, or by compiling it, once however many ask.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::disk::{DiskCache, Entry};
use super::host::Host;
use super::program::{Program, one_line};
use crate::{ExecutionError, Hash, Source};

/// How many compiled modules stay in memory. A node rarely works on more different programs at a time.
const PROGRAMS_MAX: usize = 128;

/// How many bytes the compiled modules in memory may have together, which is what a small machine can spare.
const PROGRAMS_BYTES_MAX: usize = 256 << 20;

/// How many modules are compiled at once. The compiler already uses all cores for one module, and needs a multiple of the
/// module's size in memory.
const COMPILING_MAX: usize = 2;

/// How often the cache found what it was asked for, since the executor started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WasmCacheStats {
    /// Found in memory, or being made for somebody else already.
    pub memory_hits: u64,
    /// Found on disk.
    pub disk_hits: u64,
    /// Compiled.
    pub compiled: u64,
    /// Entries on disk that were damaged and were discarded.
    pub discarded: u64,
}

type Outcome = Result<Arc<Program>, ExecutionError>;

pub(super) struct Cache {
    disk: Option<DiskCache>,
    state: Mutex<State>,
    compiling: Semaphore,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    compiled: AtomicU64,
    discarded: AtomicU64,
}

#[derive(Default)]
struct State {
    programs: HashMap<Hash, Kept>,
    /// What is being loaded or compiled right now, with the channel on which the outcome will arrive.
    flights: HashMap<Hash, watch::Receiver<Option<Outcome>>>,
    /// Counts uses, so that the one that lies longest ago can be found.
    uses: u64,
}

struct Kept {
    program: Arc<Program>,
    last_use: u64,
}

enum Step {
    Have(Arc<Program>),
    Wait(watch::Receiver<Option<Outcome>>),
    Lead(watch::Sender<Option<Outcome>>, watch::Receiver<Option<Outcome>>),
}

impl Cache {
    pub(super) fn new(disk: Option<DiskCache>) -> Self {
        Self { disk, state: Mutex::default(), compiling: Semaphore::new(COMPILING_MAX), counters: Counters::default() }
    }

    pub(super) fn stats(&self) -> WasmCacheStats {
        let counters = &self.counters;
        WasmCacheStats {
            memory_hits: counters.memory_hits.load(Ordering::Relaxed),
            disk_hits: counters.disk_hits.load(Ordering::Relaxed),
            compiled: counters.compiled.load(Ordering::Relaxed),
            discarded: counters.discarded.load(Ordering::Relaxed),
        }
    }

    /// Returns the program for `key`, making it if need be. Dropping the returned future does not stop the making: others may
    /// be waiting for it, and the next attempt will want it.
    pub(super) async fn program(self: &Arc<Self>, host: &Arc<Host>, key: Hash, source: Source) -> Outcome {
        loop {
            match self.step(key) {
                Step::Have(program) => {
                    count(&self.counters.memory_hits);
                    return Ok(program);
                }
                Step::Lead(sender, receiver) => {
                    let flight = Flight { cache: Arc::clone(self), key, sender };
                    tokio::spawn(flight.fly(Arc::clone(host), source));
                    return landed(receiver).await;
                }
                Step::Wait(receiver) => match landed(receiver).await {
                    // It failed for want of good bytes, but our own source may have them.
                    Err(ExecutionError::ArtifactUnavailable { .. } | ExecutionError::HashMismatch { .. }) => {}
                    Ok(program) => {
                        count(&self.counters.memory_hits);
                        return Ok(program);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn step(&self, key: Hash) -> Step {
        let mut state = self.lock();
        if let Some(program) = state.find(&key) {
            return Step::Have(program);
        }
        if let Some(receiver) = state.flights.get(&key) {
            return Step::Wait(receiver.clone());
        }
        let (sender, receiver) = watch::channel(None);
        state.flights.insert(key, receiver.clone());
        Step::Lead(sender, receiver)
    }

    async fn make(self: &Arc<Self>, host: Arc<Host>, key: Hash, source: Source) -> Outcome {
        let (cache, engine) = (Arc::clone(self), Arc::clone(&host));
        if let Some(outcome) = blocking(move || cache.load_from_disk(&engine, &key)).await? {
            return outcome;
        }
        let bytes = source.obtain(&key).await?;
        let _compiling = self.compiling.acquire().await.map_err(ExecutionError::broken)?;
        let cache = Arc::clone(self);
        blocking(move || cache.compile(&host, &key, &bytes)).await?
    }

    fn load_from_disk(&self, host: &Host, artifact: &Hash) -> Option<Outcome> {
        let disk = self.disk.as_ref()?;
        let code = match disk.load(artifact, &host.fingerprint) {
            Ok(Entry::Intact(code)) => code,
            Ok(Entry::Missing) => return None,
            Ok(Entry::Damaged) => return self.discard(disk, host, artifact, "it is damaged"),
            Err(error) => return self.discard(disk, host, artifact, &error.to_string()),
        };
        // SAFETY: what is loaded here runs as machine code, outside of the sandbox, so it must be what our own engine
        // made. Three things see to that. The checksum, just verified over the bytes in memory (not over a file that could
        // change afterwards), rules out damage, torn writes and mixed-up entries. The directory belongs to our user and
        // nobody else can write into it (`own_directory` proves it on start); who can act as our user could as well
        // replace our binary. And the fingerprint in the name, which the checksum covers, together with the engine's own
        // check of its header, rules out code for another version, processor or configuration.
        match unsafe { Program::deserialize(host, &code) } {
            Ok(outcome) => {
                count(&self.counters.disk_hits);
                Some(outcome.map(Arc::new))
            }
            Err(error) => self.discard(disk, host, artifact, &one_line(&error)),
        }
    }

    /// Removes an entry that cannot be used, and so has the module compiled again.
    fn discard(&self, disk: &DiskCache, host: &Host, artifact: &Hash, why: &str) -> Option<Outcome> {
        count(&self.counters.discarded);
        tracing::warn!(%artifact, why, "a compiled module on disk cannot be used: compiling it again");
        if let Err(error) = disk.discard(artifact, &host.fingerprint) {
            tracing::warn!(%artifact, %error, "cannot remove a compiled module from disk");
        }
        None
    }

    fn compile(&self, host: &Host, artifact: &Hash, bytes: &[u8]) -> Outcome {
        let actual = Hash::of(bytes);
        if actual != *artifact {
            return Err(ExecutionError::HashMismatch { expected: *artifact, actual });
        }
        let program = Program::compile(host, bytes)?;
        count(&self.counters.compiled);
        if let Some(disk) = &self.disk {
            let stored = program
                .serialize()
                .map_err(|error| one_line(&error))
                .and_then(|code| disk.store(artifact, &host.fingerprint, &code).map_err(|error| error.to_string()));
            // The attempt can go on; only the next start of this node has to compile again.
            if let Err(error) = stored {
                tracing::warn!(%artifact, error, "cannot keep a compiled module on disk");
            }
        }
        Ok(Arc::new(program))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The making of one program, in a task of its own.
struct Flight {
    cache: Arc<Cache>,
    key: Hash,
    sender: watch::Sender<Option<Outcome>>,
}

impl Flight {
    async fn fly(self, host: Arc<Host>, source: Source) {
        let outcome = self.cache.make(host, self.key, source).await;
        if let Ok(program) = &outcome {
            self.cache.lock().keep(self.key, Arc::clone(program));
        }
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    /// Also when the task panicked or its runtime ended, the next one who asks must be able to start anew.
    fn drop(&mut self) {
        self.cache.lock().flights.remove(&self.key);
    }
}

async fn landed(mut receiver: watch::Receiver<Option<Outcome>>) -> Outcome {
    let outcome = receiver.wait_for(Option::is_some).await;
    let outcome = outcome.map_err(|_| ExecutionError::broken("the compiler stopped half-way"))?;
    outcome.clone().expect("it was waited for until there is one")
}

impl State {
    fn find(&mut self, key: &Hash) -> Option<Arc<Program>> {
        self.uses += 1;
        let kept = self.programs.get_mut(key)?;
        kept.last_use = self.uses;
        Some(Arc::clone(&kept.program))
    }

    /// Keeps a program and drops those that were unused for longest, down to the bounds. The newest always stays, however
    /// large: it is about to be run.
    fn keep(&mut self, key: Hash, program: Arc<Program>) {
        self.uses += 1;
        self.programs.insert(key, Kept { program, last_use: self.uses });
        let mut bytes: usize = self.programs.values().map(|kept| kept.program.code_bytes).sum();
        while self.programs.len() > 1 && (self.programs.len() > PROGRAMS_MAX || bytes > PROGRAMS_BYTES_MAX) {
            let oldest = self.programs.iter().min_by_key(|(_, kept)| kept.last_use);
            let oldest = *oldest.expect("there is more than one program").0;
            let dropped = self.programs.remove(&oldest).expect("it was just found");
            bytes -= dropped.program.code_bytes;
        }
    }
}

/// Runs `work`, which is heavy on the processor or the disk, away from the threads that serve everything else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ExecutionError> {
    tokio::task::spawn_blocking(work).await.map_err(ExecutionError::broken)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! The `wasm` runtime: core WebAssembly modules in wasmtime, as WASI preview 1 commands or as plain functions.
//!
//! ```text
//! run ─► check limits ─► program (cache) ─► resolve call ─► slot ─► thread: store, instance, call ─► report
//!                        host: engine, linker, ticker                guest: WASI, meter, pipes
//! ```
//!
//! - Each running guest has a thread of tokio's blocking pool for itself, so that one that computes for a minute holds
//!   up nobody. Slots bound how many run; a bounded number of attempts waits.
//! - Time limit and cancellation reach a computing guest by the engine's epoch, which a ticker thread advances, and a sleeping
//!   one by dropping its future.
//! - Memory comes from a pool of slots in reserved address space; where that cannot be had, on demand.
//! - Machine code is cached in memory and on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limits::{FUEL_MAX, LOG_BYTES_MAX, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, TIME_MS_MAX};
use crate::{Attempt, Capabilities, ExecutionError, Executor, Failure, Hash, Limits, Report, Source, Usage};

mod cache;
mod call;
pub(crate) mod disk;
mod guest;
mod host;
mod pipe;
mod program;
mod run;
mod ticker;

pub use cache::WasmCacheStats;

use cache::{Cache, Key};
use call::Call;
use disk::DiskCache;
use host::{Host, Metering};
use run::{Ended, Job};

/// The most slots that one executor may have. Every running guest occupies a thread of tokio's blocking pool, which has
/// 512; the other half stays free for files. In address space it is 1 TiB of 128.
pub const SLOTS_MAX: usize = 256;

/// The most elements that each of a guest's tables may have. Compilers put one in for each function whose address is
/// taken: tens of thousands in the largest programs.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The most tables that a guest may have. Compilers emit one, for indirect calls; with reference types there may be a few more.
pub const TABLES_MAX: u32 = 4;

/// How many attempts may wait for a slot, for each slot, before further ones are refused with `RESOURCE_EXHAUSTED`. Each
/// holds its input in memory. A node leases about as many tasks as it has slots, so only a mistake gets here.
const WAITING_PER_SLOT: usize = 64;

/// Where the memory of guests comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allocation {
    /// From address space that is reserved ahead, about 4 GiB for each slot. Starts guests about three times as fast. When it
    /// cannot be reserved (`ulimit -v`, a container with restricted virtual memory), the executor says so in the log
    /// and goes on with [`OnDemand`](Self::OnDemand).
    #[default]
    Pooling,
    /// From the system, for each guest anew.
    OnDemand,
}

/// How a [`WasmExecutor`] is set up. The default suits a node that runs little else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmConfig {
    /// How many guests run at once, from 1 to [`SLOTS_MAX`]; by default one for each core. In the worst case they use this
    /// many times [`Limits::memory_bytes`].
    pub slots: usize,
    /// Where compiled modules are kept across restarts; `None` keeps them in memory only. The directory must be the
    /// executor's own: it is made accessible to its owner only, and must be in use by one process at a time.
    pub cache_dir: Option<PathBuf>,
    /// Where the memory of guests comes from.
    pub allocation: Allocation,
}

impl Default for WasmConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            slots: cores.min(SLOTS_MAX),
            cache_dir: None,
            allocation: Allocation::default(),
        }
    }
}

/// Runs WebAssembly. Dropping it ends its threads; guests that are running keep what they need until their end.
pub struct WasmExecutor {
    config: WasmConfig,
    plain: Arc<Host>,
    /// Started by the first attempt that wants its fuel metered.
    metered: OnceLock<Result<Arc<Host>, ExecutionError>>,
    cache: Arc<Cache>,
    slots: Arc<Semaphore>,
    admitted: AtomicUsize,
}

impl WasmExecutor {
    /// Starts the engine and opens the cache.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] for a bad number of slots, [`ExecutionError::Broken`] when the engine does not work
    /// on this machine or the cache directory cannot be used.
    pub fn new(config: WasmConfig) -> Result<Self, ExecutionError> {
        let slots = config.slots;
        if !(1..=SLOTS_MAX).contains(&slots) {
            let (value, max) = (slots as u64, SLOTS_MAX as u64);
            return Err(ExecutionError::LimitOutOfRange {
                limit: "slots",
                value,
                min: 1,
                max,
            });
        }
        let plain = Host::start(Metering::Off, config.allocation, slots_u32(slots))?;
        let disk = match &config.cache_dir {
            Some(dir) => Some(DiskCache::open(dir).map_err(|error| {
                ExecutionError::broken(format!("cannot use the directory for compiled modules: {error}"))
            })?),
            None => None,
        };
        Ok(Self {
            config,
            plain: Arc::new(plain),
            metered: OnceLock::new(),
            cache: Arc::new(Cache::new(disk)),
            slots: Arc::new(Semaphore::new(slots)),
            admitted: AtomicUsize::new(0),
        })
    }

    /// How well the cache of compiled modules works.
    #[must_use]
    pub fn cache_stats(&self) -> WasmCacheStats {
        self.cache.stats()
    }

    /// Where guests get their memory from in fact: [`Allocation::OnDemand`] when the pool could not be reserved.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        if self.plain.pooling {
            Allocation::Pooling
        } else {
            Allocation::OnDemand
        }
    }

    /// How many attempts are running or waiting.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    fn host(&self, metering: Metering) -> Result<Arc<Host>, ExecutionError> {
        match metering {
            Metering::Off => Ok(Arc::clone(&self.plain)),
            Metering::Fuel => self
                .metered
                .get_or_init(|| {
                    Host::start(Metering::Fuel, Allocation::OnDemand, slots_u32(self.config.slots)).map(Arc::new)
                })
                .clone(),
        }
    }

    /// Lets an attempt in, or refuses it when too many are waiting.
    fn admit(&self) -> Result<Admitted<'_>, ExecutionError> {
        let waiting_max = self.config.slots * WAITING_PER_SLOT;
        let admitted = Admitted {
            counter: &self.admitted,
        };
        if self.admitted.fetch_add(1, Ordering::Relaxed) >= self.config.slots + waiting_max {
            let detail = format!(
                "{waiting_max} attempts are waiting for {} slots already",
                self.config.slots
            );
            return Err(ExecutionError::ResourceExhausted { detail });
        }
        Ok(admitted)
    }

    /// Does all that comes before the guest can start.
    async fn make_ready(&self, attempt: Attempt, cancel: &CancellationToken) -> Result<Job, ExecutionError> {
        attempt.limits.check()?;
        let metering = if attempt.limits.fuel.is_some() {
            Metering::Fuel
        } else {
            Metering::Off
        };
        let host = self.host(metering)?;
        let key = Key {
            artifact: attempt.artifact,
            metering,
        };
        let program = self.cache.program(&host, key, attempt.source).await?;
        let call = Call::resolve(attempt.kind, program.ready.module())?;
        Ok(Job {
            host,
            program,
            metering,
            call,
            limits: attempt.limits,
            cancel: cancel.clone(),
        })
    }

    /// Waits for a slot and runs the guest in it. The slot is free again when the guest is really gone, even if nobody waits
    /// for it any more.
    async fn run_in_slot(&self, job: Job, called: Instant) -> Result<Report, Failure> {
        let slot = tokio::select! {
            biased;
            () = job.cancel.cancelled() => return Err(ExecutionError::Cancelled.into()),
            slot = Arc::clone(&self.slots).acquire_owned() => slot.map_err(ExecutionError::broken)?,
        };
        let waited = called.elapsed();
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let _slot = slot;
            run::run(job, &runtime)
        };
        let ended = tokio::task::spawn_blocking(work)
            .await
            .map_err(ExecutionError::broken)?;
        let Ended {
            result,
            logs,
            ran,
            memory_bytes_peak,
            fuel,
        } = ended;
        let usage = Usage {
            waited,
            ran,
            memory_bytes_peak,
            fuel,
        };
        match result {
            Ok((output, values)) => Ok(Report {
                output,
                values,
                logs,
                usage,
            }),
            Err(error) => Err(Failure { error, logs, usage }),
        }
    }
}

fn slots_u32(slots: usize) -> u32 {
    u32::try_from(slots).expect("the number of slots was checked")
}

/// An attempt that was let in.
struct Admitted<'a> {
    counter: &'a AtomicUsize,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Executor for WasmExecutor {
    fn runtime(&self) -> &'static str {
        "wasm"
    }

    fn capabilities(&self) -> Capabilities {
        let labels = [("wasm.wasi", "preview1"), ("wasm.simd", "true"), ("wasm.fuel", "true")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Capabilities {
            runtime: self.runtime(),
            slots: self.config.slots,
            limits_max: Limits {
                memory_bytes: MEMORY_BYTES_MAX,
                time_ms: TIME_MS_MAX,
                output_bytes: OUTPUT_BYTES_MAX,
                log_bytes: LOG_BYTES_MAX,
                fuel: Some(FUEL_MAX),
            },
            labels: BTreeMap::from(labels),
        }
    }

    async fn prepare(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        let key = Key {
            artifact: *hash,
            metering: Metering::Off,
        };
        self.cache.program(&self.plain, key, Source::Bytes(bytes)).await?;
        Ok(())
    }

    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let called = Instant::now();
        let _admitted = self.admit()?;
        // A token of our own: when this future is dropped, the guest stops although nobody cancelled.
        let cancel = cancel.child_token();
        let _stop_when_dropped = cancel.clone().drop_guard();
        let job = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecutionError::Cancelled.into()),
            job = self.make_ready(attempt, &cancel) => job?,
        };
        self.run_in_slot(job, called).await
    }
}

//! The `wasm` runtime: core WebAssembly modules in wasmtime, as WASI preview 1 commands or as plain functions.
//!
//! ```text
//! run ─► check limits, grants ─► program (cache) ─► resolve call ─► slot ─► store, instance, call ─► report
//!                                host: engine, linkers                      guest: WASI, meter, pipes
//! ```
//!
//! - A guest starts as a part of the future that waits for it, and most end there. It burns fuel, and after each slice of it gives way to
//!   others; one that has computed for longer than [`INLINE`] moves to a thread of tokio's blocking pool, so
//!   that one that computes for a minute holds up nobody. Slots bound how many run; a bounded number of attempts waits.
//! - Time limit and cancellation reach a computing guest between its slices and at its host calls, and a sleeping one by
//!   dropping its future.
//! - Memory comes from a pool of slots in reserved address space; where that cannot be had, on demand.
//! - Machine code is cached in memory and on disk.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::executor::Ended;
use crate::limits::{FUEL_MAX, LOG_BYTES_MAX, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, TIME_MS_MAX};
use crate::slots::Slots;
use crate::{Attempt, Capabilities, ExecutionError, Executor, Failure, Hash, Limits, Report, Source};

mod cache;
mod call;
mod component;
mod contract;
pub(crate) mod disk;
mod driver;
mod guest;
mod host;
mod http;
mod link;
mod nested;
mod pipe;
mod program;
mod run;
mod scratch;

pub use cache::WasmCacheStats;
pub use driver::{DriverConfig, DriverEngine, DriverEvent, DriverInstance, DriverStart};

use cache::Cache;
use disk::DiskCache;
use host::Host;
use http::HttpClient;
use run::{Job, Running};

/// The most slots that one executor may have. Every guest that computes for long occupies a thread of tokio's blocking pool, which has
/// 512; the other half stays free for files. In address space it is 7 TiB of 128.
pub const SLOTS_MAX: usize = 256;

/// The most elements that each of a guest's tables may have. Compilers put one in for each function whose address is
/// taken: tens of thousands in the largest programs.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The most tables that a guest may have. Compilers emit one, for indirect calls; with reference types there may be a few more.
pub const TABLES_MAX: u32 = 4;

/// How long a guest may compute in the future that waits for it before it gets a thread of its own. Changing threads takes about as
/// long as a small guest runs, and holding up whoever else that thread serves for this long harms nobody.
const INLINE: Duration = Duration::from_millis(1);

/// What it can grant.
const OFFERED: [&str; 8] = ["clock", "random", "scratch", "context", "log", "progress", "calls", "http"];

/// Where the memory of guests comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allocation {
    /// From address space that is reserved ahead, about 26 GiB for each slot. Starts guests about three times as fast. When it
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
    /// Where guests get their scratch directories; `None` is the system's directory for temporary files. The directory must
    /// be the executor's own: what lies in it is removed at start.
    pub scratch_dir: Option<PathBuf>,
    /// A PEM file with the certificates of the authorities that guests' requests over https trust; `None`, and https is not
    /// reachable.
    pub http_authorities: Option<PathBuf>,
    /// Where the memory of guests comes from.
    pub allocation: Allocation,
}

impl Default for WasmConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { slots: cores.min(SLOTS_MAX), cache_dir: None, scratch_dir: None, http_authorities: None, allocation: Allocation::default() }
    }
}

/// Runs WebAssembly. Dropping it ends its threads; guests that are running keep what they need until their end.
pub struct WasmExecutor {
    scratch_dir: Arc<Path>,
    host: Arc<Host>,
    cache: Arc<Cache>,
    http: Arc<HttpClient>,
    slots: Slots,
}

impl WasmExecutor {
    /// Starts the engine and opens the cache.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] for a bad number of slots, [`ExecutionError::Broken`] when the engine does not work
    /// on this machine or a directory or file of the configuration cannot be used.
    pub fn new(config: WasmConfig) -> Result<Self, ExecutionError> {
        let slots = Slots::new(config.slots, SLOTS_MAX)?;
        let pool_slots = u32::try_from(config.slots).expect("the number of slots was checked");
        let host = Host::start(config.allocation, pool_slots)?;
        let disk = match &config.cache_dir {
            Some(dir) => Some(
                DiskCache::open(dir)
                    .map_err(|error| ExecutionError::broken(format!("cannot use the directory for compiled modules: {error}")))?,
            ),
            None => None,
        };
        let http = HttpClient::new(config.http_authorities.as_deref())
            .map_err(|why| ExecutionError::broken(format!("cannot use the certificates of authorities: {why}")))?;
        if let Some(dir) = &config.scratch_dir {
            scratch::open(dir).map_err(|error| ExecutionError::broken(format!("cannot use the directory for scratch: {error}")))?;
        }
        Ok(Self {
            scratch_dir: config.scratch_dir.unwrap_or_else(std::env::temp_dir).into(),
            host: Arc::new(host),
            cache: Arc::new(Cache::new(disk)),
            http: Arc::new(http),
            slots,
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
        if self.host.pooling { Allocation::Pooling } else { Allocation::OnDemand }
    }

    /// How many attempts are running or waiting.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.slots.admitted()
    }

    /// Does all that comes before the guest can start.
    async fn make_ready(&self, attempt: Attempt, cancel: &CancellationToken) -> Result<Job, ExecutionError> {
        attempt.limits.check()?;
        attempt.grants.check_offered("wasm", &OFFERED)?;
        // What it calls comes from the same place, which for bytes that were handed in is nowhere.
        let source = match &attempt.source {
            Source::Provider(provider) => Source::Provider(Arc::clone(provider)),
            Source::Prepared | Source::Bytes(_) => Source::Prepared,
        };
        let program = self.cache.program(&self.host, attempt.artifact, attempt.source).await?;
        let (call, command) = program.resolve(attempt.kind)?;
        Ok(Job {
            host: Arc::clone(&self.host),
            cache: Arc::clone(&self.cache),
            http: Arc::clone(&self.http),
            program,
            call,
            command,
            logs: None,
            source,
            limits: attempt.limits,
            grants: attempt.grants,
            services: attempt.services,
            scratch_dir: Arc::clone(&self.scratch_dir),
            cancel: cancel.clone(),
        })
    }

    /// Waits for a slot and runs the guest in it. The slot is free again when the guest is really gone, even if nobody waits
    /// for it any more.
    async fn run_in_slot(&self, job: Job, called: Instant) -> Result<Report, Failure> {
        let slot = self.slots.take(&job.cancel).await?;
        let waited = called.elapsed();
        run_where_it_fits(job, slot).await?.after(waited)
    }
}

/// Runs a guest here while it is short, and on a thread of its own when it turns out to be long. What was long the last time starts
/// there.
async fn run_where_it_fits(job: Job, slot: OwnedSemaphorePermit) -> Result<Ended, ExecutionError> {
    let program = Arc::clone(&job.program);
    let mut guest = run::start(job);
    let here = if program.long.load(Ordering::Relaxed) { None } else { run_here(&mut guest).await? };
    let ended = match here {
        Some(ended) => ended,
        None => {
            let runtime = tokio::runtime::Handle::current();
            let work = move || {
                let _slot = slot;
                runtime.block_on(guest)
            };
            let ended = tokio::task::spawn_blocking(work).await;
            ended.map_err(ExecutionError::broken)?
        }
    };
    program.long.store(ended.usage.ran > INLINE, Ordering::Relaxed);
    Ok(ended)
}

/// Runs a guest until it ends, or has computed for [`INLINE`]. Time that it only waits does not count.
async fn run_here(guest: &mut Running) -> Result<Option<Ended>, ExecutionError> {
    let mut computed = Duration::ZERO;
    poll_fn(|context| {
        let began = Instant::now();
        // What a bug of ours breaks is this attempt's alone: it is not touched again.
        let polled = catch_unwind(AssertUnwindSafe(|| guest.as_mut().poll(context)));
        computed += began.elapsed();
        match polled {
            Ok(Poll::Ready(ended)) => Poll::Ready(Ok(Some(ended))),
            Ok(Poll::Pending) if computed >= INLINE => Poll::Ready(Ok(None)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(ExecutionError::broken("a host call panicked"))),
        }
    })
    .await
}

#[async_trait]
impl Executor for WasmExecutor {
    fn runtime(&self) -> &'static str {
        "wasm"
    }

    fn capabilities(&self) -> Capabilities {
        let labels = [("wasm.wasi", "preview1"), ("wasm.components", "wasi-0.2"), ("wasm.simd", "true"), ("wasm.fuel", "true")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Capabilities {
            runtime: self.runtime(),
            slots: self.slots.number(),
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
        self.cache.program(&self.host, *hash, Source::Bytes(bytes)).await?;
        Ok(())
    }

    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let called = Instant::now();
        let _admitted = self.slots.admit()?;
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
